"""What a free worker should do now: one pure function over what is known of the lanes, the limits and the money of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from batchgen.dataclass import dataclass
from batchgen.money import within
from batchgen.records import Sample
from batchgen.scheduling.blame import Upstream
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.lane import Lane, LaneWait
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import QuotaDenied, SharedQuota, Window


# What `decide` can answer.
@dataclass(frozen=True, slots=True)
class Start:
    lane: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may start before `until_s`; None: until something in flight settles."""

    until_s: float | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A sample of this lane has no attempt left, which only now is known to be its own fault."""

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
    """How far a ticket has come that is not settled."""

    in_flight: bool  # its answer is not in
    sent: bool = False  # its headers have left
    is_job: bool = False  # the API has taken it and answers later


@dataclass(frozen=True, slots=True)
class LaneTerms:
    """What paces a lane: its quota, the log of starts and money of all processes, whose account and host answer it, and how many
    jobs these have at once. One without `upstream` is alone with its own."""

    window: Window | None = None
    shared_quota: SharedQuota | None = None
    upstream: Upstream | None = None
    max_jobs: int | None = None


class DispatchObserver:
    """Hears of what a dispatcher finds out by itself; this one minds nothing."""

    def quota_denied(self, lane: str, why: QuotaDenied) -> None:
        """The shared log makes a lane wait for money or after the refusals of others, or parks it."""

    def lane_waits(self, lane: str, wait: LaneWait, now_s: float) -> None:
        """A lane has something to start, and a place for it, and waits all the same."""

    def breaker_changed(self, breaker: Breaker, lanes: Sequence[Lane]) -> None:
        """A breaker has opened, its probe has failed, or it has closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """What one run may have at work, try, spend and wait for.

    concurrency: requests in flight at most. max_storing: answers being checked and written at most, besides those in flight.
    same_error_limit: this many different samples in a row with the same 4xx stop the lane. deadline_s: loop seconds.
    stall_s: when requests have failed for this long and none succeeded in between, the run stops; None: never. wait_for_jobs:
    else what an API has taken is left to the next run.
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
    """The money of one run: reserved before a request is sent and settled by its usage, so that parallel requests cannot
    overshoot. limit_usd: None for a run without a budget of its own."""

    def __init__(self, limit_usd: float | None) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0

    def can_afford(self, usd: float) -> bool:
        return self.limit_usd is None or within(self.spent_usd + self.reserved_usd + usd, self.limit_usd)

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """In place of what was reserved, what was spent."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += spent_usd


class DispatchState:
    """All that deciding depends on. `until`, `deadline` and failures are loop seconds."""

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
        self.progress: dict[int, Progress] = {}  # of tickets that are not settled, by number
        self.shared_budget_full = False  # a shared budget has no room until something of ours settles
        self.first_and_last_failure_s: tuple[float, float] | None = None  # since the last success

    def decide(self, now_s: float) -> Decision:
        """What a free worker should do at `now_s`, once the lanes have been refilled. Changes nothing."""
        waits = self.external_samples + self.jobs > 0 or any(lane.waiting for lane in self.lanes.values())
        if waits and not self.stop_reason and (reached := self._limit_reached(now_s)):  # what is done is not cut short
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
            return Wait(None)  # what is in flight may turn out cheaper
        if self.external_samples:
            return Wait(self.limits.deadline_s)  # so may what is in batches
        return Stop(StopReason(StopKind.BUDGET))

    @property
    def unfinished(self) -> int:
        """Tickets that were taken and are not settled, answered or not."""
        return len(self.progress)

    @property
    def jobs(self) -> int:
        """Tickets whose requests an API has taken and answers later."""
        return sum(lane.jobs for lane in self.lanes.values())

    @property
    def has_room(self) -> bool:
        return (
            not self.shared_budget_full
            and self.in_flight < self.limits.concurrency
            and self.unfinished - self.in_flight - self.jobs < self.limits.max_storing
        )

    def open_lanes(self) -> list[Lane]:
        """Those in which something may still start, now or later."""
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
        """From failure to failure, so that a wait for a quota, however long, never counts; nor does it stop a lane that
        has not failed."""
        if self.limits.stall_s is None or self.first_and_last_failure_s is None:
            return False
        first_s, last_s = self.first_and_last_failure_s
        at_work = (lane for lane in self.lanes.values() if lane.accepts_work and (lane.waiting or lane.in_flight))
        return last_s - first_s > self.limits.stall_s and all(lane.failing for lane in at_work)
