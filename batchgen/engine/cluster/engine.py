"""The engine `cluster`: hands a run's samples to the queue in one transaction with the ledger, and watches what comes of them."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from batchgen import __version__
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.heirs import after_workers
from batchgen.engine.cluster.watch import Watch
from batchgen.engine.elsewhere import Handover
from batchgen.engine.outcome import Ending
from batchgen.errors import UsageError
from batchgen.events import Noted, Stopping
from batchgen.ledger import work
from batchgen.ledger.database import Connection
from batchgen.ledger.places import SHARED, open_schema, pointer
from batchgen.ledger.postgresql import PostgreSQL, tables
from batchgen.ledger.work import Submission
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
        await asyncio.to_thread(_prepare, run.url)
        if run.survey.wanted:
            _submit(run, there.schema)  # in this thread, which the backlog belongs to; nothing else goes on yet
        run.release()
        watch = Watch(run.url, there.schema, run.ledger.reader, run.emit)
        try:
            stop = asyncio.Event()
            if not run.options.batches.wait:
                stop.set()
            with _leaving(run, stop) if run.options.install_signal_handlers else nullcontext():
                ending = await watch.ended(stop, run.ledger.run_id)
            heir = (run.store, run.url, there.schema, run.manifest.catalogue, lambda words: _note(run, words))
            await asyncio.to_thread(after_workers, *heir)
            return ending
        finally:
            watch.close()


def _note(run: Handover, message: str) -> None:
    run.emit(Noted(at=time.time(), message=message))


def _prepare(url: str) -> None:
    server = PostgreSQL(url, SHARED, "batchgen submits")
    try:
        queue.prepare(server)
    finally:
        server.close()


def _submit(run: Handover, schema: str) -> None:
    """All of it or nothing: rows of the ledger, work and queue. Raises LedgerError."""
    limits, options = run.manifest.limits, run.options
    budget_usd = options.max_usd if options.max_usd is not None else limits.budget_usd
    facts = Submission(
        name=run.manifest.name,
        folder=run.store.root,
        output=run.store.root,
        references=str(run.manifest.folder),
        limits=limits.model_dump(mode="json", exclude_unset=True),
        models=run.manifest.models,
        lanes={lane: load.rpm for lane, load in run.survey.loads.items() if not load.batch},
        hold_uncertain=options.hold_uncertain,
        emulator_url=options.emulator_url,
        version=__version__,
    )
    run_id = run.ledger.run_id

    def change(db: Connection) -> None:
        for statement in tables(work.TABLES).split(";"):
            if statement.strip():
                db.execute(statement)
        work.insert_submission(db, run_id, facts, budget_usd, options.deadline)
        rows: list[tuple[str, Sample, tuple[str, ...]]] = []
        for row in run.backlog.everything():
            rows.append(row)
            if len(rows) == AT_ONCE:
                work.insert_work(db, run_id, rows)
                rows = []
        work.insert_work(db, run_id, rows)
        queue.defer(db, schema, run_id=run_id)

    database = open_schema(run.url, schema)
    try:
        database.transact([change])
    finally:
        database.close()


@contextmanager
def _leaving(run: Handover, stop: asyncio.Event) -> Iterator[None]:
    """A signal ends the watching; the work goes on. A SIGHUP that was ignored (nohup) stays ignored."""
    loop = asyncio.get_running_loop()

    def leave(number: int) -> None:
        if not stop.is_set():
            stop.set()
            words = "the workers go on; run again to watch, `batchgen cancel` to withdraw what has not begun"
            run.emit(Stopping(at=time.time(), reason=signal.Signals(number).name, in_flight=0, message=words))

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    minded = [each for each in numbers if signal.Signals(each).name != "SIGHUP" or before[each] != signal.SIG_IGN]
    for number in minded:
        if sys.platform == "win32":
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(leave, got))
        else:
            loop.add_signal_handler(number, leave, number)
    try:
        yield
    finally:
        for number in minded:
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, before[number])
