"""The online way of an attempt, in four steps that other engines take one by one: prepare, begin, exchange, settle.

`prepare.prepare` makes the request, `attempts.Attempts` records its intent and later its end, `exchange.Exchange` sends
and receives. What is here alone decides: which tier, what becomes of a sample after an error, and what stops the run.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

from batchgen.engine.attempts import Attempts, Emit
from batchgen.engine.conversation import keep_turn
from batchgen.engine.http_attempt import Exchange, Flight
from batchgen.engine.lane_events import lane_events, lane_state
from batchgen.engine.prepare import Prepared, as_sent, prepare
from batchgen.engine.recovery.interrupted import whole_pictures
from batchgen.engine.recovery.replay import request_facts
from batchgen.engine.reference_inputs import Enclosures
from batchgen.engine.routes import Route, lane_key
from batchgen.engine.settle import Stored, discard, our_bugs
from batchgen.errors import (
    BatchgenError,
    ConnectFailed,
    Fenced,
    FileGone,
    HeldUncertain,
    LedgerError,
    LedgerGone,
    Malformed,
    NoImage,
    ProviderError,
    StoreError,
    Unanswered,
    Unreadable,
)
from batchgen.events import LaneCooled, LaneParked, Noted, Stopping
from batchgen.http.transport import Answer
from batchgen.ledger.ledger import Ledger
from batchgen.profiles.price import estimate_usd, lost_usd
from batchgen.providers.google_errors import tier_refusal
from batchgen.records import Reply, Sample
from batchgen.scheduling.dispatcher import Dispatch, GivenUp, PassedOn, Requeued, Settlement, Work
from batchgen.store.spool import SpoolFile, disk_error
from batchgen.store.store import Store
from batchgen.store.unparsed import keep

T = TypeVar("T")


class Execution:
    """Carries out what dispatch gives out. Every engine calls `execute`; only how a sample reaches it differs."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        routes: Mapping[str, Route],
        ledger: Ledger,
        store: Store,
        attempts: Attempts,
        exchange: Exchange,
        enclosures: Enclosures,
        executor: Executor,
        emit: Emit,
        hold_uncertain: bool = False,
    ) -> None:
        self.dispatch = dispatch
        self._routes = routes
        self._ledger = ledger
        self._store = store
        self._attempts = attempts
        self._exchange = exchange
        self._enclosures = enclosures
        self._executor = executor
        self._emit = emit
        self._hold_uncertain = hold_uncertain
        self.exposed_ms = array("d")  # of each answer: from its last byte to its durable record
        self.fault: StoreError | LedgerError | None = None
        self._whereabouts: list[str] = []
        self._tiers_gone: set[tuple[str, str]] = set()  # lane and service tier that this key or model does not have
        loop = asyncio.get_running_loop()
        store.rescue.tell = lambda error: _soon(loop, self.refused, error)

    @property
    def trouble(self) -> str:
        """What disk or ledger refused, and where each picture lies that it concerns; empty when all went well."""
        return "; ".join([str(self.fault), *self._whereabouts]) if self.fault else ""

    def estimate_usd(self, sample: Sample) -> float | None:
        return estimate_usd(self._routes[lane_key(sample.item.provider, sample.item.model)].profile, sample)

    def reserve_usd(self, sample: Sample) -> float | None:
        """What a budget must have room for: the cheaper service tier may be refused, and the standard one serve."""
        usd = self.estimate_usd(sample)
        if usd is None or sample.item.service_tier != "flex":
            return usd
        return self.estimate_usd(replace(sample, item=replace(sample.item, service_tier="standard")))

    def give_up_preparing(self) -> None:
        """What is still being fetched or uploaded for a request is not wanted any more; nothing of it was sent."""
        self._enclosures.give_up()

    def cancel_in_flight(self) -> None:
        """Give up waiting for answers; what is already being stored goes on."""
        self._exchange.cancel()

    async def execute(self, work: Work) -> None:
        """Never raises for what can happen to a request; a disk or ledger that refuses stops the run. Raises Fenced when the
        ledger says that the sample is another's by now."""
        try:
            await self._attempt(work)
        except Fenced:
            self.dispatch.dropped(work)
            raise
        except (StoreError, LedgerError) as error:
            self.refused(error)
        except OSError as error:
            self.refused(disk_error(error, self._store.root))
        finally:
            self.dispatch.abandoned(work)  # a no-op for what was settled

    async def _attempt(self, work: Work) -> None:
        if work.over and work.error is not None:
            await self._give_up(work, work.error)
            return
        sample, route = self._at_its_tier(work), self._routes[work.lane]
        asked, sent_as = as_sent(work.sample, sample, work.tries)
        number = 1 + work.tries.requests
        prepared: Prepared | ProviderError
        try:
            prepared = await prepare(asked, route, self._enclosures)
        except asyncio.CancelledError:
            self.dispatch.failed(work, ConnectFailed("the run is stopping, and nothing was sent"))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return
        except ProviderError as error:
            prepared = error
        attempt = await self._attempts.begin(sample, work.lane, number, self.estimate_usd(sample), sent_as)
        if isinstance(prepared, ProviderError):
            await self._ended(work, sample, attempt, prepared, None)
            return
        await self.dispatch.counted(work)
        await self._exchanged(work, sample, Flight(attempt), prepared)

    async def _exchanged(self, work: Work, sample: Sample, flight: Flight, prepared: Prepared) -> None:
        route = self._routes[work.lane]
        try:
            answer = await self._exchange.send(
                flight,
                route,
                prepared.take(),
                on_sent=lambda: self.dispatch.sent(work),
                signatures=sample.item.turn > 0,
            )
            if 200 <= answer.status < 300:
                self.dispatch.received(work)  # a bad answer keeps its place in flight until dispatch has heard why
            reply, stored = await self._in_thread(lambda: self._read(route, sample, flight, answer))
            received_s: float | None = answer.received_s
            if stored is None:
                received_s = None  # what was received is a link, durable by now
                reply = await self._exchange.download(flight, reply, route)
                stored = await self._in_thread(lambda: self._settle(route, sample, flight, reply))
        except ProviderError as error:
            await self._no_picture(work, sample, flight, prepared, error)
            return
        except (StoreError, LedgerError, OSError) as error:
            if not (isinstance(error, LedgerGone) and error.kept):  # else it stands under its name
                await self._in_thread(lambda: self._say_where(sample, flight.attempt))
            raise
        exposed_ms = None if received_s is None else (stored.recorded_s - received_s) * 1000
        usd, sent_at = stored.usd, flight.sent_at or time.time()
        await self._attempts.succeeded(
            sample,
            flight.attempt,
            reply,
            stored,
            sent_at=sent_at,
            exposed_ms=exposed_ms,
            account=lambda: self.dispatch.succeeded(work, usd),
        )
        if exposed_ms is not None:
            self.exposed_ms.append(exposed_ms)

    def _at_its_tier(self, work: Work) -> Sample:
        """The sample at the standard service tier once its own was refused."""
        item = work.sample.item
        if item.service_tier in (None, "standard"):
            return work.sample
        if work.tries.spent.get("tier") or (work.lane, item.service_tier) in self._tiers_gone:
            return replace(work.sample, item=replace(item, service_tier="standard"))
        return work.sample

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _read(self, route: Route, sample: Sample, flight: Flight, answer: Answer) -> tuple[Reply, Stored | None]:
        """Decode, read and settle, in one visit to a thread. An answer with links is not settled yet: they are durable
        before this returns, so that a crash fetches instead of generating."""
        with our_bugs(BatchgenError, OSError, kept=False):
            envelope = answer.envelope()
        with our_bugs(ProviderError):
            reply = route.codec.read(answer.status, answer.headers, envelope)
            links = reply.links
        if sample.item.turn:
            with our_bugs(ProviderError, StoreError, OSError):
                keep_turn(self._store, route.codec, flight.attempt, envelope, [file.path for file in flight.spooled])
        if links:
            with our_bugs(StoreError, OSError):
                reply = self._exchange.arrange(flight, reply)
            self._ledger.links_received(flight.attempt, reply, request_facts(sample))
            return reply, None
        return reply, self._settle(route, sample, flight, reply)

    def _settle(self, route: Route, sample: Sample, flight: Flight, reply: Reply) -> Stored:
        return self._attempts.settle(
            route.profile, flight.attempt, sample, reply, flight.spooled, flight.sent_at, self.estimate_usd(sample)
        )

    # --- how it ended

    async def _no_picture(
        self, work: Work, sample: Sample, flight: Flight, prepared: Prepared, error: ProviderError
    ) -> None:
        if isinstance(error, FileGone):
            await self._enclosures.forget(prepared.inputs, error)
        answer, spooled = flight.answer, flight.spooled
        if answer is not None and answer.decoded and worth_keeping(error, answer.status, spooled):
            facts = (answer.status, answer.plain_headers(), answer.envelope())
            await self._in_thread(lambda: keep(self._store, flight.attempt, facts, spooled, request_facts(sample)))
        else:
            discard(spooled)
        await self._ended(work, sample, flight.attempt, error, flight.sent_at)

    async def _ended(
        self, work: Work, sample: Sample, attempt: int, error: ProviderError, sent_at: float | None
    ) -> None:
        """No picture: let dispatch decide, then record, then tell. sample: as it was asked for."""
        if isinstance(error, Unanswered) and sent_at is None:
            error = ConnectFailed("the run was interrupted before the request had left")
        if isinstance(error, Unanswered) and (self._hold_uncertain or error.reason == "interrupted"):
            error = HeldUncertain(error.message, reason=error.reason)
        if (refused := tier_refusal(error, sample.item.service_tier)) is not None:
            error = refused
            if refused.for_good and sample.item.service_tier:
                self._tiers_gone.add((work.lane, sample.item.service_tier))
        before, profile = lane_state(self.dispatch, work.lane), self._routes[work.lane].profile
        pictures = sample.images if error.maybe_billed else 0
        cost = lost_usd(profile, error.usage, pictures, tier=sample.item.service_tier)
        settlement = self.dispatch.failed(work, error, cost[0])
        ended = isinstance(settlement, GivenUp)
        state = error.outcome if ended or isinstance(error, Unanswered) else "wanted"
        await self._attempts.failed(
            sample,
            attempt,
            error,
            sent_at=sent_at,
            state=state,
            cost=cost,
            retry_in_s=_retry_in_s(settlement),
        )
        now, now_s = time.time(), asyncio.get_running_loop().time()
        self._tell_passed_on(sample, settlement)
        for event in lane_events(self.dispatch, before, profile.id, error, now=now, now_s=now_s):
            if isinstance(event, LaneParked):
                self._ledger.parked(work.lane, event.until, event.message)
            elif isinstance(event, LaneCooled):
                self._ledger.cooled(work.lane, event.at + event.seconds)
            self._emit(event)
        if ended:
            await self._attempts.given_up(sample, error, state)

    async def _give_up(self, work: Work, error: ProviderError) -> None:
        """Its last failure is recorded already; only now is it known to have been its own."""
        settlement = self.dispatch.gave_up(work, error)
        self._tell_passed_on(work.sample, settlement)
        if isinstance(settlement, GivenUp):
            await self._ledger.sample_failed(work.sample, error)
            await self._attempts.given_up(work.sample, error, error.outcome)

    def _tell_passed_on(self, sample: Sample, settlement: Settlement) -> None:
        if isinstance(settlement, PassedOn):
            model = settlement.lane.partition("/")[2]
            self._emit(Noted(at=time.time(), message=f"{sample.key} goes on with {model}"))

    def _say_where(self, sample: Sample, attempt: int) -> None:
        """After a write that failed: which picture lies where, or is lost. Whatever is whole is taken up by the next run."""
        try:
            paths = [path for _, path in self._store.rescue.stranded(attempt, 0.0)]
            paths += [self._store.spooled(name) for name, _ in whole_pictures(self._store, attempt)]
        except OSError:
            paths = []
        words = (
            "is lost and was probably billed"
            if self._store.rescue.folder_stands()
            else "was in the job folder, which is gone"
        )
        if paths:
            words = f"lies in {', '.join(paths)}: the next run takes it up"
        self._whereabouts.append(f"the picture of {sample.key} {words}")

    def refused(self, error: StoreError | LedgerError) -> None:
        if self.fault is None or (isinstance(error, LedgerGone) and not isinstance(self.fault, LedgerGone)):
            self.fault = error  # that its folder has gone says more than what could not be written there
        self.stop("disk", str(error))

    def stop(self, reason: str, message: str) -> None:
        if not self.dispatch.stopping:
            self._emit(Stopping(at=time.time(), reason=reason, message=message, in_flight=self.dispatch.in_flight))
        self.dispatch.stop(reason)


def _retry_in_s(settlement: Settlement) -> float | None:
    match settlement:
        case Requeued(delay_s):
            return delay_s
        case PassedOn():
            return 0.0
    return None


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[StoreError], None], error: StoreError) -> None:
    loop.call_soon_threadsafe(call, error)


def worth_keeping(error: ProviderError, status: int, spooled: Sequence[SpoolFile]) -> bool:
    """Paid for, and perhaps a picture to other eyes than ours: unreadable, or said to hold none though long data came."""
    if not 200 <= status < 300:
        return False
    return isinstance(error, Malformed | Unreadable) or (isinstance(error, NoImage) and bool(spooled))
