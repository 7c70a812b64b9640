"""The derivatives that one worker makes, for whichever job they are: so many pictures at once as it has processes for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from batchgen.derivatives.diff import DerivativeDiff, DerivativeDiffer, RenderTask
from batchgen.derivatives.render_process import RenderProcess
from batchgen.engine.cluster.queue import STALE_S, Requeue
from batchgen.engine.cluster.submitted_store import open_submitted_store
from batchgen.engine.derivative_runner import MIN_FREE_BYTES, in_thread, render_derivatives
from batchgen.ledger import derivative_work
from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, upsert_derivatives
from batchgen.ledger.work_queue import Submission, load_submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.records import Post
from batchgen.store.job_folder import SPOOL
from batchgen.store.store import Store

PLACEMENT_GRACE_S = 2.0  # within which a picture that was recorded stands under its name, when its worker lives
POLL_S = 0.02
RETRY_DELAY_S = 30.0  # before a worker without room on its disk looks again
CLOSE_IDLE_AFTER_S = 60.0


def derivative_spool(worker: str) -> str:
    """Where a worker writes files before they have their names; not where its pictures come in, which goes with their session."""
    return f"post-{SPOOL}-{worker}"


class SubmissionDerivatives:
    """One submission's derivatives: where its pictures are, and what is recorded of them. Needs no key."""

    def __init__(self, url: str, schema: str, run_id: int, worker: str, state: Path | None) -> None:
        """state: the user's state folder, for what is made of pictures in a bucket.

        Raises LedgerError, StoreError, LookupError when the submission is not there any more."""
        self.ledger = FencedLedger(url, schema, run_id, worker)
        try:
            facts = self._facts()
            self.store = open_submitted_store(facts, schema, derivative_spool(worker), state)
            self.store.prepare()
            emulated = self.ledger.reader.meta("emulated") == "yes"
            view = DerivativeReader.from_reader(self.ledger.reader)
            self.differ = DerivativeDiffer(view, self.store, facts.name, emulated=emulated)
        except BaseException:
            self.ledger.close()
            raise
        self.last_used_s = time.monotonic()
        self.in_use = 0
        self._recipes = facts.recipes
        self._recipes_by_name: dict[str, Post] = {}

    def _facts(self) -> Submission:
        found = load_submission(self.ledger.reader._connection, self.ledger.run_id)
        if found is None:
            raise LookupError(self.ledger.schema)
        return found

    def post(self, item_id: str, n: int) -> Post | None:
        """What this run still wants made of the sample's picture. For a thread."""
        name = derivative_work.queued_recipe(self.ledger.reader._connection, self.ledger.run_id, item_id, n)
        if name is None:
            return None
        if name not in self._recipes_by_name:
            if name not in self._recipes:
                self._recipes = self._facts().recipes
            self._recipes_by_name[name] = derivative_work.load_recipe(self._recipes[name])
        return self._recipes_by_name[name]

    async def wait_until_placed(self, item_id: str, n: int) -> None:
        """The picture was recorded before it was moved to its name. Raises Again while it may still be."""
        give_up_s = time.monotonic() + PLACEMENT_GRACE_S
        while (at := await in_thread(lambda: self._unplaced_since(item_id, n))) is not None:
            if time.monotonic() > give_up_s:
                if time.time() - at < STALE_S:
                    raise Requeue(time.time() + 1.0)
                return  # its worker is gone: the next run moves it
            await asyncio.sleep(POLL_S)

    def _unplaced_since(self, item_id: str, n: int) -> float | None:
        return derivative_work.unplaced_since(self.ledger.reader._connection, item_id, n)

    def diff(self, item_id: str, n: int, post: Post) -> DerivativeDiff:
        """Of this sample alone. For a thread."""
        found = self.differ.diff([(item_id, post)])
        key = (item_id, n)
        return DerivativeDiff(
            [due for due in found.due if due.key == key],
            [row for row in found.stale if (row.item_id, row.n) == key],
            [row for row in found.touched if (row.item_id, row.n) == key],
        )

    async def record(self, key: tuple[str, int], rows: list[DerivativeRow], found: DerivativeDiff) -> None:
        removed = await in_thread(lambda: self.differ.remove(found.stale))
        run_id = self.ledger.run_id

        def change(db: Connection) -> None:
            upsert_derivatives(found.touched)(db)
            derivative_work.record_result(db, run_id, key, rows, found.stale, removed=removed)

        await self.ledger.writer.write(change)

    def close(self) -> None:
        self.ledger.close()
        with contextlib.suppress(OSError):
            os.rmdir(self.store.spool)


class DerivativeWorker:
    """`make` for each piece of work, then `close`."""

    def __init__(self, url: str, worker: str, processes: int, state: Path | None, note: Callable[[str], None]) -> None:
        """state: the user's state folder."""
        self._url = url
        self._worker = worker
        self._state = state
        self._note = note
        self._idle_processes = [RenderProcess() for _ in range(processes)]
        self._submissions: dict[tuple[str, int], SubmissionDerivatives] = {}
        self._open_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[list[DerivativeRow]]] = set()
        self._abandoned = False

    async def process_picture(self, schema: str, run_id: int, item_id: str, n: int) -> None:
        """All files of one picture. Raises Again when somebody has to take it up later, and what the ledger raises."""
        if self._abandoned:
            raise Requeue(time.time())
        files = await self._open_submission(schema, run_id)
        if files is None:
            return
        files.in_use += 1
        try:
            await self._process(files, item_id, n)
        finally:
            files.in_use -= 1
            files.last_used_s = time.monotonic()

    async def _process(self, files: SubmissionDerivatives, item_id: str, n: int) -> None:
        post = await in_thread(lambda: files.post(item_id, n))
        if post is None:
            return
        await files.wait_until_placed(item_id, n)
        if files.store.free_bytes() < MIN_FREE_BYTES:
            self._note("the disk is nearly full: derivatives wait for room")
            raise Requeue(time.time() + RETRY_DELAY_S)
        found = await in_thread(lambda: files.diff(item_id, n, post))
        rows = [row for due in found.due for row in await self._render(files.store, due)]
        await files.record((item_id, n), rows, found)

    async def _render(self, store: Store, due: RenderTask) -> list[DerivativeRow]:
        if (
            not self._idle_processes
        ):  # the queue gives out as many at once as there are, but for the moment after it was away
            raise Requeue(time.time() + 1.0)
        process = self._idle_processes.pop()
        task = asyncio.create_task(render_derivatives(process, due, store))
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            await process.close()  # else its answer would be the next task's
            if self._abandoned:
                raise Requeue(time.time()) from None
            raise
        finally:
            self._tasks.discard(task)
            self._idle_processes.append(process)

    async def _open_submission(self, schema: str, run_id: int) -> SubmissionDerivatives | None:
        key = (schema, run_id)
        async with self._open_lock:
            if key not in self._submissions:
                try:
                    self._submissions[key] = await in_thread(
                        lambda: SubmissionDerivatives(self._url, schema, run_id, self._worker, self._state)
                    )
                except LookupError:
                    return None
            return self._submissions[key]

    async def close_idle(self) -> None:
        """Connections of jobs that nothing was made for lately."""
        for key, files in list(self._submissions.items()):
            if not files.in_use and time.monotonic() - files.last_used_s > CLOSE_IDLE_AFTER_S:
                del self._submissions[key]
                await in_thread(files.close)

    def abandon_in_flight(self) -> None:
        """Give back what is being made."""
        self._abandoned = True
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        for process in self._idle_processes:
            await process.close()
        for files in self._submissions.values():
            await in_thread(files.close)
