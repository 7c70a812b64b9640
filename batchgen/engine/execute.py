"""The online way of an attempt, in four steps that other engines take one by one: prepare, begin, exchange, settle.

`attempts.prepare` makes the request, `attempts.AttemptRecorder` records its intent and later its end, `http_attempt.Exchange`
sends and receives, `failures.FailureRecorder` decides what becomes of a sample after an error.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import cast

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable, keep_or_discard, read_answer, request_facts
from batchgen.engine.attempts import AttemptRecorder, PreparedRequest, adjust_after_tries, prepare
from batchgen.engine.context import RunContext
from batchgen.engine.failures import FailureRecorder
from batchgen.engine.http_attempt import Exchange, InFlight
from batchgen.engine.jobs import JobLeft, JobPolls, JobProgress
from batchgen.engine.lost_jobs import LostJobs, job_facts
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
    Unanswered,
)
from batchgen.http.answer import HttpAnswer
from batchgen.ledger.requests import OpenAttempt
from batchgen.providers.contract import SupportsJobs
from batchgen.records import Inputs, PendingJob, Reply, Response, Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.store.spool import discard_files


@dataclass(frozen=True, slots=True)
class Received:
    """What an answer has brought. settled: None while its pictures are behind links. at_s: when its last byte was in."""

    reply: Reply
    settled: SettledReply | None
    at_s: float | None


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
        polls: JobPolls,
    ) -> None:
        self.exchange = Exchange(context.transport, context.store)
        self._context = context
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._reference_inputs = reference_inputs
        self._failures = failures
        self._stopper = stopper
        self._polls = polls
        self._lost_jobs = LostJobs(context.ledger, context.transport)
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
        await self._guard(ticket, self._attempt(ticket))

    async def resume(self, ticket: Ticket, taken: OpenAttempt) -> None:
        """Wait for a job that an earlier run has left, as `execute` does for a new one."""
        await self._guard(ticket, self._finish_earlier(ticket, taken))

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
        facts = {} if isinstance(prepared, ProviderError) else job_facts(route, prepared.request)
        facts = {**request_facts(sample), **facts} if facts else {}
        attempt = await self._attempts.begin(sample, ticket.lane, number, usd, sent_as, facts)
        if isinstance(prepared, ProviderError):
            await self._failures.record(ticket, sample, attempt, prepared, None)
            return
        await self._dispatcher.wait_until_counted(ticket)
        await self._send_and_settle(ticket, sample, InFlight(attempt), prepared)

    async def _finish_earlier(self, ticket: Ticket, taken: OpenAttempt) -> None:
        if taken.job is not None:
            in_flight, progress = InFlight(taken.id), JobProgress(ticket.lane, taken.started_at)
            in_flight.sent_at = taken.started_at
            profile = self._context.routes[ticket.lane].profile
            attempt = replace(AnsweredAttempt.from_record(taken, profile, taken.facts), sample=ticket.sample)
            receiving = self._finish_job(attempt, in_flight, taken.job, progress)
            await self._settle_received(ticket, attempt, in_flight, receiving)

    async def _send_and_settle(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, prepared: PreparedRequest
    ) -> None:
        attempt = self._answered(ticket, sample, in_flight)
        receiving = self._send(ticket, attempt, in_flight, prepared)
        await self._settle_received(ticket, attempt, in_flight, receiving, prepared.inputs)

    async def _send(
        self, ticket: Ticket, attempt: AnsweredAttempt, in_flight: InFlight, prepared: PreparedRequest
    ) -> Received:
        route, received = self._context.routes[ticket.lane], cast("Received | PendingJob | None", None)
        try:
            answer = await self.exchange.send(
                in_flight,
                route,
                prepared.take(),
                on_sent=lambda: self._dispatcher.sent(ticket),
                signatures=attempt.sample.item.turn > 0,
            )
        except Unanswered as error:
            received = None if error.reason == "interrupted" else await self._lost_jobs.find_one(route, attempt.id)
            if received is None:
                raise
        else:
            if 200 <= answer.status < 300:
                self._dispatcher.received(ticket)  # a bad answer keeps its place in flight until dispatch has heard why
            received = await self._context.in_thread(lambda: self._read(ticket.lane, attempt, in_flight, answer))
        if isinstance(received, Received):
            return received
        self._dispatcher.job_taken(ticket)
        return await self._finish_job(attempt, in_flight, received, JobProgress(ticket.lane, time.time()))

    async def _finish_job(
        self, attempt: AnsweredAttempt, in_flight: InFlight, job: PendingJob, progress: JobProgress
    ) -> Received:
        """Ask about a job until it has ended. Raises JobLeft when the run stops first, ProviderError as the job ends."""
        route = self._context.routes[progress.lane]
        codec = cast(SupportsJobs, route.codec)
        while True:
            await self._polls.wait_turn(job, progress)
            asking = InFlight(attempt.id)
            try:
                answer = await self.exchange.send(
                    asking, route, codec.poll(job), on_sent=lambda: None, signatures=False
                )
                in_flight.answer, in_flight.spooled = answer, asking.spooled
                received = await self._context.in_thread(
                    lambda: self._read(progress.lane, attempt, in_flight, answer, job)  # noqa: B023
                )
            except ProviderError as error:
                progress.absorb(error)
                discard_files(asking.spooled)
                self._polls.stop_if_nobody_may_ask(error)
                continue
            if isinstance(received, Received):
                return received
            job, progress.failures = received, 0

    async def _settle_received(
        self,
        ticket: Ticket,
        attempt: AnsweredAttempt,
        in_flight: InFlight,
        receiving: Awaitable[Received],
        inputs: Inputs | None = None,
    ) -> None:
        """inputs: what the request enclosed, when this run has sent it."""
        sample = attempt.sample
        try:
            received = await receiving
            attempt = replace(attempt, sent_at=in_flight.sent_at)
            reply, settled_reply, received_s = received.reply, received.settled, received.at_s
            if settled_reply is None:
                received_s = None  # what was received is a link, durable by now
                reply = await self.exchange.download_images(in_flight, reply, self._context.routes[ticket.lane])
                settled_reply = await self._context.in_thread(
                    lambda: self._attempts.settle(attempt, reply, in_flight.spooled)
                )
        except JobLeft:
            return
        except ProviderError as error:
            await self._handle_failure(ticket, sample, in_flight, error, inputs)
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
        self,
        lane: str,
        attempt: AnsweredAttempt,
        in_flight: InFlight,
        answer: HttpAnswer,
        job: PendingJob | None = None,
    ) -> Received | PendingJob:
        """Decode, read and settle, in one visit to a thread. A job is durable before this returns, and so is an answer with
        links, which is not settled yet: a crash asks and fetches, and never generates again. job: that was asked about."""
        sample, codec = attempt.sample, self._context.routes[lane].codec
        with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
            envelope = answer.envelope()
        response = Response(answer.status, answer.headers, envelope, tuple(file.path for file in in_flight.spooled))
        reply = read_answer(self._context.store, codec, attempt.id, response, turn=sample.item.turn, job=job)
        if isinstance(reply, PendingJob):
            discard_files(in_flight.spooled)
            in_flight.spooled = []
            if job is None or (reply.id, reply.state) != (job.id, job.state):
                self._context.ledger.job_taken(attempt.id, sample, reply, request_facts(sample))
            return reply
        if not reply.links:
            return Received(reply, self._attempts.settle(attempt, reply, in_flight.spooled), answer.received_s)
        with bugs_as_unreadable(StoreError, OSError):
            reply = self.exchange.spool_inline_images(in_flight, reply)
        self._context.ledger.links_received(attempt.id, reply, request_facts(sample))
        return Received(reply, None, answer.received_s)

    async def _handle_failure(
        self, ticket: Ticket, sample: Sample, in_flight: InFlight, error: ProviderError, inputs: Inputs | None
    ) -> None:
        if isinstance(error, FileGone) and inputs is not None:
            await self._reference_inputs.forget_uploads(inputs, error)
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
