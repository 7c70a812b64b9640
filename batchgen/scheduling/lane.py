"""The samples of one AI model under its quota: where they come from, what waits, what is in flight, and until when
nothing more may start."""

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

# How much more than a typical request one may cost: recorded answers bill 88 to 630 tokens of hidden text, and their
# thoughts vary by a factor of two. The dearest cost 9 % more than estimated for a small image.
RESERVATION_FACTOR = 1.15
UNCONFIRMED_S = 1.0  # a refusal comes back within this time; an answer takes longer
MAX_UNCONFIRMED = 3  # requests of a lane that may all still be refused, at up to 60 a minute
MAX_JOBS = 100  # in a lane at once, if its API states no limit
REPORTED_WAIT_S = 2.0  # shorter waits are not reported
PREFETCH = 64  # samples that a lane holds ready; the rest stays in the backlog


class SampleSource(Protocol):
    """The samples that were not tried yet, in the order in which they should start."""

    def take(self, lane: str, max_count: int) -> list[Sample]: ...

    def backlog_count(self, lane: str) -> int: ...

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        """Move samples with a fallback for this cause to its lane, and return how many there were."""
        ...


class InMemorySampleSource:
    """A source for callers with few samples."""

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
    """A sample that waits in its lane, and what this run has already tried for it. error: that of its last request."""

    sample: Sample
    lane: str
    retry_state: RetryState = field(default_factory=RetryState)
    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sample that was handed out: one request for it, or, if exhausted, the order to give it up without sending.

    number: the ticket's in its run. usd: the estimate, None if the price is unknown. reserved_usd: the estimate and a
    margin, as usage often comes out higher. stamp_s, quota_slot: its start in the window of this process and in the
    shared log. used_before: requests in that window when it was admitted. started_s: when it was handed out. unwanted:
    for an image that the manifest no longer asks for, so that nothing is sent again.
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
    """Why a lane waits. reason: quota, spend, cooling, outage or backoff. until_s: infinite if only something in flight
    can end it."""

    reason: str
    until_s: float


@dataclass(slots=True)
class Lane:
    """The samples of one AI model under its quota. `until` values are loop seconds."""

    key: str
    window: Window | None
    breakers: tuple[Breaker, ...]  # its own, its account's and its host's breaker
    shared_quota: SharedQuota | None = None
    backlog_count: int = 0  # in the backlog
    max_jobs: int | None = None  # the most jobs that its API has at once
    ready: deque[Pending] = field(default_factory=deque)
    delayed: list[tuple[float, int, Pending]] = field(default_factory=list)  # a heap, ordered by not-before
    # Without an attempt left, should their failures be their own.
    undecided: list[Pending] = field(default_factory=list)
    exhausted: deque[Pending] = field(default_factory=deque)  # to be given up
    in_flight: int = 0
    jobs: int = 0  # requests that its API accepted as jobs
    left_jobs: int = 0  # jobs that are left to the next run
    jobs_of_others: int = 0  # jobs and requests in flight of other workers
    last_start_number: int = 0
    cooled_until_s: float = 0.0
    quota_full_until_s: float = 0.0  # other processes have used up the quota
    spend_full_until_s: float = 0.0  # the USD of ten minutes are spent
    spend_wait_reported_until_s: float = 0.0  # until then, the shortage has been reported
    reported_wait: LaneWait | None = None
    # Reserved / estimated; no less than any request has turned out to cost.
    reservation_factor: float = RESERVATION_FACTOR
    cool_streak: int = 0
    parked: bool = False
    stopped: str = ""
    unconfirmed: dict[int, float] = field(default_factory=dict)  # starts of requests that are not answered
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
        """Whether nothing more can start in this run, because no job of this lane ends in it."""
        return self.max_jobs is not None and self.left_jobs >= self.max_jobs

    @property
    def is_down(self) -> bool:
        """Whether its model, account or host is down and not asked for now."""
        return any(breaker.open for breaker in self.breakers)

    @property
    def has_served(self) -> bool:
        return self.breakers[0].has_served

    def waiting_samples(self) -> Iterator[Pending]:
        """The samples that wait here, without the backlog."""
        yield from (*self.ready, *(pending for _, _, pending in self.delayed), *self.undecided, *self.exhausted)

    def drain(self) -> list[Pending]:
        """Take out everything that could still be sent."""
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
        """Give up the samples whose failures were their own, and all of them if no other sample is left to show whose
        fault it was."""
        last_one = not (self.ready or self.delayed or self.backlog_count or self.in_flight)
        undecided, self.undecided = self.undecided, []
        for pending in undecided:
            (self.exhausted if last_one or self.failures_are_its_own(pending) else self.undecided).append(pending)

    def suspected_breaker(self, error: ProviderError) -> Breaker | None:
        """The narrowest of the wider scopes that may be to blame for an error."""
        return next((breaker for breaker in self.breakers if breaker.scope in error.suspects), None)

    def failures_are_its_own(self, pending: Pending) -> bool:
        """Whether a sample is to blame for its failures: everything else that could be has served another sample
        since."""
        suspected_breaker = None if pending.error is None else self.suspected_breaker(pending.error)
        return (
            suspected_breaker is None
            or pending.retry_state.suspected_s is None
            or suspected_breaker.last_served_s > pending.retry_state.suspected_s
        )

    def excuse_failures(self) -> None:
        """Let every sample that failed here start again as if it had not: the model or its host is to blame."""
        waiting = self.drain()
        self.ready.extend(
            replace(pending, retry_state=pending.retry_state.excused()) if pending.retry_state.spent else pending
            for pending in waiting
        )

    def earliest_start_s(self, now_s: float) -> float:
        """When this lane may start its next sample, given its cooldown, quota, breakers, and the first not-before if
        nothing is ready."""
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
        if unsure and len(self.unconfirmed) >= max_unconfirmed:  # refusals by an unstated limit
            earliest_start_s = max(earliest_start_s, list(self.unconfirmed.values())[-max_unconfirmed] + UNCONFIRMED_S)
        return max(earliest_start_s, self.window.earliest_start_s(now_s))

    def _jobs_are_full(self) -> bool:
        if self.max_jobs is None:
            return self.jobs > 0 and self.jobs + self.in_flight >= MAX_JOBS
        return self.jobs + self.left_jobs + self.jobs_of_others + self.in_flight >= self.max_jobs

    def waits_for(self, now_s: float) -> LaneWait:
        """The reason that delays its next start the longest."""
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
        """The reason of a wait that was not reported yet; None for a short wait and for one without an end."""
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
        """Wait as long as the server says, or else with a backoff that grows while refusals go on. Refusals of requests
        that were in flight together count once."""
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
        """Start nothing for hours, in this process and in all others that share the quota."""
        self.parked = True
        if self.shared_quota is not None:
            self.shared_quota.publish_parking(error.message, error.retry_after_s)

    def count_same_error(self, key: str, error: ProviderError) -> int:
        """Return how many different samples in a row have now got the same 4xx or hit the same bug."""
        if not isinstance(error, BadRequest | InputRejected | ModelUnavailable | Unreadable):
            self.same_errors = ("", set())
            return 0
        text = f"{error.reason} {error.http_status} {error.message[:80]}"
        seen = self.same_errors[1] if self.same_errors[0] == text else set()
        seen.add(key)
        self.same_errors = (text, seen)
        return len(seen)
