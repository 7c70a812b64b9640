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
from pathlib import Path
from typing import cast

from filelock import FileLock

from batchgen.engine.attempts import Attempts
from batchgen.engine.budgets import Purse
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.cancellation import stop
from batchgen.engine.cluster.dependents import QueuedDependents
from batchgen.engine.cluster.orphan_recovery import disown, empty, own, take_over
from batchgen.engine.cluster.queue import Again, defer, defer_post
from batchgen.engine.cluster.reference_bundle import Enclosed
from batchgen.engine.cluster.resolve_previous_attempts import Redelivered
from batchgen.engine.delivery import Delivery
from batchgen.engine.execute import Execution
from batchgen.engine.http_attempt import Exchange
from batchgen.engine.online import OnlineEngine
from batchgen.engine.outcome import EXIT_BY_STOP, RunOptions
from batchgen.engine.pacing import Pacing, hearing
from batchgen.engine.reconcile_items import lane_load
from batchgen.engine.recovery.receipts import bind
from batchgen.engine.reference_inputs import Enclosures
from batchgen.engine.routes import open_routes
from batchgen.errors import Fenced, StoreError
from batchgen.events import Event, LaneParked, LaneStopped, SampleEnded, SampleSucceeded, Stopping
from batchgen.http.transport import Transport
from batchgen.http.uploads import Uploads
from batchgen.ledger.location import pointer
from batchgen.ledger.quota_store import SharedBook
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.manifest import Limits
from batchgen.os_errors import allow_open_files, started_threads
from batchgen.profiles.catalogue import load_catalogue
from batchgen.records import Result, Sample, sample_key
from batchgen.scheduling.dispatcher import Work, fixed_supply
from batchgen.settings import Settings, state_folder
from batchgen.store.bucket import BucketStore
from batchgen.store.open_store import open_store
from batchgen.store.store import SPOOL, Store

OWN = ("disk", "SIGINT", "SIGTERM", "SIGHUP", "closed", "bug")  # reasons to stop that are this worker's, not the job's
AGAIN_S = 30.0  # before a sample is taken up again whose worker cannot make it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is and what it has. name: unlike any other worker's."""

    url: str
    name: str
    concurrency: int | None
    settings: Settings
    note: Callable[[str], None]
    emit: Callable[[Event], None]


class Session:
    """Use `opened`, then `make` for each sample, then `close`. `make` returns when the sample needs nobody any more."""

    def __init__(self, place: Place, schema: str, run_id: int, facts: Submission) -> None:
        self.schema = schema
        self.run_id = run_id
        self.facts = facts
        self.used_s = time.monotonic()
        self._place = place
        self._waiting: dict[str, asyncio.Future[float | None]] = {}  # by key; UTC seconds before which to try again
        self._making: set[str] = set()  # keys that this worker is at, from claim to end
        self._busy: set[str] = set()  # keys whose requests are on their way
        self._ends: set[str] = set()
        self._stop_message = ""
        self._supply = fixed_supply(())
        self._tasks = AsyncExitStack()
        self._driving: asyncio.Task[None] | None = None
        self._spool: FileLock | None = None
        self.store = self._open_store()
        self.ledger = FencedLedger(place.url, schema, run_id, place.name)
        self.ledger.defer = lambda db, numbers: defer(db, schema, numbers)
        self.ledger.derive = lambda db: defer_post(db, schema)

    # --- opening and closing

    async def opened(self, shared: SharedBook) -> Session:
        """Raises BatchgenError when this worker cannot make this job's pictures."""
        facts, place = self.facts, self._place
        limits = Limits.model_validate({**facts.limits, "budget_usd": None})
        catalogue = load_catalogue().with_overrides(facts.models)
        profiles = [catalogue.resolve(lane.partition("/")[2]) for lane in facts.lanes]
        self.routes, warnings = open_routes(profiles, place.settings, facts.emulator_url)
        for warning in warnings:
            place.note(warning)
        loads = {lane: lane_load(self.routes[lane].profile, limits) for lane in facts.lanes}
        options = RunOptions(
            concurrency=place.concurrency,
            hold_uncertain=facts.hold_uncertain,
            stall_s=math.inf if facts.stall_s is None else facts.stall_s,
            emulator_url=facts.emulator_url,
        )
        self._catalogue = catalogue
        await asyncio.to_thread(self._own_spool)
        pacing = Pacing(self.ledger, loads, self.routes, limits, options, self._emit, shared.far)
        emulated = facts.emulator_url is not None
        purse = self._purse = Purse(facts.folder, self.ledger.reader, shared, limits, self.routes, emulated, place.name)
        allow_open_files(pacing.concurrency)
        executor = self._tasks.enter_context(started_threads(8, "store"))
        transport = await self._tasks.enter_async_context(Transport(pacing.concurrency, executor))
        self.dispatch = pacing.dispatch(self._supply, await purse.logs(loads), pacing.still_parked())
        self.dispatch.outside = 1  # whatever the queue still has
        self._enclosed = Enclosed(self.store)
        dependents = QueuedDependents(self.ledger, self.store, self._enclosed.references)
        self._tasks.callback(dependents.close)
        uploads = Uploads(state_folder(place.settings), transport, place.note)
        enclosures = await self._tasks.enter_async_context(
            Enclosures(dependents, self.store, transport, uploads, place.note)
        )
        self.attempts = Attempts(
            ledger=self.ledger, store=self.store, results=_Elsewhere(), dependents=dependents, executor=executor,
            emit=self._emit,
        )  # fmt: skip
        exchange = Exchange(transport, self.store)
        self.execution = Execution(
            dispatch=self.dispatch, routes=self.routes, ledger=self.ledger, store=self.store, attempts=self.attempts,
            exchange=exchange, enclosures=enclosures, executor=executor,
            emit=self._emit, hold_uncertain=facts.hold_uncertain,
        )  # fmt: skip
        self.dispatch.price(self.execution.reserve_usd)
        self._dependents = dependents
        self._delivery = await self._tasks.enter_async_context(Delivery(self.ledger, self.store, executor, place.note))
        self._redelivered = Redelivered(
            self.ledger, self.store, catalogue, exchange, self.routes, place.note, facts.hold_uncertain
        )
        self._driving = asyncio.create_task(self._drive())
        return self

    def _open_store(self) -> Store:
        """Raises StoreError when this machine does not see the job's folder or has no place for one, SettingsError."""
        facts, name = self.facts, re.sub(r"[^\w.-]", "_", self._place.name)
        spool = f"{SPOOL}-{name}-{self.run_id}"
        if facts.bucket:
            if (state := state_folder(self._place.settings)) is None:
                raise StoreError("there is no home folder for what a worker stores: set HOME or XDG_STATE_HOME")
            return open_store(state / "worker" / self.schema, facts.bucket, spool)
        store = open_store(Path(facts.folder), spool=spool)
        there = pointer(store.folder)
        if there is None or there.schema != self.schema:
            raise StoreError(
                f"{facts.folder} is not here as the submitter sees it: mount it under the same path, or use a bucket as output"
            )
        return store

    def _own_spool(self) -> None:
        """One worker of the same name may have been here before and died."""
        died = os.path.isdir(self.store.spool)
        self.store.prepare()
        if isinstance(self.store, BucketStore):
            bind(self.ledger, self.store)
            self.store.shared = True
        self._spool = own(self.store)
        empty(self.ledger, self.store, self._catalogue, self._place.note)
        self._take_over(died=died)

    def _take_over(self, *, died: bool = False) -> None:
        self._took_over_s = time.monotonic()
        take_over(self.ledger, self.store, self._catalogue, self._place.note, died=died)

    async def _drive(self) -> None:
        async with hearing(self.dispatch):
            await OnlineEngine().drive(self.dispatch, self._execute)
        if self.dispatch.fault is not None:
            self.execution.refused(self.dispatch.fault)
        reason, now = self.dispatch.stopping, time.time()
        if reason not in OWN:
            message = self.execution.trouble or self._stop_message
            await self._stop_all(reason if reason in EXIT_BY_STOP else "stalled", message)
        if reason == "disk":
            self._place.note(f"{self.facts.name}: {self.execution.trouble}")
        for key in list(self._waiting):
            self._let_go(key, now + (AGAIN_S if reason in ("disk", "bug") else 0.0))

    async def _stop_all(self, reason: str, message: str) -> None:
        await self.ledger.writer.write(lambda db: stop(db, self.schema, self.run_id, reason, message))

    async def look(self) -> None:
        """What others have found out: the submission was stopped, its time is up, or a lane answers nobody."""
        if time.monotonic() - self._took_over_s > queue.STALE_S:
            await asyncio.to_thread(self._take_over)
        if self.idle or self.over:
            return
        standing = await asyncio.to_thread(self.ledger.standing)
        if standing.over:
            await self._stop_all("deadline", "")
        elif not standing.stopped_by:
            for lane, reason in (await asyncio.to_thread(self.ledger.stopped_lanes)).items():
                self._lane_stopped(lane, reason)
            return
        self._returned(everything=True)

    def _lane_stopped(self, key: str, reason: str) -> None:
        if (lane := self.dispatch.lanes.get(key)) is not None and not lane.stopped:
            lane.stopped = reason
            self.dispatch.supplied(key)
            self._returned()

    def has(self, key: str) -> bool:
        return key in self._making

    @property
    def over(self) -> bool:
        """Whether it can make nothing more: what it is given goes to a new one."""
        return self._driving is not None and (self._driving.done() or bool(self.dispatch.stopping))

    @property
    def idle(self) -> bool:
        return not self._making

    def stop(self, reason: str) -> None:
        """Start nothing more, and give back what is not on its way."""
        self.dispatch.stop(reason)
        self.execution.give_up_preparing()
        for key in set(self._waiting) - self._busy:
            self._let_go(key, time.time())

    def give_up(self) -> None:
        """Wait for no answer any more: what was asked for is uncertain."""
        self.execution.cancel_in_flight()

    async def close(self) -> None:
        if self._driving is not None:
            self.dispatch.stop("closed")
            await self._driving
            if left := await self._delivery.finish():
                self._place.note(f"{left} picture(s) wait in {self.store.spool} for {self.store.url}")
        await self._tasks.aclose()
        self.store.rescue.release_ballast()
        if self._spool is not None:
            disown(self.store, self._spool)
        self.ledger.close()

    # --- one sample

    async def make(self, key: str) -> None:
        """Raises Again when the sample has to go back into the queue."""
        self.used_s = time.monotonic()
        if self.over:
            raise Again(time.time() + 1.0)
        if key in self._making:
            raise Again(time.time() + AGAIN_S)  # given out twice: what is under way decides
        self._making.add(key)
        try:
            await self._make(key)
        finally:
            self._making.discard(key)
            self.used_s = time.monotonic()

    async def _make(self, key: str) -> None:
        claimed = await self.ledger.claimed(key)
        if claimed is None:
            return
        try:
            if await self._stands_still(claimed.sample):
                return
            end = await self._redelivered.settled(claimed)
            for name in await self.ledger.through_with(claimed.unsettled):
                await self._purse.died(name)
            if end is not None:
                state, reason = end
                if state != "succeeded":
                    await self._blocked(claimed.sample, state, reason)
                return
            lane = claimed.lane
            self._reopen(lane)
            sample = await asyncio.to_thread(self._enclosed.sample, claimed.sample)
            if sample.item.references or sample.item.turn > 1:
                sample = await asyncio.to_thread(self._dependents.resolved, sample)
            until = await self._made(lane, sample)
        except Again:
            await self.ledger.let_go([key])
            raise
        if until is None:
            return
        if self.dispatch.lanes[lane].stopped or bool((await asyncio.to_thread(self.ledger.standing)).stopped_by):
            await self.ledger.withdrawn(sample)
            return
        await self.ledger.let_go([key])
        raise Again(until)

    async def _stands_still(self, sample: Sample) -> bool:
        """Whether nothing more of the submission may start: its budget or time is used up, or it was stopped."""
        standing = await asyncio.to_thread(self.ledger.standing)
        if standing.over:
            await self._stop_all("deadline", "")
        elif not standing.stopped_by:
            return False
        await self.ledger.withdrawn(sample)
        return True

    def _reopen(self, key: str) -> None:
        """A lane whose quota is free again."""
        lane = self.dispatch.lanes[key]
        if lane.parked and self.ledger.reader.parked().get(key, (0.0, ""))[0] <= time.time():
            lane.parked = False

    async def _made(self, lane: str, sample: Sample) -> float | None:
        """None when the sample has come to its end, else UTC seconds before which nobody is to take it up."""
        waiting = self._waiting[sample.key] = asyncio.get_running_loop().create_future()
        self._supply.add(lane, sample)
        self.dispatch.supplied(lane)
        self._returned()
        try:
            return cast("float | None", await waiting)
        finally:
            self._waiting.pop(sample.key, None)
            self._ends.difference_update(_keys(sample))

    async def _execute(self, work: Work) -> None:
        key = work.sample.key
        self._busy.add(key)
        try:
            await self.execution.execute(work)
        except Fenced as fenced:
            if fenced.reason == "budget":
                await self._stop_all("budget", "")
            if fenced.reason != "taken":
                await self.ledger.withdrawn(work.sample)
            self._finish(key)
            return
        finally:
            self._busy.discard(key)
        late = not self.dispatch.stopping and not self._waits(key)  # another has it by now, or brought its picture
        if late or self._ends.intersection(_keys(work.sample)):
            self._finish(key)
        elif self.dispatch.stopping or not self.dispatch.lanes[work.lane].open:
            self._returned()

    def _waits(self, key: str) -> bool:
        lanes = self.dispatch.lanes.values()
        return any(each.sample.key == key for lane in lanes for each in lane.works())

    def _returned(self, *, everything: bool = False) -> None:
        """What waits in lanes that have closed goes back into the queue, or out of it."""
        now = time.time()
        for lane in self.dispatch.lanes.values():
            if lane.open and not self.dispatch.stopping and not everything:
                continue
            keys = [each.sample.key for each in lane.works()]
            keys += [sample.key for sample in self._supply.take(lane.key, lane.left)]
            self.dispatch.withdraw(lane.key)
            until, _ = self.ledger.reader.parked().get(lane.key, (0.0, "")) if lane.parked else (now, "")
            for key in keys:
                self._let_go(key, max(until, now))

    def _finish(self, key: str) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(None)

    def _let_go(self, key: str, at: float) -> None:
        if (waiting := self._waiting.get(key)) is not None and not waiting.done():
            waiting.set_result(at)

    async def _blocked(self, sample: Sample, state: str, reason: str) -> None:
        """Somebody else's sample that has ended, and nobody has told what waits for it."""
        keys = _keys(sample)
        blocked = await asyncio.to_thread(self._dependents.never, keys, state, reason)
        if blocked:
            await asyncio.to_thread(self.ledger.blocked, blocked)

    def _emit(self, event: Event) -> None:
        match event:
            case SampleSucceeded(key=key) | SampleEnded(key=key):
                self._ends.add(key)
            case Stopping(message=message):
                self._stop_message = message
            case LaneStopped(model=model, reason=reason):
                for lane in self.dispatch.lanes:
                    if lane.partition("/")[2] == model:
                        self.ledger.lane_stopped(lane, reason)
                asyncio.get_running_loop().call_soon(self._returned)
            case LaneParked():
                asyncio.get_running_loop().call_soon(self._returned)
        self._place.emit(event)


class _Elsewhere(ResultsFile):
    """The lines are written by the run that submitted the work, from the ledger."""

    def __init__(self) -> None: ...

    def append(self, sample: Sample, made: Result | None = None) -> None: ...


def _keys(sample: Sample) -> list[str]:
    return [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
