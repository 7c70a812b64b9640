"""The online engine: one request per sample group, as many in flight as the cap allows, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.stop_reason import StopKind, StopReason


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
