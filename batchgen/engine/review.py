"""Wires the review of a run's images: the queue of images, the checks, the judge, and what follows from their
rulings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from batchgen.engine.context import RunContext, in_background
from batchgen.engine.image_checks import ImageChecks
from batchgen.engine.job_state import RunRequest
from batchgen.engine.judging import Judging
from batchgen.engine.outstanding import OutstandingBatches
from batchgen.engine.pipeline import Pipeline
from batchgen.engine.review_effects import ReviewEffects
from batchgen.engine.reviewer import Reviewer, ReviewParts
from batchgen.engine.reviewer import ReviewQueue as ReviewQueue
from batchgen.errors import LedgerError, StoreError
from batchgen.ledger.reviews import absorb_reviews
from batchgen.ledger.verdicts import VerdictReader
from batchgen.review.judge import JudgeSample
from batchgen.scheduling.lane import Ticket

ABSORB_S = 1.0  # between looks at what people have said


@dataclass(frozen=True, slots=True)
class Review:
    """The part of a run that reviews its images."""

    pipeline: Pipeline
    judging: Judging
    reviewer: Reviewer

    async def execute(self, ticket: Ticket) -> None:
        """Execute a ticket: a sample to be made, or a question to the judge."""
        if isinstance(ticket.sample, JudgeSample):
            await self.judging.execute(ticket)
        else:
            await self.pipeline.execution.execute(ticket)


@asynccontextmanager
async def open_review(
    request: RunRequest, context: RunContext, pipeline: Pipeline, outstanding: OutstandingBatches, queue: ReviewQueue
) -> AsyncIterator[Review]:
    """Open the review. queue: receives new images."""
    options, backlog, ledger = request.options, outstanding.backlog, context.ledger
    view = VerdictReader.from_reader(ledger.reader)
    judging = Judging(context, outstanding.dispatcher, pipeline, queue.add, hold_uncertain=options.hold_uncertain)
    parts = ReviewParts(
        queue=queue,
        checks=ImageChecks(context, backlog, view),
        judging=judging,
        effects=ReviewEffects(context, pipeline, backlog, outstanding.backlog_grew),
        view=view,
        dispatcher=outstanding.dispatcher,
        stop=pipeline.stopper.storage_failed,
        note=context.note,
        only=options.only,
        hold_uncertain=options.hold_uncertain,
    )
    earlier = [] if context.store.properties.remote else view.unreviewed(ledger.run_id)
    async with Reviewer(parts, request.job.manifest, earlier) as reviewer, in_background(_absorb_reviews(context)):
        yield Review(pipeline, judging, reviewer)


async def _absorb_reviews(context: RunContext) -> None:
    """Let what people say during the run count at once, until cancelled."""
    with contextlib.suppress(LedgerError, StoreError):  # whoever writes next reports it
        while True:
            await asyncio.sleep(ABSORB_S)
            await context.in_thread(lambda: absorb_reviews(context.store.folder, context.ledger))
