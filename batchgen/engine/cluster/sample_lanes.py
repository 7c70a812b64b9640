"""The lanes of one submission in a worker: its models, how to reach them, and their quotas and budgets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from batchgen.engine.budgets import JobBudgets
from batchgen.engine.cluster.session import WorkerContext
from batchgen.engine.outcome import RunOptions
from batchgen.engine.pacing import Pacing
from batchgen.engine.reconciliation import lane_load
from batchgen.engine.routes import Route, open_routes
from batchgen.events import Event, LaneParked, LaneStopped, SampleEnded, SampleSucceeded
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.manifest import Limits
from batchgen.profiles.catalogue import Catalogue, load_catalogue
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import SampleSource


class LaneEvents:
    """Records, where all workers can see it, which samples have ended and which lanes have closed, and passes events
    on."""

    def __init__(self, ledger: FencedLedger, lanes: Iterable[str], emit: Callable[[Event], None]) -> None:
        self.ended_keys: set[str] = set()
        self.lane_closed = asyncio.Event()
        self._ledger = ledger
        self._lanes = tuple(lanes)
        self._emit = emit

    def __call__(self, event: Event) -> None:
        match event:
            case SampleSucceeded(key=key) | SampleEnded(key=key):
                self.ended_keys.add(key)
            case LaneStopped(model=model, reason=reason):
                for lane in self._lanes:
                    if lane.partition("/")[2] == model:
                        self._ledger.stop_lane(lane, reason)
                self.lane_closed.set()
            case LaneParked():
                self.lane_closed.set()
        self._emit(event)


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms under which a submission wants its samples made. options: those of a run."""

    catalogue: Catalogue
    routes: Mapping[str, Route]
    limits: Limits
    options: RunOptions


def terms_of(facts: Submission, worker: WorkerContext) -> Terms:
    """The terms from the facts of a submission. Raises SettingsError if this worker lacks a key."""
    catalogue = load_catalogue().with_overrides(facts.models)
    profiles = [catalogue.resolve(lane.partition("/")[2]) for lane in facts.lanes]
    routes, warnings = open_routes(profiles, worker.settings, facts.emulator_url)
    for warning in warnings:
        worker.note(warning)
    options = RunOptions(
        concurrency=worker.concurrency,
        hold_uncertain=facts.hold_uncertain,
        stall_s=math.inf if facts.stall_s is None else facts.stall_s,
        emulator_url=facts.emulator_url,
    )
    return Terms(catalogue, routes, Limits.model_validate({**facts.limits, "budget_usd": None}), options)


@dataclass(frozen=True, slots=True)
class SampleLanes:
    dispatcher: Dispatcher
    budgets: JobBudgets
    concurrency: int


async def open_lanes(
    facts: Submission, terms: Terms, ledger: FencedLedger, shared: QuotaStore, source: SampleSource, events: LaneEvents
) -> SampleLanes:
    loads = {lane: lane_load(terms.routes[lane].profile, terms.limits) for lane in facts.lanes}
    pacing = Pacing(ledger, loads, terms.routes, terms.limits, terms.options, events, shared.is_remote)
    emulated = facts.emulator_url is not None
    budgets = JobBudgets(facts.folder, ledger.reader, shared, terms.limits, terms.routes, emulated, ledger.worker)
    # 1: there may be more in the queue
    dispatcher = pacing.dispatcher(source, await budgets.quota_logs(loads), pacing.still_parked(), external_samples=1)
    return SampleLanes(dispatcher, budgets, pacing.concurrency)
