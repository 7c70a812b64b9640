"""Decides what a free worker should do now: one pure function of the lanes, the limits and the money of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchgen.money import within
from batchgen.records import Sample
from batchgen.scheduling.blame import Upstream
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.lane import Lane, LaneWait
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import QuotaDenied, SharedQuota, Window


# What `decide` can return.
@dataclass(frozen=True, slots=True)
class Start:
    lane: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may start before `until_s`, or, if that is None, until something in flight settles."""

    until_s: float | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A sample of this lane has no attempts left, and only now is it known that the sample is to blame."""

    lane: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The run has reached a limit."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Drained:
    pass


Decision = Start | Wait | GiveUp | Stop | Drained


@dataclass(slots=True)
class Progress:
    """How far a ticket that is not settled has come."""

    in_flight: bool  # its answer has not come
    sent: bool = False  # its headers have left
    is_job: bool = False  # the API accepted it and answers later


@dataclass(frozen=True, slots=True)
class LaneTerms:
    """What paces a lane: its quota, the starts and money of all processes, the account and host that answer it, and how
    many jobs these may have at once. A lane without `upstream` shares them with no other."""

    window: Window | None = None
    shared_quota: SharedQuota | None = None
    upstream: Upstream | None = None
    max_jobs: int | None = None


class DispatchObserver:
    """Is notified of what a dispatcher finds out by itself. This one ignores everything."""

    def quota_denied(self, lane: str, why: QuotaDenied) -> None:
        """The shared log makes a lane wait for money, or because others were refused, or parks it."""

    def lane_waits(self, lane: str, wait: LaneWait, now_s: float) -> None:
        """A lane has a sample to start and a place for it, but has to wait."""

    def breaker_changed(self, breaker: Breaker, lanes: Sequence[Lane]) -> None:
        """A breaker has opened, its probe has failed, or it has closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """How much one run may have in flight, try, spend and wait for.

    concurrency: the most requests in flight. max_storing: the most answers being checked and written, besides those in
    flight. same_error_limit: a lane stops when this many different samples in a row get the same 4xx. deadline_s: loop
    seconds. stall_s: the run stops when requests have failed for this long and none succeeded in between; None: never.
    wait_for_jobs: if False, jobs that an API has accepted are left to the next run.
    """

    concurrency: int
    policy: RetryPolicy
    max_storing: int = 8
    same_error_limit: int = 5
    budget_usd: float | None = None
    deadline_s: float | None = None
    stall_s: float | None = None
    wait_for_jobs: bool = True


class RunBudget:
    """The money of one run, reserved before a request is sent and settled by its usage, so that parallel requests
    cannot exceed the budget. limit_usd: None if the run has no budget of its own."""

    def __init__(self, limit_usd: float | None) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0

    def can_afford(self, usd: float) -> bool:
        return self.limit_usd is None or within(self.spent_usd + self.reserved_usd + usd, self.limit_usd)

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Replace what was reserved by what was spent."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += spent_usd


class DispatchState:
    """Everything that a decision depends on. `until`, `deadline` and failures are in loop seconds."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        limits: DispatchLimits,
        estimate_usd: Callable[[Sample], float | None],
        external_samples: int,
    ) -> None:
        self.lanes = lanes
        self.limits = limits
        self.estimate_usd = estimate_usd
        self.external_samples = external_samples
        self.budget = RunBudget(limits.budget_usd)
        self.stop_reason: StopReason | None = None
        self.in_flight = 0
        self.progress: dict[int, Progress] = {}  # by number, of tickets that are not settled
        self.shared_budget_full = False  # no room until one of this run's requests settles
        self.first_and_last_failure_s: tuple[float, float] | None = None  # since the last success

    def decide(self, now_s: float) -> Decision:
        """Return what a free worker should do at `now_s`, once the lanes have been refilled. Changes nothing."""
        waits = self.external_samples + self.jobs > 0 or any(lane.waiting for lane in self.lanes.values())
        if waits and not self.stop_reason and (reached := self._limit_reached(now_s)):  # finished work is kept
            return Stop(reached)
        lanes = self.open_lanes()
        if not lanes:
            if self.external_samples + self.jobs and not self.stop_reason:
                return Wait(self.limits.deadline_s)
            return Wait(None) if self.unfinished else Drained()
        if not self.has_room:
            return Wait(None)
        if exhausted := next((lane for lane in lanes if lane.exhausted), None):
            return GiveUp(exhausted.key)
        starts = [(lane.earliest_start_s(now_s), lane) for lane in lanes]
        open_now = [lane for start_s, lane in starts if start_s <= now_s]
        if not open_now:
            deadline_s = math.inf if self.limits.deadline_s is None else self.limits.deadline_s
            earliest_s = min(deadline_s, *(start_s for start_s, _ in starts))
            return Wait(None if earliest_s == math.inf else earliest_s)
        chosen = min(open_now, key=lambda lane: (lane.in_flight, lane.last_start_number))
        if self._next_is_affordable(chosen):
            return Start(chosen.key)
        if self.unfinished:
            return Wait(None)  # requests in flight may turn out cheaper
        if self.external_samples:
            return Wait(self.limits.deadline_s)  # so may batches
        return Stop(StopReason(StopKind.BUDGET))

    @property
    def unfinished(self) -> int:
        """The number of tickets that are not settled, answered or not."""
        return len(self.progress)

    @property
    def jobs(self) -> int:
        """The number of tickets whose requests an API has accepted as jobs."""
        return sum(lane.jobs for lane in self.lanes.values())

    @property
    def has_room(self) -> bool:
        return (
            not self.shared_budget_full
            and self.in_flight < self.limits.concurrency
            and self.unfinished - self.in_flight - self.jobs < self.limits.max_storing
        )

    def open_lanes(self) -> list[Lane]:
        """The lanes in which something may still start, now or later."""
        lanes = () if self.stop_reason else self.lanes.values()
        return [lane for lane in lanes if lane.accepts_work and lane.waiting and not lane.is_full_of_left_jobs]

    def _next_is_affordable(self, lane: Lane) -> bool:
        if self.budget.limit_usd is None:
            return True
        usd = self.estimate_usd(lane.ready[0].sample)
        return usd is not None and self.budget.can_afford(usd * lane.reservation_factor)

    def _limit_reached(self, now_s: float) -> StopReason | None:
        if self.limits.deadline_s is not None and now_s >= self.limits.deadline_s:
            return StopReason(StopKind.DEADLINE)
        return StopReason(StopKind.STALLED) if self._stalled() else None

    def _stalled(self) -> bool:
        """Whether requests keep failing. Measured from failure to failure, so that waiting for a quota, however long,
        never counts. A lane that has not failed is not stopped either."""
        if self.limits.stall_s is None or self.first_and_last_failure_s is None:
            return False
        first_s, last_s = self.first_and_last_failure_s
        at_work = (lane for lane in self.lanes.values() if lane.accepts_work and (lane.waiting or lane.in_flight))
        return last_s - first_s > self.limits.stall_s and all(lane.failing for lane in at_work)
