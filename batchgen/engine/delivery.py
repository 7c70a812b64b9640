"""Pictures that a bucket did not take: tried again in the background while the run goes on, and once more at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import groupby
from types import TracebackType

from batchgen.engine.settle import finish
from batchgen.errors import StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import StoredImage
from batchgen.store.bucket import BucketStore
from batchgen.store.spool import disk_error
from batchgen.store.store import Store

FIRST_S, MOST_S = 1.0, 60.0


class Delivery:
    """An async context manager; it does nothing for a job whose pictures stay in its folder."""

    def __init__(self, ledger: Ledger, store: Store, executor: Executor, note: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._bucket = store if isinstance(store, BucketStore) else None
        self._executor = executor
        self._note = note
        self._away = asyncio.Event()
        self._trying = asyncio.Lock()
        # Of a worker's pictures the ledger tells together with those of other workers.
        self._unplaced = ledger.reader.unplaced_of_workers if ledger.worker else ledger.reader.unplaced
        self._later: set[int] = set()  # attempts that were tried in vain: others go first
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Delivery:
        if (bucket := self._bucket) is not None:
            loop = asyncio.get_running_loop()
            bucket.on_away = lambda: _soon(loop, self._away.set)
            if bucket.waiting:
                self._away.set()
            self._task = asyncio.create_task(self._deliver(bucket))
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._stop()

    async def finish(self) -> int:
        """One last time. Answers how many pictures stay in the spool."""
        if self._bucket is None:
            return 0
        await self._stop()
        if self._bucket.waiting:
            await self._try(self._bucket)
        return len(self._bucket.waiting)

    async def _stop(self) -> None:
        """Not in the middle of a picture: its thread would go on beside the next who tries."""
        if self._task is not None:
            async with self._trying:
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _deliver(self, bucket: BucketStore) -> None:
        while True:
            await self._away.wait()
            if not bucket.waiting:
                self._away.clear()
                continue
            self._note(f"{bucket.away}; pictures wait in the spool and go up when it takes them again")
            delay_s = FIRST_S
            while bucket.waiting:
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                async with self._trying:
                    went = await self._try(bucket)
                delay_s = FIRST_S if went else min(MOST_S, 2 * delay_s)
            bucket.away = ""
            self._away.clear()
            self._note(f"{bucket.url}: all pictures that waited are there now")

    async def _try(self, bucket: BucketStore) -> int:
        """Until the first that does not go. Answers how many attempts went up."""
        went = 0
        by_attempt = groupby(self._unplaced(), key=lambda image: image.attempt)
        waiting = {attempt: images for attempt, found in by_attempt if (images := _still(bucket, found))}
        for attempt in sorted(waiting, key=lambda attempt: (attempt in self._later, attempt)):
            if await asyncio.get_running_loop().run_in_executor(
                self._executor,
                lambda attempt=attempt: self._place(bucket, attempt, waiting[attempt]),  # type: ignore[misc]
            ):
                went, bucket.away = went + 1, ""
            else:
                self._later.add(attempt)
                break
        return went

    def _place(self, bucket: BucketStore, attempt: int, images: list[StoredImage]) -> bool:
        try:
            with bucket.moving:
                return bool(_still(bucket, images)) and finish(self._ledger, bucket, attempt, images)
        except (StoreError, OSError) as error:
            bucket.rescue.tell(error if isinstance(error, StoreError) else disk_error(error, bucket.root))
            return False


def _still(bucket: BucketStore, images: Iterable[StoredImage]) -> list[StoredImage]:
    """Those that wait: the ledger hears of what has gone up a moment later."""
    return [image for image in images if bucket.waiting.get(image.file.path) == image.spool]


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the run has ended
        loop.call_soon_threadsafe(call)
