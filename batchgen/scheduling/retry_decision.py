"""Decides what happens to a sample whose request failed, and to its lane, by the error's class, what was tried and what
is down, and in which other lane the sample continues."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from batchgen.errors import DailyQuotaReached, ModelUnavailable, ProviderError, RateLimited
from batchgen.records import Sample
from batchgen.scheduling.breaker import FAILED_SAMPLES_TO_OPEN
from batchgen.scheduling.fallback import fallback_cause, next_fallback_lane, sample_for_lane
from batchgen.scheduling.lane import Lane, Pending, SampleSource, Ticket
from batchgen.scheduling.retry import (
    GivenUp,
    MovedToFallback,
    Released,
    Requeued,
    RetryDecision,
    RetryPolicy,
    retry_delay_s,
)
from batchgen.scheduling.window import LONG_RETRY_HINT_S


class RetryDecider:
    """Decides after failures. same_error_limit: a lane stops when this many different samples in a row get the same
    4xx."""

    def __init__(self, policy: RetryPolicy, same_error_limit: int, rng: random.Random) -> None:
        self._policy = policy
        self._same_error_limit = same_error_limit
        self._rng = rng
        self._tiebreaker = itertools.count()

    def decide(
        self, lane: Lane, failed: Ticket, pending: Pending, error: ProviderError, now_s: float, *, stopping: bool
    ) -> RetryDecision:
        """Decide about a failed request. pending: the sample as it would wait for its next request."""
        if failed.unwanted:
            return GivenUp()
        if error.scope == "run":
            return self._release(lane, pending)
        if isinstance(error, DailyQuotaReached) or (
            isinstance(error, RateLimited) and (error.retry_after_s or 0.0) > LONG_RETRY_HINT_S
        ):
            lane.park(error)  # for hours: other lanes go on, and the run ends before that
        elif isinstance(error, RateLimited):
            lane.cool_down(failed, error, now_s, self._policy, self._rng)
        elif error.scope == "lane":
            lane.stopped = error.reason
            return GivenUp()
        model_is_gone = isinstance(error, ModelUnavailable)
        same_error_limit = FAILED_SAMPLES_TO_OPEN if model_is_gone else self._same_error_limit
        if lane.count_same_error(failed.sample.key, error) >= same_error_limit:
            lane.stopped = error.reason if model_is_gone else "breaker"  # not the samples' fault
        if stopping or not lane.accepts_work:
            is_final = retry_delay_s(error, pending.retry_state, self._policy, self._rng) is None
            return GivenUp() if is_final else self._release(lane, pending)
        most_billed = min(self._policy.outage, self._policy.attempts)
        if error.maybe_billed and pending.retry_state.maybe_billed_count >= most_billed:
            return GivenUp()
        open_breakers = [breaker for breaker in lane.breakers if breaker.open and breaker.scope in error.suspects]
        if open_breakers and error.retryable:
            excused = pending.retry_state if error.scope == "account" else pending.retry_state.excused()
            lane.ready.append(replace(pending, retry_state=excused))
            return Requeued(max(0.0, *(breaker.probe_at_s - now_s for breaker in open_breakers)))
        return self._requeue_or_give_up(lane, pending, error, now_s)

    def _requeue_or_give_up(self, lane: Lane, pending: Pending, error: ProviderError, now_s: float) -> RetryDecision:
        delay = retry_delay_s(error, pending.retry_state, self._policy, self._rng)
        if delay is not None:
            heapq.heappush(lane.delayed, (now_s + delay, next(self._tiebreaker), pending))
            return Requeued(max(delay, lane.cooled_until_s - now_s))
        if error.retryable and not error.maybe_billed and not lane.failures_are_its_own(pending):
            lane.undecided.append(pending)
            return Requeued(self._policy.cap_s)
        return GivenUp()

    def _release(self, lane: Lane, pending: Pending) -> Released:
        """Release a sample: it counts as left, and the next run takes it."""
        lane.ready.append(pending)
        return Released()


class FallbackRouter:
    """Moves samples whose lane cannot serve them to the lanes that the manifest names for that cause.

    moved: samples that continued with a fallback, by the lane they left.
    """

    def __init__(self, lanes: Mapping[str, Lane], source: SampleSource) -> None:
        self.moved: Counter[str] = Counter()
        self._lanes = lanes
        self._source = source

    def accepts_work(self, key: str) -> bool:
        return key in self._lanes and self._lanes[key].accepts_work

    def is_available(self, key: str) -> bool:
        return self.accepts_work(key) and not self._lanes[key].is_down

    def lane_for(self, sample: Sample, error: ProviderError) -> str | None:
        """The lane for a sample that a batch failed at, None if no other lane should make it."""
        item = sample.item
        return next_fallback_lane(item, f"{item.provider}/{item.model}", fallback_cause(error), self.accepts_work)

    def move_one(self, lane: Lane, sample: Sample, error: ProviderError) -> MovedToFallback | GivenUp:
        other = next_fallback_lane(sample.item, lane.key, fallback_cause(error), self.accepts_work)
        if other is None:
            return GivenUp()
        self._add(other, lane, sample)
        return MovedToFallback(other)

    def empty_closed(self, lane: Lane) -> None:
        """Move everything with a fallback out of a lane that has closed."""
        self.move_all(lane, "quota" if lane.parked else "outage", self.accepts_work)

    def move_all(self, lane: Lane, cause: str, is_available: Callable[[str], bool]) -> None:
        for pending in lane.drain():
            # What may have been billed is not bought from another model as well.
            billed = pending.retry_state.maybe_billed_count > 0
            other = None if billed else next_fallback_lane(pending.sample.item, lane.key, cause, is_available)
            if other is None:
                lane.ready.append(pending)
            else:
                self._add(other, lane, pending.sample)
        self.moved[lane.key] += self._source.move_to_fallback(lane.key, cause, is_available)
        for key, each in self._lanes.items():
            each.backlog_count = self._source.backlog_count(key)

    def _add(self, other: str, origin: Lane, sample: Sample) -> None:
        self._lanes[other].ready.append(Pending(sample_for_lane(sample, other), other))
        self.moved[origin.key] += 1
