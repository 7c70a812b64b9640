"""Spools of workers that start while others look for what the dead have left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time

import pytest

from batchgen.engine.cluster.session import adoption_lock, lock_spool, take_spool, unlock_spool
from batchgen.errors import JobLocked, StoreError
from batchgen.events import Notice
from batchgen.store.store import Store
from tests.support.bench import items
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres_proxy import Proxy

# Adopts, and waits in the middle of it until it has been cut off. Arguments: ledger, schema, job folder.
ADOPTS = """
import sys, time
from pathlib import Path
from batchgen.engine.cluster import orphan_recovery
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.profiles.catalogue import load_catalogue
from batchgen.store.store import Store
url, schema, folder = sys.argv[1:]
settle = orphan_recovery._settle_placed
def cut_off_first(*given):
    Path(folder, 'inside').touch()
    while not Path(folder, 'cut').exists():
        time.sleep(0.02)
    settle(*given)
orphan_recovery._settle_placed = cut_off_first
orphan_recovery.adopt_orphans(FencedLedger(url, schema, 0, 'w1'), Store(Path(folder)), load_catalogue(), print)
"""


def adopting(url, cluster):
    folder = cluster.folder / "out"
    with cluster.reader() as reader:
        schema = next(reader._query("SELECT current_schema()"))[0]
    with open(folder / "said", "wb") as said:
        return subprocess.Popen([PYTHON, "-c", ADOPTS, url, schema, folder], cwd=ROOT, stderr=said), folder


async def test_whoever_adopts_does_not_wait_for_its_server_while_others_wait_for_it(cluster, postgres):
    await cluster.submit(items("a"))
    wire = Proxy(postgres.port)
    child, folder = adopting(wire.url(str(cluster.ledger)), cluster)
    await cluster.until((folder / "inside").exists)
    wire.refusing = True
    wire.hang_up()
    (folder / "cut").touch()
    assert await asyncio.to_thread(child.wait, 20.0) == 1
    assert "LedgerUnreachable" in (folder / "said").read_text()
    with adoption_lock(Store(folder), pytest.fail):
        pass
    wire.close()


async def test_a_run_waits_for_whoever_adopts_and_says_for_whom_and_neither_without_end_nor_on_its_loop(
    cluster, monkeypatch
):
    monkeypatch.setattr("batchgen.engine.cluster.session.ADOPTION_NOTE_S", 0.5)
    monkeypatch.setattr("batchgen.engine.cluster.session.ADOPTION_WAIT_S", 2.0)
    await cluster.submit(items("a"))
    child, folder = adopting(str(cluster.ledger), cluster)
    try:
        await cluster.until((folder / "inside").exists)
        running, longest_s, before_s = asyncio.create_task(cluster.submit(items("a"))), 0.0, time.monotonic()
        while not running.done():
            await asyncio.sleep(0.01)
            longest_s, before_s = max(longest_s, time.monotonic() - before_s), time.monotonic()
        with pytest.raises(
            JobLocked, match=rf"\(process {child.pid} on .+\) has been at .+ for 2 s.+: wait for it, or stop it"
        ):
            await running
        notes = [event.message for event in cluster.events if isinstance(event, Notice)]
        assert any(f"(process {child.pid} on " in note and note.endswith(": waiting for it") for note in notes)
        assert longest_s < 1.5
    finally:
        cluster.kill(child)
    assert (await cluster.submit(items("a"))).exit_code == 9


def test_a_starting_worker_makes_its_spool_only_while_nobody_adopts_and_holds_it_then(tmp_path):
    store, other = Store(tmp_path, "spool-w1-1"), Store(tmp_path, "spool-w1-1")
    (tmp_path / ".batchgen").mkdir()
    taken = []
    starting = threading.Thread(target=lambda: taken.append(take_spool(store, print)))
    with adoption_lock(other, print):
        starting.start()
        starting.join(0.5)
        assert not os.path.exists(store.spool)  # else adoption would take it for an orphan's
    starting.join(20.0)
    assert os.path.isdir(store.spool)
    with pytest.raises(StoreError, match="another worker's"):
        lock_spool(other)
    unlock_spool(store, taken[0])
    assert not os.path.exists(store.spool)
