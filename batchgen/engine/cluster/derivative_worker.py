"""The derivatives that one worker makes, for whichever job they are: so many pictures at once as it has processes for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from batchgen.derivatives.diff import Due, Found, Lookout
from batchgen.derivatives.render_process import Workbench
from batchgen.engine.cluster.queue import STALE_S, Again
from batchgen.engine.derivatives import FLOOR_BYTES, in_thread, made
from batchgen.errors import StoreError
from batchgen.ledger import derivative_work
from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeRow, Derived, recorded
from batchgen.ledger.location import pointer
from batchgen.ledger.work_queue import Submission, submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.records import Post
from batchgen.store.store import SPOOL, Store

PLACE_S = 2.0  # within which a picture that was recorded stands under its name, when its worker lives
LOOK_S = 0.02
AGAIN_S = 30.0  # before a worker without room on its disk looks again
IDLE_S = 60.0


def post_spool(worker: str) -> str:
    """Where a worker writes files before they have their names; not where its pictures come in, which goes with their session."""
    return f"post-{SPOOL}-{worker}"


class Files:
    """One submission's derivatives: where its pictures are, and what is recorded of them. Needs no key."""

    def __init__(self, url: str, schema: str, run_id: int, worker: str) -> None:
        """Raises LedgerError, StoreError, LookupError when the submission is not there any more."""
        self.ledger = FencedLedger(url, schema, run_id, worker)
        try:
            facts = self._facts()
            there = pointer(Path(facts.folder))
            if there is None or there.schema != schema:
                raise StoreError(f"{facts.folder} is not here as the submitter sees it: mount it under the same path")
            self.store = Store(Path(facts.folder), post_spool(worker))
            self.store.prepare()
            emulated = self.ledger.reader.meta("emulated") == "yes"
            view = Derived.of(self.ledger.reader)
            self.lookout = Lookout(view, self.store.root, facts.name, emulated=emulated)
        except BaseException:
            self.ledger.close()
            raise
        self.used_s = time.monotonic()
        self.busy = 0
        self._recipes = facts.recipes
        self._posts: dict[str, Post] = {}

    def _facts(self) -> Submission:
        found = submission(self.ledger.reader._connection, self.ledger.run_id)
        if found is None:
            raise LookupError(self.ledger.schema)
        return found

    def post(self, item_id: str, n: int) -> Post | None:
        """What this run still wants made of the sample's picture. For a thread."""
        name = derivative_work.wanted_recipe(self.ledger.reader._connection, self.ledger.run_id, item_id, n)
        if name is None:
            return None
        if name not in self._posts:
            if name not in self._recipes:
                self._recipes = self._facts().recipes
            self._posts[name] = derivative_work.recipe(self._recipes[name])
        return self._posts[name]

    async def placed(self, item_id: str, n: int) -> None:
        """The picture was recorded before it was moved to its name. Raises Again while it may still be."""
        give_up_s = time.monotonic() + PLACE_S
        while (at := await in_thread(lambda: self._unplaced_since(item_id, n))) is not None:
            if time.monotonic() > give_up_s:
                if time.time() - at < STALE_S:
                    raise Again(time.time() + 1.0)
                return  # its worker is gone: the next run moves it
            await asyncio.sleep(LOOK_S)

    def _unplaced_since(self, item_id: str, n: int) -> float | None:
        return derivative_work.unplaced_since(self.ledger.reader._connection, item_id, n)

    def missing(self, item_id: str, n: int, post: Post) -> Found:
        """Of this sample alone. For a thread."""
        found = self.lookout.look([(item_id, post)])
        key = (item_id, n)
        return Found(
            [due for due in found.due if due.key == key],
            [row for row in found.stale if (row.item_id, row.n) == key],
            [row for row in found.seen if (row.item_id, row.n) == key],
        )

    async def finish(self, key: tuple[str, int], rows: list[DerivativeRow], found: Found) -> None:
        removed = await in_thread(lambda: self.lookout.remove(found.stale))
        run_id = self.ledger.run_id

        def change(db: Connection) -> None:
            recorded(found.seen)(db)
            derivative_work.finish(db, run_id, key, rows, found.stale, removed=removed)

        await self.ledger.writer.write(change)

    def close(self) -> None:
        self.ledger.close()
        with contextlib.suppress(OSError):
            os.rmdir(self.store.spool)


class Deriving:
    """`make` for each piece of work, then `close`."""

    def __init__(self, url: str, worker: str, processes: int, say: Callable[[str], None]) -> None:
        self._url = url
        self._worker = worker
        self._say = say
        self._idle = [Workbench() for _ in range(processes)]
        self._files: dict[tuple[str, int], Files] = {}
        self._opening = asyncio.Lock()
        self._making: set[asyncio.Task[list[DerivativeRow]]] = set()
        self._given_up = False

    async def make(self, schema: str, run_id: int, item_id: str, n: int) -> None:
        """All files of one picture. Raises Again when somebody has to take it up later, and what the ledger raises."""
        if self._given_up:
            raise Again(time.time())
        files = await self._opened(schema, run_id)
        if files is None:
            return
        files.busy += 1
        try:
            await self._make(files, item_id, n)
        finally:
            files.busy -= 1
            files.used_s = time.monotonic()

    async def _make(self, files: Files, item_id: str, n: int) -> None:
        post = await in_thread(lambda: files.post(item_id, n))
        if post is None:
            return
        await files.placed(item_id, n)
        if files.store.free_bytes() < FLOOR_BYTES:
            self._say("the disk is nearly full: derivatives wait for room")
            raise Again(time.time() + AGAIN_S)
        found = await in_thread(lambda: files.missing(item_id, n, post))
        rows = [row for due in found.due for row in await self._made(files.store, due)]
        await files.finish((item_id, n), rows, found)

    async def _made(self, store: Store, due: Due) -> list[DerivativeRow]:
        if not self._idle:  # the queue gives out as many at once as there are, but for the moment after it was away
            raise Again(time.time() + 1.0)
        bench = self._idle.pop()
        task = asyncio.create_task(made(bench, due, store))
        self._making.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            await bench.close()  # else its answer would be the next task's
            if self._given_up:
                raise Again(time.time()) from None
            raise
        finally:
            self._making.discard(task)
            self._idle.append(bench)

    async def _opened(self, schema: str, run_id: int) -> Files | None:
        key = (schema, run_id)
        async with self._opening:
            if key not in self._files:
                try:
                    self._files[key] = await in_thread(lambda: Files(self._url, schema, run_id, self._worker))
                except LookupError:
                    return None
            return self._files[key]

    async def close_idle(self) -> None:
        """Connections of jobs that nothing was made for lately."""
        for key, files in list(self._files.items()):
            if not files.busy and time.monotonic() - files.used_s > IDLE_S:
                del self._files[key]
                await in_thread(files.close)

    def give_up(self) -> None:
        """Give back what is being made."""
        self._given_up = True
        for task in self._making:
            task.cancel()

    async def close(self) -> None:
        for bench in self._idle:
            await bench.close()
        for files in self._files.values():
            await in_thread(files.close)
