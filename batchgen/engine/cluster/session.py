"""One job in a worker: its ledger, store and lanes, and the samples of it that this worker has been given."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import cast

from filelock import FileLock

from batchgen.engine.budgets import JobBudgets
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.dependents import QueuedDependents
from batchgen.engine.cluster.orphan_recovery import adopt_orphans, adopt_spool, take_spool, unlock_spool
from batchgen.engine.cluster.previous_attempts import PreviousAttempts
from batchgen.engine.cluster.queue import Requeue, defer, defer_derivatives
from batchgen.engine.cluster.reference_bundle import ReferenceUnpacker
from batchgen.engine.cluster.stop import stop_submission
from batchgen.engine.cluster.submitted_store import open_submitted_store
from batchgen.engine.context import open_context
from batchgen.engine.online import OnlineEngine
from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON, RunOptions
from batchgen.engine.pacing import Pacing, polling_shared_state
from batchgen.engine.pipeline import open_pipeline
from batchgen.engine.reconciliation import lane_load
from batchgen.engine.recovery.receipts import bind_store
from batchgen.engine.routes import open_routes
from batchgen.errors import Fenced
from batchgen.events import Event, LaneParked, LaneStopped, SampleEnded, SampleSucceeded
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.manifest import Limits
from batchgen.profiles.catalogue import load_catalogue
from batchgen.records import Result, Sample, sample_key
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.sample_source import in_memory_samples
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.settings import Settings, state_folder
from batchgen.store.job_folder import SPOOL
from batchgen.store.store import Store

WORKER_STOPS = {StopKind.DISK, StopKind.SIGNAL, StopKind.CLOSED, StopKind.BUG}  # this worker's affair, not the job's
RETRY_DELAY_S = 30.0  # before a sample is taken up again whose worker cannot make it


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where a worker is and what it has. name: unlike any other worker's."""

    url: str
    name: str
    concurrency: int | None
    settings: Settings
    note: Callable[[str], None]
    emit: Callable[[Event], None]


class JobSession:
    """Use `opened`, then `make` for each sample, then `close`. `make` returns when the sample needs nobody any more."""

    def __init__(self, worker: WorkerContext, schema: str, run_id: int, facts: Submission) -> None:
        self.schema = schema
        self.run_id = run_id
        self.facts = facts
        self.last_used_s = time.monotonic()
        self._worker = worker
        self._waiting: dict[str, asyncio.Future[float | None]] = {}  # by key; UTC seconds before which to try again
        self._claimed_keys: set[str] = set()  # keys that this worker is at, from claim to end
        self._in_flight_keys: set[str] = set()  # keys whose requests are on their way
        self._ended_keys: set[str] = set()
        self._source = in_memory_samples(())
        self._tasks = AsyncExitStack()
        self._dispatch_task: asyncio.Task[None] | None = None
        self._spool_lock: FileLock | None = None
        self.store = self._open_store()
        self.ledger = FencedLedger(
            worker.url,
            schema,
            run_id,
            worker.name,
            defer=lambda db, numbers: defer(db, schema, numbers),
            defer_derivatives=lambda db: defer_derivatives(db, schema),
        )

    # --- opening and closing

    async def start(self, shared: QuotaStore) -> JobSession:
        """Raises BatchgenError when this worker cannot make this job's pictures."""
        facts, worker = self.facts, self._worker
        limits = Limits.model_validate({**facts.limits, "budget_usd": None})
        catalogue = load_catalogue().with_overrides(facts.models)
        profiles = [catalogue.resolve(lane.partition("/")[2]) for lane in facts.lanes]
        self.routes, warnings = open_routes(profiles, worker.settings, facts.emulator_url)
        for warning in warnings:
            worker.note(warning)
        loads = {lane: lane_load(self.routes[lane].profile, limits) for lane in facts.lanes}
        options = RunOptions(
            concurrency=worker.concurrency,
            hold_uncertain=facts.hold_uncertain,
            stall_s=math.inf if facts.stall_s is None else facts.stall_s,
            emulator_url=facts.emulator_url,
        )
        self._catalogue = catalogue
        await asyncio.to_thread(self._lock_and_adopt_spool)
        pacing = Pacing(self.ledger, loads, self.routes, limits, options, self._emit, shared.is_remote)
        emulated = facts.emulator_url is not None
        budgets = self._budgets = JobBudgets(
            facts.folder, self.ledger.reader, shared, limits, self.routes, emulated, worker.name
        )
        context = await self._tasks.enter_async_context(
            open_context(
                ledger=self.ledger,
                store=self.store,
                routes=self.routes,
                concurrency=pacing.concurrency,
                state_folder=state_folder(worker.settings),
                emit=self._emit,
                note=worker.note,
            )
        )
        self.dispatcher = pacing.dispatcher(
            self._source,
            await budgets.quota_logs(loads),
            pacing.still_parked(),
            external_samples=1,  # whatever the queue still has
        )
        self._unpacker = ReferenceUnpacker(self.store)
        self._dependents = QueuedDependents(self.ledger, self.store, self._unpacker.references)
        self._tasks.callback(self._dependents.close)
        self._pipeline = await self._tasks.enter_async_context(
            open_pipeline(
                context, self.dispatcher, self._dependents, _NoResultsFile(), hold_uncertain=facts.hold_uncertain
            )
        )
        self._previous_attempts = PreviousAttempts(
            self.ledger,
            self.store,
            catalogue,
            self._pipeline.execution.exchange,
            self.routes,
            worker.note,
            facts.hold_uncertain,
        )
        self._dispatch_task = asyncio.create_task(self._run_dispatch())
        return self

    def _open_store(self) -> Store:
        name, state = re.sub(r"[^\w.-]", "_", self._worker.name), state_folder(self._worker.settings)
        return open_submitted_store(self.facts, self.schema, f"{SPOOL}-{name}-{self.run_id}", state)

    def _lock_and_adopt_spool(self) -> None:
        """One worker of the same name may have been here before and died."""
        died = os.path.isdir(self.store.spool)
        self._spool_lock = take_spool(self.store)
        bind_store(self.ledger, self.store, remote_workers=True)
        adopt_spool(self.ledger, self.store, self._catalogue, self._worker.note)
        self._adopt_orphans(died=died)

    def _adopt_orphans(self, *, died: bool = False) -> None:
        self._adopted_s = time.monotonic()
        adopt_orphans(self.ledger, self.store, self._catalogue, self._worker.note, died=died)

    async def _run_dispatch(self) -> None:
        async with polling_shared_state(self.dispatcher):
            await OnlineEngine().drive(self.dispatcher, self._execute)
        if self.dispatcher.shared_quota_error is not None:
            self._pipeline.execution.storage_failed(self.dispatcher.shared_quota_error)
        reason, now = self.dispatcher.stop_reason or StopReason(StopKind.STALLED), time.time()
        if reason.kind not in WORKER_STOPS:
            message = self._pipeline.execution.storage_message or reason.message
            slug = reason.slug if reason.slug in EXIT_CODE_BY_STOP_REASON else StopKind.STALLED.value
            await self._stop_submission(slug, message)
        if reason.kind is StopKind.DISK:
            self._worker.note(f"{self.facts.name}: {self._pipeline.execution.storage_message}")
        for key in list(self._waiting):
            self._requeue_at(key, now + (RETRY_DELAY_S if reason.kind in (StopKind.DISK, StopKind.BUG) else 0.0))

    async def _stop_submission(self, reason: str, message: str) -> None:
        await self.ledger.writer.write(lambda db: stop_submission(db, self.schema, self.run_id, reason, message))

    async def poll(self) -> None:
        """What others have found out: the submission was stopped, its time is up, or a lane answers nobody."""
        if time.monotonic() - self._adopted_s > queue.STALE_S:
            await asyncio.to_thread(self._adopt_orphans)
        if self.idle or self.closing:
            return
        submission_status = await asyncio.to_thread(self.ledger.submission_status)
        if submission_status.deadline_passed:
            await self._stop_submission("deadline", "")
        elif not submission_status.stopped_by:
            for lane, reason in (await asyncio.to_thread(self.ledger.stopped_lanes)).items():
                self._stop_lane(lane, reason)
            return
        self._return_queued(everything=True)

    def _stop_lane(self, key: str, reason: str) -> None:
        if (lane := self.dispatcher.lanes.get(key)) is not None and not lane.stopped:
            lane.stopped = reason
            self.dispatcher.backlog_grew(key)
            self._return_queued()

    def is_processing(self, key: str) -> bool:
        return key in self._claimed_keys

    @property
    def closing(self) -> bool:
        """Whether it can make nothing more: what it is given goes to a new one."""
        return self._dispatch_task is not None and (self._dispatch_task.done() or bool(self.dispatcher.stop_reason))

    @property
    def idle(self) -> bool:
        return not self._claimed_keys

    def stop(self, reason: StopReason) -> None:
        """Start nothing more, and give back what is not on its way."""
        self.dispatcher.stop(reason)
        self._pipeline.execution.give_up_preparing()
        for key in set(self._waiting) - self._in_flight_keys:
            self._requeue_at(key, time.time())

    def abandon_in_flight(self) -> None:
        """Wait for no answer any more: what was asked for is uncertain."""
        self._pipeline.execution.cancel_in_flight()

    async def close(self) -> None:
        if self._dispatch_task is not None:
            self.dispatcher.stop(StopReason(StopKind.CLOSED))
            await self._dispatch_task
            if left := await self._pipeline.deferred_uploads.finish():
                self._worker.note(f"{left} picture(s) wait in {self.store.spool} for {self.store.url}")
        await self._tasks.aclose()
        self.store.emergency_spool.release_space()
        if self._spool_lock is not None:
            unlock_spool(self.store, self._spool_lock)
        self.ledger.close()

    # --- one sample

    async def process_sample(self, key: str) -> None:
        """Raises Again when the sample has to go back into the queue."""
        self.last_used_s = time.monotonic()
        if self.closing:
            raise Requeue(time.time() + 1.0)
        if key in self._claimed_keys:
            raise Requeue(time.time() + RETRY_DELAY_S)  # given out twice: what is under way decides
        self._claimed_keys.add(key)
        try:
            await self._process(key)
        finally:
            self._claimed_keys.discard(key)
            self.last_used_s = time.monotonic()

    async def _process(self, key: str) -> None:
        claim = await self.ledger.claim(key)
        if claim is None:
            return
        try:
            if await self._withdraw_if_stopped(claim.sample):
                return
            end = await self._previous_attempts.resolve(claim)
            for name in await self.ledger.workers_without_open_attempts(claim.open_attempts):
                await self._budgets.release_worker(name)
            if end is not None:
                state, reason = end
                if state != "succeeded":
                    await self._block_dependents(claim.sample, state, reason)
                return
            lane = claim.lane
            self._unpark_if_due(lane)
            sample = await asyncio.to_thread(self._unpacker.unpack, claim.sample)
            if sample.item.references or sample.item.turn > 1:
                sample = await asyncio.to_thread(self._dependents.with_fingerprint, sample)
            until = await self._dispatch_sample(lane, sample)
        except Requeue:
            await self.ledger.release([key])
            raise
        if until is None:
            return
        if self.dispatcher.lanes[lane].stopped or bool(
            (await asyncio.to_thread(self.ledger.submission_status)).stopped_by
        ):
            await self.ledger.cancel(sample)
            return
        await self.ledger.release([key])
        raise Requeue(until)

    async def _withdraw_if_stopped(self, sample: Sample) -> bool:
        """Whether nothing more of the submission may start: its budget or time is used up, or it was stopped."""
        submission_status = await asyncio.to_thread(self.ledger.submission_status)
        if submission_status.deadline_passed:
            await self._stop_submission("deadline", "")
        elif not submission_status.stopped_by:
            return False
        await self.ledger.cancel(sample)
        return True

    def _unpark_if_due(self, key: str) -> None:
        """A lane whose quota is free again."""
        lane = self.dispatcher.lanes[key]
        if lane.parked and self.ledger.reader.parked().get(key, (0.0, ""))[0] <= time.time():
            lane.parked = False

    async def _dispatch_sample(self, lane: str, sample: Sample) -> float | None:
        """None when the sample has come to its end, else UTC seconds before which nobody is to take it up."""
        waiting = self._waiting[sample.key] = asyncio.get_running_loop().create_future()
        self._source.add(lane, sample)
        self.dispatcher.backlog_grew(lane)
        self._return_queued()
        try:
            return cast("float | None", await waiting)
        finally:
            self._waiting.pop(sample.key, None)
            self._ended_keys.difference_update(_sample_keys(sample))

    async def _execute(self, ticket: Ticket) -> None:
        key = ticket.sample.key
        self._in_flight_keys.add(key)
        try:
            await self._pipeline.execution.execute(ticket)
        except Fenced as fenced:
            if fenced.reason == "budget":
                await self._stop_submission("budget", "")
            if fenced.reason != "taken":
                await self.ledger.cancel(ticket.sample)
            self._mark_done(key)
            return
        finally:
            self._in_flight_keys.discard(key)
        late = not self.dispatcher.stop_reason and not self._is_waiting(
            key
        )  # another has it by now, or brought its picture
        if late or self._ended_keys.intersection(_sample_keys(ticket.sample)):
            self._mark_done(key)
        elif self.dispatcher.stop_reason or not self.dispatcher.lanes[ticket.lane].accepts_work:
            self._return_queued()

    def _is_waiting(self, key: str) -> bool:
        lanes = self.dispatcher.lanes.values()
        return any(each.sample.key == key for lane in lanes for each in lane.waiting_samples())

    def _return_queued(self, *, everything: bool = False) -> None:
        """What waits in lanes that have closed goes back into the queue, or out of it."""
        now = time.time()
        for lane in self.dispatcher.lanes.values():
            if lane.accepts_work and not self.dispatcher.stop_reason and not everything:
                continue
            keys = [each.sample.key for each in lane.waiting_samples()]
            keys += [sample.key for sample in self._source.take(lane.key, lane.backlog_count)]
            self.dispatcher.clear_lane(lane.key)
            until, _ = self.ledger.reader.parked().get(lane.key, (0.0, "")) if lane.parked else (now, "")
            for key in keys:
                self._requeue_at(key, max(until, now))

    def _mark_done(self, key: str) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(None)

    def _requeue_at(self, key: str, at: float) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(at)

    async def _block_dependents(self, sample: Sample, state: str, reason: str) -> None:
        """Somebody else's sample that has ended, and nobody has told what waits for it."""
        keys = _sample_keys(sample)
        blocked = await asyncio.to_thread(self._dependents.block, keys, state, reason)
        if blocked:
            await asyncio.to_thread(self.ledger.record_blocked, blocked)

    def _emit(self, event: Event) -> None:
        match event:
            case SampleSucceeded(key=key) | SampleEnded(key=key):
                self._ended_keys.add(key)
            case LaneStopped(model=model, reason=reason):
                for lane in self.dispatcher.lanes:
                    if lane.partition("/")[2] == model:
                        self.ledger.stop_lane(lane, reason)
                asyncio.get_running_loop().call_soon(self._return_queued)
            case LaneParked():
                asyncio.get_running_loop().call_soon(self._return_queued)
        self._worker.emit(event)


class _NoResultsFile(ResultsFile):
    """The lines are written by the run that submitted the work, from the ledger."""

    def __init__(self) -> None: ...

    def append(self, sample: Sample, made: Result | None = None) -> None: ...


def _sample_keys(sample: Sample) -> list[str]:
    return [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
