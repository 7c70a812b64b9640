"""Drives a run that sends its requests from this process until nothing more may start, and says why it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from itertools import chain, islice
from statistics import median

from batchgen.engine.budgets import JobBudgets, open_shared_quota
from batchgen.engine.context import in_background
from batchgen.engine.engines import Engine
from batchgen.engine.job_state import JobState, RunRequest
from batchgen.engine.online_parts import OnlineParts, open_online_parts
from batchgen.engine.opening import OpenedRun
from batchgen.engine.outcome import DerivativeCounts, ReviewCounts, RunEnding
from batchgen.engine.pacing import Pacing
from batchgen.engine.reconcile import Survey
from batchgen.engine.stopping import RunStopper, stop_on_signals
from batchgen.errors import LedgerError
from batchgen.planning.plan import Forecast
from batchgen.records import WITHOUT_IMAGE, is_judge_id
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind, StopReason, stop_text

NOT_TRIED_BATCH = 500  # samples recorded in one transaction


async def run_online(
    request: RunRequest, opened: OpenedRun, engine: Engine, signals: Sequence[int]
) -> tuple[RunEnding, Forecast]:
    """Do the work of a run. Returns how it ended, and its forecast. signals: those that have asked for its end already.
    Raises LedgerError if nothing more can be recorded."""
    state, survey, routes = opened.state, opened.survey, opened.routes
    options, limits, reconciliation = request.options, request.job.manifest.limits, survey.reconciliation
    with closing(open_shared_quota(request, routes)) as shared:
        loads, remote = reconciliation.loads, shared.is_remote
        pacing = Pacing(state.ledger, loads, routes, limits, options, request.emit, remote)
        budgets = JobBudgets(state.store.root, state.ledger.reader, shared, limits, routes, request.emulated)
        quota_logs = await budgets.quota_logs(loads)
        run_forecast = reconciliation.forecast(pacing.concurrency, *await budgets.remaining(options.max_usd))
        parked = pacing.still_parked()
        async with open_online_parts(request, state, survey, pacing, quota_logs, parked) as parts:
            run_id, name = state.ledger.run_id, request.job.manifest.name
            request.emit(reconciliation.started_event(run_id, name, run_forecast, emulated=request.emulated))
            derived, reviewed, waiting_uploads = await _drive(request, parts, engine, signals, remote=remote)
        dispatcher, stopper = parts.dispatcher, parts.pipeline.stopper
        _raise_if_ledger_broke(state, stopper)
        message = stop_text(dispatcher.stop_reason, options.stall_limit_s or 0.0)
        not_tried = _record_not_tried(state, survey, dispatcher, message)
        exposed, queue_status = parts.pipeline.execution.exposed_ms, state.ledger.reader.queue_status()
        lanes = dispatcher.lanes.values()
        ending = RunEnding(
            stop_reason=dispatcher.stop_reason,
            message=stopper.storage_message or message,
            left=not_tried + parts.batches.left,
            waits_for_quota=any(lane.parked and lane.waiting for lane in lanes),
            stopped_lanes={**{lane.key: lane.stopped for lane in lanes if lane.stopped}, **parts.batches.stopped_lanes},
            unsubmitted=parts.batches.unsubmitted,
            with_workers=0 if queue_status is None else queue_status.samples,
            exposed_ms=(median(exposed), max(exposed)) if exposed else None,
            derived=derived,
            reviewed=reviewed,
            waiting_uploads=waiting_uploads,
            parked=parked,
        )
        return ending, run_forecast


async def _drive(
    request: RunRequest, parts: OnlineParts, engine: Engine, signals: Sequence[int], *, remote: bool
) -> tuple[DerivativeCounts, ReviewCounts, int]:
    """Drive the work to its end. Returns what became of derivatives and reviews, and how many images wait for their
    bucket. remote: other machines share the quota."""
    dispatcher, pipeline, execution = parts.dispatcher, parts.pipeline, parts.pipeline.execution
    watching = request.options.install_signal_handlers
    stopping = stop_on_signals(
        dispatcher,
        request.emit,
        signals,
        give_up_preparing=execution.give_up_preparing,
        cancel_in_flight=execution.cancel_in_flight,
    )
    with stopping if watching else nullcontext():
        async with (
            parts.batches,
            parts.jobs,
            in_background(dispatcher.poll_shared_state()) if remote else nullcontext(),
        ):
            await engine.drive(dispatcher, parts.review.execute)
        if dispatcher.shared_quota_error is not None:
            pipeline.stopper.storage_failed(dispatcher.shared_quota_error)
        reviewed = await parts.review.reviewer.finish()
        derived = await parts.derivatives.finish(lambda: _stop_reason(request, dispatcher))
        return derived, reviewed, await pipeline.deferred_uploads.finish()


def _stop_reason(request: RunRequest, dispatcher: Dispatcher) -> StopReason | None:
    """Why the run has to end. Its deadline also counts for derivatives, if no request is left to notice it."""
    if request.options.deadline is not None and time.time() >= request.options.deadline:
        dispatcher.stop(StopReason(StopKind.DEADLINE))
    return dispatcher.stop_reason


def _raise_if_ledger_broke(state: JobState, stopper: RunStopper) -> None:
    """Raise LedgerError if nothing more can be recorded: then nothing can be reported as recorded either."""
    if stopper.storage_error is not None:
        with suppress(LedgerError):
            state.ledger.flush()  # whether it can still be written
    if (broken := state.ledger.writer.broken) is not None:
        raise type(broken)(stopper.storage_message or str(broken)) from broken


def _record_not_tried(state: JobState, survey: Survey, dispatcher: Dispatcher, message: str) -> int:
    """Record the samples that the run did not get to, so that each item has a line in the results. Returns their number,
    without those that count as failed or uncertain because of an earlier request."""
    not_tried, reader = 0, state.ledger.reader
    waiting = (sample for sample in dispatcher.waiting_samples() if not is_judge_id(sample.item.id))
    left = chain(waiting, (sample for _, sample, _ in survey.backlog.iter_all()))
    while samples := list(islice(left, NOT_TRIED_BATCH)):
        state.ledger.record_not_tried(samples, message or "the run ended before its turn came")
        keys = {(each.item.id, n) for each in samples for n in range(each.n, each.n + each.images)}
        known = reader.known_samples(list({item_id for item_id, _ in keys})).items()
        ended = {(item_id, each.n) for item_id, found in known for each in found if each.state in WITHOUT_IMAGE}
        not_tried += len(keys - ended)
    return not_tried
