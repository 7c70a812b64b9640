"""Makes the derivatives of one submission's images in one worker, as many images at once as it has processes for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from batchgen.derivatives.diff import DerivativeDiff, DerivativeDiffer, RenderTask
from batchgen.derivatives.render_process import RenderProcess, in_thread, render_derivatives
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.queue import Requeue
from batchgen.engine.cluster.session import RETRY_DELAY_S, Session, WorkerContext, open_submitted_store
from batchgen.engine.derivative_runner import MIN_FREE_BYTES
from batchgen.engine.derivative_runner import default_workers as default_workers
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow
from batchgen.ledger.work_queue import DerivativeOrder, Submission
from batchgen.store.job_folder import SPOOL
from batchgen.store.store import Store

PLACEMENT_GRACE_S = 2.0  # how long a living worker needs to move a recorded image into place
POLL_S = 0.02


def derivative_spool(worker: str) -> str:
    """The spool in which a worker writes derivatives before they have their names. Images it receives go into the spool
    of their session."""
    return f"post-{SPOOL}-{worker}"


class RenderPool:
    """The processes of a worker that make derivatives, whichever submission they work for."""

    def __init__(self, size: int) -> None:
        self._idle = [RenderProcess() for _ in range(size)]
        self._tasks: set[asyncio.Task[list[DerivativeRow]]] = set()
        self._abandoned = False

    async def render(self, due: RenderTask, store: Store) -> list[DerivativeRow]:
        """Make the files of one image. Raises Requeue if somebody has to try again later."""
        # No more are claimed than there are processes, except while one is being given back.
        if self._abandoned or not self._idle:
            raise Requeue(0.0 if self._abandoned else 1.0)
        process = self._idle.pop()
        task = asyncio.create_task(render_derivatives(process, due, store))
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            await process.close()  # or its answer would go to the next task
            if self._abandoned:
                raise Requeue(0.0) from None
            raise
        finally:
            self._tasks.discard(task)
            self._idle.append(process)

    def abandon(self) -> None:
        """Stop the processes and give back what they were making."""
        self._abandoned = True
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        for process in self._idle:
            await process.close()


class DerivativeSession(Session[DerivativeOrder]):
    """Makes derivatives for one submission. It needs no key."""

    def __init__(self, worker: WorkerContext, schema: str, run_id: int, facts: Submission, pool: RenderPool) -> None:
        """Open the session. Call it in a thread. Raises LedgerError, StoreError."""
        super().__init__(worker.ledger(schema, run_id))
        try:
            self._store = open_submitted_store(worker, facts, schema, derivative_spool(worker.name))
            self._store.prepare()
            emulated = self.ledger.reader.meta("emulated") == "yes"
            view = DerivativeReader.from_reader(self.ledger.reader)
            self._differ = DerivativeDiffer(view, self._store, facts.name, emulated=emulated)
        except BaseException:
            self.ledger.close()
            raise
        self._pool = pool
        self._note = worker.note

    async def _claim(self, lane: str, max_count: int) -> list[DerivativeOrder]:
        return await self.ledger.claim_derivatives(max_count, tuple(self.keys), queue.STALE_S)

    async def _process(self, order: DerivativeOrder) -> None:
        """Make all files of one image."""
        await self._wait_until_placed(order)
        if self._store.free_bytes() < MIN_FREE_BYTES:
            self._note("the disk is nearly full: derivatives wait for room")
            raise Requeue(RETRY_DELAY_S)
        found = await in_thread(lambda: self._diff(order))
        rows = [row for due in found.due for row in await self._pool.render(due, self._store)]
        removed = await in_thread(lambda: self._differ.remove(found.stale))
        await self.ledger.record_derivatives(order.key, rows, found.stale, found.touched, removed=removed)

    async def _wait_until_placed(self, order: DerivativeOrder) -> None:
        """Wait until an image that was recorded has been moved into place. Raises Requeue if that may still happen
        later."""
        give_up_s = time.monotonic() + PLACEMENT_GRACE_S
        while (at := await in_thread(lambda: self.ledger.unplaced_since(order.item_id, order.n))) is not None:
            if time.monotonic() > give_up_s:
                if time.time() - at < queue.STALE_S:
                    raise Requeue(1.0)
                return  # its worker is gone: the next run moves it
            await asyncio.sleep(POLL_S)

    def _diff(self, order: DerivativeOrder) -> DerivativeDiff:
        """The derivatives that this sample lacks or has too many of. Call it in a thread."""
        found = self._differ.diff([(order.item_id, order.post)])
        key = (order.item_id, order.n)
        return DerivativeDiff(
            [due for due in found.due if due.key == key],
            [row for row in found.stale if (row.item_id, row.n) == key],
            [row for row in found.touched if (row.item_id, row.n) == key],
        )

    async def close(self) -> None:
        await in_thread(self.ledger.close)
        with contextlib.suppress(OSError):
            os.rmdir(self._store.spool)
