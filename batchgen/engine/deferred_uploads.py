"""Pictures that a bucket did not take: tried again in the background while the run goes on, and once more at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import groupby
from types import TracebackType

from batchgen.engine.settle import place_recorded
from batchgen.errors import StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import RecordedImage
from batchgen.store.bucket import BucketStore
from batchgen.store.spool import disk_error
from batchgen.store.store import Store

FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 1.0, 60.0


class DeferredUploads:
    """An async context manager; it does nothing for a job whose pictures stay in its folder."""

    def __init__(self, ledger: Ledger, store: Store, executor: Executor, note: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._bucket = store if isinstance(store, BucketStore) else None
        self._executor = executor
        self._note = note
        self._unavailable = asyncio.Event()
        self._upload_lock = asyncio.Lock()
        # Of a worker's pictures the ledger tells together with those of other workers.
        self._unplaced = ledger.reader.unplaced_by_workers if ledger.worker else ledger.reader.unplaced
        self._failed_before: set[int] = set()  # attempts that were tried in vain: others go first
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> DeferredUploads:
        if (bucket := self._bucket) is not None:
            loop = asyncio.get_running_loop()
            bucket.on_unavailable = lambda: _call_threadsafe(loop, self._unavailable.set)
            if bucket.pending_uploads:
                self._unavailable.set()
            self._task = asyncio.create_task(self._retry_until_uploaded(bucket))
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._stop()

    async def finish(self) -> int:
        """One last time. Answers how many pictures stay in the spool."""
        if self._bucket is None:
            return 0
        await self._stop()
        if self._bucket.pending_uploads:
            await self._upload_waiting(self._bucket)
        return len(self._bucket.pending_uploads)

    async def _stop(self) -> None:
        """Not in the middle of a picture: its thread would go on beside the next who tries."""
        if self._task is not None:
            async with self._upload_lock:
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _retry_until_uploaded(self, bucket: BucketStore) -> None:
        while True:
            await self._unavailable.wait()
            if not bucket.pending_uploads:
                self._unavailable.clear()
                continue
            self._note(f"{bucket.unavailable_reason}; pictures wait in the spool and go up when it takes them again")
            delay_s = FIRST_RETRY_DELAY_S
            while bucket.pending_uploads:
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                async with self._upload_lock:
                    uploaded = await self._upload_waiting(bucket)
                delay_s = FIRST_RETRY_DELAY_S if uploaded else min(MAX_RETRY_DELAY_S, 2 * delay_s)
            bucket.unavailable_reason = ""
            self._unavailable.clear()
            self._note(f"{bucket.url}: all pictures that waited are there now")

    async def _upload_waiting(self, bucket: BucketStore) -> int:
        """Until the first that does not go. Answers how many attempts went up."""
        uploaded = 0
        by_attempt = groupby(self._unplaced(), key=lambda image: image.attempt)
        waiting = {attempt: images for attempt, found in by_attempt if (images := _still_waiting(bucket, found))}
        for attempt in sorted(waiting, key=lambda attempt: (attempt in self._failed_before, attempt)):
            if await asyncio.get_running_loop().run_in_executor(
                self._executor,
                lambda attempt=attempt: self._upload_images(bucket, attempt, waiting[attempt]),  # type: ignore[misc]
            ):
                uploaded, bucket.unavailable_reason = uploaded + 1, ""
            else:
                self._failed_before.add(attempt)
                break
        return uploaded

    def _upload_images(self, bucket: BucketStore, attempt: int, images: list[RecordedImage]) -> bool:
        try:
            with bucket.upload_lock:
                return bool(_still_waiting(bucket, images)) and place_recorded(self._ledger, bucket, attempt, images)
        except (StoreError, OSError) as error:
            bucket.emergency_spool.on_trouble(
                error if isinstance(error, StoreError) else disk_error(error, bucket.root)
            )
            return False


def _still_waiting(bucket: BucketStore, images: Iterable[RecordedImage]) -> list[RecordedImage]:
    """Those that wait: the ledger hears of what has gone up a moment later."""
    return [image for image in images if bucket.pending_uploads.get(image.file.path) == image.spool]


def _call_threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the run has ended
        loop.call_soon_threadsafe(call)
