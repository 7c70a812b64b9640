"""The online way of an attempt, in four steps that other engines take one by one: prepare, begin, exchange, settle.

`prepare.prepare` makes the request, `attempts.AttemptRecorder` records its intent and later its end, `exchange.Exchange` sends
and receives. What is here alone decides: which tier, what becomes of a sample after an error, and what stops the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace

from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.engine.conversation import save_turn
from batchgen.engine.http_attempt import Exchange, InFlight
from batchgen.engine.lane_events import lane_events, lane_state
from batchgen.engine.prepare import PreparedRequest, adjust_after_tries, prepare
from batchgen.engine.recovery.open_attempts import complete_images
from batchgen.engine.recovery.replay import request_facts
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.routes import Route, estimated_usd
from batchgen.engine.settle import SettledReply, bugs_as_unreadable
from batchgen.engine.spooled_reply import discard_files
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
from batchgen.events import LaneCooled, LaneParked, Notice, Stopping
from batchgen.http.answer import HttpAnswer
from batchgen.profiles.price import cost_without_picture_usd
from batchgen.providers.server_faults import tier_refusal
from batchgen.records import Reply, Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.scheduling.retry import GivenUp, MovedToFallback, Requeued, RetryDecision
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.store.spool import SpoolFile, disk_error
from batchgen.store.unparsed import save_answer


class Execution:
    """Carries out what dispatch gives out. Every engine calls `execute`; only how a sample reaches it differs."""

    def __init__(
        self,
        context: RunContext,
        dispatcher: Dispatcher,
        attempts: AttemptRecorder,
        reference_inputs: ReferenceInputs,
        *,
        hold_uncertain: bool = False,
    ) -> None:
        self.dispatcher = dispatcher
        self.exchange = Exchange(context.transport, context.store)
        self._context = context
        self._routes = context.routes
        self._ledger = context.ledger
        self._store = context.store
        self._emit = context.emit
        self._attempts = attempts
        self._reference_inputs = reference_inputs
        self._hold_uncertain = hold_uncertain
        self.exposed_ms = array("d")  # of each answer: from its last byte to its durable record
        self.storage_error: StoreError | LedgerError | None = None
        self._picture_locations: list[str] = []
        self._refused_tiers: set[tuple[str, str]] = set()  # lane and service tier that this key or model does not have
        loop = asyncio.get_running_loop()
        context.store.emergency_spool.first_trouble.add_done_callback(
            lambda trouble: _call_threadsafe(loop, self.storage_failed, trouble.result())
        )

    @property
    def storage_message(self) -> str:
        """What disk or ledger refused, and where each picture lies that it concerns; empty when all went well."""
        return "; ".join([str(self.storage_error), *self._picture_locations]) if self.storage_error else ""

    def give_up_preparing(self) -> None:
        """What is still being fetched or uploaded for a request is not wanted any more; nothing of it was sent."""
        self._reference_inputs.give_up()

    def cancel_in_flight(self) -> None:
        """Give up waiting for answers; what is already being stored goes on."""
        self.exchange.cancel()

    async def execute(self, ticket: Ticket) -> None:
        """Never raises for what can happen to a request; a disk or ledger that refuses stops the run. Raises Fenced when the
        ledger says that the sample is another's by now."""
        try:
            await self._attempt(ticket)
        except Fenced:
            self.dispatcher.cancelled_unsent(ticket)
            raise
        except (StoreError, LedgerError) as error:
            self.storage_failed(error)
        except OSError as error:
            self.storage_failed(disk_error(error, self._store.root))
        finally:
            self.dispatcher.abandoned(ticket)  # a no-op for what was settled

    async def _attempt(self, ticket: Ticket) -> None:
        if ticket.exhausted and ticket.error is not None:
            await self._give_up(ticket, ticket.error)
            return
        sample, route = self._with_allowed_tier(ticket), self._routes[ticket.lane]
        adjusted, sent_as = adjust_after_tries(ticket.sample, sample, ticket.retry_state)
        number = 1 + ticket.retry_state.failed_requests
        prepared: PreparedRequest | ProviderError
        try:
            prepared = await prepare(adjusted, route, self._reference_inputs)
        except asyncio.CancelledError:
            self.dispatcher.failed(ticket, ConnectFailed("the run is stopping, and nothing was sent"))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return
        except ProviderError as error:
            prepared = error
        attempt = await self._attempts.begin(sample, ticket.lane, number, estimated_usd(self._routes, sample), sent_as)
        if isinstance(prepared, ProviderError):
            await self._record_failure(ticket, sample, attempt, prepared, None)
            return
        await self.dispatcher.wait_until_counted(ticket)
        await self._send_and_settle(ticket, sample, InFlight(attempt), prepared)

    async def _send_and_settle(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, prepared: PreparedRequest
    ) -> None:
        route = self._routes[ticket.lane]
        try:
            answer = await self.exchange.send(
                in_flight,
                route,
                prepared.take(),
                on_sent=lambda: self.dispatcher.sent(ticket),
                signatures=sample.item.turn > 0,
            )
            if 200 <= answer.status < 300:
                self.dispatcher.received(ticket)  # a bad answer keeps its place in flight until dispatch has heard why
            reply, settled_reply = await self._context.in_thread(lambda: self._read(route, sample, in_flight, answer))
            received_s: float | None = answer.received_s
            if settled_reply is None:
                received_s = None  # what was received is a link, durable by now
                reply = await self.exchange.download_images(in_flight, reply, route)
                settled_reply = await self._context.in_thread(lambda: self._settle(route, sample, in_flight, reply))
        except ProviderError as error:
            await self._handle_failure(ticket, sample, in_flight, prepared, error)
            return
        except (StoreError, LedgerError, OSError) as error:
            if not (isinstance(error, LedgerGone) and error.kept):  # else it stands under its name
                await self._context.in_thread(lambda: self._note_picture_locations(sample, in_flight.attempt))
            raise
        exposed_ms = None if received_s is None else (settled_reply.recorded_s - received_s) * 1000
        usd, sent_at = settled_reply.usd, in_flight.sent_at or time.time()
        await self._attempts.succeeded(
            sample,
            in_flight.attempt,
            reply,
            settled_reply,
            sent_at=sent_at,
            exposed_ms=exposed_ms,
            on_released=lambda: self.dispatcher.succeeded(ticket, usd),
        )
        if exposed_ms is not None:
            self.exposed_ms.append(exposed_ms)

    def _with_allowed_tier(self, ticket: Ticket) -> Sample:
        """The sample at the standard service tier once its own was refused."""
        item = ticket.sample.item
        if item.service_tier in (None, "standard"):
            return ticket.sample
        if ticket.retry_state.spent.get("tier") or (ticket.lane, item.service_tier) in self._refused_tiers:
            return replace(ticket.sample, item=replace(item, service_tier="standard"))
        return ticket.sample

    def _read(
        self, route: Route, sample: Sample, in_flight: InFlight, answer: HttpAnswer
    ) -> tuple[Reply, SettledReply | None]:
        """Decode, read and settle, in one visit to a thread. An answer with links is not settled yet: they are durable
        before this returns, so that a crash fetches instead of generating."""
        with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
            envelope = answer.envelope()
        with bugs_as_unreadable(ProviderError):
            reply = route.codec.read(answer.status, answer.headers, envelope)
            links = reply.links
        if sample.item.turn:
            with bugs_as_unreadable(ProviderError, StoreError, OSError):
                save_turn(
                    self._store, route.codec, in_flight.attempt, envelope, [file.path for file in in_flight.spooled]
                )
        if links:
            with bugs_as_unreadable(StoreError, OSError):
                reply = self.exchange.spool_inline_images(in_flight, reply)
            self._ledger.links_received(in_flight.attempt, reply, request_facts(sample))
            return reply, None
        return reply, self._settle(route, sample, in_flight, reply)

    def _settle(self, route: Route, sample: Sample, in_flight: InFlight, reply: Reply) -> SettledReply:
        return self._attempts.settle(
            route.profile,
            in_flight.attempt,
            sample,
            reply,
            in_flight.spooled,
            in_flight.sent_at,
            estimated_usd(self._routes, sample),
        )

    # --- how it ended

    async def _handle_failure(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, prepared: PreparedRequest, error: ProviderError
    ) -> None:
        if isinstance(error, FileGone):
            await self._reference_inputs.forget_uploads(prepared.inputs, error)
        answer, spooled = in_flight.answer, in_flight.spooled
        if answer is not None and answer.is_decoded and should_keep_response(error, answer.status, spooled):
            facts = (answer.status, answer.redacted_headers(), answer.envelope())
            await self._context.in_thread(
                lambda: save_answer(self._store, in_flight.attempt, facts, spooled, request_facts(sample))
            )
        else:
            discard_files(spooled)
        await self._record_failure(ticket, sample, in_flight.attempt, error, in_flight.sent_at)

    async def _record_failure(
        self, ticket: Ticket, sample: Sample, attempt: int, error: ProviderError, sent_at: float | None
    ) -> None:
        """No picture: let dispatch decide, then record, then tell. sample: as it was asked for."""
        if isinstance(error, Unanswered) and sent_at is None:
            error = ConnectFailed("the run was interrupted before the request had left")
        if isinstance(error, Unanswered) and (self._hold_uncertain or error.reason == "interrupted"):
            error = HeldUncertain(error.message, reason=error.reason)
        if (storage_failed := tier_refusal(error, sample.item.service_tier)) is not None:
            error = storage_failed
            if storage_failed.permanent and sample.item.service_tier:
                self._refused_tiers.add((ticket.lane, sample.item.service_tier))
        before, profile = lane_state(self.dispatcher, ticket.lane), self._routes[ticket.lane].profile
        pictures = sample.images if error.maybe_billed else 0
        cost = cost_without_picture_usd(profile, error.usage, pictures, tier=sample.item.service_tier)
        retry_decision = self.dispatcher.failed(ticket, error, cost[0])
        ended = isinstance(retry_decision, GivenUp)
        state = error.outcome if ended or isinstance(error, Unanswered) else "wanted"
        await self._attempts.failed(
            sample,
            attempt,
            error,
            sent_at=sent_at,
            state=state,
            cost=cost,
            retry_in_s=_retry_in_s(retry_decision),
        )
        now, now_s = time.time(), asyncio.get_running_loop().time()
        self._report_fallback(sample, retry_decision)
        for event in lane_events(self.dispatcher, before, profile.id, error, now=now, now_s=now_s):
            if isinstance(event, LaneParked):
                self._ledger.park(ticket.lane, event.until, event.message)
            elif isinstance(event, LaneCooled):
                self._ledger.record_cooling(ticket.lane, event.at + event.seconds)
            self._emit(event)
        if ended:
            await self._attempts.given_up(sample, error, state)

    async def _give_up(self, ticket: Ticket, error: ProviderError) -> None:
        """Its last failure is recorded already; only now is it known to have been its own."""
        retry_decision = self.dispatcher.gave_up(ticket, error)
        self._report_fallback(ticket.sample, retry_decision)
        if isinstance(retry_decision, GivenUp):
            await self._ledger.sample_failed(ticket.sample, error)
            await self._attempts.given_up(ticket.sample, error, error.outcome)

    def _report_fallback(self, sample: Sample, retry_decision: RetryDecision) -> None:
        if isinstance(retry_decision, MovedToFallback):
            model = retry_decision.lane.partition("/")[2]
            self._emit(Notice(at=time.time(), message=f"{sample.key} goes on with {model}"))

    def _note_picture_locations(self, sample: Sample, attempt: int) -> None:
        """After a write that failed: which picture lies where, or is lost. Whatever is whole is taken up by the next run."""
        try:
            paths = [path for _, path in self._store.emergency_spool.stranded_files(attempt, 0.0)]
            paths += [self._store.spooled(name) for name, _ in complete_images(self._store, attempt)]
        except OSError:
            paths = []
        words = (
            "is lost and was probably billed"
            if self._store.emergency_spool.is_same_folder()
            else "was in the job folder, which is gone"
        )
        if paths:
            words = f"lies in {', '.join(paths)}: the next run takes it up"
        self._picture_locations.append(f"the picture of {sample.key} {words}")

    def storage_failed(self, error: StoreError | LedgerError) -> None:
        if self.storage_error is None or (
            isinstance(error, LedgerGone) and not isinstance(self.storage_error, LedgerGone)
        ):
            self.storage_error = error  # that its folder has gone says more than what could not be written there
        self.stop(StopReason(StopKind.DISK, message=str(error)))

    def stop(self, reason: StopReason) -> None:
        if self.dispatcher.stop_reason is None:
            in_flight = self.dispatcher.in_flight
            self._emit(Stopping(at=time.time(), reason=reason.slug, message=reason.message, in_flight=in_flight))
        self.dispatcher.stop(reason)


def _retry_in_s(retry_decision: RetryDecision) -> float | None:
    match retry_decision:
        case Requeued(delay_s):
            return delay_s
        case MovedToFallback():
            return 0.0
    return None


def _call_threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[StoreError], None], error: StoreError) -> None:
    with contextlib.suppress(RuntimeError):  # the run has ended
        loop.call_soon_threadsafe(call, error)


def should_keep_response(error: ProviderError, status: int, spooled: Sequence[SpoolFile]) -> bool:
    """Paid for, and perhaps a picture to other eyes than ours: unreadable, or said to hold none though long data came."""
    if not 200 <= status < 300:
        return False
    return isinstance(error, Malformed | Unreadable) or (isinstance(error, NoImage) and bool(spooled))
