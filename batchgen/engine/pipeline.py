"""The parts through which a sample goes online, wired in one place for a run and for a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from batchgen.engine.attempts import AttemptRecorder
from batchgen.engine.context import RunContext
from batchgen.engine.deferred_uploads import DeferredUploads
from batchgen.engine.dependents import Dependents
from batchgen.engine.execute import Execution
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.ledger.results import ResultsFile
from batchgen.scheduling.dispatcher import Dispatcher


@dataclass(frozen=True, slots=True)
class Pipeline:
    reference_inputs: ReferenceInputs
    attempts: AttemptRecorder
    execution: Execution
    deferred_uploads: DeferredUploads


@asynccontextmanager
async def open_pipeline(
    context: RunContext,
    dispatcher: Dispatcher,
    dependents: Dependents,
    results: ResultsFile,
    *,
    hold_uncertain: bool,
) -> AsyncIterator[Pipeline]:
    async with AsyncExitStack() as stack:
        reference_inputs = await stack.enter_async_context(
            ReferenceInputs(dependents, context.store, context.transport, context.uploads, context.note)
        )
        deferred_uploads = await stack.enter_async_context(
            DeferredUploads(context.ledger, context.store, context.executor, context.note)
        )
        attempts = AttemptRecorder(context, results, dependents)
        execution = Execution(context, dispatcher, attempts, reference_inputs, hold_uncertain=hold_uncertain)
        yield Pipeline(reference_inputs, attempts, execution, deferred_uploads)
