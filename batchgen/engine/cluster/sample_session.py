"""Makes samples of one submission in a worker: each is claimed, sent, and then ended or given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import cast

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.orphan_recovery import adopt_orphans
from batchgen.engine.cluster.queue import Requeue, stop_submission
from batchgen.engine.cluster.sample_parts import SampleParts, open_parts
from batchgen.engine.cluster.session import RETRY_DELAY_S, Session, WorkerContext
from batchgen.engine.context import in_background
from batchgen.engine.engines import OnlineEngine
from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON
from batchgen.errors import JobLocked, LedgerError, StoreError
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.requests import Fenced
from batchgen.ledger.work_queue import Submission, SubmissionStatus
from batchgen.ledger.worker_ledger import ClaimedSample
from batchgen.records import Sample, sample_key
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.stop_reason import StopKind, StopReason

WORKER_STOPS = {StopKind.DISK, StopKind.SIGNAL, StopKind.CLOSED, StopKind.BUG}  # reasons of this worker, not of the job

RETURN_RETRY_S = 1.0  # before the ledger is asked again until when a lane is closed


async def open_sample_session(
    worker: WorkerContext, schema: str, run_id: int, facts: Submission, shared: QuotaStore
) -> SampleSession:
    """Open a session. Raises BatchgenError if this worker cannot make this job's images."""
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(worker, schema, run_id, facts, shared))
        return SampleSession(worker, facts.name, parts, stack.pop_all())


class SampleSession(Session[ClaimedSample]):
    def __init__(self, worker: WorkerContext, job: str, parts: SampleParts, closing_stack: AsyncExitStack) -> None:
        """closing_stack: closes the parts. Needs a running loop, which drives the lanes from now on."""
        super().__init__(parts.ledger)
        self._worker = worker
        self._job = job
        self._parts = parts
        self._closing_stack = closing_stack
        self._dispatcher = parts.lanes.dispatcher
        self._execution, self._stopper = parts.pipeline.execution, parts.pipeline.stopper
        self._waiting: dict[str, asyncio.Future[float | None]] = {}  # by key: UTC seconds until which to wait
        self._in_flight_keys: set[str] = set()  # keys whose requests are in flight
        self._adopted_s = time.monotonic()
        self._dispatch_task = asyncio.create_task(self._run_dispatch())
        self._lane_watch = asyncio.create_task(self._return_when_lanes_close())

    async def _run_dispatch(self) -> None:
        async with in_background(self._dispatcher.poll_shared_state()):
            await OnlineEngine().drive(self._dispatcher, self._execute)
        if self._dispatcher.shared_quota_error is not None:
            self._stopper.storage_failed(self._dispatcher.shared_quota_error)
        reason, now = self._dispatcher.stop_reason or StopReason(StopKind.STALLED), time.time()
        if reason.kind not in WORKER_STOPS:
            message = self._stopper.storage_message or reason.message
            slug = reason.slug if reason.slug in EXIT_CODE_BY_STOP_REASON else StopKind.STALLED.value
            await self._stop_submission(slug, message)
        if reason.kind is StopKind.DISK:
            self._worker.note(f"{self._job}: {self._stopper.storage_message}")
        for key in list(self._waiting):
            self._requeue_at(key, now + (RETRY_DELAY_S if reason.kind in (StopKind.DISK, StopKind.BUG) else 0.0))

    async def _stop_submission(self, reason: str, message: str) -> None:
        await self.ledger.writer.write(lambda db: stop_submission(db, self.ledger.run_id, reason, message))

    async def poll(self) -> None:
        """React to what others found out: the submission was stopped, its time is up, or a lane does not answer
        anybody."""
        if time.monotonic() - self._adopted_s > queue.STALE_S:
            self._adopted_s = time.monotonic()
            parts = self._parts
            adoption = (self.ledger, parts.store, parts.terms.catalogue, self._worker.note)
            try:
                await asyncio.to_thread(adopt_orphans, *adoption)
            except (JobLocked, StoreError) as error:  # then another time
                self._worker.note(f"{self._job}: {error}")
        if self.idle or self.closing:
            return
        await self._count_jobs_of_others()
        status = await asyncio.to_thread(self.ledger.submission_status)
        if not await self._stopped(status):
            for lane, reason in status.stopped_lanes.items():
                self._stop_lane(lane, reason)
            return
        self._return_queued(everything=True)

    async def _count_jobs_of_others(self) -> None:
        if not (limited := [lane for lane in self._dispatcher.lanes.values() if lane.max_jobs is not None]):
            return
        counts = await asyncio.to_thread(self.ledger.reader.open_counts_of_others, self.ledger.worker)
        for lane in limited:
            lane.jobs_of_others = counts.get(lane.key, 0)
            self._dispatcher.backlog_grew(lane.key)

    def _stop_lane(self, key: str, reason: str) -> None:
        if (lane := self._dispatcher.lanes.get(key)) is not None and not lane.stopped:
            lane.stopped = reason
            self._dispatcher.backlog_grew(key)
            self._return_queued()

    @property
    def closing(self) -> bool:
        return super().closing or self._dispatch_task.done() or bool(self._dispatcher.stop_reason)

    def stop(self, reason: StopReason) -> None:
        self._dispatcher.stop(reason)
        self._execution.give_up_preparing()
        for key in set(self._waiting) - self._in_flight_keys:
            self._requeue_at(key, time.time())

    def abandon_in_flight(self) -> None:
        """Give up what is in flight: it is uncertain."""
        self._execution.cancel_in_flight()

    async def close(self) -> None:
        self._dispatcher.stop(StopReason(StopKind.CLOSED))
        await self._dispatch_task
        self._lane_watch.cancel()
        if left := await self._parts.pipeline.deferred_uploads.finish():
            self._worker.note(f"{left} image(s) wait in {self._parts.store.spool} for {self._parts.store.url}")
        await self._closing_stack.aclose()

    # --- one sample

    async def _claim(self, lane: str, max_count: int) -> list[ClaimedSample]:
        """Claim samples for a lane; none if nothing more of the submission may start, because its time is up or it was
        stopped."""
        claimed = await self.ledger.claim(lane, max_count, tuple(self.keys), queue.STALE_S)
        if claimed and await self._stopped():
            for each in claimed:
                await self.ledger.cancel(each.sample)
            return []
        if claimed:
            await self._count_jobs_of_others()
        return claimed

    async def _stopped(self, known: SubmissionStatus | None = None) -> bool:
        status = await asyncio.to_thread(self.ledger.submission_status) if known is None else known
        if status.deadline_passed:
            await self._stop_submission("deadline", "")
        return status.deadline_passed or bool(status.stopped_by)

    async def _process(self, claim: ClaimedSample) -> None:
        end = await self._parts.previous_attempts.resolve(claim)
        for name in await self.ledger.workers_without_open_attempts(claim.open_attempts):
            await self._parts.lanes.budgets.release_worker(name)
        if isinstance(end, tuple):
            state, reason = end
            if state != "succeeded":
                await self._block_dependents(claim.sample, state, reason)
            return
        lane = claim.lane
        self._unpark_if_due(lane)
        sample = await asyncio.to_thread(self._parts.unpacker.unpack, claim.sample)
        if sample.item.references or sample.item.turn > 1:
            sample = await asyncio.to_thread(self._parts.dependents.with_fingerprint, sample)
        until = await self._dispatch_sample(lane, sample, None if end is None else self._execution.take_up(end, sample))
        if until is None:
            return
        if not self._dispatcher.lanes[lane].stopped and not await self._stopped():
            raise Requeue(until - time.time())
        await self.ledger.cancel(sample)

    def _unpark_if_due(self, key: str) -> None:
        """Reopen a lane whose quota is free again."""
        lane = self._dispatcher.lanes[key]
        if lane.parked and self.ledger.reader.parked().get(key, (0.0, ""))[0] <= time.time():
            lane.parked = False

    async def _dispatch_sample(
        self, lane: str, sample: Sample, resumed: tuple[Ticket, Awaitable[None]] | None
    ) -> float | None:
        """Work on a sample. Returns None once it has ended, or else UTC seconds before which nobody should take it
        again. resumed: the wait for its job at the API."""
        waiting = self._waiting[sample.key] = asyncio.get_running_loop().create_future()
        try:
            if resumed is None:
                self._parts.source.add(lane, sample)
                self._dispatcher.backlog_grew(lane)
                self._return_queued()
            else:
                await self._carry_out(*resumed)
            return cast("float | None", await waiting)
        finally:
            self._waiting.pop(sample.key, None)
            self._parts.events.ended_keys.difference_update(_sample_keys(sample))

    async def _execute(self, ticket: Ticket) -> None:
        await self._carry_out(ticket, self._execution.execute(ticket))

    async def _carry_out(self, ticket: Ticket, work: Awaitable[None]) -> None:
        key = ticket.sample.key
        self._in_flight_keys.add(key)
        try:
            await work
        except Fenced as fenced:
            if fenced.reason == "budget":
                await self._stop_submission("budget", "")
            if fenced.reason != "taken":
                await self.ledger.cancel(ticket.sample)
            self._mark_done(key)
            return
        finally:
            self._in_flight_keys.discard(key)
        # Another worker has it now, or brought its image.
        late = not self._dispatcher.stop_reason and not self._is_waiting(key)
        if late or self._parts.events.ended_keys.intersection(_sample_keys(ticket.sample)):
            self._mark_done(key)
        elif self._dispatcher.stop_reason or not self._dispatcher.lanes[ticket.lane].accepts_work:
            self._return_queued()

    def _is_waiting(self, key: str) -> bool:
        lanes = self._dispatcher.lanes.values()
        return any(each.sample.key == key for lane in lanes for each in lane.waiting_samples())

    def _return_queued(self, *, everything: bool = False) -> None:
        """Return what waits in closed lanes to the queue, or remove it from there."""
        now = time.time()
        for lane in self._dispatcher.lanes.values():
            if lane.accepts_work and not self._dispatcher.stop_reason and not everything:
                continue
            until, _ = self.ledger.reader.parked().get(lane.key, (0.0, "")) if lane.parked else (now, "")
            keys = [each.sample.key for each in lane.waiting_samples()]
            keys += [sample.key for sample in self._parts.source.take(lane.key, lane.backlog_count)]
            self._dispatcher.clear_lane(lane.key)
            for key in keys:
                self._requeue_at(key, max(until, now))

    def _mark_done(self, key: str) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(None)

    def _requeue_at(self, key: str, at: float) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(at)

    async def _block_dependents(self, sample: Sample, state: str, reason: str) -> None:
        """Block what waits for another worker's sample that has ended, if nobody has done so."""
        keys = _sample_keys(sample)
        blocked = await asyncio.to_thread(self._parts.dependents.block, keys, state, reason)
        if blocked:
            await asyncio.to_thread(self.ledger.record_blocked, blocked)

    async def _return_when_lanes_close(self) -> None:
        while True:
            await self._parts.events.lane_closed.wait()
            try:
                self._return_queued()
            except LedgerError as error:
                self._worker.note(str(error))
                await asyncio.sleep(RETURN_RETRY_S)
            else:
                self._parts.events.lane_closed.clear()


def _sample_keys(sample: Sample) -> list[str]:
    return [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
