"""Engines whose work is done by other processes: a run hands over what it wants made, and learns how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from batchgen.engine.outcome import RunEnding, RunOptions
from batchgen.engine.reconciliation import Reconciliation
from batchgen.events import Event
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.manifest import Manifest
from batchgen.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRun:
    """A run to hand over. release_lock: releases the job's lock once nothing is left to write that could collide with
    another run."""

    manifest: Manifest
    reconciliation: Reconciliation
    backlog: Backlog
    ledger: Ledger
    store: Store
    options: RunOptions
    url: str
    emit: Callable[[Event], None]
    release_lock: Callable[[], None]


@runtime_checkable
class RemoteEngine(Protocol):
    """An engine whose workers are elsewhere."""

    async def run_remotely(self, run: RemoteRun) -> RunEnding: ...
