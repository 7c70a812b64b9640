"""The online way of an attempt, in four steps that other engines take one by one: prepare, begin, exchange, settle.

`attempts.prepare` makes the request, `attempts.AttemptRecorder` records its intent and later its end, `http_attempt.Exchange`
sends and receives, `failures.FailureRecorder` decides what becomes of a sample after an error.
"""

from __future__ import annotations

import asyncio
import time
from array import array

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable, keep_or_discard, read_reply, request_facts
from batchgen.engine.attempts import AttemptRecorder, PreparedRequest, adjust_after_tries, prepare
from batchgen.engine.context import RunContext
from batchgen.engine.failures import FailureRecorder
from batchgen.engine.http_attempt import Exchange, InFlight
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.routes import estimated_usd
from batchgen.engine.settle import SettledReply
from batchgen.engine.stopping import RunStopper
from batchgen.errors import (
    BatchgenError,
    ConnectFailed,
    Fenced,
    FileGone,
    LedgerError,
    LedgerGone,
    ProviderError,
    StoreError,
)
from batchgen.http.answer import HttpAnswer
from batchgen.records import Reply, Response, Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.store.spool import discard_files


class Execution:
    """Carries out what dispatch gives out. Every engine calls `execute`; only how a sample reaches it differs."""

    def __init__(
        self,
        context: RunContext,
        dispatcher: Dispatcher,
        attempts: AttemptRecorder,
        reference_inputs: ReferenceInputs,
        failures: FailureRecorder,
        stopper: RunStopper,
    ) -> None:
        self.exchange = Exchange(context.transport, context.store)
        self._context = context
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._reference_inputs = reference_inputs
        self._failures = failures
        self._stopper = stopper
        self.exposed_ms = array("d")  # of each answer: from its last byte to its durable record

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
            self._dispatcher.cancelled_unsent(ticket)
            raise
        except (StoreError, LedgerError, OSError) as error:
            self._stopper.storage_failed(error)
        finally:
            self._dispatcher.abandoned(ticket)  # a no-op for what was settled

    async def _attempt(self, ticket: Ticket) -> None:
        if ticket.exhausted and ticket.error is not None:
            await self._failures.give_up(ticket, ticket.error)
            return
        sample, route = self._failures.with_allowed_tier(ticket), self._context.routes[ticket.lane]
        adjusted, sent_as = adjust_after_tries(ticket.sample, sample, ticket.retry_state)
        number, usd = 1 + ticket.retry_state.failed_requests, estimated_usd(self._context.routes, sample)
        prepared: PreparedRequest | ProviderError
        try:
            prepared = await prepare(adjusted, route, self._reference_inputs)
        except asyncio.CancelledError:
            self._dispatcher.failed(ticket, ConnectFailed("the run is stopping, and nothing was sent"))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return
        except ProviderError as error:
            prepared = error
        attempt = await self._attempts.begin(sample, ticket.lane, number, usd, sent_as)
        if isinstance(prepared, ProviderError):
            await self._failures.record(ticket, sample, attempt, prepared, None)
            return
        await self._dispatcher.wait_until_counted(ticket)
        await self._send_and_settle(ticket, sample, InFlight(attempt), prepared)

    async def _send_and_settle(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, prepared: PreparedRequest
    ) -> None:
        route = self._context.routes[ticket.lane]
        try:
            answer = await self.exchange.send(
                in_flight,
                route,
                prepared.take(),
                on_sent=lambda: self._dispatcher.sent(ticket),
                signatures=sample.item.turn > 0,
            )
            if 200 <= answer.status < 300:
                self._dispatcher.received(ticket)  # a bad answer keeps its place in flight until dispatch has heard why
            attempt = self._answered(ticket, sample, in_flight)
            reply, settled_reply = await self._context.in_thread(
                lambda: self._read(ticket.lane, attempt, in_flight, answer)
            )
            received_s: float | None = answer.received_s
            if settled_reply is None:
                received_s = None  # what was received is a link, durable by now
                reply = await self.exchange.download_images(in_flight, reply, route)
                settled_reply = await self._context.in_thread(
                    lambda: self._attempts.settle(attempt, reply, in_flight.spooled)
                )
        except ProviderError as error:
            await self._handle_failure(ticket, sample, in_flight, prepared, error)
            return
        except (StoreError, LedgerError, OSError) as error:
            if not (isinstance(error, LedgerGone) and error.kept):  # else it stands under its name
                await self._context.in_thread(lambda: self._stopper.note_picture_locations(sample, in_flight.attempt))
            raise
        exposed_ms = None if received_s is None else (settled_reply.recorded_s - received_s) * 1000
        usd = settled_reply.usd
        await self._attempts.succeeded(
            attempt,
            reply,
            settled_reply,
            sent_at=attempt.sent_at or time.time(),
            exposed_ms=exposed_ms,
            on_released=lambda: self._dispatcher.succeeded(ticket, usd),
        )
        if exposed_ms is not None:
            self.exposed_ms.append(exposed_ms)

    def _answered(self, ticket: Ticket, sample: Sample, in_flight: InFlight) -> AnsweredAttempt:
        return AnsweredAttempt(
            id=in_flight.attempt,
            sample=sample,
            profile=self._context.routes[ticket.lane].profile,
            sent_at=in_flight.sent_at,
            estimate_usd=estimated_usd(self._context.routes, sample),
        )

    def _read(
        self, lane: str, attempt: AnsweredAttempt, in_flight: InFlight, answer: HttpAnswer
    ) -> tuple[Reply, SettledReply | None]:
        """Decode, read and settle, in one visit to a thread. An answer with links is not settled yet: they are durable
        before this returns, so that a crash fetches instead of generating."""
        sample, codec = attempt.sample, self._context.routes[lane].codec
        with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
            envelope = answer.envelope()
        response = Response(answer.status, answer.headers, envelope, tuple(file.path for file in in_flight.spooled))
        reply = read_reply(self._context.store, codec, attempt.id, response, turn=sample.item.turn)
        if not reply.links:
            return reply, self._attempts.settle(attempt, reply, in_flight.spooled)
        with bugs_as_unreadable(StoreError, OSError):
            reply = self.exchange.spool_inline_images(in_flight, reply)
        self._context.ledger.links_received(attempt.id, reply, request_facts(sample))
        return reply, None

    async def _handle_failure(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, prepared: PreparedRequest, error: ProviderError
    ) -> None:
        if isinstance(error, FileGone):
            await self._reference_inputs.forget_uploads(prepared.inputs, error)
        answer, spooled = in_flight.answer, in_flight.spooled
        if answer is not None and answer.is_decoded and 200 <= answer.status < 300:
            came = Response(answer.status, answer.redacted_headers(), answer.envelope())
            facts = request_facts(sample)
            await self._context.in_thread(
                lambda: keep_or_discard(self._context.store, in_flight.attempt, error, came, spooled, facts)
            )
        else:
            discard_files(spooled)
        await self._failures.record(ticket, sample, in_flight.attempt, error, in_flight.sent_at)
