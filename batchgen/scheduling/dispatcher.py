"""Which sample may start now, or when: lanes under their quotas, and the only holder of waiting state."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from batchgen.errors import DailyQuotaReached, LedgerError, ModelUnavailable, ProviderError, RateLimited
from batchgen.records import Sample
from batchgen.scheduling.blame import Blame, Served, breakers_of
from batchgen.scheduling.breaker import SAMPLES, Breaker
from batchgen.scheduling.fallback import cause_of, next_lane, served_in
from batchgen.scheduling.lane import Lane, Work
from batchgen.scheduling.retry import RetryPolicy, delay_s
from batchgen.scheduling.settlement import GivenUp, PassedOn, Requeued, Returned, Settlement
from batchgen.scheduling.supply import Supply, fixed_supply
from batchgen.scheduling.window import (
    LONG_HINT_S,
    BudgetReached,
    DayUsedUp,
    Held,
    NotBefore,
    Parked,
    Reserved,
    SharedLog,
    Window,
)

__all__ = [
    "Dispatch",
    "GivenUp",
    "Lane",
    "PassedOn",
    "Requeued",
    "Returned",
    "Settlement",
    "Supply",
    "Work",
    "fixed_supply",
]


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
class Drained:
    pass


Decision = Start | Wait | GiveUp | Drained


HEAR_S = 0.5  # between two looks at what other processes say of a lane
OUTAGE_S = 60.0  # after which samples with a fallback for outages go on there


class Dispatch:
    """Gives out what may start, and takes back how it went.

    Deciding is one synchronous function over loop time; `take` is the one place that waits, for one caller at a time.
    Among lanes that may start, the one with the fewest in flight goes first, so that two AI models share the cap and
    neither waits for the other. A sample in backoff stands in its lane's heap and holds no place in flight.

    concurrency: requests in flight at most. storing: answers being checked and written at most, beside those in flight.
    budget_usd: reserved before sending and settled by usage, so that parallel
    requests cannot overshoot. breaker: this many different samples in a row with the same 4xx stop the lane.
    shared: by lane, the log of starts and money of all processes, asked last before a start; `fault`: why it could not be
    asked. on_held: told when that log makes a lane wait for money or after others' refusals, or parks it.
    stall_s: when requests have failed for this long and none succeeded in between, the run stops; None: never.
    served_by: account and host by lane; a lane that it does not name is alone with its own. on_breaker: told when a breaker
    opens, when its probe has failed, and when it closes.
    """

    def __init__(
        self,
        lanes: Mapping[str, Window | None],
        supply: Supply,
        *,
        concurrency: int,
        storing: int = 8,
        policy: RetryPolicy,
        estimate_usd: Callable[[Sample], float | None] = lambda _: 0.0,
        budget_usd: float | None = None,
        deadline_s: float | None = None,
        breaker: int = 5,
        shared: Mapping[str, SharedLog] | None = None,
        on_held: Callable[[str, Held], None] = lambda *_: None,
        stall_s: float | None = None,
        served_by: Mapping[str, Served] | None = None,
        on_breaker: Callable[[Breaker, Sequence[Lane]], None] = lambda *_: None,
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        logs, breakers = shared or {}, breakers_of(lanes, served_by or {})
        self.lanes = {
            key: Lane(key, window, breakers[key], logs.get(key), left=supply.left(key)) for key, window in lanes.items()
        }
        self.concurrency = concurrency
        self.storing = storing
        self.in_flight = 0
        self.unsettled = 0  # answered or not, anything taken and not yet settled
        self.outside = 0  # samples that are at work elsewhere, in batches, and may come back or let others go
        self.stopping = ""
        self.fault: LedgerError | None = None
        self.deadline_s = deadline_s
        self.budget_usd = budget_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0
        self._supply = supply
        self._policy = policy
        self._estimate_usd = estimate_usd
        self._breaker = breaker
        self._on_held = on_held
        self.budget_span = ""  # whose budget ended the run: the day's or the month's, empty for its own
        self._broke = False  # a shared budget has no room until something of ours settles
        self.stall_s = stall_s
        self._failing_s: tuple[float, float] | None = None  # first and last failure since the last success
        self._rng = rng or random.Random()
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self.blame = Blame(self.lanes, on_breaker, self._rng)
        self._waiter: asyncio.Future[None] | None = None
        self._flying: set[int] = set()  # ids of works whose answer is not in
        self._open: set[int] = set()  # ids of works that are not settled
        self._sent: set[int] = set()  # ids of those of them whose headers left
        self.passed_on: Counter[str] = Counter()  # samples that went on with a fallback, by the lane they left
        self._settled = 0  # works that were accounted for
        self._starts = itertools.count(1)
        self._order = itertools.count()

    # --- deciding: pure over `now_s`

    def decide(self, now_s: float) -> Decision:
        """What a free worker should do at `now_s`. Changes nothing but the stop reason."""
        if self.outside or any(lane.waiting for lane in self.lanes.values()):  # what has been done is not cut short
            self._check_limits(now_s)
        lanes = [lane for lane in self.lanes.values() if lane.open and lane.waiting] if not self.stopping else []
        if not lanes:
            if self.outside and not self.stopping:
                return Wait(self.deadline_s)
            return Wait(None) if self.unsettled else Drained()
        if self._broke or self.in_flight >= self.concurrency or self.unsettled - self.in_flight >= self.storing:
            return Wait(None)
        for lane in lanes:
            lane.refill(self._supply, now_s)
            if lane.over:
                return GiveUp(lane.key)
        opens = [(lane.opens_s(now_s), lane) for lane in lanes]
        open_now = [lane for opens_s, lane in opens if opens_s <= now_s]
        if not open_now:
            earliest_s = min(
                math.inf if self.deadline_s is None else self.deadline_s, *(opens_s for opens_s, _ in opens)
            )
            return Wait(None if earliest_s == math.inf else earliest_s)
        chosen = min(open_now, key=lambda lane: (lane.in_flight, lane.last_start))
        if not self._affordable(chosen):
            if self.unsettled:
                return Wait(None)  # what is in flight may turn out cheaper
            if self.outside:
                return Wait(self.deadline_s)  # and so may what is in batches
            self.stopping = "budget"
            return Drained()
        return Start(chosen.key)

    def _affordable(self, lane: Lane) -> bool:
        usd = self._estimate_usd(lane.ready[0].sample)
        return self.budget_usd is None or (usd is not None and self.affords(usd * lane.markup))

    def _check_limits(self, now_s: float) -> None:
        if not self.stopping and self.deadline_s is not None and now_s >= self.deadline_s:
            self.stopping = "deadline"
        if not self.stopping and self._stalled():
            self.stopping = "stalled"

    def _stalled(self) -> bool:
        """From failure to failure, so that a wait for a quota, however long, never counts; nor does it stop a lane that
        has not failed."""
        if self.stall_s is None or self._failing_s is None:
            return False
        first_s, last_s = self._failing_s
        at_work = (lane for lane in self.lanes.values() if lane.open and (lane.waiting or lane.in_flight))
        return last_s - first_s > self.stall_s and all(lane.failing for lane in at_work)

    def affords(self, usd: float) -> bool:
        """Whether this run's budget has room for it."""
        return self.budget_usd is None or self.spent_usd + self.reserved_usd + usd <= self.budget_usd + 1e-9

    def went_outside(self, samples: int, reserved_usd: float = 0.0, spent_usd: float = 0.0) -> None:
        """Samples and money that batches have taken on, or given back where negative."""
        self.outside += samples
        self.reserved_usd += reserved_usd
        self.spent_usd += spent_usd
        self._broke = False
        self._wake()

    def price(self, estimate_usd: Callable[[Sample], float | None]) -> None:
        """How to estimate what a sample will cost."""
        self._estimate_usd = estimate_usd

    # --- taking and giving back

    async def take(self) -> Work | None:
        """The next work that may start, or is to be given up, as soon as it may; None when there is nothing more."""
        while True:
            now_s = self._clock()
            decision = self.decide(now_s)
            match decision:
                case Start(lane_key):
                    work = await self._start_shared(self.lanes[lane_key], now_s)
                    if work is not None:
                        return work
                case GiveUp(lane_key):
                    over = replace(self.lanes[lane_key].over.popleft(), over=True)
                    self.unsettled += 1
                    self._open.add(id(over))
                    return over
                case Wait(until_s):
                    await self._sleep(None if until_s is None else until_s - now_s)
                case Drained():
                    return None

    async def _start_shared(self, lane: Lane, now_s: float) -> Work | None:
        """Start if the log of all processes has a place; None when it has not, or when asking took the chance away."""
        if lane.shared is None:
            return await self._start(lane, now_s, None)
        work, settled = lane.ready[0], self._settled
        rate = None if lane.window is None else lane.window.rate(now_s)
        try:
            answer = await lane.shared.reserve(rate, (self._estimate_usd(work.sample) or 0.0) * lane.markup)
        except LedgerError as error:
            self.fault = error
            self.stop("disk")
            return None
        now_s = self._clock()
        if not isinstance(answer, Reserved):
            if settled == self._settled:  # else what has settled meanwhile may have made room: ask again
                self._held(lane, answer, now_s)
            return None
        # A stop, a cooldown, another lane or a sample that came back may have come first.
        if self.decide(now_s) != Start(lane.key) or lane.ready[0] is not work:
            if answer.place is not None:
                lane.shared.refund(answer.place)
            return None
        return await self._start(lane, now_s, answer.place, answer.used)

    async def hear(self) -> None:
        """Until cancelled: what other processes are told by the server closes the lanes here too, waiting or not."""
        while True:
            await asyncio.sleep(HEAR_S)
            for lane in self.lanes.values():
                if lane.open and lane.waiting and lane.shared is not None:
                    with contextlib.suppress(LedgerError):  # the next start will say so
                        if (answer := await lane.shared.held()) is not None and lane.open:
                            self._held(lane, answer, self._clock())
                            self._wake()

    def _held(self, lane: Lane, answer: Held | BudgetReached, now_s: float) -> None:
        match answer:
            case NotBefore(wait_s, "cooling"):
                news = now_s + wait_s > lane.cooled_until_s + HEAR_S  # else it is what this process said itself
                lane.cooled_until_s = max(lane.cooled_until_s, now_s + wait_s)
                if news:
                    self._on_held(lane.key, answer)
            case NotBefore(wait_s, why):
                if why == "quota":
                    lane.full_until_s = now_s + wait_s
                    return
                lane.short_until_s = now_s + wait_s
                if lane.told_until_s <= now_s:
                    lane.told_until_s = lane.short_until_s
                    self._on_held(lane.key, answer)
            case DayUsedUp() | Parked():
                self.park(lane.key)
                self._on_held(lane.key, answer)
            case BudgetReached(span):
                # What is in flight may turn out cheaper. What others have in flight is not waited for.
                if self.unsettled:
                    self._broke = True
                else:
                    self.budget_span = span
                    self.stop("budget")

    async def _start(self, lane: Lane, now_s: float, place: int | None, others: int = 0) -> Work:
        work = lane.ready.popleft()
        usd = self._estimate_usd(work.sample)
        reserved_usd = (usd or 0.0) * lane.markup
        self.reserved_usd += reserved_usd
        self.in_flight += 1
        self.unsettled += 1
        lane.in_flight += 1
        lane.last_start = next(self._starts)
        before = 0 if lane.window is None else lane.window.used(now_s)
        stamp_s = None if lane.window is None else await lane.window.admit(now_s)
        work = replace(
            work,
            stamp_s=stamp_s,
            usd=usd,
            place=place,
            before=max(before, others),
            reserved_usd=reserved_usd,
            started_s=now_s,
        )
        for breaker in lane.breakers:
            breaker.started()
        lane.young[id(work)] = now_s
        self._flying.add(id(work))
        self._open.add(id(work))
        return work

    async def _sleep(self, seconds: float | None) -> None:
        """Until something changes, or for `seconds`. One caller at a time."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def counted(self, work: Work) -> None:
        """Returns when all processes can count this start and its money: nothing is sent before."""
        shared = self.lanes[work.lane].shared
        if shared is not None and work.place is not None:
            await shared.written(work.place)

    def sent(self, work: Work) -> None:
        """The request's headers left: the quota counts from now."""
        lane = self.lanes[work.lane]
        if lane.window is not None and work.stamp_s is not None:
            lane.window.sent(work.stamp_s, self._clock())
        self._sent.add(id(work))
        if lane.shared is not None and work.place is not None:
            lane.shared.sent(work.place)

    def received(self, work: Work) -> None:
        """A good answer is in: its place in flight is free while the picture is still being stored."""
        if id(work) not in self._flying:
            return
        self._flying.discard(id(work))
        self.in_flight -= 1
        self.lanes[work.lane].in_flight -= 1
        self.lanes[work.lane].young.pop(id(work), None)
        self._wake()

    def succeeded(self, work: Work, usd: float | None) -> None:
        """A picture exists. usd: what it cost by usage; None keeps the reservation as spent."""
        lane = self.lanes[work.lane]
        lane.alike = ("", set())
        lane.cool_streak = 0
        lane.failing, self._failing_s = False, None
        if usd and work.usd:
            lane.markup = max(lane.markup, usd / work.usd)
        self._account(work, work.usd if usd is None else usd)
        self.blame.served(lane, work, self._clock())
        self._wake()

    def failed(self, work: Work, error: ProviderError, usd: float | None = None) -> Settlement:
        """No picture this time. Moves lane and run as the error's class says and answers what becomes of the sample.

        usd: what it cost by the usage that the answer reports; None keeps the reservation if it may have been billed.
        """
        lane, was_sent = self.lanes[work.lane], id(work) in self._sent
        self._account(work, usd if usd is not None else work.usd if error.maybe_billed else 0.0)
        now_s = self._clock()
        lane.failing, self._failing_s = True, (self._failing_s[0] if self._failing_s else now_s, now_s)
        error = self.blame.narrowed(lane, error)
        again = Work(work.sample, work.lane, work.tries.after(error, now_s), error=error)
        if not self.stopping:
            self.blame.failed(lane, again, error, work.started_s, now_s, was_sent=was_sent)
        settlement = self._settle(lane, work, again, error, now_s)
        if isinstance(settlement, GivenUp) and not self.stopping:
            settlement = self._to_fallback(lane, work.sample, error)
        if not lane.open:
            self._leave(lane)
        self._outlast(now_s)
        self._wake()
        return settlement

    def _outlast(self, now_s: float) -> None:
        """What has a fallback for outages goes on there when its model or host has been down for long."""
        for breaker in self.blame.open:
            if breaker.scope != "account" and now_s - breaker.since_s >= OUTAGE_S:
                for lane in self.blame.behind(breaker):
                    self._pass_on(lane, "outage", self._is_up)

    def gave_up(self, work: Work, error: ProviderError) -> PassedOn | GivenUp:
        """A work that came with `over` is not to be sent again in its lane; error: its last."""
        settlement = self._to_fallback(self.lanes[work.lane], work.sample, error)
        self.abandoned(work)
        return settlement

    # --- fallbacks

    def park(self, key: str) -> None:
        """Nothing more in this lane today."""
        self.lanes[key].parked = True
        self._pass_on(self.lanes[key], "quota", self._is_open)

    def _to_fallback(self, lane: Lane, sample: Sample, error: ProviderError) -> PassedOn | GivenUp:
        other = next_lane(sample.item, lane.key, cause_of(error), self._is_open)
        if other is None:
            return GivenUp()
        self._enter(other, lane, sample)
        return PassedOn(other)

    def fallback_lane(self, sample: Sample, error: ProviderError) -> str | None:
        """The lane in which a sample that a batch has failed at goes on; None when nobody else is to make it."""
        item = sample.item
        return next_lane(item, f"{item.provider}/{item.model}", cause_of(error), self._is_open)

    def _leave(self, lane: Lane) -> None:
        """Of what waits in a lane that has closed, all that has a fallback goes on there."""
        self._pass_on(lane, "quota" if lane.parked else "outage", self._is_open)

    def _pass_on(self, lane: Lane, cause: str, is_open: Callable[[str], bool]) -> None:
        for work in lane.clear():
            # What may have been billed is not bought from another model as well.
            other = None if work.tries.doubtful else next_lane(work.sample.item, lane.key, cause, is_open)
            if other is None:
                lane.ready.append(work)
            else:
                self._enter(other, lane, work.sample)
        self.passed_on[lane.key] += self._supply.pass_on(lane.key, cause, is_open)
        for key, each in self.lanes.items():
            each.left = self._supply.left(key)

    def _enter(self, other: str, left: Lane, sample: Sample) -> None:
        self.lanes[other].ready.append(Work(served_in(sample, other), other))
        self.passed_on[left.key] += 1

    def _is_open(self, key: str) -> bool:
        return key in self.lanes and self.lanes[key].open

    def _is_up(self, key: str) -> bool:
        return self._is_open(key) and not self.lanes[key].down

    def dropped(self, work: Work) -> None:
        """Not to be sent from here after all, and nothing of it was."""
        self._account(work, 0.0)
        self._wake()

    def withdraw(self, key: str) -> None:
        """What waits in a lane is somebody else's to make."""
        lane = self.lanes[key]
        lane.clear()
        lane.over.clear()
        lane.left = 0

    def abandoned(self, work: Work) -> None:
        """Whatever became of it, it is no longer being worked on. Does nothing for work that was settled."""
        if id(work) in self._open:
            self._account(work, None if work.over else work.usd)
            self._wake()

    def _account(self, work: Work, usd: float | None) -> None:
        self.received(work)
        for breaker in self.lanes[work.lane].breakers:
            breaker.ended(work.started_s)  # unless what is known of it says more
        self._open.discard(id(work))
        self.unsettled -= 1
        self.reserved_usd -= work.reserved_usd
        self.spent_usd += usd or 0.0
        self._broke = False
        self._settled += 1
        for each in self.lanes.values():
            each.short_until_s = 0.0  # it may have cost less than was reserved: ask again
        lane, was_sent = self.lanes[work.lane], id(work) in self._sent
        self._sent.discard(id(work))
        if lane.shared is not None and work.place is not None:
            if usd or was_sent:
                lane.shared.settled(work.place, usd or 0.0)
            else:
                lane.shared.refund(work.place)

    def _settle(self, lane: Lane, refused: Work, again: Work, error: ProviderError, now_s: float) -> Settlement:
        if error.scope == "run":
            self.stop(error.reason)
            return self._returned(lane, again)
        if isinstance(error, DailyQuotaReached) or (
            isinstance(error, RateLimited) and (error.retry_after_s or 0.0) > LONG_HINT_S
        ):
            lane.park(error)  # hours: other lanes go on, and the run ends before them
        elif isinstance(error, RateLimited):
            lane.cool(refused, error, now_s, self._policy, self._rng)
        elif error.scope == "lane":
            lane.stopped = error.reason
            return GivenUp()
        alike = lane.alike_in_a_row(refused.sample.key, error)
        if alike >= (SAMPLES if isinstance(error, ModelUnavailable) else self._breaker):
            lane.stopped = error.reason if isinstance(error, ModelUnavailable) else "breaker"  # no fault of the samples
        if self.stopping or not lane.open:
            gone = delay_s(error, again.tries, self._policy, self._rng) is None
            return GivenUp() if gone else self._returned(lane, again)
        if error.maybe_billed and again.tries.doubtful >= min(self._policy.outage, self._policy.attempts):
            return GivenUp()
        caught = [breaker for breaker in lane.breakers if breaker.open and breaker.scope in error.suspects]
        if caught and error.retryable:
            excused = again.tries if error.scope == "account" else again.tries.excused()
            lane.ready.append(replace(again, tries=excused))
            return Requeued(max(0.0, *(breaker.probe_at_s - now_s for breaker in caught)))
        return self._again(lane, again, error, now_s)

    def _again(self, lane: Lane, work: Work, error: ProviderError, now_s: float) -> Settlement:
        delay = delay_s(error, work.tries, self._policy, self._rng)
        if delay is not None:
            heapq.heappush(lane.later, (now_s + delay, next(self._order), work))
            return Requeued(max(delay, lane.cooled_until_s - now_s))
        if error.retryable and not error.maybe_billed and not lane.to_blame(work):
            lane.undecided.append(work)
            return Requeued(self._policy.cap_s)
        return GivenUp()

    def _returned(self, lane: Lane, work: Work) -> Returned:
        """Counted as left; the next run takes it."""
        lane.ready.append(work)
        return Returned()

    def supplied(self, lane: str) -> None:
        """The backlog has got more for this lane."""
        self.lanes[lane].left = self._supply.left(lane)
        if not self.lanes[lane].open:
            self._leave(self.lanes[lane])
        self._wake()

    def stop(self, reason: str) -> None:
        """Start nothing more; what is in flight goes on. The first reason stays."""
        self.stopping = self.stopping or reason
        self._wake()

    def left(self) -> int:
        """Samples that were wanted and not tried, or sent back."""
        return sum(lane.waiting for lane in self.lanes.values())

    def waiting(self) -> Iterator[Sample]:
        """The same, without what is still in the backlog."""
        return (work.sample for lane in self.lanes.values() for work in lane.works())
