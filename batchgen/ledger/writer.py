"""One thread that owns the ledger's writing connection and commits whatever has gathered: natural group commit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from batchgen.errors import LedgerError

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], Any]
MOST_PER_COMMIT = 1000


class Writer:
    """Runs changes in the order in which they came, many to a transaction; each caller hears after its commit is durable.

    A change that fails takes its whole transaction with it, and nothing is written after it: a ledger that cannot be
    written stops the run (LedgerError for every caller from then on).
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.commits = 0
        self._connection = connection
        self._queue: queue.SimpleQueue[tuple[Change, Any] | None] = queue.SimpleQueue()
        self._broken: LedgerError | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, change: Callable[[sqlite3.Connection], T]) -> concurrent.futures.Future[T]:
        """For threads: a future that is done when the change is durable."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((change, future))
        return future

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """For the event loop: returns when the change is durable. One wake-up of the loop serves a whole commit."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((change, future))
        return await future

    def close(self) -> None:
        """Write what is queued, end the thread, close the connection."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch = self._gather()
            if batch[-1] is None:
                open_ = False
            changes = [entry for entry in batch if entry is not None]
            if changes:
                self._settle(changes, self._commit([change for change, _ in changes]))

    def _gather(self) -> list[tuple[Change, Any] | None]:
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < MOST_PER_COMMIT:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _commit(self, changes: list[Change]) -> list[Any] | LedgerError:
        if self._broken is not None:
            return self._broken
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [change(self._connection) for change in changes]
            self._connection.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._broken = LedgerError(f"the ledger could not be written: {error}")
            self._broken.__cause__ = error
            return self._broken
        self.commits += 1
        return results

    def _settle(self, batch: list[tuple[Change, Any]], results: list[Any] | LedgerError) -> None:
        for_loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for number, (_, future) in enumerate(batch):
            result = results if isinstance(results, LedgerError) else results[number]
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
            continue  # its task was cancelled; the change is durable all the same
        if isinstance(result, LedgerError):
            future.set_exception(result)
        else:
            future.set_result(result)
