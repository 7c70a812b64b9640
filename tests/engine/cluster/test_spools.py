"""Spools of workers that start while others look for what the dead have left."""

from __future__ import annotations

import os
import threading

import pytest

from batchgen.engine.cluster.session import adoption_lock, lock_spool, take_spool, unlock_spool
from batchgen.errors import StoreError
from batchgen.store.store import Store


def test_a_starting_worker_makes_its_spool_only_while_nobody_adopts_and_holds_it_then(tmp_path):
    store, other = Store(tmp_path, "spool-w1-1"), Store(tmp_path, "spool-w1-1")
    (tmp_path / ".batchgen").mkdir()
    taken = []
    starting = threading.Thread(target=lambda: taken.append(take_spool(store)))
    with adoption_lock(other):
        starting.start()
        starting.join(0.5)
        assert not os.path.exists(store.spool)  # else adoption would take it for an orphan's
    starting.join(20.0)
    assert os.path.isdir(store.spool)
    with pytest.raises(StoreError, match="another worker's"):
        lock_spool(other)
    unlock_spool(store, taken[0])
    assert not os.path.exists(store.spool)
