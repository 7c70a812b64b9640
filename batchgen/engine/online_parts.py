"""Wires the parts of a run that sends requests from this process: dispatcher, pipeline, batches, derivatives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchgen.engine.context import Broadcast, RunContext, open_context
from batchgen.engine.dependents import Dependents
from batchgen.engine.derivative_runner import DerivativeRunner
from batchgen.engine.earlier_jobs import EarlierJobs
from batchgen.engine.job_state import JobState, RunRequest
from batchgen.engine.outstanding import NoBatches, OutstandingBatches
from batchgen.engine.pacing import Pacing
from batchgen.engine.pipeline import Pipeline, open_pipeline
from batchgen.engine.reconcile import Survey
from batchgen.engine.review import Review, ReviewQueue, open_review
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.window import SharedQuota
from batchgen.settings import state_folder

if TYPE_CHECKING:
    from batchgen.engine.batch.runner import BatchRunner


@dataclass(frozen=True, slots=True)
class OnlineParts:
    """The parts of a run. batches, jobs: not started yet. derivatives: notified of each image."""

    dispatcher: Dispatcher
    pipeline: Pipeline
    batches: BatchRunner | NoBatches
    derivatives: DerivativeRunner
    jobs: EarlierJobs
    review: Review


@asynccontextmanager
async def open_online_parts(
    request: RunRequest,
    state: JobState,
    survey: Survey,
    pacing: Pacing,
    quota_logs: Mapping[str, SharedQuota],
    parked: Mapping[str, float],
) -> AsyncIterator[OnlineParts]:
    """Open the parts of a run. quota_logs: starts and money of all processes, by lane; parked: lanes kept closed."""
    manifest, store, ledger, routes = request.job.manifest, state.store, state.ledger, pacing.routes
    dispatcher = pacing.dispatcher(survey.backlog, quota_logs, parked)
    reviews = ReviewQueue(dispatcher, survey.reconciliation.rules, remote=store.properties.remote)
    derivatives = DerivativeRunner(
        manifest,
        state,
        request.note,
        emulated=request.emulated,
        only=request.options.only,
        awaits_review=reviews.rules.awaits_review,
    )
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(
            open_context(
                ledger=ledger,
                store=store,
                routes={lane: route for lane, route in routes.items() if lane in survey.reconciliation.loads},
                concurrency=pacing.concurrency,
                state_folder=state_folder(request.job.settings),
                emit=Broadcast((request.emit, derivatives, reviews)),
                note=request.note,
            )
        )
        lanes = [lane for lane, route in context.routes.items() if route.batch]
        outstanding = OutstandingBatches(survey.backlog, dispatcher, lanes)
        dependents = Dependents(survey.backlog, ledger, store, manifest.references, outstanding.backlog_grew)
        pipeline = await stack.enter_async_context(
            open_pipeline(
                context,
                dispatcher,
                dependents,
                state.results,
                hold_uncertain=request.options.hold_uncertain,
                awaits_review=reviews.rules.awaits_review,
            )
        )
        await stack.enter_async_context(derivatives)
        batches = _batches(request, survey, pipeline, outstanding, context, quota_logs)
        jobs = EarlierJobs(context, survey.backlog, dispatcher, pipeline.execution)
        review = await stack.enter_async_context(open_review(request, context, pipeline, outstanding, reviews))
        yield OnlineParts(dispatcher, pipeline, batches, derivatives, jobs, review)


def _batches(
    request: RunRequest,
    survey: Survey,
    pipeline: Pipeline,
    outstanding: OutstandingBatches,
    context: RunContext,
    quota_logs: Mapping[str, SharedQuota],
) -> BatchRunner | NoBatches:
    """The part that handles batches, not started yet."""
    if not outstanding.lanes:
        return NoBatches()
    from batchgen.engine.batch.context import BatchContext, display_name_prefix  # most runs have no batch
    from batchgen.engine.batch.runner import BatchRunner  # as above

    options = request.options.batch_options(local=any(route.loopback for route in context.routes.values()))
    submit_until = None if survey.ways is None else survey.ways.submit_until
    return BatchRunner(
        BatchContext(
            run=context,
            pipeline=pipeline,
            outstanding=outstanding,
            options=replace(options, submit_until=submit_until),
            tier=request.job.manifest.limits.tier,
            prefix=display_name_prefix(context),
            quota_logs=quota_logs,
        )
    )
