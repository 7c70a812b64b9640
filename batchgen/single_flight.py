"""Callers that need the same thing at the same time share one piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class SingleFlight:
    """Runs at most one task per key. Not thread-safe: call it from the event loop only."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._stopped = False

    async def do(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return or raise what `work` does. It is started once for all callers with the same `key` until it ends, and goes on
        for the others if one is cancelled. Raises CancelledError after `stop`."""
        if self._stopped:
            raise asyncio.CancelledError
        task: asyncio.Task[T] | None = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Start nothing more and cancel what is running."""
        self.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def cancel(self) -> None:
        self._stopped = True
        for task in self._tasks.values():
            task.cancel()

    def _ended(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # mark it as retrieved, as there may be no caller left to get it
