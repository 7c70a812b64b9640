"""Carries out an online attempt in four steps, which other engines take one by one: prepare, begin, exchange, settle.

`attempts.prepare` builds the request, `attempts.AttemptRecorder` records the intent and later the end, `http_attempt.Exchange`
sends and receives, and `failures.FailureRecorder` decides what happens to a sample after an error.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any

from batchgen.engine.answer import AnsweredAttempt, keep_or_discard, request_facts
from batchgen.engine.attempts import AttemptRecorder, PreparedRequest, adjust_after_tries, prepare
from batchgen.engine.context import RunContext
from batchgen.engine.failures import FailureRecorder
from batchgen.engine.http_attempt import InFlight
from batchgen.engine.jobs import JobLeft, JobProgress
from batchgen.engine.receive import Receiver, Settled
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.routes import estimated_usd
from batchgen.engine.stopping import RunStopper
from batchgen.errors import (
    ConnectFailed,
    FileGone,
    LedgerError,
    LedgerGone,
    ProviderError,
    StoreError,
)
from batchgen.ledger.requests import Fenced, IntendedRequest, OpenAttempt
from batchgen.records import Inputs, Response, Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket


class Execution:
    """Carries out the tickets of the dispatcher. Every engine calls `execute`; only how a sample gets here differs."""

    def __init__(
        self,
        context: RunContext,
        dispatcher: Dispatcher,
        attempts: AttemptRecorder,
        reference_inputs: ReferenceInputs,
        failures: FailureRecorder,
        stopper: RunStopper,
        receiver: Receiver,
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._reference_inputs = reference_inputs
        self._failures = failures
        self._stopper = stopper
        self._receiver = receiver
        self.exposed_ms = array("d")  # for each answer, the time from its last byte to its durable record

    def give_up_preparing(self) -> None:
        """Stop fetching and uploading the inputs of requests that have not been sent."""
        self._reference_inputs.give_up()

    def cancel_in_flight(self) -> None:
        """Stop waiting for answers. Answers that are already being stored are finished."""
        self._receiver.exchange.cancel()

    async def execute(self, ticket: Ticket) -> None:
        """Request an image and store what comes. Errors of the request are recorded and not raised; a disk or ledger that
        refuses stops the run. Raises Fenced if the ledger has given the sample to another worker in the meantime."""
        await self._guard(ticket, self._attempt(ticket))

    def take_up(
        self, taken: OpenAttempt, sample: Sample, *, unwanted: bool = False
    ) -> tuple[Ticket, Coroutine[Any, Any, None]]:
        """Resume a job that an earlier run or another worker left with its API. Returns its ticket, and the coroutine that waits
        for it, as `execute` does for a new request. unwanted: see `Ticket`."""
        ticket = self._dispatcher.resume_job(sample, taken.lane, taken.estimate_usd, unwanted=unwanted)
        return ticket, self._guard(ticket, self._finish_earlier(ticket, taken))

    async def _finish_earlier(self, ticket: Ticket, taken: OpenAttempt) -> None:
        if taken.job is not None:
            await self._context.ledger.adopt_job(taken.id)
            in_flight, profile = InFlight(taken.id, taken.started_at), self._context.routes[ticket.lane].profile
            attempt = replace(AnsweredAttempt.from_record(taken, profile, taken.facts), sample=ticket.sample)
            progress = JobProgress(ticket.lane, taken.started_at, is_unasked=True)
            receiving = self._receiver.finish_job(attempt, in_flight, taken.job, progress)
            await self._settle_received(ticket, attempt, in_flight, receiving)

    async def _guard(self, ticket: Ticket, work: Awaitable[None]) -> None:
        try:
            await work
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
        (sample, why), route = self._failures.with_allowed_tier(ticket), self._context.routes[ticket.lane]
        adjusted, sent_as = adjust_after_tries(sample, ticket.retry_state, why)
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
        facts = {} if isinstance(prepared, ProviderError) else prepared.job_facts
        attempt = await self._attempts.begin(IntendedRequest(sample, ticket.lane, number, usd, sent_as, facts))
        if isinstance(prepared, ProviderError):
            await self._failures.record(ticket, sample, attempt, prepared, None)
            return
        await self._dispatcher.wait_until_counted(ticket)
        in_flight = InFlight(attempt)
        asked = AnsweredAttempt(id=attempt, sample=sample, profile=route.profile, estimate_usd=usd)
        receiving = self._receiver.send(ticket, asked, in_flight, prepared.take())
        await self._settle_received(ticket, asked, in_flight, receiving, prepared.inputs)

    async def _settle_received(
        self,
        ticket: Ticket,
        attempt: AnsweredAttempt,
        in_flight: InFlight,
        receiving: Awaitable[Settled],
        inputs: Inputs | None = None,
    ) -> None:
        """Wait for an answer, and record its images or its failure. inputs: those of the request, if this run sent it."""
        sample = attempt.sample
        try:
            reply, settled_reply, exposed_ms = await receiving
        except JobLeft:
            self._dispatcher.job_left(ticket)
            return
        except ProviderError as error:
            await self._handle_failure(ticket, sample, in_flight, error, inputs)
            return
        except (StoreError, LedgerError, OSError) as error:
            if not (isinstance(error, LedgerGone) and error.kept):  # else it stands under its name
                await self._context.in_thread(lambda: self._stopper.note_picture_locations(sample, in_flight.attempt))
            raise
        usd = settled_reply.usd
        await self._attempts.succeeded(
            attempt,
            reply,
            settled_reply,
            sent_at=in_flight.sent_at or time.time(),
            exposed_ms=exposed_ms,
            on_released=lambda: self._dispatcher.succeeded(ticket, usd),
        )
        if exposed_ms is not None:
            self.exposed_ms.append(exposed_ms)

    async def _handle_failure(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, error: ProviderError, inputs: Inputs | None
    ) -> None:
        if isinstance(error, FileGone) and inputs is not None:
            await self._reference_inputs.forget_uploads(inputs, error)
        answer, spooled = in_flight.answer, in_flight.spooled
        came = None
        if answer is not None and answer.is_decoded and 200 <= answer.status < 300:
            came = Response(answer.status, answer.redacted_headers(), answer.envelope())
        await self._context.in_thread(
            lambda: keep_or_discard(self._context.store, in_flight.attempt, error, came, spooled, request_facts(sample))
        )
        await self._failures.record(ticket, sample, in_flight.attempt, error, in_flight.sent_at)
