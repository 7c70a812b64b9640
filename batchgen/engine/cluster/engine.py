"""The engine `cluster`: hands a run's samples to the queue in one transaction with the ledger, and watches their
progress."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

from batchgen import __version__
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.engine.cluster.orphan_recovery import recover_after_workers
from batchgen.engine.cluster.reference_bundle import ReferencePacker
from batchgen.engine.cluster.submit import DerivativePlan, plan_derivatives, submit
from batchgen.engine.engines import RemoteRun
from batchgen.engine.outcome import RunEnding
from batchgen.engine.stopping import handling_stop_signals
from batchgen.errors import UsageError
from batchgen.events import Notice, Stopping
from batchgen.ledger import endings, work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.location import open_schema, read_pointer
from batchgen.ledger.work_queue import Submission
from batchgen.manifest.addresses import secrets_in

ROWS_AT_ONCE = 2000


class ClusterEngine:
    async def run_remotely(self, run: RemoteRun) -> RunEnding:
        """Submit a run and wait until nothing of its job is left in the queue, or until the user leaves it there."""
        location = read_pointer(run.store.folder)
        if location is None:
            raise UsageError(
                f"{run.store.root} has its ledger in a file, which workers cannot reach: choose another --output"
            )
        await asyncio.to_thread(queue.migrate, run.url)
        emulated = run.options.emulator_url is not None
        plan = await asyncio.to_thread(
            lambda: plan_derivatives(run.manifest, run.ledger, run.store, run.options.only, emulated=emulated)
        )
        # In this thread, which owns the backlog. Nothing else is running yet.
        ended_by_workers = _submit(run, location.schema, plan)
        run.release_lock()
        monitor = ClusterMonitor(run.url, location.schema, run.ledger.reader, run.emit)
        try:
            stop = asyncio.Event()
            if not run.options.batches.wait:
                stop.set()
            with _detach_on_signal(run, stop) if run.options.install_signal_handlers else nullcontext():
                ending = await monitor.wait_until_ended(stop, run.ledger.run_id, run.options.deadline)
            ended = not (ending.left or ending.derived.queued)
            if ended is not run.options.batches.wait:
                await asyncio.to_thread(_hand_over_end, run, location.schema, taken_back=ended)
            recovery = (run.store, run.url, location.schema, run.manifest.catalogue, lambda words: _note(run, words))
            await asyncio.to_thread(recover_after_workers, *recovery)
            return replace(ending, ended_by_workers=ended_by_workers if ended else None)
        finally:
            monitor.close()


def _note(run: RemoteRun, message: str) -> None:
    run.emit(Notice(at=time.time(), message=message))


def _submit(run: RemoteRun, schema: str, plan: DerivativePlan) -> int | None:
    """Submit everything or nothing: rows of the ledger, work and queue. Returns the exit code of the last submission if
    workers have ended it and this run adds nothing. Raises LedgerError."""
    limits, options = run.manifest.limits, run.options
    budget_usd = options.max_usd if options.max_usd is not None else limits.budget_usd
    facts = Submission(
        name=run.manifest.name,
        folder=run.store.root,
        bucket=run.store.url,
        limits=limits.model_dump(mode="json", exclude_unset=True),
        models=run.manifest.models,
        lanes={lane: load.rpm for lane, load in run.reconciliation.loads.items() if not load.batch},
        hold_uncertain=options.hold_uncertain,
        stall_s=options.stall_limit_s,
        emulator_url=options.emulator_url,
        version=__version__,
    )
    run_id = run.ledger.run_id

    packer = ReferencePacker(run.store, run.manifest.references)
    ended_by_workers = list[int | None]()

    def change(db: Connection) -> int:
        added = 0
        if run.reconciliation.wanted or plan.derives:
            work_queue.add_submission(db, run_id, facts, budget_usd, options.deadline)
        waiting = run.backlog.iter_all() if run.reconciliation.wanted else iter(())
        while rows := [(lane, packer.pack(sample), keys) for lane, sample, keys in islice(waiting, ROWS_AT_ONCE)]:
            work_queue.insert_samples(db, run_id, rows)
            added += len(rows)
        added += plan.insert(db, run_id)
        ended_by_workers.append(endings.take_back(db, schema, forget=added > 0))
        if not options.batches.wait:
            endings.leave_to_workers(db, schema, run_id, _notify_facts(run))
        return added

    submit(run.url, schema, change)
    return ended_by_workers[-1]


def _hand_over_end(run: RemoteRun, schema: str, *, taken_back: bool) -> None:
    """Record whether workers will end what is in the queue, or this run has seen its end. Raises LedgerError."""

    def change(db: Connection) -> None:
        if taken_back:
            endings.take_back(db, schema, forget=False)
        else:
            endings.leave_to_workers(db, schema, run.ledger.run_id, _notify_facts(run))

    with contextlib.closing(open_schema(run.url, schema)) as database:
        database.transact([change])


def _notify_facts(run: RemoteRun) -> dict[str, Any]:
    """Where the manifest wants messages to go, for the worker that ends the submission. An address that is itself a
    secret is not left on the server."""
    wanted = run.manifest.notify
    if wanted is None:
        return {}
    to = [wanted.to] if isinstance(wanted.to, str) else wanted.to or []
    return {"to": [address for address in to if not secrets_in(address)], "on": wanted.on}


def _detach_on_signal(run: RemoteRun, stop: asyncio.Event) -> AbstractContextManager[object]:
    """End the watching on a signal; the work goes on."""

    def detach(number: int) -> None:
        if not stop.is_set():
            stop.set()
            words = "the workers go on; run again to watch, `batchgen cancel` to withdraw what has not begun"
            run.emit(Stopping(at=time.time(), reason=signal.Signals(number).name, in_flight=0, message=words))

    return handling_stop_signals(detach)
