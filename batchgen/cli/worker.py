"""`batchgen worker`: make what was submitted with `--engine cluster`; `batchgen cancel`: take back what has not begun."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from batchgen.cli.daemon import RunCommand
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.daemon.cluster_scheduler import ClusterScheduledJobs, ClusterScheduler, ClusterSchedulerOptions
from batchgen.daemon.schedule_leases import ScheduleLeases
from batchgen.engine.cluster.stop import cancel
from batchgen.engine.cluster.worker import Worker, WorkerOptions
from batchgen.engine.signals import handling_stop_signals
from batchgen.errors import UsageError
from batchgen.events import Event
from batchgen.ledger.location import SHARED_SCHEMA, ledger_url, read_pointer, server_address
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.report import formatting
from batchgen.report.event_text import LogWarningPrinter, WorkerLines
from batchgen.settings import LEDGER_VARIABLE, Settings

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


def worker_command(invocation: Invocation, manifests: tuple[str, ...], quiet: bool, **options: Any) -> int:
    worker_options = WorkerOptions(**{name: given for name, given in options.items() if given not in (None, "")})
    if manifests and worker_options.until_empty:
        raise UsageError(
            "--until-empty leaves when nothing is left, and nights need a worker that stays: leave one out"
        )

    invocation.open_log(quiet=quiet)
    settings = Settings.load()
    invocation.hide_keys(settings)
    url = ledger_url(settings)
    if url is None:
        raise UsageError(f"which ledger? --ledger postgresql://user@host/database, or {LEDGER_VARIABLE}")
    observers = _observers(invocation, quiet=quiet)
    if invocation.log is not None:
        invocation.log.bind(worker=worker_options.name)

    def emit(event: Event, **context: Any) -> None:
        for observer in observers:
            observer(event, **context)

    worker = Worker(url, settings, worker_options, emit)
    with ExitStack() as stack:
        if invocation.log is None:
            stack.enter_context(LogWarningPrinter(invocation.err.line))
        scheduler = partial(_make_scheduler, url, worker_options.name, manifests, emit, stack) if manifests else None
        return asyncio.run(_run(worker, scheduler))


async def _run(worker: Worker, make_scheduler: Callable[[], ClusterScheduler] | None) -> int:
    """make_scheduler: of the nights, called once the server is there. Raises LedgerError, UsageError."""
    signals = list[str]()
    schedulers: list[ClusterScheduler] = []

    def stop(number: int) -> None:
        signals.append(signal.Signals(number).name)
        worker.stop()
        for scheduler in schedulers:
            scheduler.stop()

    with handling_stop_signals(stop):
        if make_scheduler is None:
            await worker.run()
        elif await worker.wait_for_server():
            schedulers.append(make_scheduler())
            await _run_with_schedule(worker, schedulers[0])
    return SIGNAL_EXIT_CODES[signals[0]] if signals else 0


async def _run_with_schedule(worker: Worker, scheduler: ClusterScheduler) -> None:
    nights = asyncio.create_task(scheduler.run())
    try:
        await worker.run()
    finally:
        scheduler.stop()
        await nights


def _make_scheduler(
    url: str, name: str, manifests: tuple[str, ...], emit: Callable[[Event], None], stack: ExitStack
) -> ClusterScheduler:
    """The nights of these manifests. Raises LedgerError."""
    database = PostgreSQL(url, SHARED_SCHEMA, f"batchgen nights {name}")
    stack.callback(database.close)
    leases = ScheduleLeases(database, name)
    leases.create_tables()
    return ClusterScheduler(
        ClusterScheduledJobs(manifests, leases),
        leases,
        ClusterSchedulerOptions(command=RunCommand(emulate=False, log_format="text", engine="cluster"), emit=emit),
    )


def _observers(invocation: Invocation, *, quiet: bool) -> list[Any]:
    observers = list[Any](() if invocation.log is None else (invocation.log,))
    if not quiet and (invocation.log is None or invocation.log_file is not None):
        observers.append(WorkerLines(invocation.err))
    return observers


def cancel_command(invocation: Invocation, job: str, output: str | None, as_json: bool) -> None:
    folder = find_job(job, output).folder
    there = read_pointer(folder)
    if there is None:
        raise UsageError(
            f"{folder} has its ledger in a file: nothing of it is with a cluster; stop its run with Ctrl-C"
        )
    withdrawn, left = cancel(server_address(folder, None) or "", there.schema)
    if as_json:
        invocation.out.json({"folder": str(folder), "withdrawn": withdrawn, "in_flight": left})
        return
    rest = f"; {formatting.count(left, 'sample')} in flight will be finished" if left else ""
    invocation.out.line(f"{formatting.count(withdrawn, 'sample')} withdrawn{rest}")
