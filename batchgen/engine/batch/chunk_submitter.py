"""Turns waiting samples into a batch at the vendor, in steps that are each durable before the next begins."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from batchgen.engine.answer import request_facts
from batchgen.engine.attempts import adjust_after_tries, prepare
from batchgen.engine.batch.context import BatchContext
from batchgen.engine.batch.outcomes import BatchOutcomes
from batchgen.engine.outstanding import reserved_usd
from batchgen.errors import (
    ConnectFailed,
    DailyQuotaReached,
    Malformed,
    NotTheApi,
    ProviderError,
    RateLimited,
    ServerFault,
    Unanswered,
)
from batchgen.events import AttemptStarted, BatchSubmitted
from batchgen.ledger.chunks import Chunk
from batchgen.ledger.requests import IntendedRequest
from batchgen.planning.batchable import ChunkLimits, ChunkSize
from batchgen.providers.contract import RemoteBatch
from batchgen.records import Sample, sample_key
from batchgen.safe_open import private_opener
from batchgen.scheduling.window import BudgetReached, Reserved
from batchgen.store.spool import NO_FOLLOW, sync_folder

WRITE_BUFFER_BYTES = 1 << 20
MAX_PAGES = 200  # of the list of batches, with a hundred each


class EnqueuedQuotaFull(Exception):
    """The quota for enqueued work has no room for a chunk. for_size: a smaller one might fit.

    retry_after_s: from the vendor, 0 if not stated.
    """

    def __init__(self, error: RateLimited | DailyQuotaReached) -> None:
        super().__init__(error.message)
        self.smaller_may_fit = isinstance(error, RateLimited)
        self.retry_after_s = (error.retry_after_s or 0.0) if isinstance(error, RateLimited) else 0.0


class ChunkSubmitter:
    """Groups what waits in batch lanes into chunks, and takes each chunk through the steps to its batch."""

    def __init__(self, context: BatchContext, outcomes: BatchOutcomes) -> None:
        self._context = context
        self._outcomes = outcomes
        self.quota_slots: dict[int, int | None] = {}  # by chunk, its money in the shared log
        self._file_checked: set[int] = set()  # chunks whose file was looked for, and may be uploaded once more
        self.exhausted_budget = ""  # the budget without room: day, month; empty for the run's own

    # --- recorded: the samples of a chunk and their money

    async def record_chunk(self, lane: str, limits: ChunkLimits) -> Chunk | None:
        """Record the next chunk of a lane. Returns None if nothing waits, or if no budget has room."""
        context = self._context
        samples, held_usd = self._select_samples(lane, limits)
        context.outstanding.dispatcher.adjust_external(0, held_usd)  # at once: online requests use the same budget
        samples, quota_slot = await self._reserve_budget(lane, samples)
        if not samples:
            context.outstanding.dispatcher.adjust_external(0, -held_usd)
            return None
        requests = []
        for sample in samples:
            retry_state = self._outcomes.retry_state(sample)
            sent, words = adjust_after_tries(sample, retry_state)
            number = 1 + retry_state.failed_requests
            usd = context.price_usd(sample, lane)
            requests.append(IntendedRequest(sent, lane, number, usd, words, request_facts(sample)))
        chunk, numbers = await context.chunks.create(lane, context.prefix, requests)
        self.quota_slots[chunk.id] = quota_slot
        context.outstanding.dispatcher.adjust_external(0, reserved_usd(chunk.estimate_usd) - held_usd)
        context.outstanding.backlog.put_submitted(samples)
        for request, attempt in zip(requests, numbers, strict=True):
            context.run.emit(
                AttemptStarted(
                    at=chunk.made_at,
                    attempt=attempt,
                    key=request.sample.key,
                    model=request.sample.item.model,
                    number=request.number,
                    sent_as=request.sent_as,
                    batch=True,
                )
            )
        return await self._write_lines(chunk, [request.sample for request in requests], numbers)

    def _select_samples(self, lane: str, limits: ChunkLimits) -> tuple[list[Sample], float]:
        """The samples of the next chunk, and the USD that they may cost."""
        context, load = self._context, ChunkSize()
        profile, usd = context.routes[lane].profile, 0.0
        found: list[Sample] = []
        while True:
            if (sample := context.outstanding.next_sample(lane)) is None:
                return found, usd
            price_usd = reserved_usd(context.price_usd(sample, lane))
            if not context.outstanding.dispatcher.budget.can_afford(usd + price_usd):
                self.exhausted_budget = ""
                return found, usd
            if not load.add_if_fits(sample, profile, limits):
                return found, usd
            usd += price_usd
            found.append(context.outstanding.take_next(lane))

    async def _reserve_budget(self, lane: str, samples: list[Sample]) -> tuple[list[Sample], int | None]:
        """Reserve money for as many of the samples as the shared budgets have room for; the rest stays."""
        context = self._context
        while samples:
            usd = reserved_usd(sum(context.price_usd(sample, lane) or 0.0 for sample in samples))
            answer = await context.quota_logs[lane].reserve(None, usd)
            if isinstance(answer, Reserved):
                return samples, answer.quota_slot
            self.exhausted_budget = answer.period if isinstance(answer, BudgetReached) else ""
            half = len(samples) // 2
            context.outstanding.put_back(lane, samples[half:])
            samples = samples[:half]
        return [], None

    # --- written: one line for each

    async def _write_lines(self, chunk: Chunk, samples: Sequence[Sample], numbers: Sequence[int]) -> Chunk:
        context = self._context
        route = context.routes[chunk.lane]
        written = held_bytes = 0
        async with aiofiles.open(context.file(chunk, "jsonl"), "wb", opener=private_opener) as file:
            lines: list[bytes] = []
            for sample, attempt in zip(samples, numbers, strict=True):
                try:
                    body = (await prepare(sample, route, context.pipeline.reference_inputs)).take().body
                except ProviderError as error:
                    sent = context.run.ledger.reader.chunk_request(attempt)
                    if sent is not None:
                        await self._outcomes.record_failure(sent, chunk.lane, sample, error)
                    continue
                lines.append(context.codec(chunk.lane).line(str(attempt), body))
                written, held_bytes = written + 1, held_bytes + len(lines[-1])
                if held_bytes >= WRITE_BUFFER_BYTES:
                    await file.writelines(lines)
                    lines, held_bytes = [], 0
            await _write_and_sync(file, lines)
        await asyncio.to_thread(sync_folder, context.batch_folder())
        if not written:
            await self.drop_chunk(chunk, "none of its requests could be written")
            return chunk
        return await context.chunks.update(chunk, step="written")

    # --- uploaded

    async def upload(self, chunk: Chunk) -> Chunk:
        """Upload a chunk's file. An upload that broke off, in this run or an earlier one, is resumed. Raises
        ProviderError."""
        context, to = self._context, self._context.destination(chunk.lane)
        with os.fdopen(os.open(context.file(chunk, "jsonl"), os.O_RDONLY | NO_FOLLOW), "rb") as file:
            url, granularity, offset = chunk.upload_url, 1, 0
            if url:
                try:
                    offset = await context.run.uploads.received_bytes(to, url)
                except ProviderError:
                    url = ""
            if not url:
                size_bytes = os.fstat(file.fileno()).st_size
                mime_type = context.codec(chunk.lane).mime_type
                url, granularity = await context.run.uploads.start_upload(
                    to, mime_type, size_bytes, f"{chunk.name}.jsonl"
                )
                offset = 0
                chunk = await context.chunks.update(chunk, upload_url=url)
            remote = await context.run.uploads.resume_upload(to, file, url, granularity, offset)
        return await context.chunks.update(chunk, step="uploaded", input_file=remote.name, upload_url="")

    # --- requested and created

    async def create(self, chunk: Chunk) -> Chunk:
        """Request a batch, at most once as far as anybody can tell: if in doubt, it is looked for before it is
        requested again.

        Raises EnqueuedQuotaFull, and ProviderError if the vendor refuses it.
        """
        context, codec = self._context, self._context.codec(chunk.lane)
        chunk = await context.chunks.mark_asked(chunk)
        try:
            batch = codec.read_batch(await context.ask(chunk.lane, codec.create(chunk.name, chunk.input_file)))
        except (ConnectFailed, NotTheApi):
            await context.chunks.update(chunk, step="uploaded")
            raise
        except (Unanswered, ServerFault, Malformed) as error:
            # It may exist. Only from now on can its absence from the list mean anything: the answer may have taken
            # long.
            return await context.chunks.update(chunk, message=error.message, asked_at=time.time())
        except (RateLimited, DailyQuotaReached) as error:
            await context.chunks.update(chunk, step="uploaded", message=error.message)
            raise EnqueuedQuotaFull(error) from None
        except ProviderError:
            if await self._file_is_gone(chunk):
                return await context.chunks.update(chunk, step="written", input_file="")
            await context.chunks.update(chunk, step="uploaded")
            raise
        return await self._record_created(chunk, batch)

    async def _file_is_gone(self, chunk: Chunk) -> bool:
        """Whether an uploaded file is gone. Files live for two days; one that disappears twice in a run does not do so
        because of its age."""
        if chunk.id in self._file_checked:
            return False
        self._file_checked.add(chunk.id)
        found = await self._context.ask(chunk.lane, self._context.codec(chunk.lane).get_batch(chunk.input_file))
        return found.status in (403, 404)

    async def reconcile(self, chunk: Chunk) -> Chunk:
        """Find out whether the batch of a chunk exists that was requested without ever getting an answer. Raises
        ProviderError."""
        batch = await self._find_batch(chunk)
        if batch is not None:
            return await self._record_created(chunk, batch)
        if time.time() - chunk.asked_at < self._context.options.listing_grace_s:
            return chunk
        return await self._context.chunks.update(chunk, step="uploaded")

    async def _find_batch(self, chunk: Chunk) -> RemoteBatch | None:
        codec, page = self._context.codec(chunk.lane), ""
        for _ in range(MAX_PAGES):
            batches, page = codec.read_list(await self._context.ask(chunk.lane, codec.list_batches(page)))
            for batch in batches:
                if batch.display_name == chunk.name:
                    return batch
            if not page:
                return None
        raise Unanswered("the list of batches has no end")

    async def _record_created(self, chunk: Chunk, batch: RemoteBatch) -> Chunk:
        context = self._context
        chunk = await context.chunks.update(
            chunk, step="created", batch=batch.name, created_at=time.time(), state=batch.state, message=""
        )
        context.run.emit(
            BatchSubmitted(
                at=chunk.created_at,
                model=context.routes[chunk.lane].profile.id,
                batch=batch.name,
                requests=chunk.requests,
                usd=chunk.estimate_usd,
            )
        )
        return chunk

    # --- dropped

    async def drop_chunk(self, chunk: Chunk, why: str) -> None:
        """Drop a chunk that was never created. `requeue_samples` puts its samples back."""
        context = self._context
        await context.chunks.drop(chunk, why)
        self.release_reservation(chunk, 0.0)
        context.delete_files(chunk)

    async def requeue_samples(self, chunk: Chunk, lane: str) -> None:
        """Put the samples of a chunk that is about to be dropped back into `lane`."""
        reader, after = self._context.run.ledger.reader, 0
        while numbers := reader.unanswered_ids(chunk.id, after, 500):
            after = numbers[-1]
            found = [reader.chunk_request(number) for number in numbers]
            keys = [sample_key(one.attempt.item_id, one.attempt.n) for one in found if one]
            back = [self._context.outstanding.backlog.take_submitted(key) for key in keys]
            self._outcomes.requeue(lane, [sample for sample in back if sample is not None])

    def release_reservation(self, chunk: Chunk, spent_usd: float) -> None:
        """Settle the reservation of a finished chunk with what it cost."""
        quota_slot = self.quota_slots.pop(chunk.id, None)
        log = self._context.quota_logs.get(chunk.lane)
        if quota_slot is not None and log is not None:
            if spent_usd:
                log.record_cost(quota_slot, spent_usd)
            else:
                log.refund(quota_slot)
        self._context.outstanding.dispatcher.adjust_external(0, -reserved_usd(chunk.estimate_usd), spent_usd)


async def _write_and_sync(file: AsyncBufferedIOBase, lines: Sequence[bytes]) -> None:
    await file.writelines(lines)
    await file.flush()
    await asyncio.to_thread(os.fsync, file.fileno())
