"""A run whose requests are sent from this process: its quota, its dispatcher and pipeline, batches and derivatives."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from statistics import median

from batchgen.engine.batch.context import BatchContext
from batchgen.engine.batch.runner import BatchRunner
from batchgen.engine.batch.startup import batch_options, name_prefix
from batchgen.engine.budgets import JobBudgets
from batchgen.engine.context import Emit, Note, open_context
from batchgen.engine.dependents import Dependents
from batchgen.engine.derivative_runner import DerivativeRunner
from batchgen.engine.execute import Execution
from batchgen.engine.online import Engine
from batchgen.engine.outcome import RunEnding, RunOptions
from batchgen.engine.pacing import Pacing, polling_shared_state
from batchgen.engine.pipeline import open_pipeline
from batchgen.engine.reconciliation import Reconciliation
from batchgen.engine.routes import Route
from batchgen.engine.run_events import run_started
from batchgen.engine.signals import stop_on_signals
from batchgen.errors import LedgerError
from batchgen.events import Observer
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.results import ResultsFile
from batchgen.manifest import Manifest
from batchgen.planning.batchable import is_batch
from batchgen.planning.plan import Forecast, forecast
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind, StopReason, stop_text
from batchgen.settings import Settings, state_folder
from batchgen.store.store import Store

NOT_TRIED_BATCH = 500  # samples recorded in one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRun:
    """observers: hear what `emit` is given; the derivatives of this run are added to them."""

    manifest: Manifest
    store: Store
    settings: Settings
    options: RunOptions
    backlog: Backlog
    ledger: Ledger
    observers: list[Observer]
    emit: Emit
    note: Note

    async def drive(
        self,
        engine: Engine,
        reconciliation: Reconciliation,
        routes: Mapping[str, Route],
        results: ResultsFile,
        shared: QuotaStore,
    ) -> tuple[RunEnding, Forecast, bool]:
        """How the work came to its end, what was forecast, and whether there are samples that the run did not come to."""
        limits, options, ledger = self.manifest.limits, self.options, self.ledger
        pacing = Pacing(ledger, reconciliation.loads, routes, limits, options, self.emit, shared.is_remote)
        budgets = JobBudgets(self.store.root, ledger.reader, shared, limits, routes, options.emulator_url is not None)
        quota_logs = await budgets.quota_logs(reconciliation.loads)
        budget, budget_of = await budgets.remaining(options.max_usd)
        run_forecast = forecast(
            list(reconciliation.loads.values()), pacing.concurrency, budget, budget_of, chain_s=reconciliation.chain_s
        )
        parked = pacing.still_parked()
        async with AsyncExitStack() as stack:
            context = await stack.enter_async_context(
                open_context(
                    ledger=ledger,
                    store=self.store,
                    routes=routes,
                    concurrency=pacing.concurrency,
                    state_folder=state_folder(self.settings),
                    emit=self.emit,
                    note=self.note,
                )
            )
            dispatcher = pacing.dispatcher(self.backlog, quota_logs, parked)

            def on_supplied(lane: str) -> None:
                (batches.backlog_grew if is_batch(lane) else dispatcher.backlog_grew)(lane)

            dependents = Dependents(self.backlog, ledger, self.store, self.manifest.references, on_supplied)
            pipeline = await stack.enter_async_context(
                open_pipeline(context, dispatcher, dependents, results, hold_uncertain=options.hold_uncertain)
            )
            derivatives = await stack.enter_async_context(self._derivatives())
            self.observers.append(derivatives)
            execution = pipeline.execution
            batches = BatchRunner(
                BatchContext(
                    run=context,
                    pipeline=pipeline,
                    options=batch_options(options, any(route.loopback for route in routes.values())),
                    tier=limits.tier,
                    prefix=name_prefix(ledger),
                    chunks=ChunkWriter(ledger),
                    backlog=self.backlog,
                    dispatcher=dispatcher,
                    routes={lane: route for lane, route in routes.items() if lane in reconciliation.loads},
                    quota_logs=quota_logs,
                    policy=pacing.policy,
                )
            )
            self.emit(run_started(ledger.run_id, self.manifest.name, reconciliation, run_forecast, options))
            with (
                stop_on_signals(dispatcher, execution, self.emit) if options.install_signal_handlers else nullcontext()
            ):
                async with batches, polling_shared_state(dispatcher) if shared.is_remote else nullcontext():
                    await engine.drive(dispatcher, execution.execute)
                if dispatcher.shared_quota_error is not None:
                    execution.storage_failed(dispatcher.shared_quota_error)
                derived = await derivatives.finish(lambda: self._stop_reason(dispatcher))
                waiting_uploads = await pipeline.deferred_uploads.finish()
        self._raise_if_ledger_broke(execution)
        message = stop_text(dispatcher.stop_reason, options.stall_limit_s or 0.0)
        left = self._record_not_tried(dispatcher, message)
        ending = replace(
            self._ending(dispatcher, execution, batches),
            message=execution.storage_message or message,
            derived=derived,
            waiting_uploads=waiting_uploads,
            parked=parked,
        )
        return ending, run_forecast, left

    def _raise_if_ledger_broke(self, execution: Execution) -> None:
        """Nothing more can be recorded then, nor reported as recorded. Raises LedgerError."""
        if execution.storage_error is not None:
            with suppress(LedgerError):
                self.ledger.flush()  # whether it can still be written
        if (broken := self.ledger.writer.broken) is not None:
            raise type(broken)(execution.storage_message or str(broken)) from broken

    def _ending(self, dispatcher: Dispatcher, execution: Execution, batches: BatchRunner) -> RunEnding:
        exposed, queue_status = execution.exposed_ms, self.ledger.reader.queue_status()
        lanes = dispatcher.lanes.values()
        return RunEnding(
            stop_reason=dispatcher.stop_reason,
            left=dispatcher.untried_count() + batches.left + self.backlog.dependent_count,
            waits_for_quota=any(lane.parked and lane.waiting for lane in lanes),
            stopped_lanes={**{lane.key: lane.stopped for lane in lanes if lane.stopped}, **batches.stopped_lanes},
            unsubmitted=batches.unsubmitted,
            with_workers=0 if queue_status is None else queue_status.samples,
            exposed_ms=(median(exposed), max(exposed)) if exposed else None,
        )

    def _derivatives(self) -> DerivativeRunner:
        emulated = self.options.emulator_url is not None
        return DerivativeRunner(
            self.manifest, self.ledger, self.store, self.note, emulated=emulated, only=self.options.only
        )

    def _stop_reason(self, dispatcher: Dispatcher) -> StopReason | None:
        """Why the run is to end. Its deadline is one for derivatives too, when no request is left to notice it."""
        if self.options.deadline is not None and time.time() >= self.options.deadline:
            dispatcher.stop(StopReason(StopKind.DEADLINE))
        return dispatcher.stop_reason

    def _record_not_tried(self, dispatcher: Dispatcher, message: str) -> bool:
        """What the run did not come to, so that each item has a line in the results. Whether there is any."""
        left = chain(dispatcher.waiting_samples(), (sample for _, sample, _ in self.backlog.iter_all()))
        found = False
        while samples := list(islice(left, NOT_TRIED_BATCH)):
            self.ledger.record_not_tried(samples, message or "the run ended before its turn came")
            found = True
        return found
