"""The engine `cluster`: hands a run's samples to the queue in one transaction with the ledger, and watches what comes of them."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AbstractContextManager, nullcontext

from batchgen import __version__
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_jobs import Missing, find_missing
from batchgen.engine.cluster.orphan_recovery import after_workers
from batchgen.engine.cluster.reference_bundle import Enclosing
from batchgen.engine.cluster.submit import prepare, submit
from batchgen.engine.cluster.watch import Watch
from batchgen.engine.outcome import Ending
from batchgen.engine.remote_engine import Handover
from batchgen.engine.signals import minded
from batchgen.errors import UsageError
from batchgen.events import Noted, Stopping
from batchgen.ledger import work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.location import pointer
from batchgen.ledger.work_queue import Submission
from batchgen.records import Sample

AT_ONCE = 2000


class ClusterEngine:
    async def hand_over(self, run: Handover) -> Ending:
        """Returns when nothing of the job is left in the queue, or when somebody wants to leave it there."""
        there = pointer(run.store.folder)
        if there is None:
            raise UsageError(
                f"{run.store.root} has its ledger in a file, which workers cannot reach: choose another --output"
            )
        await asyncio.to_thread(prepare, run.url)
        emulated = run.options.emulator_url is not None
        missing = await asyncio.to_thread(
            lambda: find_missing(run.manifest, run.ledger, run.store, run.options.only, emulated=emulated)
        )
        _submit(run, there.schema, missing)  # in this thread, which the backlog belongs to; nothing else goes on yet
        run.release()
        watch = Watch(run.url, there.schema, run.ledger.reader, run.emit)
        try:
            stop = asyncio.Event()
            if not run.options.batches.wait:
                stop.set()
            with _leaving(run, stop) if run.options.install_signal_handlers else nullcontext():
                ending = await watch.ended(stop, run.ledger.run_id, run.options.deadline)
            heir = (run.store, run.url, there.schema, run.manifest.catalogue, lambda words: _note(run, words))
            await asyncio.to_thread(after_workers, *heir)
            return ending
        finally:
            watch.close()


def _note(run: Handover, message: str) -> None:
    run.emit(Noted(at=time.time(), message=message))


def _submit(run: Handover, schema: str, missing: Missing) -> None:
    """All of it or nothing: rows of the ledger, work and queue. Raises LedgerError."""
    limits, options = run.manifest.limits, run.options
    budget_usd = options.max_usd if options.max_usd is not None else limits.budget_usd
    facts = Submission(
        name=run.manifest.name,
        folder=run.store.root,
        bucket=run.store.url,
        limits=limits.model_dump(mode="json", exclude_unset=True),
        models=run.manifest.models,
        lanes={lane: load.rpm for lane, load in run.survey.loads.items() if not load.batch},
        hold_uncertain=options.hold_uncertain,
        stall_s=options.patience_s,
        emulator_url=options.emulator_url,
        version=__version__,
    )
    run_id = run.ledger.run_id

    enclosing = Enclosing(run.store, run.manifest.references)

    def change(db: Connection) -> None:
        if (run.survey.wanted or missing.derives) and work_queue.submission(db, run_id) is None:
            work_queue.insert_submission(db, run_id, facts, budget_usd, options.deadline)
        if run.survey.wanted:
            rows: list[tuple[str, Sample, tuple[str, ...]]] = []
            for lane, sample, keys in run.backlog.everything():
                rows.append((lane, enclosing.sample(sample), keys))
                if len(rows) == AT_ONCE:
                    work_queue.insert_work(db, run_id, rows)
                    rows = []
            work_queue.insert_work(db, run_id, rows)
            queue.defer(db, schema, run_id=run_id)
        missing.await_pictures(db, run_id)
        missing.submit(db, schema, run_id)

    submit(run.url, schema, change)


def _leaving(run: Handover, stop: asyncio.Event) -> AbstractContextManager[object]:
    """A signal ends the watching; the work goes on."""

    def leave(number: int) -> None:
        if not stop.is_set():
            stop.set()
            words = "the workers go on; run again to watch, `batchgen cancel` to withdraw what has not begun"
            run.emit(Stopping(at=time.time(), reason=signal.Signals(number).name, in_flight=0, message=words))

    return minded(leave)
