"""Records what happens to a sample whose request failed: the dispatcher decides, the ledger records it, and observers
hear about the sample and about what changed for its lane or the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.errors import BatchLostMaybeBilled, ConnectFailed, HeldUncertain, ProviderError, Unanswered
from batchgen.events import Event, LaneCooled, LaneParked, LaneStopped, Notice, Stopping
from batchgen.profiles.price import cost_without_picture_usd
from batchgen.providers.server_faults import tier_refusal
from batchgen.records import Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.retry import GivenUp, MovedToFallback, Requeued, RetryDecision
from batchgen.scheduling.stop_reason import StopKind
from batchgen.scheduling.window import daily_quota_reset

GivenUpRecorder = Callable[[Sample, ProviderError, str], Awaitable[None]]


class FailureRecorder:
    """Records failed requests. hold_uncertain: a request that may have been billed is not repeated. given_up: called if
    no further attempt follows, by default `AttemptRecorder.given_up`."""

    def __init__(
        self,
        context: RunContext,
        dispatcher: Dispatcher,
        attempts: AttemptRecorder,
        *,
        hold_uncertain: bool,
        given_up: GivenUpRecorder | None = None,
    ) -> None:
        self._routes = context.routes
        self._ledger = context.ledger
        self._emit = context.emit
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._hold_uncertain = hold_uncertain
        self._given_up = given_up or attempts.given_up
        self._refused_tiers: set[tuple[str, str]] = set()  # lane and tier that this key or model does not have

    def with_allowed_tier(self, ticket: Ticket) -> tuple[Sample, str]:
        """The sample at the standard service tier if its own was refused, and the reason in words, empty if it keeps
        its own. A tier that was chosen to save money is also given up if it would be late, or if a fallback model does
        not have it."""
        item, tier = ticket.sample.item, ticket.sample.item.service_tier
        if tier is None or tier == "standard":
            return ticket.sample, ""
        if ticket.retry_state.spent.get("tier") or (ticket.lane, tier) in self._refused_tiers:
            why = "was refused"
        elif item.tier_until is None:
            return ticket.sample, ""
        elif not self._routes[ticket.lane].profile.offers_tier(tier):
            why = "is not offered"
        elif time.time() > item.tier_until:
            why = "would be late"
        else:
            return ticket.sample, ""
        return replace(ticket.sample, item=replace(item, service_tier="standard")), f"{tier} {why}"

    async def record(
        self, ticket: Ticket, sample: Sample, attempt: int, error: ProviderError, sent_at: float | None
    ) -> None:
        """Let the dispatcher decide about a request that brought no image, then record it and tell observers. sample:
        as it was requested."""
        error, tier = self._classify(error, sent_at), sample.item.service_tier
        if (refusal := tier_refusal(error, tier)) is not None:
            error = refusal
            if refusal.permanent and tier:
                self._refused_tiers.add((ticket.lane, tier))
        before, profile = _lane_state(self._dispatcher, ticket.lane), self._routes[ticket.lane].profile
        pictures = sample.images if error.maybe_billed else 0
        cost = cost_without_picture_usd(profile, error.usage, pictures, tier=tier)
        retry_decision = self._dispatcher.failed(ticket, error, cost[0])
        ended = isinstance(retry_decision, GivenUp)
        state = error.outcome if ended or isinstance(error, Unanswered) else "wanted"
        retry_in_s = _retry_in_s(retry_decision)
        await self._attempts.failed(
            sample, attempt, error, sent_at=sent_at, state=state, cost=cost, retry_in_s=retry_in_s
        )
        self._report(sample, retry_decision, before, profile.id, error)
        if ended:
            await self._given_up(sample, error, state)

    def _classify(self, error: ProviderError, sent_at: float | None) -> ProviderError:
        """The error of an answer that did not come, by whether anything had left and whether the request may be
        repeated."""
        if isinstance(error, Unanswered) and sent_at is None:
            error = ConnectFailed("the run was interrupted before the request had left")
        if isinstance(error, Unanswered | BatchLostMaybeBilled) and (
            self._hold_uncertain or error.reason == "interrupted"
        ):
            return HeldUncertain(error.message, reason=error.reason)
        return error

    def _report(
        self, sample: Sample, retry_decision: RetryDecision, before: LaneState, model: str, error: ProviderError
    ) -> None:
        now, now_s = time.time(), asyncio.get_running_loop().time()
        self._report_fallback(sample, retry_decision)
        for event in _lane_events(self._dispatcher, before, model, error, now=now, now_s=now_s):
            if isinstance(event, LaneParked):
                self._ledger.park(before.key, event.until, event.message)
            elif isinstance(event, LaneCooled):
                self._ledger.record_cooling(before.key, event.at + event.seconds)
            self._emit(event)

    async def give_up(self, ticket: Ticket, error: ProviderError) -> None:
        """Give a sample up. Its last failure is recorded already, but only now is it known that the sample itself was
        to blame."""
        retry_decision = self._dispatcher.gave_up(ticket, error)
        self._report_fallback(ticket.sample, retry_decision)
        if isinstance(retry_decision, GivenUp):
            await self._ledger.sample_failed(ticket.sample, error)
            await self._given_up(ticket.sample, error, error.outcome)

    def _report_fallback(self, sample: Sample, retry_decision: RetryDecision) -> None:
        if isinstance(retry_decision, MovedToFallback):
            model = retry_decision.lane.partition("/")[2]
            self._emit(Notice(at=time.time(), message=f"{sample.key} goes on with {model}"))


def _retry_in_s(retry_decision: RetryDecision) -> float | None:
    match retry_decision:
        case Requeued(delay_s):
            return delay_s
        case MovedToFallback():
            return 0.0
    return None


@dataclass(frozen=True, slots=True)
class LaneState:
    """The state of a lane and the run before the dispatcher learns of a failure. cooled_until_s: loop seconds."""

    key: str
    accepts_work: bool
    cooled_until_s: float
    stopping: bool


def _lane_state(dispatcher: Dispatcher, key: str) -> LaneState:
    lane = dispatcher.lanes[key]
    return LaneState(key, lane.accepts_work, lane.cooled_until_s, dispatcher.stop_reason is not None)


def _lane_events(
    dispatcher: Dispatcher, before: LaneState, model: str, error: ProviderError, *, now: float, now_s: float
) -> Iterator[Event]:
    """The events for what has changed since `before`. now: UTC seconds; now_s: loop seconds."""
    lane = dispatcher.lanes[before.key]
    closed = before.accepts_work and not lane.accepts_work
    if closed and lane.parked:
        yield LaneParked(at=now, model=model, until=daily_quota_reset(now, error.retry_after_s), message=error.message)
    elif closed:
        yield LaneStopped(at=now, model=model, reason=lane.stopped, message=error.message, left=lane.waiting)
    if closed and (number := dispatcher.fallbacks.moved[before.key]):
        yield Notice(at=now, message=f"{number:,} request(s) meant for {model} go on with their fallbacks")
    elif lane.cooled_until_s > before.cooled_until_s and lane.cooled_until_s > now_s:
        rpm = None if lane.window is None else float(lane.window.rate(now_s))
        yield LaneCooled(at=now, model=model, seconds=lane.cooled_until_s - now_s, reason=error.reason, rpm=rpm)
    stop = dispatcher.stop_reason
    if stop is not None and stop.kind is StopKind.ERROR and not before.stopping:
        yield Stopping(at=now, reason=stop.slug, message=stop.message, in_flight=dispatcher.in_flight)
