"""Sends a request and receives its images: from the answer, from links in it, or from a job that ends later."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable, read_answer, request_facts
from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.engine.http_attempt import Exchange, InFlight
from batchgen.engine.jobs import JobLeft, JobPolls, JobProgress, LostJobs
from batchgen.engine.settle import SettledReply
from batchgen.errors import BadRequest, BatchgenError, Malformed, ProviderError, StoreError, Unanswered
from batchgen.http.addresses import request_url
from batchgen.http.answer import HttpAnswer
from batchgen.providers.contract import SupportsJobs
from batchgen.records import PendingJob, Reply, Request, Response
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.store.spool import discard_files


@dataclass(frozen=True, slots=True)
class Received:
    """An answer that was read. settled: None while its images are behind links. at_s: when its last byte came, None for
    links, which are durable before they are fetched."""

    reply: Reply
    settled: SettledReply | None
    at_s: float | None


class Settled(NamedTuple):
    """An answer that was settled. exposed_ms: how long it was received but not yet durable, None if it held links."""

    reply: Reply
    settled: SettledReply
    exposed_ms: float | None


class Receiver:
    def __init__(self, context: RunContext, dispatcher: Dispatcher, attempts: AttemptRecorder, polls: JobPolls) -> None:
        self.exchange = Exchange(context.transport, context.store)
        self._context = context
        self._dispatcher = dispatcher
        self._attempts = attempts
        self._polls = polls
        self.lost_jobs = LostJobs(context.ledger, context.transport)

    async def send(self, ticket: Ticket, attempt: AnsweredAttempt, in_flight: InFlight, request: Request) -> Settled:
        """Send a request once and wait for its images. Raises JobLeft, ProviderError, StoreError, LedgerError."""
        route, received = self._context.routes[ticket.lane], cast("Received | PendingJob | None", None)
        try:
            answer = await self.exchange.send(
                in_flight,
                route,
                request,
                on_sent=lambda: self._dispatcher.sent(ticket),
                signatures=attempt.sample.item.turn > 0,
            )
            # A bad answer counts as in flight until the dispatcher knows why, and one that may be a job until the job is counted.
            if 200 <= answer.status < 300 and route.jobs is None:
                self._dispatcher.received(ticket)
            received = await self._context.in_thread(lambda: self._read(ticket.lane, attempt, in_flight, answer))
        except (Unanswered, Malformed) as error:
            # No answer, or one that was cut off: a job may have been taken all the same.
            received = None if error.reason == "interrupted" else await self.lost_jobs.find_one(route, attempt.id)
            if received is None:
                raise
        if isinstance(received, Received):
            return await self._settle(received, ticket.lane, attempt, in_flight)
        self._dispatcher.job_taken(ticket)
        return await self.finish_job(attempt, in_flight, received, JobProgress(ticket.lane, time.time()))

    async def finish_job(
        self, attempt: AnsweredAttempt, in_flight: InFlight, job: PendingJob, progress: JobProgress
    ) -> Settled:
        """Ask about a job until it has ended. Raises JobLeft if the run stops first, ProviderError if the job failed."""
        route = self._context.routes[progress.lane]
        while True:
            await self._polls.wait_turn(job, progress)
            asking = InFlight(attempt.id)
            in_flight.answer, in_flight.spooled = None, asking.spooled
            question = self._question(progress.lane, job, attempt)
            try:
                answer = await self.exchange.send(asking, route, question, on_sent=lambda: None, signatures=False)
                in_flight.answer = answer
                received = await self._context.in_thread(
                    lambda: self._read(progress.lane, attempt, in_flight, answer, job)  # noqa: B023
                )
            except ProviderError as error:
                progress.absorb(error)
                discard_files(asking.spooled)
                self._polls.stop_if_nobody_may_ask(error)
                continue
            if isinstance(received, Received):
                return await self._settle(received, progress.lane, attempt, in_flight)
            job, progress.failures = received, 0

    def _question(self, lane: str, job: PendingJob, attempt: AnsweredAttempt) -> Request:
        """The request that asks about a job. Raises JobLeft for a bug of the codec, and for an address that the question may not
        be sent to: the job is paid for, and a newer codec or another base URL can still ask about it."""
        route = self._context.routes[lane]
        try:
            question = cast(SupportsJobs, route.codec).poll(job)
            request_url(route.base_url, question)
            return question
        except BadRequest as error:
            self._context.note(
                f"{attempt.sample.key}: its job is not asked about: {error.message}; the next run tries again"
            )
            raise JobLeft from error
        except Exception as error:
            what = f"{type(error).__name__} in asking about its job: a bug of batchgen or of its codec"
            self._context.note(f"{attempt.sample.key}: {what}; the next run asks again")
            raise JobLeft from error

    async def _settle(self, received: Received, lane: str, attempt: AnsweredAttempt, in_flight: InFlight) -> Settled:
        if received.settled is not None and received.at_s is not None:
            exposed_ms = (received.settled.recorded_s - received.at_s) * 1000
            return Settled(received.reply, received.settled, exposed_ms)
        attempt = replace(attempt, sent_at=in_flight.sent_at)
        reply = await self.exchange.download_images(in_flight, received.reply, self._context.routes[lane])
        return Settled(
            reply, await self._context.in_thread(lambda: self._attempts.settle(attempt, reply, in_flight.spooled)), None
        )

    def _read(
        self,
        lane: str,
        attempt: AnsweredAttempt,
        in_flight: InFlight,
        answer: HttpAnswer,
        job: PendingJob | None = None,
    ) -> Received | PendingJob:
        """Decode, read and settle an answer, all in one call in a thread. A job is durable before this returns, and so is an
        answer with links, which is not settled yet: after a crash the job is asked about or the links are fetched, and nothing
        is generated again. job: the job that was asked about."""
        sample, codec = attempt.sample, self._context.routes[lane].codec
        attempt = replace(attempt, sent_at=in_flight.sent_at)
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
        return Received(reply, None, None)
