"""The loop of a run's batches: submits what waits, polls what is out, and collects what has ended, until nothing is
left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from dataclasses import replace

from batchgen.engine.batch.chunk_submitter import ChunkSubmitter, EnqueuedQuotaFull
from batchgen.engine.batch.context import BatchContext
from batchgen.engine.batch.outcomes import BatchOutcomes
from batchgen.engine.batch.result_collector import ResultCollector
from batchgen.engine.outstanding import reserved_usd
from batchgen.errors import BadRequest, DownloadFailed, LedgerError, Malformed, ProviderError, StoreError
from batchgen.events import BatchUpdated, LaneStopped
from batchgen.ledger.chunks import UNSENT_STEPS, Chunk
from batchgen.planning.batchable import MAX_OPEN_BATCHES, ChunkLimits, online_lane, poll_delay_s
from batchgen.providers.contract import ENDED_STATES
from batchgen.records import Response
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import Reserved

MISSING_BATCH_GRACE_S = 600.0  # how long to look for a missing batch, which may have just been created
NO_RESULTS_GRACE_S = 900.0  # how long to poll a batch that succeeded without naming results
MAX_REFUSALS = 3  # of a chunk with no batch out: then it is too large by itself
CANCEL_GRACE_S = 600.0  # within which a cancelled batch should have ended
RESULTS_KEPT_S = 3 * 86400.0  # results that are missing this long after their batch began are gone
NOTE_AFTER_ERRORS = 5  # of one kind with a chunk, then they are mentioned


class BatchRunner:
    """Runs beside the online engine, whose `external_samples` keep it from ending while samples may come back."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context
        self._outcomes = BatchOutcomes(context)
        self._submitter = ChunkSubmitter(context, self._outcomes)
        self._collector = ResultCollector(context, self._outcomes, self._submitter)
        self._outstanding = context.outstanding
        self._chunks = context.outstanding.chunks
        self._dispatcher = context.outstanding.dispatcher
        self._poll_counts: Counter[int] = Counter()
        self._next_poll_at: dict[int, float] = {}  # by chunk, UTC seconds of its next poll
        self._error_counts: Counter[tuple[int, str]] = Counter()  # refusals, failed downloads, other errors
        self._limits = {lane: self._limits_of(lane) for lane in context.outstanding.lanes}
        self._not_before: dict[str, float] = {}  # by lane, UTC seconds: the quota for enqueued work was full
        self._cancelled_at = 0.0
        self._failing_since = 0.0  # UTC seconds since which every call has failed
        self._cancelled: set[int] = set()
        self.stopped_lanes: dict[str, str] = {}  # lanes for which the vendor makes no batches, with the reason
        self._runner_task: asyncio.Future[None] | None = None
        self.unsubmitted = 0  # samples that no batch has taken yet
        self.left = 0  # the same, with those of lanes that were stopped

    def _limits_of(self, lane: str) -> ChunkLimits:
        """The limits for a lane's chunks: none has more tokens than the usage tier may have enqueued at once."""
        limits, tier = self._context.options.limits, self._context.tier
        known = None if tier is None else self._context.routes[lane].profile.batch_tokens.get(tier)
        return replace(limits, tokens=known) if limits.tokens is None else limits

    async def __aenter__(self) -> BatchRunner:
        if self._outstanding.lanes:
            self._outstanding.report(busy=True)  # before that could find nothing left
            self._runner_task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop. What is out stays out: each step is made to be interrupted."""
        if self._runner_task is not None:
            self._runner_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner_task

    async def _run(self) -> None:
        """Work until the run stops or nothing is left; without waiting, one round."""
        context = self._context
        try:
            await self._resume_open_chunks()
            while not self._dispatcher.stop_reason:
                self._outstanding.grown.clear()
                await self._round()
                self._outstanding.report()
                if not context.options.wait:
                    return
                await self._wait_for_next_poll()
        except (StoreError, LedgerError, OSError) as error:
            context.pipeline.stopper.storage_failed(error)
        except Exception:
            self._dispatcher.stop(StopReason(StopKind.BUG))
            raise
        finally:
            self.unsubmitted = self._outstanding.waiting_count(*self._outstanding.lanes)
            self.left = self.unsubmitted + self._outstanding.waiting_count(*self.stopped_lanes)
            self._outstanding.report_over()

    async def _resume_open_chunks(self) -> None:
        """Resume what earlier runs left out; its money counts again."""
        context = self._context
        for chunk in context.run.ledger.reader.uncleaned_chunks():
            if chunk.lane in context.routes:
                await self._collector.delete_remote_files(chunk)
        for chunk in context.run.ledger.reader.open_chunks():
            if chunk.lane not in context.routes:
                continue
            answer = await context.quota_logs[chunk.lane].reserve(None, reserved_usd(chunk.estimate_usd))
            self._submitter.quota_slots[chunk.id] = answer.quota_slot if isinstance(answer, Reserved) else None
            self._dispatcher.adjust_external(0, reserved_usd(chunk.estimate_usd))
            self._chunks[chunk.id] = chunk
        self._outstanding.report(busy=True)

    async def _round(self) -> None:
        self._close_if_due()
        await self._fall_back_if_due()
        for number in list(self._chunks):
            if self._next_poll_at.get(number, 0.0) <= time.time():
                await self._advance(number)
        if self._context.options.batch_mode != "online" and not self._outstanding.closed:
            for lane in self._outstanding.lanes:
                await self._submit_waiting(lane)

    # --- waiting

    async def _wait_for_next_poll(self) -> None:
        """Wait until the next poll is due, something was added, or it is time to fall back."""
        options, now = self._context.options, time.time()
        waits = [self._next_poll_at.get(number, 0.0) - now for number in self._chunks]
        waits += [until - now for until in self._not_before.values() if until > now]
        if not waits and self._outstanding.waiting_count(*self._outstanding.lanes):
            waits.append(options.poll_s)  # for money that online requests hold
        if options.fallback_at is not None and not self._outstanding.fallen_back:
            waits.append(options.fallback_at - now)
        if options.submit_until is not None and not self._outstanding.closed:
            waits.append(options.submit_until - now)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outstanding.grown.wait(), max(0.01, min(waits)) if waits else None)

    # --- submitting

    async def _submit_waiting(self, lane: str) -> None:
        while self._outstanding.waiting_count(lane) and self._may_open_chunk(lane) and not self._dispatcher.stop_reason:
            chunk = await self._submitter.record_chunk(lane, self._limits[lane])
            if chunk is None:
                if not self._chunks and not self._dispatcher.unfinished:  # what is out may turn out cheaper
                    self._dispatcher.stop(StopReason(StopKind.BUDGET, self._submitter.exhausted_budget))
                return
            if chunk.step != "recorded":
                self._chunks[chunk.id] = chunk
                await self._advance(chunk.id)

    def _may_open_chunk(self, lane: str) -> bool:
        return len(self._chunks) < MAX_OPEN_BATCHES and self._not_before.get(lane, 0.0) <= time.time()

    # --- one chunk, as far as it goes now

    async def _advance(self, number: int) -> None:
        """Take a chunk through its steps until it has to wait, but not before its next poll is due."""
        await self._take_steps(number)
        self._next_poll_at[number] = time.time() + poll_delay_s(self._poll_counts[number], self._context.options.poll_s)

    async def _take_steps(self, number: int) -> None:
        while (chunk := self._chunks.get(number)) is not None and not self._dispatcher.stop_reason:
            if chunk.step in UNSENT_STEPS and (why := self._abandon_reason(chunk)):
                await self._abandon_chunk(chunk, why[0], why[1])
                return
            try:
                self._chunks[number] = after = await self._step(chunk)
                self._failing_since = 0.0
            except EnqueuedQuotaFull as error:
                await self._on_quota_full(chunk, error)
                return
            except ProviderError as error:
                await self._on_error(chunk, error)
                return
            if not after.open:
                await self._collector.delete_remote_files(after)
                del self._chunks[number]
            if after.step == chunk.step:
                return

    def _abandon_reason(self, chunk: Chunk) -> tuple[str, str] | None:
        """Why a chunk gets no batch any more, in words, and the lane in which its samples wait instead."""
        if self._outstanding.closed:
            return "the time for batches was up", online_lane(chunk.lane)
        if self._context.options.batch_mode == "online":
            return "a run without batches took it over", online_lane(chunk.lane)
        if not os.path.lexists(self._context.file(chunk, "jsonl")):
            return "its lines are no longer on the disk", chunk.lane
        return None

    async def _step(self, chunk: Chunk) -> Chunk:
        """Take one step. Raises EnqueuedQuotaFull, ProviderError."""
        match chunk.step:
            case "written":
                return await self._submitter.upload(chunk)
            case "uploaded":
                if self._not_before.get(chunk.lane, 0.0) > time.time():
                    return chunk
                return await self._submitter.create(chunk)
            case "asked":
                return await self._submitter.reconcile(chunk)
            case "created":
                return await self._poll(chunk)
            case "ended":
                return await self._collector.fetch(chunk)
            case "fetched":
                return await self._collector.collect(chunk)
        raise AssertionError(f"no chunk stays at {chunk.step}")

    async def _poll(self, chunk: Chunk) -> Chunk:
        context, codec = self._context, self._context.codec(chunk.lane)
        self._poll_counts[chunk.id] += 1
        if self._outstanding.fallen_back and chunk.id not in self._cancelled:
            await self._cancel(chunk)
        try:
            response = await context.ask(chunk.lane, codec.get_batch(chunk.batch))
        except Malformed as error:
            if error.reason != "too_large":
                raise
            response = Response(200, {}, await self._collector.read_status(chunk))  # long only because of its answers
        if codec.is_missing(response):
            return await self._keep_waiting(chunk, MISSING_BATCH_GRACE_S) or await context.chunks.update(
                chunk, step="ended", state="gone"
            )
        seen = codec.read_batch(response)
        if (seen.state, seen.succeeded, seen.failed) != (chunk.state, chunk.succeeded, chunk.failed):
            context.run.emit(
                BatchUpdated(
                    at=time.time(),
                    model=context.routes[chunk.lane].profile.id,
                    batch=chunk.batch,
                    state=seen.state,
                    requests=seen.requests or chunk.requests,
                    succeeded=seen.succeeded,
                    failed=seen.failed,
                )
            )
            counts = {"state": seen.state, "succeeded": seen.succeeded, "failed": seen.failed}
            chunk = await context.chunks.update(chunk, **counts)
        if seen.state not in ENDED_STATES:
            chunk = await context.chunks.update(chunk, ended_at=0.0) if chunk.ended_at else chunk
            return await self._abandon_if_not_cancelled(chunk)
        still_waiting = None
        if seen.state == "succeeded" and not seen.results_file:
            still_waiting = await self._keep_waiting(chunk, NO_RESULTS_GRACE_S)
        return still_waiting or await context.chunks.update(
            chunk, step="ended", results_file=seen.results_file, message=seen.message
        )

    async def _keep_waiting(self, chunk: Chunk, max_s: float) -> Chunk | None:
        """The chunk if this long has not passed in vain yet, counting all runs; else None."""
        since = chunk.ended_at or time.time()
        if time.time() - since >= max_s * min(1.0, self._context.options.poll_s / 5.0):
            return None
        return chunk if chunk.ended_at else await self._context.chunks.update(chunk, ended_at=since)

    async def _abandon_if_not_cancelled(self, chunk: Chunk) -> Chunk:
        """Stop waiting for a batch that goes on long after it was cancelled. What it does may be billed."""
        patience_s = CANCEL_GRACE_S * min(1.0, self._context.options.poll_s / 5.0)
        if not self._cancelled_at or time.time() - self._cancelled_at < patience_s:
            return chunk
        self._context.run.note(
            f"{chunk.batch} was cancelled and still runs: what it makes may be billed and is not waited for"
        )
        return await self._context.chunks.update(chunk, step="ended", state="gone")

    # --- problems with a chunk as a whole

    async def _on_quota_full(self, chunk: Chunk, full: EnqueuedQuotaFull) -> None:
        """Wait for what is out, as there is no room for enqueued work. A chunk that is refused with nothing out is too
        large by itself."""
        context = self._context
        self._chunks[chunk.id] = replace(chunk, step="uploaded")
        self._error_counts[chunk.id, "full"] += 1
        refusals = self._error_counts[chunk.id, "full"]
        if refusals == 1:
            context.run.note(f"{context.routes[chunk.lane].profile.id}: no room for another batch yet: {full}")
        wait_s = max(full.retry_after_s, poll_delay_s(refusals, context.options.poll_s))
        self._not_before[chunk.lane] = time.time() + wait_s
        others_are_out = any(one.lane == chunk.lane and one.step not in UNSENT_STEPS for one in self._chunks.values())
        if refusals >= MAX_REFUSALS and full.smaller_may_fit and not others_are_out and chunk.requests > 1:
            self._limits[chunk.lane] = replace(self._limits[chunk.lane], requests=max(1, chunk.requests // 2))
            await self._abandon_chunk(chunk, "too large for the quota of enqueued work", chunk.lane)

    async def _on_error(self, chunk: Chunk, error: ProviderError) -> None:
        context = self._context
        now = context.run.ledger.reader.chunk(chunk.id)
        self._chunks[chunk.id] = now
        if error.scope == "run":
            context.pipeline.stopper.stop(StopReason(StopKind.ERROR, error.reason, error.message))
        elif _results_expired(error, time.time() - now.created_at):
            self._chunks[chunk.id] = await context.chunks.update(now, results_file="", state="gone")
        elif now.step in UNSENT_STEPS and not error.retryable:
            await self._stop_lane(now, error)
        else:
            self._poll_counts[chunk.id] += 1  # the network or the server: later
            self._error_counts[chunk.id, error.reason] += 1
            if self._error_counts[chunk.id, error.reason] == (
                1 if isinstance(error, DownloadFailed) else NOTE_AFTER_ERRORS
            ):
                context.run.note(f"{now.batch or now.name}: {error.message}; it is tried again")
            self._failing_since = self._failing_since or time.time()
            stall_s = self._dispatcher.limits.stall_s
            if stall_s is not None and time.time() - self._failing_since > stall_s:
                self._dispatcher.stop(StopReason(StopKind.STALLED))

    async def _stop_lane(self, chunk: Chunk, error: ProviderError) -> None:
        """Stop a lane whose batches the vendor refuses. Its samples wait for another run."""
        context, model = self._context, self._context.routes[chunk.lane].profile.id
        await self._abandon_chunk(chunk, error.message, chunk.lane)
        left = self._outstanding.waiting_count(chunk.lane)
        context.run.emit(
            LaneStopped(at=time.time(), model=model, reason=error.reason, message=error.message, left=left)
        )
        if context.options.batch_mode == "auto" and isinstance(error, BadRequest):
            self._outstanding.move_online(chunk.lane)
            return
        self._outstanding.lanes.remove(chunk.lane)
        self.stopped_lanes[chunk.lane] = error.reason

    async def _abandon_chunk(self, chunk: Chunk, why: str, lane: str) -> None:
        await self._submitter.requeue_samples(chunk, lane)
        await self._submitter.drop_chunk(chunk, why)
        del self._chunks[chunk.id]

    # --- the fallback

    def _close_if_due(self) -> None:
        """Stop submitting once a new batch would be late. What is out is paid for, so it is waited for."""
        until = self._context.options.submit_until
        if until is not None and not self._outstanding.closed and time.time() >= until:
            unsent = sum(chunk.requests for chunk in self._chunks.values() if chunk.step in UNSENT_STEPS)
            if unsent := unsent + self._outstanding.waiting_count(*self._outstanding.lanes):
                self._context.run.note(
                    f"{unsent:,} request(s) that no batch has taken go online: a batch would be late"
                )
            self._outstanding.close()

    async def _fall_back_if_due(self) -> None:
        """When it is time, cancel what is out, collect what it has brought, and make the rest online."""
        context, at = self._context, self._context.options.fallback_at
        if at is None or self._outstanding.fallen_back or time.time() < at:
            return
        self._outstanding.fallen_back, self._cancelled_at = True, time.time()
        context.run.note(
            "the time for batches is up: they are cancelled, and what they have not delivered is made online"
        )
        for chunk in list(self._chunks.values()):
            self._poll_counts[chunk.id] = 0
        self._next_poll_at.clear()
        self._outstanding.close()

    async def _cancel(self, chunk: Chunk) -> None:
        codec = self._context.codec(chunk.lane)
        with contextlib.suppress(ProviderError):  # tried again at the next poll
            codec.check_removed(await self._context.ask(chunk.lane, codec.cancel(chunk.batch)))
            self._cancelled.add(chunk.id)


def _results_expired(error: ProviderError, age_s: float) -> bool:
    """Whether results cannot be had any more. age_s: that of their batch. Pure."""
    return isinstance(error, DownloadFailed) and error.http_status in (403, 404, 410) and age_s > RESULTS_KEPT_S
