"""Asks the judge about images: with a request in its model's lane like any other, with its own row in the ledger, its
retries and its place in every budget. The answer is a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from batchgen.engine.context import RunContext
from batchgen.engine.failures import FailureRecorder
from batchgen.engine.http_attempt import InFlight
from batchgen.engine.judge_request import lane_of, read_judgement, write_question
from batchgen.engine.pipeline import Pipeline
from batchgen.errors import LedgerError, ProviderError, StoreError
from batchgen.events import ImageJudged, Notice
from batchgen.ledger.requests import IntendedRequest
from batchgen.ledger.verdicts import record_answer
from batchgen.profiles.price import cost_usd
from batchgen.records import Answer, Request, Sample, sample_key
from batchgen.review.judge import JudgeSample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import Ticket
from batchgen.store.spool import discard_files


class Judging:
    """Asks the judge. on_judged: called for each image whose verdict is in the ledger, before the run could end.
    unjudged: the number of questions that got no answer."""

    def __init__(
        self,
        context: RunContext,
        dispatcher: Dispatcher,
        pipeline: Pipeline,
        on_judged: Callable[[str], None],
        *,
        hold_uncertain: bool,
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._pipeline = pipeline
        self._on_judged = on_judged
        self._failures = FailureRecorder(
            context, dispatcher, pipeline.attempts, hold_uncertain=hold_uncertain, given_up=self._give_up
        )
        self._asked: set[tuple[str, str]] = set()  # samples whose images wait for an answer, with hashes
        self.unjudged = 0

    @property
    def waiting(self) -> int:
        """The number of questions without an answer."""
        return len(self._asked)

    def ask(self, sample: JudgeSample) -> None:
        """Ask about an image in its turn, and once. `on_judged` is called with the answer."""
        key = (sample.key, sample.image.file.sha256)
        if key not in self._asked:
            self._asked.add(key)
            self._dispatcher.add(lane_of(sample), sample)

    async def execute(self, ticket: Ticket) -> None:
        """Ask a question. See `Execution.execute`; this is for a `JudgeSample`."""
        try:
            await self._ask(ticket, cast(JudgeSample, ticket.sample))
        except (StoreError, LedgerError, OSError) as error:
            self._pipeline.stopper.storage_failed(error)
        finally:
            self._dispatcher.abandoned(ticket)

    async def _ask(self, ticket: Ticket, sample: JudgeSample) -> None:
        if ticket.exhausted and ticket.error is not None:
            await self._failures.give_up(ticket, ticket.error)
            return
        route, usd = self._context.routes[ticket.lane], ticket.usd
        try:
            prepared: Request | ProviderError = await self._context.in_thread(
                lambda: write_question(sample, route, self._context.store)
            )
        except ProviderError as error:
            prepared = error
        intent = IntendedRequest(sample, ticket.lane, 1 + ticket.retry_state.failed_requests, usd)
        attempt = await self._pipeline.attempts.begin(intent)
        if isinstance(prepared, ProviderError):
            await self._failures.record(ticket, sample, attempt, prepared, None)
            return
        await self._dispatcher.wait_until_counted(ticket)
        in_flight = InFlight(attempt)
        try:
            http_answer = await self._pipeline.receiver.exchange.send(
                in_flight, route, prepared, on_sent=lambda: self._dispatcher.sent(ticket), signatures=False
            )
            answer = await self._context.in_thread(lambda: read_judgement(route, http_answer))
        except ProviderError as error:
            await self._failures.record(ticket, sample, attempt, error, in_flight.sent_at)
            return
        finally:
            discard_files(in_flight.spooled)
        await self._record(ticket, sample, in_flight, answer, usd)

    async def _record(
        self, ticket: Ticket, sample: JudgeSample, in_flight: InFlight, answer: Answer, estimate_usd: float | None
    ) -> None:
        image, judge, sent_at = sample.image, sample.judge, in_flight.sent_at or time.time()
        profile = self._context.routes[ticket.lane].profile
        usd, source = cost_usd(profile, answer.usage, 0, estimate_usd)
        verdict = sample.verdict(answer, usd, in_flight.attempt, time.time())
        await self._context.ledger.writer.write(record_answer(answer, verdict, source, sent_at))
        key = sample_key(image.item_id, image.n)
        self._asked.discard((sample.key, image.file.sha256))
        self._on_judged(key)
        self._dispatcher.succeeded(ticket, usd)
        self._context.emit(
            ImageJudged(
                at=verdict.at,
                attempt=in_flight.attempt,
                key=key,
                model=judge.model,
                score=answer.score,
                least=judge.least,
                message=answer.remark,
                usd=usd,
                seconds=verdict.at - sent_at,
            )
        )

    async def _give_up(self, sample: Sample, error: ProviderError, state: str) -> None:
        """Leave an image unjudged: it stays as it is, and a later run asks again."""
        image = cast(JudgeSample, sample).image
        self._asked.discard((sample.key, image.file.sha256))
        self.unjudged += 1
        key = sample_key(image.item_id, image.n)
        self._context.emit(Notice(at=time.time(), message=f"{key} was not judged ({state}): {error.message}"))
