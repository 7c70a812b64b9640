"""The samples of one AI model under its quota: what waits, what is on its way, and until when nothing more may start."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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
from batchgen.scheduling.retry import RetryPolicy, Tries, backoff_s, with_margin_s
from batchgen.scheduling.supply import Supply
from batchgen.scheduling.window import SharedLog, Window

# Above an estimate, which is what is typical: recorded answers bill 88 to 630 tokens of hidden text and have half as many or
# twice as many thoughts as one another. The dearest come to 9 % above the estimate of a small picture.
MARKUP = 1.15
YOUNG_S = 1.0  # within which a refusal has come back; an answer takes longer
YOUNG_MOST = 3  # requests of a lane that may still be refused together, at quotas of up to 60 a minute
PREFETCH = 64  # samples a lane holds ready; the rest stays in the backlog


@dataclass(frozen=True, slots=True)
class Work:
    """A sample and what this run has already tried for it. usd: reserved for it, None when the price is unknown.

    stamp_s, place: where it stands in the window of this process and in the log of all of them; before: requests in
    that window when it was admitted. reserved_usd: the estimate and some more, for usage often comes out higher.
    started_s: when it was given out. error: how the last request for it ended; over: that was its last one, and nothing
    is to be sent.
    """

    sample: Sample
    lane: str
    tries: Tries = field(default_factory=Tries)
    stamp_s: float | None = None
    usd: float | None = None
    place: int | None = None
    before: int = 0
    reserved_usd: float = 0.0
    started_s: float = 0.0
    error: ProviderError | None = None
    over: bool = False


@dataclass(slots=True)
class Lane:
    """The samples of one AI model under its quota. `until` values are loop seconds."""

    key: str
    window: Window | None
    breakers: tuple[Breaker, ...]  # its own, its account's and its host's
    shared: SharedLog | None = None
    ready: deque[Work] = field(default_factory=deque)
    later: list[tuple[float, int, Work]] = field(default_factory=list)  # heap by not-before
    undecided: list[Work] = field(default_factory=list)  # without an attempt left, should their failures be their own
    over: deque[Work] = field(default_factory=deque)  # to be given up
    left: int = 0  # in the backlog
    in_flight: int = 0
    last_start: int = 0
    cooled_until_s: float = 0.0
    full_until_s: float = 0.0  # other processes have used the quota up
    short_until_s: float = 0.0  # the USD of ten minutes are spent
    told_until_s: float = 0.0  # that the lane is short was said
    markup: float = MARKUP  # reserved / estimated; no less than any request has turned out to cost
    cool_streak: int = 0
    parked: bool = False
    stopped: str = ""
    young: dict[int, float] = field(default_factory=dict)  # start of each request that is not answered
    failing: bool = False  # something failed since its last success
    alike: tuple[str, set[str]] = ("", set())  # the reason of the last 4xx and the samples it hit in a row

    @property
    def waiting(self) -> int:
        return len(self.ready) + len(self.later) + len(self.undecided) + len(self.over) + self.left

    @property
    def open(self) -> bool:
        return not self.parked and not self.stopped

    @property
    def down(self) -> bool:
        """Whether it, its account or its host is not asked for the time being."""
        return any(breaker.open for breaker in self.breakers)

    @property
    def has_served(self) -> bool:
        return self.breakers[0].has_served

    def works(self) -> Iterator[Work]:
        """What waits here, without the backlog."""
        yield from (*self.ready, *(work for _, _, work in self.later), *self.undecided, *self.over)

    def clear(self) -> list[Work]:
        """Take out all that could still be sent."""
        works = [*self.ready, *(work for _, _, work in self.later), *self.undecided]
        self.ready, self.later, self.undecided = deque(), [], []
        return works

    def refill(self, supply: Supply, now_s: float) -> None:
        while self.later and self.later[0][0] <= now_s:
            self.ready.appendleft(heapq.heappop(self.later)[2])
        if not self.ready and self.left:
            self.ready.extend(Work(sample, self.key) for sample in supply.take(self.key, PREFETCH))
            self.left = supply.left(self.key)
        if self.undecided:
            self._decide()

    def _decide(self) -> None:
        """Whose failures were their own is given up, and so are all when nobody is left who could show that they were not."""
        alone = not (self.ready or self.later or self.left or self.in_flight)
        undecided, self.undecided = self.undecided, []
        for work in undecided:
            (self.over if alone or self.to_blame(work) else self.undecided).append(work)

    def suspect(self, error: ProviderError) -> Breaker | None:
        """The narrowest of the wider scopes that may be to blame for an error."""
        return next((breaker for breaker in self.breakers if breaker.scope in error.suspects), None)

    def to_blame(self, work: Work) -> bool:
        """Whether a sample's failures are its own: what else could be to blame has served another one since."""
        suspect = None if work.error is None else self.suspect(work.error)
        return suspect is None or work.tries.suspected_s is None or suspect.served_s > work.tries.suspected_s

    def excuse(self) -> None:
        """Whatever has failed here may start again as if it had not: the model or its host is to blame."""
        works = self.clear()
        self.ready.extend(replace(work, tries=work.tries.excused()) if work.tries.spent else work for work in works)

    def opens_s(self, now_s: float) -> float:
        """When it may start its next sample: cooldown, quota, breakers, and the first not-before if nothing is ready."""
        earliest_s = max(now_s, self.cooled_until_s, self.full_until_s, self.short_until_s)
        earliest_s = max(earliest_s, *(breaker.earliest_s(now_s) for breaker in self.breakers))
        if not self.ready:
            earliest_s = max(earliest_s, self.later[0][0] if self.later else math.inf)
        if self.window is None:
            return earliest_s
        most = max(YOUNG_MOST, self.window.limit // 20)
        unsure = not self.window.proven and self.window.used(now_s) >= self.window.limit // 4
        if unsure and len(self.young) >= most:  # a limit that nobody told us refuses so many at most
            earliest_s = max(earliest_s, list(self.young.values())[-most] + YOUNG_S)
        return max(earliest_s, self.window.earliest_s(now_s))

    def cool(self, work: Work, error: RateLimited, now_s: float, policy: RetryPolicy, rng: random.Random) -> None:
        """The server's own delay, or backoff that grows while refusals go on. What was in flight together is one wave."""
        if self.window is not None and work.stamp_s is not None:
            again = now_s < self.cooled_until_s
            self.window.refused(now_s, stamp_s=work.stamp_s, before=work.before, named=error.rpm, again=again)
        if error.retry_after_s is not None:
            wait_s = with_margin_s(error.retry_after_s, rng)
        else:
            wait_s = backoff_s(self.cool_streak, policy.base_s * 2, policy.cap_s, rng)
        self.cool_streak += 1
        self.cooled_until_s = max(self.cooled_until_s, now_s + wait_s)
        if self.shared is not None:
            self.shared.cooled(wait_s, None if self.window is None else self.window.lowered(now_s))

    def park(self, error: RateLimited | DailyQuotaReached) -> None:
        """Nothing more for hours, nor in any other process that shares the quota."""
        self.parked = True
        if self.shared is not None:
            self.shared.parked(error.message, error.retry_after_s)

    def alike_in_a_row(self, key: str, error: ProviderError) -> int:
        """How many different samples the same 4xx, or the same bug of ours, has now hit in a row."""
        if not isinstance(error, BadRequest | InputRejected | ModelUnavailable | Unreadable):
            self.alike = ("", set())
            return 0
        text = f"{error.reason} {error.http_status} {error.message[:80]}"
        seen = self.alike[1] if self.alike[0] == text else set()
        seen.add(key)
        self.alike = (text, seen)
        return len(seen)
