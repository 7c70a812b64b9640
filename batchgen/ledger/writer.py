"""A thread that owns a writing connection and commits whatever has gathered: natural group commit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from batchgen.errors import LedgerError, LedgerGone
from batchgen.ledger.database import Change, Connection, Database

T = TypeVar("T")
MAX_CHANGES_PER_COMMIT = 1000
LAZY_DELAY_S = 0.25  # what nobody waits for is written by itself if nothing else has come for this long


class Writer:
    """Makes changes in the order in which they came, many to a transaction. Each caller continues when its commit is
    durable.

    A change that fails takes its whole transaction with it, and nothing is written after it: a ledger that cannot be
    written stops the run (LedgerError for every caller from then on).
    """

    def __init__(self, database: Database, name: str = "ledger", lazy_delay_s: float = LAZY_DELAY_S) -> None:
        self.commits = 0
        self.is_remote = database.is_remote
        self.broken: LedgerError | None = None
        self._database = database
        self._queue: queue.SimpleQueue[tuple[Change, Any] | None] = queue.SimpleQueue()
        self._lazy_changes: deque[Change] = deque()
        self._name = name
        self.lazy_delay_s = lazy_delay_s
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, change: Callable[[Connection], T]) -> concurrent.futures.Future[T]:
        """Submit a change from a thread. Returns a future that is done when the change is durable."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((change, future))
        return future

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Write a change from the event loop, and return when it is durable. One wake-up of the loop serves a whole
        commit."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((change, future))
        return await future

    def enqueue_lazy(self, change: Change) -> None:
        """Enqueue a change that nobody waits for and that is not worth a commit of its own: it goes along with the next
        change, before it, or alone within `lazy_delay_s`. Lazy changes keep their order among themselves."""
        self._lazy_changes.append(change)

    def close(self) -> None:
        """Write what is queued, end the thread, close the connection."""
        self._queue.put(None)
        self._thread.join()
        self._database.close()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch = self._next_batch()
            open_ = not batch or batch[-1] is not None
            lazy_changes = [(self._lazy_changes.popleft(), None) for _ in range(len(self._lazy_changes))]
            changes = [*lazy_changes, *(entry for entry in batch if entry is not None)]
            if changes:
                self._resolve_futures(changes, self._commit([change for change, _ in changes]))

    def _next_batch(self) -> list[tuple[Change, Any] | None]:
        batch: list[tuple[Change, Any] | None] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._queue.get(timeout=self.lazy_delay_s))
            while batch[-1] is not None and len(batch) < MAX_CHANGES_PER_COMMIT:
                batch.append(self._queue.get_nowait())
        return batch

    def _commit(self, changes: list[Change]) -> list[Any] | LedgerError:
        if self.broken is not None:
            return self.broken
        try:
            results = self._database.transact(changes)
        except LedgerGone as gone:
            self.broken = gone
            return gone
        except Exception as error:
            self.broken = LedgerError(f"the {self._name} could not be written: {error}")
            self.broken.__cause__ = error
            return self.broken
        self.commits += 1
        return results

    def _resolve_futures(self, batch: list[tuple[Change, Any]], results: list[Any] | LedgerError) -> None:
        for_loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for number, (_, future) in enumerate(batch):
            result = results if isinstance(results, LedgerError) else results[number]
            if future is None:
                continue
            if isinstance(future, concurrent.futures.Future):
                if isinstance(result, LedgerError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
            else:
                for_loops.setdefault(future.get_loop(), []).append((future, result))
        for loop, futures in for_loops.items():
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in futures:
        if future.done():
            continue  # its task was cancelled, but the change is durable
        if isinstance(result, LedgerError):
            future.set_exception(result)
        else:
            future.set_result(result)
