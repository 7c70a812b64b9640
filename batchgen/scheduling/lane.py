"""The samples of one AI model under its quota: where they come from, what waits, what is on its way, and until when nothing more
may start."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from batchgen.errors import (
    BadRequest,
    DailyQuotaReached,
    InputRejected,
    ModelUnavailable,
    ProviderError,
    RateLimited,
    Unreadable,
)
from batchgen.records import Sample
from batchgen.scheduling.breaker import Breaker
from batchgen.scheduling.fallback import next_fallback_lane, sample_for_lane
from batchgen.scheduling.retry import RetryPolicy, RetryState, backoff_s, hint_with_margin_s
from batchgen.scheduling.window import SharedQuota, Window

# Above an estimate, which is what is typical: recorded answers bill 88 to 630 tokens of hidden text and have half as many or
# twice as many thoughts as one another. The dearest come to 9 % above the estimate of a small picture.
RESERVATION_FACTOR = 1.15
UNCONFIRMED_S = 1.0  # within which a refusal has come back; an answer takes longer
MAX_UNCONFIRMED = 3  # requests of a lane that may still be refused together, at quotas of up to 60 a minute
MAX_JOBS = 100  # of a lane at once, where its API names no limit
REPORTED_WAIT_S = 2.0  # from which on a wait is worth telling
PREFETCH = 64  # samples a lane holds ready; the rest stays in the backlog


class SampleSource(Protocol):
    """Samples that were not tried yet, in the order in which they shall start."""

    def take(self, lane: str, max_count: int) -> list[Sample]: ...

    def backlog_count(self, lane: str) -> int: ...

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        """Move what has a fallback for this cause to the lane of that, and answer how many."""
        ...


class InMemorySampleSource:
    """For callers that have few."""

    def __init__(self, samples: Iterable[tuple[str, Sample]] = ()) -> None:
        self._by_lane: dict[str, deque[Sample]] = {}
        for lane, sample in samples:
            self.add(lane, sample)

    def add(self, lane: str, sample: Sample) -> None:
        self._by_lane.setdefault(lane, deque()).append(sample)

    def take(self, lane: str, max_count: int) -> list[Sample]:
        queue = self._by_lane.get(lane, deque())
        return [queue.popleft() for _ in range(min(max_count, len(queue)))]

    def backlog_count(self, lane: str) -> int:
        return len(self._by_lane.get(lane, ()))

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        waiting = self._by_lane.pop(lane, deque())
        others = [next_fallback_lane(sample.item, lane, cause, is_available) for sample in waiting]
        for sample, other in zip(waiting, others, strict=True):
            self._by_lane.setdefault(other or lane, deque()).append(sample_for_lane(sample, other or lane))
        return sum(other is not None for other in others)


@dataclass(frozen=True, slots=True)
class Pending:
    """A sample that waits in its lane, and what this run has already tried for it. error: how its last request ended."""

    sample: Sample
    lane: str
    retry_state: RetryState = field(default_factory=RetryState)
    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sample that was given out: one request for it, or, when exhausted, the order to give it up unsent.

    number: of this ticket in its run. usd: estimated, None when the price is unknown; reserved_usd: the estimate and some
    more, for usage often comes out higher. stamp_s, quota_slot: its start in the window of this process and in the log of
    all of them; used_before: requests in that window when it was admitted. started_s: when it was given out. unwanted: for an
    image that the manifest does not ask for any more, so that nothing is sent again.
    """

    pending: Pending
    number: int
    exhausted: bool = False
    stamp_s: float | None = None
    usd: float | None = None
    quota_slot: int | None = None
    used_before: int = 0
    reserved_usd: float = 0.0
    started_s: float = 0.0
    unwanted: bool = False

    @property
    def sample(self) -> Sample:
        return self.pending.sample

    @property
    def lane(self) -> str:
        return self.pending.lane

    @property
    def retry_state(self) -> RetryState:
        return self.pending.retry_state

    @property
    def error(self) -> ProviderError | None:
        return self.pending.error


class LaneWait(NamedTuple):
    """reason: quota, spend, cooling, outage or backoff; until_s: infinite when only something in flight can end it."""

    reason: str
    until_s: float


@dataclass(slots=True)
class Lane:
    """The samples of one AI model under its quota. `until` values are loop seconds."""

    key: str
    window: Window | None
    breakers: tuple[Breaker, ...]  # its own, its account's and its host's
    shared_quota: SharedQuota | None = None
    backlog_count: int = 0  # in the backlog
    max_jobs: int | None = None  # that its API has at once
    ready: deque[Pending] = field(default_factory=deque)
    delayed: list[tuple[float, int, Pending]] = field(default_factory=list)  # heap by not-before
    undecided: list[Pending] = field(
        default_factory=list
    )  # without an attempt left, should their failures be their own
    exhausted: deque[Pending] = field(default_factory=deque)  # to be given up
    in_flight: int = 0
    jobs: int = 0  # requests that its API has taken and answers later
    left_jobs: int = 0  # those that the next run asks about
    jobs_of_others: int = 0  # the same and all requests in flight, of other workers
    last_start_number: int = 0
    cooled_until_s: float = 0.0
    quota_full_until_s: float = 0.0  # other processes have used the quota up
    spend_full_until_s: float = 0.0  # the USD of ten minutes are spent
    spend_wait_reported_until_s: float = 0.0  # that the lane is short was said
    reported_wait: LaneWait | None = None
    reservation_factor: float = (
        RESERVATION_FACTOR  # reserved / estimated; no less than any request has turned out to cost
    )
    cool_streak: int = 0
    parked: bool = False
    stopped: str = ""
    unconfirmed: dict[int, float] = field(default_factory=dict)  # start of each request that is not answered
    failing: bool = False  # something failed since its last success
    same_errors: tuple[str, set[str]] = ("", set())  # the reason of the last 4xx and the samples it hit in a row

    @property
    def waiting(self) -> int:
        return len(self.ready) + len(self.delayed) + len(self.undecided) + len(self.exhausted) + self.backlog_count

    @property
    def accepts_work(self) -> bool:
        return not self.parked and not self.stopped

    @property
    def is_full_of_left_jobs(self) -> bool:
        """Whether nothing more can start in this run: none of the jobs ends in it."""
        return self.max_jobs is not None and self.left_jobs >= self.max_jobs

    @property
    def is_down(self) -> bool:
        """Whether it, its account or its host is not asked for the time being."""
        return any(breaker.open for breaker in self.breakers)

    @property
    def has_served(self) -> bool:
        return self.breakers[0].has_served

    def waiting_samples(self) -> Iterator[Pending]:
        """What waits here, without the backlog."""
        yield from (*self.ready, *(pending for _, _, pending in self.delayed), *self.undecided, *self.exhausted)

    def drain(self) -> list[Pending]:
        """Take out all that could still be sent."""
        waiting = [*self.ready, *(pending for _, _, pending in self.delayed), *self.undecided]
        self.ready, self.delayed, self.undecided = deque(), [], []
        return waiting

    def refill(self, source: SampleSource, now_s: float) -> None:
        while self.delayed and self.delayed[0][0] <= now_s:
            self.ready.appendleft(heapq.heappop(self.delayed)[2])
        if not self.ready and self.backlog_count:
            self.ready.extend(Pending(sample, self.key) for sample in source.take(self.key, PREFETCH))
            self.backlog_count = source.backlog_count(self.key)
        if self.undecided:
            self._resolve_undecided()

    def _resolve_undecided(self) -> None:
        """Whose failures were their own is given up, and so are all when nobody is left who could show that they were not."""
        last_one = not (self.ready or self.delayed or self.backlog_count or self.in_flight)
        undecided, self.undecided = self.undecided, []
        for pending in undecided:
            (self.exhausted if last_one or self.failures_are_its_own(pending) else self.undecided).append(pending)

    def suspected_breaker(self, error: ProviderError) -> Breaker | None:
        """The narrowest of the wider scopes that may be to blame for an error."""
        return next((breaker for breaker in self.breakers if breaker.scope in error.suspects), None)

    def failures_are_its_own(self, pending: Pending) -> bool:
        """Whether a sample's failures are its own: what else could be to blame has served another one since."""
        suspected_breaker = None if pending.error is None else self.suspected_breaker(pending.error)
        return (
            suspected_breaker is None
            or pending.retry_state.suspected_s is None
            or suspected_breaker.last_served_s > pending.retry_state.suspected_s
        )

    def excuse_failures(self) -> None:
        """Whatever has failed here may start again as if it had not: the model or its host is to blame."""
        waiting = self.drain()
        self.ready.extend(
            replace(pending, retry_state=pending.retry_state.excused()) if pending.retry_state.spent else pending
            for pending in waiting
        )

    def earliest_start_s(self, now_s: float) -> float:
        """When it may start its next sample: cooldown, quota, breakers, and the first not-before if nothing is ready."""
        if self._jobs_are_full():
            return math.inf  # until one of them ends
        earliest_start_s = max(now_s, self.cooled_until_s, self.quota_full_until_s, self.spend_full_until_s)
        earliest_start_s = max(earliest_start_s, *(breaker.earliest_start_s(now_s) for breaker in self.breakers))
        if not self.ready:
            earliest_start_s = max(earliest_start_s, self.delayed[0][0] if self.delayed else math.inf)
        if self.window is None:
            return earliest_start_s
        max_unconfirmed = max(MAX_UNCONFIRMED, self.window.limit // 20)
        unsure = not self.window.confirmed and self.window.used(now_s) >= self.window.limit // 4
        if unsure and len(self.unconfirmed) >= max_unconfirmed:  # a limit that nobody told us refuses so many at most
            earliest_start_s = max(earliest_start_s, list(self.unconfirmed.values())[-max_unconfirmed] + UNCONFIRMED_S)
        return max(earliest_start_s, self.window.earliest_start_s(now_s))

    def _jobs_are_full(self) -> bool:
        if self.max_jobs is None:
            return self.jobs > 0 and self.jobs + self.in_flight >= MAX_JOBS
        return self.jobs + self.left_jobs + self.jobs_of_others + self.in_flight >= self.max_jobs

    def waits_for(self, now_s: float) -> LaneWait:
        """What keeps its next start back the longest."""
        quota_s = now_s if self.window is None else self.window.earliest_start_s(now_s)
        starts_s = {
            "cooling": self.cooled_until_s,
            "quota": max(self.quota_full_until_s, quota_s),
            "spend": self.spend_full_until_s,
            "outage": max(breaker.earliest_start_s(now_s) for breaker in self.breakers),
            "backoff": now_s if self.ready else self.delayed[0][0] if self.delayed else math.inf,
        }
        return LaneWait(*max(starts_s.items(), key=lambda start: start[1]))

    def unreported_wait(self, now_s: float) -> LaneWait | None:
        """What it waits for, the first time that this is asked of the wait; None also for a short one, and for one without an end."""
        wait, before = self.waits_for(now_s), self.reported_wait
        if math.isinf(wait.until_s) or wait.until_s - now_s < REPORTED_WAIT_S:
            return None
        if before is not None and before.reason == wait.reason and abs(before.until_s - wait.until_s) < REPORTED_WAIT_S:
            return None
        self.reported_wait = wait
        return wait

    def cool_down(
        self, ticket: Ticket, error: RateLimited, now_s: float, policy: RetryPolicy, rng: random.Random
    ) -> None:
        """The server's own delay, or backoff that grows while refusals go on. What was in flight together is one wave."""
        if self.window is not None and ticket.stamp_s is not None:
            same_wave = now_s < self.cooled_until_s
            self.window.refused(
                now_s,
                stamp_s=ticket.stamp_s,
                used_before=ticket.used_before,
                server_limit=error.rpm,
                same_wave=same_wave,
            )
        if error.retry_after_s is not None:
            wait_s = hint_with_margin_s(error.retry_after_s, rng)
        else:
            wait_s = backoff_s(self.cool_streak, policy.base_s * 2, policy.cap_s, rng)
        self.cool_streak += 1
        self.cooled_until_s = max(self.cooled_until_s, now_s + wait_s)
        if self.shared_quota is not None:
            self.shared_quota.publish_cooldown(wait_s, None if self.window is None else self.window.lowered_rate(now_s))

    def park(self, error: RateLimited | DailyQuotaReached) -> None:
        """Nothing more for hours, nor in any other process that shares the quota."""
        self.parked = True
        if self.shared_quota is not None:
            self.shared_quota.publish_parking(error.message, error.retry_after_s)

    def count_same_error(self, key: str, error: ProviderError) -> int:
        """How many different samples the same 4xx, or the same bug of ours, has now hit in a row."""
        if not isinstance(error, BadRequest | InputRejected | ModelUnavailable | Unreadable):
            self.same_errors = ("", set())
            return 0
        text = f"{error.reason} {error.http_status} {error.message[:80]}"
        seen = self.same_errors[1] if self.same_errors[0] == text else set()
        seen.add(key)
        self.same_errors = (text, seen)
        return len(seen)
