"""Decides which sample may start and when: lanes under their quotas. The only holder of waiting state."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping

from batchgen.errors import LedgerError, ProviderError
from batchgen.records import Sample
from batchgen.scheduling.blame import FaultAttribution, breakers_by_lane
from batchgen.scheduling.decision import (
    Decision,
    DispatchLimits,
    DispatchObserver,
    DispatchState,
    Drained,
    GiveUp,
    LaneTerms,
    Progress,
    Start,
    Stop,
    Wait,
)
from batchgen.scheduling.lane import Lane, Pending, SampleSource, Ticket
from batchgen.scheduling.retry import GivenUp, MovedToFallback, RetryDecision
from batchgen.scheduling.retry_decision import FallbackRouter, RetryDecider
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import BudgetReached, DayUsedUp, NotBefore, Parked, QuotaDenied, Reserved

SHARED_POLL_S = 0.5  # between two looks at what other processes say about a lane
OUTAGE_FALLBACK_AFTER_S = 60.0  # then samples with a fallback for outages move there


class Dispatcher(DispatchState):
    """Hands out samples that may start, and takes back how they went.

    Deciding is one pure function of the loop's time (`DispatchState.decide`). `take` is the one place that waits, for
    one caller at a time. Among lanes that may start, the one with the fewest requests in flight goes first, so that two
    AI models share the cap and neither waits for the other. A sample in backoff stays in its lane's heap and takes no
    place in flight.

    external_samples: samples that are being worked on in batches or by other workers, and may come back or release
    others. `shared_quota_error`: why the log shared by all processes, which is asked last before a start, could not be
    asked.
    """

    def __init__(
        self,
        lanes: Mapping[str, LaneTerms],
        source: SampleSource,
        limits: DispatchLimits,
        *,
        estimate_usd: Callable[[Sample], float | None] = lambda _: 0.0,
        external_samples: int = 0,
        observer: DispatchObserver | None = None,
        rng: random.Random | None = None,
    ) -> None:
        breakers = breakers_by_lane({key: terms.upstream for key, terms in lanes.items()})
        opened = {
            key: Lane(key, terms.window, breakers[key], terms.shared_quota, source.backlog_count(key), terms.max_jobs)
            for key, terms in lanes.items()
        }
        super().__init__(opened, limits, estimate_usd, external_samples)
        self.fallbacks = FallbackRouter(self.lanes, source)
        self.shared_quota_error: LedgerError | None = None
        self._source = source
        self._observer = observer or DispatchObserver()
        rng = rng or random.Random()
        self._retries = RetryDecider(limits.policy, limits.same_error_limit, rng)
        self.fault_attribution = FaultAttribution(self.lanes, self._observer.breaker_changed, rng)
        self.stopping = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._settled_count = 0
        self._ticket_numbers = itertools.count(1)

    def adjust_external(self, samples: int, reserved_usd: float = 0.0, spent_usd: float = 0.0) -> None:
        """Add samples and money that batches have taken on, or subtract them if negative."""
        self.external_samples += samples
        self.budget.reserved_usd += reserved_usd
        self.budget.spent_usd += spent_usd
        self.shared_budget_full = False
        self._wake()

    # --- taking and giving back

    async def take(self) -> Ticket | None:
        """Wait for the next sample that may start or has to be given up. Returns None if there is nothing more."""
        while True:
            now_s = _now_s()
            match self._refill_and_decide(now_s):
                case Start(lane_key):
                    ticket = await self._start_if_quota_allows(self.lanes[lane_key], now_s)
                    if ticket is not None:
                        return ticket
                case GiveUp(lane_key):
                    pending = self.lanes[lane_key].exhausted.popleft()
                    number = next(self._ticket_numbers)
                    self.progress[number] = Progress(in_flight=False)
                    return Ticket(pending, number, exhausted=True)
                case Wait(until_s):
                    for lane in self.open_lanes() if self.has_room else ():
                        if (wait := lane.unreported_wait(now_s)) is not None:
                            self._observer.lane_waits(lane.key, wait, now_s)
                    await self._sleep(None if until_s is None else until_s - now_s)
                case Stop(reason):
                    self.stop(reason)
                case Drained():
                    return None

    def _refill_and_decide(self, now_s: float) -> Decision:
        for lane in self.open_lanes() if self.has_room else ():
            lane.refill(self._source, now_s)
        return self.decide(now_s)

    async def _start_if_quota_allows(self, lane: Lane, now_s: float) -> Ticket | None:
        """Start a sample if the shared log has a place. Returns None if it has none, or if the chance was gone after
        asking."""
        pending, settled_before = lane.ready[0], self._settled_count
        usd = self.estimate_usd(pending.sample)
        if lane.shared_quota is None:
            return await self._start(lane, now_s, usd, None)
        rate = None if lane.window is None else lane.window.rate(now_s)
        try:
            answer = await lane.shared_quota.reserve(rate, (usd or 0.0) * lane.reservation_factor)
        except LedgerError as error:
            self.shared_quota_error = error
            self.stop(StopReason(StopKind.DISK))
            return None
        now_s = _now_s()
        if not isinstance(answer, Reserved):
            if settled_before == self._settled_count:  # else something settled: ask again
                self._handle_denial(lane, answer, now_s)
            return None
        # A stop, a cooldown, another lane or a sample that came back may have intervened.
        if self._refill_and_decide(now_s) != Start(lane.key) or lane.ready[0] is not pending:
            if answer.quota_slot is not None:
                lane.shared_quota.refund(answer.quota_slot)
            return None
        return await self._start(lane, now_s, usd, answer.quota_slot, answer.used)

    async def poll_shared_state(self) -> None:
        """Close lanes, whether they wait or not, by what the server told other processes. Runs until it is
        cancelled."""
        while True:
            await asyncio.sleep(SHARED_POLL_S)
            for lane in self.lanes.values():
                if lane.accepts_work and lane.waiting and lane.shared_quota is not None:
                    with contextlib.suppress(LedgerError):  # the next start reports it
                        if (answer := await lane.shared_quota.current_denial()) is not None and lane.accepts_work:
                            self._handle_denial(lane, answer, _now_s())
                            self._wake()

    def _handle_denial(self, lane: Lane, answer: QuotaDenied | BudgetReached, now_s: float) -> None:
        match answer:
            case NotBefore(wait_s, "cooling"):
                is_new = now_s + wait_s > lane.cooled_until_s + SHARED_POLL_S  # otherwise this process published it
                lane.cooled_until_s = max(lane.cooled_until_s, now_s + wait_s)
                if is_new:
                    self._observer.quota_denied(lane.key, answer)
            case NotBefore(wait_s, why):
                if why == "quota":
                    lane.quota_full_until_s = now_s + wait_s
                    return
                lane.spend_full_until_s = now_s + wait_s
                if lane.spend_wait_reported_until_s <= now_s:
                    lane.spend_wait_reported_until_s = lane.spend_full_until_s
                    self._observer.quota_denied(lane.key, answer)
            case DayUsedUp() | Parked():
                self.park(lane.key)
                self._observer.quota_denied(lane.key, answer)
            case BudgetReached(period):
                # Requests in flight may turn out cheaper than reserved. Those of other processes are not waited for.
                if self.unfinished:
                    self.shared_budget_full = True
                else:
                    self.stop(StopReason(StopKind.BUDGET, period))

    async def _start(
        self, lane: Lane, now_s: float, usd: float | None, quota_slot: int | None, used_by_all: int = 0
    ) -> Ticket:
        pending = lane.ready.popleft()
        reserved_usd = (usd or 0.0) * lane.reservation_factor
        number = next(self._ticket_numbers)
        self.budget.reserved_usd += reserved_usd
        self.in_flight += 1
        lane.in_flight += 1
        lane.last_start_number = number
        self.progress[number] = Progress(in_flight=True)  # before any waiting
        used_before = 0 if lane.window is None else lane.window.used(now_s)
        stamp_s = None if lane.window is None else await lane.window.admit(now_s)
        for breaker in lane.breakers:
            breaker.started()
        lane.unconfirmed[number] = now_s
        return Ticket(
            pending,
            number,
            stamp_s=stamp_s,
            usd=usd,
            quota_slot=quota_slot,
            used_before=max(used_before, used_by_all),
            reserved_usd=reserved_usd,
            started_s=now_s,
        )

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until something changes, or for `seconds`. One caller at a time."""
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

    async def wait_until_counted(self, ticket: Ticket) -> None:
        """Wait until all processes can count this start and its money: nothing is sent before that."""
        shared_quota = self.lanes[ticket.lane].shared_quota
        if shared_quota is not None and ticket.quota_slot is not None:
            await shared_quota.wait_until_visible(ticket.quota_slot)

    def sent(self, ticket: Ticket) -> None:
        """Count the request from now on: its headers have left."""
        lane = self.lanes[ticket.lane]
        if lane.window is not None and ticket.stamp_s is not None:
            lane.window.sent(ticket.stamp_s, _now_s())
        if ticket.number in self.progress:
            self.progress[ticket.number].sent = True
        if lane.shared_quota is not None and ticket.quota_slot is not None:
            lane.shared_quota.sent(ticket.quota_slot)

    def received(self, ticket: Ticket) -> None:
        """Free a request's place in flight: a good answer has come, and its image is still being stored."""
        progress = self.progress.get(ticket.number)
        if progress is None or not progress.in_flight:
            return
        progress.in_flight = False
        self.in_flight -= 1
        self.lanes[ticket.lane].in_flight -= 1
        self.lanes[ticket.lane].unconfirmed.pop(ticket.number, None)
        self._wake()

    def job_taken(self, ticket: Ticket) -> None:
        """Free a request's place in flight: the API has accepted a job and answers later. Its money stays reserved."""
        self.received(ticket)
        self.progress[ticket.number].is_job = True
        self.lanes[ticket.lane].jobs += 1
        self._wake()

    def resume_job(self, sample: Sample, lane: str, usd: float | None, *, unwanted: bool) -> Ticket:
        """A ticket for a request that an earlier run sent and its API accepted as a job. usd, unwanted: see
        `Ticket`."""
        reserved_usd = (usd or 0.0) * self.lanes[lane].reservation_factor
        pending, number = Pending(sample, lane), next(self._ticket_numbers)
        ticket = Ticket(pending, number, usd=usd, reserved_usd=reserved_usd, started_s=_now_s(), unwanted=unwanted)
        self.budget.reserved_usd += reserved_usd
        self.progress[ticket.number] = Progress(in_flight=False, sent=True, is_job=True)
        self.lanes[lane].jobs += 1
        return ticket

    def job_left(self, ticket: Ticket) -> None:
        """Leave a job at its vendor: the next run asks about it."""
        self.lanes[ticket.lane].left_jobs += 1

    def succeeded(self, ticket: Ticket, usd: float | None) -> None:
        """Settle a ticket that brought an image. usd: its cost by usage; None counts the reservation as spent."""
        lane = self.lanes[ticket.lane]
        lane.same_errors = ("", set())
        lane.cool_streak = 0
        lane.failing, self.first_and_last_failure_s = False, None
        if usd and ticket.usd:
            lane.reservation_factor = max(lane.reservation_factor, usd / ticket.usd)
        self._settle(ticket, ticket.usd if usd is None else usd)
        self.fault_attribution.served(lane, ticket.started_s, _now_s())
        self._wake()

    def failed(self, ticket: Ticket, error: ProviderError, usd: float | None = None) -> RetryDecision:
        """Settle a ticket that brought no image. Changes the state of its lane and run by the error's class, and
        returns what happens to the sample.

        usd: its cost by the usage in the answer; None keeps the reservation if it may have been billed.
        """
        lane = self.lanes[ticket.lane]
        was_sent = self._settle(ticket, usd if usd is not None else ticket.usd if error.maybe_billed else 0.0)
        now_s = _now_s()
        first_s = self.first_and_last_failure_s[0] if self.first_and_last_failure_s else now_s
        lane.failing, self.first_and_last_failure_s = True, (first_s, now_s)
        error = self.fault_attribution.narrow_scope(lane, error)
        pending = Pending(ticket.sample, ticket.lane, ticket.retry_state.after(error, now_s), error=error)
        if not self.stop_reason:
            self.fault_attribution.failed(lane, pending, error, ticket.started_s, now_s, was_sent=was_sent)
        if error.scope == "run":
            self.stop(StopReason(StopKind.ERROR, error.reason, error.message))
        stopping = bool(self.stop_reason)
        retry_decision = self._retries.decide(lane, ticket, pending, error, now_s, stopping=stopping)
        if isinstance(retry_decision, GivenUp) and not self.stop_reason and not ticket.unwanted:
            retry_decision = self.fallbacks.move_one(lane, ticket.sample, error)
        if not lane.accepts_work:
            self.fallbacks.empty_closed(lane)
        self._apply_outage_fallbacks(now_s)
        self._wake()
        return retry_decision

    def _apply_outage_fallbacks(self, now_s: float) -> None:
        """Move samples with a fallback for outages there if their model or host has been down for long."""
        for breaker in self.fault_attribution.open_breakers:
            if breaker.scope != "account" and now_s - breaker.first_failure_s >= OUTAGE_FALLBACK_AFTER_S:
                for lane in self.fault_attribution.lanes_behind(breaker):
                    self.fallbacks.move_all(lane, "outage", self.fallbacks.is_available)

    def gave_up(self, ticket: Ticket, error: ProviderError) -> MovedToFallback | GivenUp:
        """Settle an exhausted ticket, which is not sent again in its lane. error: its last."""
        retry_decision = self.fallbacks.move_one(self.lanes[ticket.lane], ticket.sample, error)
        self.abandoned(ticket)
        return retry_decision

    def park(self, key: str) -> None:
        """Start nothing more in this lane today."""
        self.lanes[key].parked = True
        self.fallbacks.empty_closed(self.lanes[key])

    def cancelled_unsent(self, ticket: Ticket) -> None:
        """Take back a ticket that is not to be sent by this process after all. Nothing of it was sent."""
        self._settle(ticket, 0.0)
        self._wake()

    def clear_lane(self, key: str) -> None:
        """Drop what waits in a lane: another worker makes it."""
        lane = self.lanes[key]
        lane.drain()
        lane.exhausted.clear()
        lane.backlog_count = 0

    def abandoned(self, ticket: Ticket) -> None:
        """Stop working on a ticket, however it went. Does nothing for a ticket that is settled."""
        if ticket.number in self.progress:
            self._settle(ticket, None if ticket.exhausted else ticket.usd)
            self._wake()

    def _settle(self, ticket: Ticket, usd: float | None) -> bool:
        """Give back what a ticket held. Returns whether its request had left."""
        self.received(ticket)
        lane = self.lanes[ticket.lane]
        for breaker in lane.breakers:
            breaker.ended_without_evidence(ticket.started_s)  # unless more is learnt about it below
        progress = self.progress.pop(ticket.number, None)
        lane.jobs -= progress is not None and progress.is_job
        was_sent = progress is not None and progress.sent
        self.budget.settle(ticket.reserved_usd, usd or 0.0)
        self.shared_budget_full = False
        self._settled_count += 1
        for each in self.lanes.values():
            each.spend_full_until_s = 0.0  # it may have cost less than was reserved: ask again
        if lane.shared_quota is not None and ticket.quota_slot is not None:
            if usd or was_sent:
                lane.shared_quota.record_cost(ticket.quota_slot, usd or 0.0)
            else:
                lane.shared_quota.refund(ticket.quota_slot)
        return was_sent

    def add(self, lane: str, sample: Sample) -> None:
        """Add a request that was not planned, behind what is ready in its lane."""
        self.lanes[lane].ready.append(Pending(sample, lane))
        self._wake()

    def backlog_grew(self, lane: str) -> None:
        """Note that the backlog has more samples for this lane."""
        self.lanes[lane].backlog_count = self._source.backlog_count(lane)
        if not self.lanes[lane].accepts_work:
            self.fallbacks.empty_closed(self.lanes[lane])
        self._wake()

    def stop(self, reason: StopReason) -> None:
        """Start nothing more; what is in flight goes on. The first reason is kept."""
        self.stop_reason = self.stop_reason or reason
        self.stopping.set()
        self._wake()

    def untried_count(self) -> int:
        return sum(lane.waiting for lane in self.lanes.values())

    def waiting_samples(self) -> Iterator[Sample]:
        """The samples that were wanted and not tried, or sent back, without those still in the backlog."""
        return (pending.sample for lane in self.lanes.values() for pending in lane.waiting_samples())


def _now_s() -> float:
    return asyncio.get_running_loop().time()
