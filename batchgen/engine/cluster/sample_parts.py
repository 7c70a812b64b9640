"""Everything with which a worker makes the samples of one submission, built once and closed in one place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from batchgen.engine.cluster.orphan_recovery import PreviousAttempts, take_and_adopt_spool
from batchgen.engine.cluster.reference_bundle import ReferenceUnpacker
from batchgen.engine.cluster.sample_lanes import LaneEvents, SampleLanes, Terms, open_lanes, terms_of
from batchgen.engine.cluster.session import WorkerContext, open_submitted_store, unlock_spool
from batchgen.engine.context import open_context
from batchgen.engine.dependents import QueuedDependents
from batchgen.engine.pipeline import NoResultsFile, Pipeline, open_pipeline
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.scheduling.lane import InMemorySampleSource
from batchgen.store.job_folder import SPOOL
from batchgen.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParts:
    ledger: FencedLedger
    store: Store
    terms: Terms
    events: LaneEvents
    source: InMemorySampleSource
    lanes: SampleLanes
    unpacker: ReferenceUnpacker
    dependents: QueuedDependents
    pipeline: Pipeline
    previous_attempts: PreviousAttempts


@asynccontextmanager
async def open_parts(
    worker: WorkerContext, schema: str, run_id: int, facts: Submission, shared: QuotaStore
) -> AsyncIterator[SampleParts]:
    """Raises BatchgenError if this worker cannot make this job's images."""
    async with AsyncExitStack() as stack:
        name = re.sub(r"[^\w.-]", "_", worker.name)
        store = await asyncio.to_thread(open_submitted_store, worker, facts, schema, f"{SPOOL}-{name}-{run_id}")
        ledger = await asyncio.to_thread(worker.ledger, schema, run_id)
        stack.callback(ledger.close)
        terms = terms_of(facts, worker)
        lock = await asyncio.to_thread(take_and_adopt_spool, ledger, store, terms.catalogue, worker.note)
        stack.callback(unlock_spool, store, lock)
        stack.callback(store.emergency_spool.release_space)
        events, source = LaneEvents(ledger, facts.lanes, worker.emit), InMemorySampleSource()
        lanes = await open_lanes(facts, terms, ledger, shared, source, events)
        context = await stack.enter_async_context(
            open_context(
                ledger=ledger,
                store=store,
                routes=terms.routes,
                concurrency=lanes.concurrency,
                state_folder=worker.state_folder,
                emit=events,
                note=worker.note,
            )
        )
        unpacker = ReferenceUnpacker(store)
        dependents = QueuedDependents(ledger, store, unpacker.references)
        stack.callback(dependents.close)
        hold = facts.hold_uncertain
        pipeline = await stack.enter_async_context(
            open_pipeline(context, lanes.dispatcher, dependents, NoResultsFile(), hold_uncertain=hold)
        )
        receiver = pipeline.receiver
        yield SampleParts(
            ledger=ledger,
            store=store,
            terms=terms,
            events=events,
            source=source,
            lanes=lanes,
            unpacker=unpacker,
            dependents=dependents,
            pipeline=pipeline,
            previous_attempts=PreviousAttempts(
                ledger, store, terms.catalogue, receiver, terms.routes, worker.note, hold
            ),
        )
