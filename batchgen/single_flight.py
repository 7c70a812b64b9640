"""Many that need the same thing at once wait for one and the same work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class SingleFlight:
    """Not thread-safe: the event loop is its only caller."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._stopped = False

    async def do(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` answers or raises, begun once for all who ask for `key` until it ends. One that asks and goes away
        takes nothing from the others. Raises CancelledError after `stop`."""
        if self._stopped:
            raise asyncio.CancelledError
        task: asyncio.Task[T] | None = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Begin nothing more and give up what is going on."""
        self.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def cancel(self) -> None:
        self._stopped = True
        for task in self._tasks.values():
            task.cancel()

    def _ended(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # those who still wait get it; nobody has to
