"""The dispatch of one run: its lanes under their quotas, as this job's ledger and the other processes know them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from batchgen.engine.outcome import RunOptions
from batchgen.engine.routes import Route, reserved_usd
from batchgen.events import (
    Event,
    LaneCooled,
    LaneParked,
    LaneWaiting,
    Outage,
    OutageEnded,
    OutageProbeFailed,
    OutageStarted,
)
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.runs import ParkedLane
from batchgen.manifest import Limits
from batchgen.planning.plan import LaneLoad
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.decision import DispatchLimits, DispatchObserver, LaneTerms
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Lane, LaneWait, SampleSource
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.window import MARGIN_S, NotBefore, Parked, QuotaDenied, SharedQuota, Window, daily_quota_reset

MAX_OUTAGES = 50  # that are remembered of a run
STORE_SLOTS = 2  # answers being checked and written at once; as many again as are in flight may wait for that
PROOF_PERIOD_S = 7 * 86400.0
PROOF_SHARE = 0.9  # of the declared limit, accepted in one minute of late: then the server does allow it


@dataclass(frozen=True, slots=True)
class Pacing(DispatchObserver):
    """What the lanes of a run are paced by, and what the ledger and the observers are told about them.

    server_quota: the shared log is on a server, which knows by its own clock what was sent before.
    """

    ledger: Ledger
    loads: Mapping[str, LaneLoad]
    routes: Mapping[str, Route]
    limits: Limits
    options: RunOptions
    emit: Callable[[Event], None]
    server_quota: bool = False
    outages: dict[tuple[str, str, float], Outage] = field(default_factory=dict)  # of this run, by what and since when

    @property
    def concurrency(self) -> int:
        return self.options.concurrency or self.limits.concurrency

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.limits.attempts, no_image=self.limits.no_image_attempts)

    def dispatcher(
        self,
        source: SampleSource,
        quota_logs: Mapping[str, SharedQuota],
        parked: Mapping[str, float],
        *,
        external_samples: int = 0,
    ) -> Dispatcher:
        """quota_logs: starts and money of all processes, by lane; parked: lanes that stay closed."""
        options, now_s = self.options, asyncio.get_running_loop().time()
        lanes = {
            lane: LaneTerms(
                window=self._window(lane, now_s),
                shared_quota=quota_logs.get(lane),
                upstream=self.routes[lane].upstream,
                max_jobs=self.routes[lane].profile.max_jobs,
            )
            for lane, load in self.loads.items()
            if not load.batch
        }
        limits = DispatchLimits(
            concurrency=self.concurrency,
            policy=self.policy,
            max_storing=self.concurrency + STORE_SLOTS,
            budget_usd=options.max_usd if options.max_usd is not None else self.limits.budget_usd,
            deadline_s=None if options.deadline is None else now_s + max(0.0, options.deadline - time.time()),
            stall_s=options.stall_limit_s,
            wait_for_jobs=options.batches.wait,
        )
        dispatcher = Dispatcher(
            lanes,
            source,
            limits,
            estimate_usd=partial(reserved_usd, self.routes),
            external_samples=external_samples,
            observer=self,
        )
        self.ledger.record_outages(())
        for lane in parked:
            if lane in dispatcher.lanes:
                dispatcher.park(lane)
        return dispatcher

    def still_parked(self) -> dict[str, float]:
        """UTC seconds until which lanes are parked that an earlier run has parked."""
        parked: dict[str, float] = {}
        for lane, parking in self.ledger.reader.parked().items():
            # Parked by the manifest's own figure: the shared log is asked again, for the figure may have changed.
            if parking.until > time.time() and not parking.is_by_declared_rpd:
                parked[lane] = parking.until
            else:
                self.ledger.unpark(lane)
        return parked

    def quota_denied(self, lane: str, why: QuotaDenied) -> None:
        now, model = time.time(), self.loads[lane].model
        if isinstance(why, NotBefore):
            self.ledger.record_cooling(lane, now + why.wait_s)
            self.emit(LaneCooled(at=now, model=model, seconds=why.wait_s, reason=why.why))
            return
        if isinstance(why, Parked):
            parking = ParkedLane(now + why.wait_s, why.why)
        else:
            parking = ParkedLane.by_declared_rpd(daily_quota_reset(now, None), why.rpd)
        self.ledger.park(lane, parking.until, parking.message)
        self.emit(LaneParked(at=now, model=model, until=parking.until, message=parking.message))

    def lane_waits(self, lane: str, wait: LaneWait, now_s: float) -> None:
        now = time.time()
        until = now + wait.until_s - now_s
        self.emit(LaneWaiting(at=now, model=self.loads[lane].model, until=until, reason=wait.reason))

    def breaker_changed(self, breaker: Breaker, lanes: Sequence[Lane]) -> None:
        now, now_s = time.time(), asyncio.get_running_loop().time()
        began = self.outages.get((breaker.scope, breaker.name, breaker.first_failure_s))
        error = breaker.error
        if error is None and began is None:
            return  # something wider was said to be down
        kind = OutageEnded if error is None else OutageProbeFailed if began else OutageStarted
        outage = kind(
            at=now,
            scope=breaker.scope,
            name=breaker.name.partition("|")[0],  # of an account, without the hash of its key
            models=tuple(dict.fromkeys(self.loads[lane.key].model for lane in lanes)),
            since=began.since if began else now - (now_s - breaker.first_failure_s),
            retry_at=None if error is None else now + breaker.probe_at_s - now_s,
            reason=error.reason if error else began.reason if began else "",
            message=error.message if error else began.message if began else "",
        )
        self.outages[breaker.scope, breaker.name, breaker.first_failure_s] = outage
        self.ledger.record_outages(list(self.outages.values())[-MAX_OUTAGES:])
        self.emit(outage)

    def _window(self, lane: str, now_s: float) -> Window | None:
        """The lane's quota, seeded with what was sent in the minute before this process began."""
        rpm, reader = self.loads[lane].rpm, self.ledger.reader
        if rpm is None:
            return None
        at = time.time()
        window = Window(rpm, confirmed=reader.max_accepted_per_minute(lane, at - PROOF_PERIOD_S) >= PROOF_SHARE * rpm)
        sends = () if self.server_quota else reader.recent_sends(lane, at - window.period_s - MARGIN_S - 60.0)
        window.seed([now_s - (at - sent) for sent in sends], now_s)
        return window
