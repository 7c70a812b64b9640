"""Engines send the requests of a run. The online engine does so in this process, as many in flight as the cap allows; a
remote engine hands the work to workers elsewhere and hears how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from batchgen.engine.outcome import RunEnding, RunOptions
from batchgen.engine.reconciliation import Reconciliation
from batchgen.events import Event
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.manifest import Manifest
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.store.store import Store


class Engine(Protocol):
    """Runs the work that the dispatcher hands out until nothing more may start. Third parties register theirs under the
    entry point `batchgen.engines`."""

    async def drive(self, dispatcher: Dispatcher, execute: Callable[[Ticket], Awaitable[None]]) -> None: ...


class OnlineEngine:
    """Starts work as the dispatcher hands it out; only the dispatcher waits."""

    async def drive(self, dispatcher: Dispatcher, execute: Callable[[Ticket], Awaitable[None]]) -> None:
        """Work until the dispatcher has nothing left and everything in flight has settled.

        An exception from `execute` is a bug: nothing more starts, what is in flight finishes, then it is raised.
        Cancelling gives up what is in flight, which is then uncertain.
        """
        running: set[asyncio.Task[None]] = set()
        bugs: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                bugs.append(error)
                dispatcher.stop(StopReason(StopKind.BUG))

        try:
            while (ticket := await dispatcher.take()) is not None:
                task = asyncio.ensure_future(execute(ticket))
                running.add(task)
                task.add_done_callback(ended)
            while running:
                await asyncio.wait(running)
        except asyncio.CancelledError:
            dispatcher.stop(StopReason(StopKind.CANCELLED))
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)  # each records what became of its request
            raise
        if bugs:
            raise bugs[0]


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
