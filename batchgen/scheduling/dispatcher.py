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
from batchgen.scheduling.blame import FaultAttribution, Upstream, breakers_by_lane
from batchgen.scheduling.breaker import FAILED_SAMPLES_TO_OPEN, Breaker
from batchgen.scheduling.fallback import fallback_cause, next_fallback_lane, sample_for_lane
from batchgen.scheduling.lane import Lane, Work
from batchgen.scheduling.retry import (
    GivenUp,
    MovedToFallback,
    Released,
    Requeued,
    RetryDecision,
    RetryPolicy,
    retry_delay_s,
)
from batchgen.scheduling.sample_source import SampleSource
from batchgen.scheduling.window import (
    LONG_RETRY_HINT_S,
    BudgetReached,
    DayUsedUp,
    NotBefore,
    Parked,
    QuotaDenied,
    Reserved,
    SharedQuota,
    Window,
)


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


SHARED_POLL_S = 0.5  # between two looks at what other processes say of a lane
OUTAGE_FALLBACK_AFTER_S = 60.0  # after which samples with a fallback for outages go on there


class Dispatcher:
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
        source: SampleSource,
        *,
        concurrency: int,
        max_storing: int = 8,
        policy: RetryPolicy,
        estimate_usd: Callable[[Sample], float | None] = lambda _: 0.0,
        budget_usd: float | None = None,
        deadline_s: float | None = None,
        same_error_limit: int = 5,
        shared_quotas: Mapping[str, SharedQuota] | None = None,
        on_quota_denied: Callable[[str, QuotaDenied], None] = lambda *_: None,
        stall_s: float | None = None,
        upstream_of: Mapping[str, Upstream] | None = None,
        on_breaker: Callable[[Breaker, Sequence[Lane]], None] = lambda *_: None,
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        shared_quotas, breakers = shared_quotas or {}, breakers_by_lane(lanes, upstream_of or {})
        self.lanes = {
            key: Lane(key, window, breakers[key], shared_quotas.get(key), backlog_count=source.backlog_count(key))
            for key, window in lanes.items()
        }
        self.concurrency = concurrency
        self.max_storing = max_storing
        self.in_flight = 0
        self.unfinished = 0  # answered or not, anything taken and not yet settled
        self.external_samples = 0  # samples that are at work elsewhere, in batches, and may come back or let others go
        self.stop_reason = ""
        self.shared_quota_error: LedgerError | None = None
        self.deadline_s = deadline_s
        self.budget_usd = budget_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0
        self._source = source
        self._policy = policy
        self._estimate_usd = estimate_usd
        self._same_error_limit = same_error_limit
        self._on_held = on_quota_denied
        self.budget_period = ""  # whose budget ended the run: the day's or the month's, empty for its own
        self._shared_budget_full = False  # a shared budget has no room until something of ours settles
        self.stall_s = stall_s
        self._first_and_last_failure_s: tuple[float, float] | None = (
            None  # first and last failure since the last success
        )
        self._rng = rng or random.Random()
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self.fault_attribution = FaultAttribution(self.lanes, on_breaker, self._rng)
        self._waiter: asyncio.Future[None] | None = None
        self._in_flight_ids: set[int] = set()  # ids of works whose answer is not in
        self._unfinished_ids: set[int] = set()  # ids of works that are not settled
        self._sent_ids: set[int] = set()  # ids of those of them whose headers left
        self.moved_to_fallback: Counter[str] = Counter()  # samples that went on with a fallback, by the lane they left
        self._finished_count = 0  # works that were accounted for
        self._start_numbers = itertools.count(1)
        self._tiebreaker = itertools.count()

    # --- deciding: pure over `now_s`

    def decide(self, now_s: float) -> Decision:
        """What a free worker should do at `now_s`. Changes nothing but the stop reason."""
        if self.external_samples or any(
            lane.waiting for lane in self.lanes.values()
        ):  # what has been done is not cut short
            self._check_limits(now_s)
        lanes = (
            [lane for lane in self.lanes.values() if lane.accepts_work and lane.waiting] if not self.stop_reason else []
        )
        if not lanes:
            if self.external_samples and not self.stop_reason:
                return Wait(self.deadline_s)
            return Wait(None) if self.unfinished else Drained()
        if (
            self._shared_budget_full
            or self.in_flight >= self.concurrency
            or self.unfinished - self.in_flight >= self.max_storing
        ):
            return Wait(None)
        for lane in lanes:
            lane.refill(self._source, now_s)
            if lane.exhausted:
                return GiveUp(lane.key)
        opens = [(lane.earliest_start_s(now_s), lane) for lane in lanes]
        open_now = [lane for earliest_start_s, lane in opens if earliest_start_s <= now_s]
        if not open_now:
            earliest_s = min(
                math.inf if self.deadline_s is None else self.deadline_s,
                *(earliest_start_s for earliest_start_s, _ in opens),
            )
            return Wait(None if earliest_s == math.inf else earliest_s)
        chosen = min(open_now, key=lambda lane: (lane.in_flight, lane.last_start_number))
        if not self._next_is_affordable(chosen):
            if self.unfinished:
                return Wait(None)  # what is in flight may turn out cheaper
            if self.external_samples:
                return Wait(self.deadline_s)  # and so may what is in batches
            self.stop_reason = "budget"
            return Drained()
        return Start(chosen.key)

    def _next_is_affordable(self, lane: Lane) -> bool:
        usd = self._estimate_usd(lane.ready[0].sample)
        return self.budget_usd is None or (usd is not None and self.can_afford(usd * lane.reservation_factor))

    def _check_limits(self, now_s: float) -> None:
        if not self.stop_reason and self.deadline_s is not None and now_s >= self.deadline_s:
            self.stop_reason = "deadline"
        if not self.stop_reason and self._stalled():
            self.stop_reason = "stalled"

    def _stalled(self) -> bool:
        """From failure to failure, so that a wait for a quota, however long, never counts; nor does it stop a lane that
        has not failed."""
        if self.stall_s is None or self._first_and_last_failure_s is None:
            return False
        first_s, last_s = self._first_and_last_failure_s
        at_work = (lane for lane in self.lanes.values() if lane.accepts_work and (lane.waiting or lane.in_flight))
        return last_s - first_s > self.stall_s and all(lane.failing for lane in at_work)

    def can_afford(self, usd: float) -> bool:
        """Whether this run's budget has room for it."""
        return self.budget_usd is None or self.spent_usd + self.reserved_usd + usd <= self.budget_usd + 1e-9

    def adjust_external(self, samples: int, reserved_usd: float = 0.0, spent_usd: float = 0.0) -> None:
        """Samples and money that batches have taken on, or given back where negative."""
        self.external_samples += samples
        self.reserved_usd += reserved_usd
        self.spent_usd += spent_usd
        self._shared_budget_full = False
        self._wake()

    def set_estimator(self, estimate_usd: Callable[[Sample], float | None]) -> None:
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
                    work = await self._start_if_quota_allows(self.lanes[lane_key], now_s)
                    if work is not None:
                        return work
                case GiveUp(lane_key):
                    exhausted = replace(self.lanes[lane_key].exhausted.popleft(), exhausted=True)
                    self.unfinished += 1
                    self._unfinished_ids.add(id(exhausted))
                    return exhausted
                case Wait(until_s):
                    await self._sleep(None if until_s is None else until_s - now_s)
                case Drained():
                    return None

    async def _start_if_quota_allows(self, lane: Lane, now_s: float) -> Work | None:
        """Start if the log of all processes has a place; None when it has not, or when asking took the chance away."""
        if lane.shared_quota is None:
            return await self._start(lane, now_s, None)
        work, finished_before = lane.ready[0], self._finished_count
        rate = None if lane.window is None else lane.window.rate(now_s)
        try:
            answer = await lane.shared_quota.reserve(
                rate, (self._estimate_usd(work.sample) or 0.0) * lane.reservation_factor
            )
        except LedgerError as error:
            self.shared_quota_error = error
            self.stop("disk")
            return None
        now_s = self._clock()
        if not isinstance(answer, Reserved):
            if finished_before == self._finished_count:  # else what has settled meanwhile may have made room: ask again
                self._handle_denial(lane, answer, now_s)
            return None
        # A stop, a cooldown, another lane or a sample that came back may have come first.
        if self.decide(now_s) != Start(lane.key) or lane.ready[0] is not work:
            if answer.quota_slot is not None:
                lane.shared_quota.refund(answer.quota_slot)
            return None
        return await self._start(lane, now_s, answer.quota_slot, answer.used)

    async def poll_shared_state(self) -> None:
        """Until cancelled: what other processes are told by the server closes the lanes here too, waiting or not."""
        while True:
            await asyncio.sleep(SHARED_POLL_S)
            for lane in self.lanes.values():
                if lane.accepts_work and lane.waiting and lane.shared_quota is not None:
                    with contextlib.suppress(LedgerError):  # the next start will say so
                        if (answer := await lane.shared_quota.current_denial()) is not None and lane.accepts_work:
                            self._handle_denial(lane, answer, self._clock())
                            self._wake()

    def _handle_denial(self, lane: Lane, answer: QuotaDenied | BudgetReached, now_s: float) -> None:
        match answer:
            case NotBefore(wait_s, "cooling"):
                is_new = (
                    now_s + wait_s > lane.cooled_until_s + SHARED_POLL_S
                )  # else it is what this process said itself
                lane.cooled_until_s = max(lane.cooled_until_s, now_s + wait_s)
                if is_new:
                    self._on_held(lane.key, answer)
            case NotBefore(wait_s, why):
                if why == "quota":
                    lane.quota_full_until_s = now_s + wait_s
                    return
                lane.spend_full_until_s = now_s + wait_s
                if lane.spend_wait_reported_until_s <= now_s:
                    lane.spend_wait_reported_until_s = lane.spend_full_until_s
                    self._on_held(lane.key, answer)
            case DayUsedUp() | Parked():
                self.park(lane.key)
                self._on_held(lane.key, answer)
            case BudgetReached(period):
                # What is in flight may turn out cheaper. What others have in flight is not waited for.
                if self.unfinished:
                    self._shared_budget_full = True
                else:
                    self.budget_period = period
                    self.stop("budget")

    async def _start(self, lane: Lane, now_s: float, quota_slot: int | None, used_by_all: int = 0) -> Work:
        work = lane.ready.popleft()
        usd = self._estimate_usd(work.sample)
        reserved_usd = (usd or 0.0) * lane.reservation_factor
        self.reserved_usd += reserved_usd
        self.in_flight += 1
        self.unfinished += 1
        lane.in_flight += 1
        lane.last_start_number = next(self._start_numbers)
        used_before = 0 if lane.window is None else lane.window.used(now_s)
        stamp_s = None if lane.window is None else await lane.window.admit(now_s)
        work = replace(
            work,
            stamp_s=stamp_s,
            usd=usd,
            quota_slot=quota_slot,
            used_before=max(used_before, used_by_all),
            reserved_usd=reserved_usd,
            started_s=now_s,
        )
        for breaker in lane.breakers:
            breaker.started()
        lane.unconfirmed[id(work)] = now_s
        self._in_flight_ids.add(id(work))
        self._unfinished_ids.add(id(work))
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

    async def wait_until_counted(self, work: Work) -> None:
        """Returns when all processes can count this start and its money: nothing is sent before."""
        shared_quota = self.lanes[work.lane].shared_quota
        if shared_quota is not None and work.quota_slot is not None:
            await shared_quota.wait_until_visible(work.quota_slot)

    def sent(self, work: Work) -> None:
        """The request's headers left: the quota counts from now."""
        lane = self.lanes[work.lane]
        if lane.window is not None and work.stamp_s is not None:
            lane.window.sent(work.stamp_s, self._clock())
        self._sent_ids.add(id(work))
        if lane.shared_quota is not None and work.quota_slot is not None:
            lane.shared_quota.sent(work.quota_slot)

    def received(self, work: Work) -> None:
        """A good answer is in: its place in flight is free while the picture is still being stored."""
        if id(work) not in self._in_flight_ids:
            return
        self._in_flight_ids.discard(id(work))
        self.in_flight -= 1
        self.lanes[work.lane].in_flight -= 1
        self.lanes[work.lane].unconfirmed.pop(id(work), None)
        self._wake()

    def succeeded(self, work: Work, usd: float | None) -> None:
        """A picture exists. usd: what it cost by usage; None keeps the reservation as spent."""
        lane = self.lanes[work.lane]
        lane.same_errors = ("", set())
        lane.cool_streak = 0
        lane.failing, self._first_and_last_failure_s = False, None
        if usd and work.usd:
            lane.reservation_factor = max(lane.reservation_factor, usd / work.usd)
        self._finish_work(work, work.usd if usd is None else usd)
        self.fault_attribution.served(lane, work, self._clock())
        self._wake()

    def failed(self, work: Work, error: ProviderError, usd: float | None = None) -> RetryDecision:
        """No picture this time. Moves lane and run as the error's class says and answers what becomes of the sample.

        usd: what it cost by the usage that the answer reports; None keeps the reservation if it may have been billed.
        """
        lane, was_sent = self.lanes[work.lane], id(work) in self._sent_ids
        self._finish_work(work, usd if usd is not None else work.usd if error.maybe_billed else 0.0)
        now_s = self._clock()
        lane.failing, self._first_and_last_failure_s = (
            True,
            (self._first_and_last_failure_s[0] if self._first_and_last_failure_s else now_s, now_s),
        )
        error = self.fault_attribution.narrow_scope(lane, error)
        after_failure = Work(work.sample, work.lane, work.retry_state.after(error, now_s), error=error)
        if not self.stop_reason:
            self.fault_attribution.failed(lane, after_failure, error, work.started_s, now_s, was_sent=was_sent)
        retry_decision = self._decide_retry(lane, work, after_failure, error, now_s)
        if isinstance(retry_decision, GivenUp) and not self.stop_reason:
            retry_decision = self._try_fallback(lane, work.sample, error)
        if not lane.accepts_work:
            self._move_out_of_closed_lane(lane)
        self._apply_outage_fallbacks(now_s)
        self._wake()
        return retry_decision

    def _apply_outage_fallbacks(self, now_s: float) -> None:
        """What has a fallback for outages goes on there when its model or host has been down for long."""
        for breaker in self.fault_attribution.open_breakers:
            if breaker.scope != "account" and now_s - breaker.first_failure_s >= OUTAGE_FALLBACK_AFTER_S:
                for lane in self.fault_attribution.lanes_behind(breaker):
                    self._move_to_fallbacks(lane, "outage", self._is_available)

    def gave_up(self, work: Work, error: ProviderError) -> MovedToFallback | GivenUp:
        """A work that came with `over` is not to be sent again in its lane; error: its last."""
        retry_decision = self._try_fallback(self.lanes[work.lane], work.sample, error)
        self.abandoned(work)
        return retry_decision

    # --- fallbacks

    def park(self, key: str) -> None:
        """Nothing more in this lane today."""
        self.lanes[key].parked = True
        self._move_to_fallbacks(self.lanes[key], "quota", self._accepts_work)

    def _try_fallback(self, lane: Lane, sample: Sample, error: ProviderError) -> MovedToFallback | GivenUp:
        other = next_fallback_lane(sample.item, lane.key, fallback_cause(error), self._accepts_work)
        if other is None:
            return GivenUp()
        self._add_to_lane(other, lane, sample)
        return MovedToFallback(other)

    def fallback_lane(self, sample: Sample, error: ProviderError) -> str | None:
        """The lane in which a sample that a batch has failed at goes on; None when nobody else is to make it."""
        item = sample.item
        return next_fallback_lane(item, f"{item.provider}/{item.model}", fallback_cause(error), self._accepts_work)

    def _move_out_of_closed_lane(self, lane: Lane) -> None:
        """Of what waits in a lane that has closed, all that has a fallback goes on there."""
        self._move_to_fallbacks(lane, "quota" if lane.parked else "outage", self._accepts_work)

    def _move_to_fallbacks(self, lane: Lane, cause: str, is_available: Callable[[str], bool]) -> None:
        for work in lane.drain():
            # What may have been billed is not bought from another model as well.
            other = (
                None
                if work.retry_state.maybe_billed_count
                else next_fallback_lane(work.sample.item, lane.key, cause, is_available)
            )
            if other is None:
                lane.ready.append(work)
            else:
                self._add_to_lane(other, lane, work.sample)
        self.moved_to_fallback[lane.key] += self._source.move_to_fallback(lane.key, cause, is_available)
        for key, each in self.lanes.items():
            each.backlog_count = self._source.backlog_count(key)

    def _add_to_lane(self, other: str, origin: Lane, sample: Sample) -> None:
        self.lanes[other].ready.append(Work(sample_for_lane(sample, other), other))
        self.moved_to_fallback[origin.key] += 1

    def _accepts_work(self, key: str) -> bool:
        return key in self.lanes and self.lanes[key].accepts_work

    def _is_available(self, key: str) -> bool:
        return self._accepts_work(key) and not self.lanes[key].is_down

    def cancelled_unsent(self, work: Work) -> None:
        """Not to be sent from here after all, and nothing of it was."""
        self._finish_work(work, 0.0)
        self._wake()

    def clear_lane(self, key: str) -> None:
        """What waits in a lane is somebody else's to make."""
        lane = self.lanes[key]
        lane.drain()
        lane.exhausted.clear()
        lane.backlog_count = 0

    def abandoned(self, work: Work) -> None:
        """Whatever became of it, it is no longer being worked on. Does nothing for work that was settled."""
        if id(work) in self._unfinished_ids:
            self._finish_work(work, None if work.exhausted else work.usd)
            self._wake()

    def _finish_work(self, work: Work, usd: float | None) -> None:
        self.received(work)
        for breaker in self.lanes[work.lane].breakers:
            breaker.ended_without_evidence(work.started_s)  # unless what is known of it says more
        self._unfinished_ids.discard(id(work))
        self.unfinished -= 1
        self.reserved_usd -= work.reserved_usd
        self.spent_usd += usd or 0.0
        self._shared_budget_full = False
        self._finished_count += 1
        for each in self.lanes.values():
            each.spend_full_until_s = 0.0  # it may have cost less than was reserved: ask again
        lane, was_sent = self.lanes[work.lane], id(work) in self._sent_ids
        self._sent_ids.discard(id(work))
        if lane.shared_quota is not None and work.quota_slot is not None:
            if usd or was_sent:
                lane.shared_quota.record_cost(work.quota_slot, usd or 0.0)
            else:
                lane.shared_quota.refund(work.quota_slot)

    def _decide_retry(
        self, lane: Lane, failed_work: Work, after_failure: Work, error: ProviderError, now_s: float
    ) -> RetryDecision:
        if error.scope == "run":
            self.stop(error.reason)
            return self._release(lane, after_failure)
        if isinstance(error, DailyQuotaReached) or (
            isinstance(error, RateLimited) and (error.retry_after_s or 0.0) > LONG_RETRY_HINT_S
        ):
            lane.park(error)  # hours: other lanes go on, and the run ends before them
        elif isinstance(error, RateLimited):
            lane.cool_down(failed_work, error, now_s, self._policy, self._rng)
        elif error.scope == "lane":
            lane.stopped = error.reason
            return GivenUp()
        same_error_count = lane.count_same_error(failed_work.sample.key, error)
        if same_error_count >= (
            FAILED_SAMPLES_TO_OPEN if isinstance(error, ModelUnavailable) else self._same_error_limit
        ):
            lane.stopped = error.reason if isinstance(error, ModelUnavailable) else "breaker"  # no fault of the samples
        if self.stop_reason or not lane.accepts_work:
            is_final = retry_delay_s(error, after_failure.retry_state, self._policy, self._rng) is None
            return GivenUp() if is_final else self._release(lane, after_failure)
        if error.maybe_billed and after_failure.retry_state.maybe_billed_count >= min(
            self._policy.outage, self._policy.attempts
        ):
            return GivenUp()
        open_breakers = [breaker for breaker in lane.breakers if breaker.open and breaker.scope in error.suspects]
        if open_breakers and error.retryable:
            excused = after_failure.retry_state if error.scope == "account" else after_failure.retry_state.excused()
            lane.ready.append(replace(after_failure, retry_state=excused))
            return Requeued(max(0.0, *(breaker.probe_at_s - now_s for breaker in open_breakers)))
        return self._requeue_or_give_up(lane, after_failure, error, now_s)

    def _requeue_or_give_up(self, lane: Lane, work: Work, error: ProviderError, now_s: float) -> RetryDecision:
        delay = retry_delay_s(error, work.retry_state, self._policy, self._rng)
        if delay is not None:
            heapq.heappush(lane.delayed, (now_s + delay, next(self._tiebreaker), work))
            return Requeued(max(delay, lane.cooled_until_s - now_s))
        if error.retryable and not error.maybe_billed and not lane.failures_are_its_own(work):
            lane.undecided.append(work)
            return Requeued(self._policy.cap_s)
        return GivenUp()

    def _release(self, lane: Lane, work: Work) -> Released:
        """Counted as left; the next run takes it."""
        lane.ready.append(work)
        return Released()

    def backlog_grew(self, lane: str) -> None:
        """The backlog has got more for this lane."""
        self.lanes[lane].backlog_count = self._source.backlog_count(lane)
        if not self.lanes[lane].accepts_work:
            self._move_out_of_closed_lane(self.lanes[lane])
        self._wake()

    def stop(self, reason: str) -> None:
        """Start nothing more; what is in flight goes on. The first reason stays."""
        self.stop_reason = self.stop_reason or reason
        self._wake()

    def untried_count(self) -> int:
        """Samples that were wanted and not tried, or sent back."""
        return sum(lane.waiting for lane in self.lanes.values())

    def waiting_samples(self) -> Iterator[Sample]:
        """The same, without what is still in the backlog."""
        return (work.sample for lane in self.lanes.values() for work in lane.waiting_work())
