"""Wires the parts that a sample passes through online, for a run and for a worker, and retries images that their bucket
refused: in the background while the run goes on, and once more at its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.engine.dependents import Dependents
from batchgen.engine.execute import Execution
from batchgen.engine.failures import FailureRecorder
from batchgen.engine.jobs import JobPolls
from batchgen.engine.receive import Receiver
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.settle import place_recorded
from batchgen.engine.stopping import RunStopper
from batchgen.errors import StoreError
from batchgen.ledger.pictures import RecordedImage
from batchgen.ledger.results import ResultsFile
from batchgen.records import Result, Sample
from batchgen.scheduling.dispatcher import Dispatcher

FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 1.0, 60.0


class DeferredUploads:
    """Uploads images that their bucket refused. An async context manager, which does nothing for a job whose images
    stay in its folder."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._ledger = ledger = context.ledger
        self._store = context.store
        self._upload_lock = asyncio.Lock()
        # A worker leaves this to the ledger, which counts all workers' images together.
        self._unplaced = ledger.reader.unplaced_by_workers if ledger.worker else ledger.reader.unplaced
        self._failed_before: set[int] = set()  # attempts that failed before: others go first
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> DeferredUploads:
        if self._store.properties.remote:
            self._task = asyncio.create_task(self._retry_until_uploaded())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def finish(self) -> int:
        """Try once more. Returns how many images stay in the spool."""
        await self._stop()
        if self._store.pending_uploads:
            await self._upload_waiting()
        return len(self._store.pending_uploads)

    async def _stop(self) -> None:
        """Stop, but not in the middle of an image: its thread would still be running beside the next process that
        tries."""
        if self._task is not None:
            async with self._upload_lock:
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _retry_until_uploaded(self) -> None:
        uploads = self._store.uploads
        while True:
            await asyncio.wrap_future(uploads.when_pending())
            if not uploads.pending:
                continue
            self._context.note(
                f"{uploads.unavailable_reason}; images wait in the spool and go up when it takes them again"
            )
            delay_s = FIRST_RETRY_DELAY_S
            while uploads.pending:
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                async with self._upload_lock:
                    uploaded = await self._upload_waiting()
                delay_s = FIRST_RETRY_DELAY_S if uploaded else min(MAX_RETRY_DELAY_S, 2 * delay_s)
            uploads.unavailable_reason = ""
            self._context.note(f"{self._store.url}: all images that waited are there now")

    async def _upload_waiting(self) -> int:
        """Upload until one is refused. Returns how many attempts were uploaded."""
        uploaded, uploads = 0, self._store.uploads
        by_attempt = groupby(self._unplaced(), key=lambda image: image.attempt)
        waiting = {attempt: images for attempt, found in by_attempt if (images := uploads.still_pending(found))}
        for attempt in sorted(waiting, key=lambda attempt: (attempt in self._failed_before, attempt)):
            if await self._context.in_thread(partial(self._upload_images, attempt, waiting[attempt])):
                uploaded, uploads.unavailable_reason = uploaded + 1, ""
            else:
                self._failed_before.add(attempt)
                break
        return uploaded

    def _upload_images(self, attempt: int, images: list[RecordedImage]) -> bool:
        uploads = self._store.uploads
        try:
            with uploads.lock:
                return bool(uploads.still_pending(images)) and place_recorded(
                    self._ledger, self._store, attempt, images
                )
        except (StoreError, OSError) as error:
            self._store.report_trouble(error)
            return False


class NoResultsFile(ResultsFile):
    """For a worker: the lines are written by the run that submitted the work, from the ledger."""

    def __init__(self) -> None: ...

    def append(self, sample: Sample, made: Result | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    reference_inputs: ReferenceInputs
    attempts: AttemptRecorder
    execution: Execution
    receiver: Receiver
    deferred_uploads: DeferredUploads
    stopper: RunStopper


@asynccontextmanager
async def open_pipeline(
    context: RunContext,
    dispatcher: Dispatcher,
    dependents: Dependents,
    results: ResultsFile,
    *,
    hold_uncertain: bool,
    awaits_review: Callable[[str], bool] = lambda item_id: False,
) -> AsyncIterator[Pipeline]:
    async with AsyncExitStack() as stack:
        reference_inputs = await stack.enter_async_context(ReferenceInputs(dependents, context))
        deferred_uploads = await stack.enter_async_context(DeferredUploads(context))
        attempts = AttemptRecorder(context, results, dependents, awaits_review)
        failures = FailureRecorder(context, dispatcher, attempts, hold_uncertain=hold_uncertain)
        stopper = RunStopper(context, dispatcher)
        receiver = Receiver(context, dispatcher, attempts, JobPolls(dispatcher))
        execution = Execution(context, dispatcher, attempts, reference_inputs, failures, stopper, receiver)
        yield Pipeline(reference_inputs, attempts, execution, receiver, deferred_uploads, stopper)
