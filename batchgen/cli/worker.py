"""`batchgen worker`: make what was submitted with `--engine cluster`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import ledger_option, log_options, pass_invocation
from batchgen.errors import UsageError
from batchgen.ledger.location import ledger_url
from batchgen.providers.registry import provider_names
from batchgen.settings import LEDGER_VARIABLE, Settings

if TYPE_CHECKING:
    from batchgen.daemon.cluster_scheduler import ClusterScheduler
    from batchgen.engine.cluster.worker import Worker
    from batchgen.events import Event

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@click.command("worker")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST|GLOB|FOLDER]...")
@ledger_option
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), metavar="N",
    help="Requests in flight for one job at most.  [default: as its manifest says]",
)  # fmt: skip
@click.option(
    "--post-processes", type=click.IntRange(0, 1000), metavar="N",
    help="Processes that make the files of `post:`; 0: this worker makes none.  [default: one fewer than cores, 8 at most]",
)  # fmt: skip
@click.option("--until-empty", is_flag=True, help="Leave when nothing is left that may be made now; for batch systems.")
@click.option("--name", metavar="NAME", help="Unlike any other worker's.  [default: host, process and a few letters]")
@click.option(
    "--health-file", type=click.Path(), metavar="FILE", help="Touched every few seconds while the worker lives."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is amiss.")
@log_options
@pass_invocation
def command(invocation: Invocation, manifests: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Make the pictures that `batchgen run --engine cluster` has submitted, on any machine that reaches the ledger.

    Each MANIFEST with `schedule:` in its head is submitted at its times, as well: once each night by one of all workers
    that were given it, made up for within catch_up when that one dies. Edited manifests are read again each minute.

    The files of `post:` are made too, in processes. It needs the API keys (not for those files), and the job's folder
    under the same path, or a bucket as output. Any number of workers share
    quota and budgets. The first Ctrl-C or SIGTERM gives back what has not begun and finishes what is in flight, the
    second gives that up too.

    \b
    Examples:
      BATCHGEN_LEDGER=postgresql://batchgen@db/batchgen batchgen worker
      batchgen worker --until-empty --concurrency 8
      batchgen worker --post-processes 16
      batchgen worker 'jobs/*.yaml'                 submits their nights too
    """
    from batchgen.engine.cluster.worker import Worker, WorkerOptions

    worker_options = WorkerOptions(**{name: given for name, given in options.items() if given not in (None, "")})
    if manifests and worker_options.until_empty:
        raise UsageError(
            "--until-empty leaves when nothing is left, and nights need a worker that stays: leave one out"
        )

    invocation.open_log(quiet=quiet)
    settings = Settings.load()
    invocation.hide_keys(settings, provider_names())
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
            from batchgen.report.event_text import LogWarningPrinter

            stack.enter_context(LogWarningPrinter(invocation.err.line))
        scheduler = partial(_make_scheduler, url, worker_options.name, manifests, emit, stack) if manifests else None
        return asyncio.run(_run(worker, scheduler))


async def _run(worker: Worker, make_scheduler: Callable[[], ClusterScheduler] | None) -> int:
    """make_scheduler: of the nights, called once the server is there. Raises LedgerError, UsageError."""
    from batchgen.engine.signals import handling_stop_signals

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
    from batchgen.cli.daemon import RunCommand
    from batchgen.daemon.cluster_scheduler import ClusterScheduledJobs, ClusterScheduler, ClusterSchedulerOptions
    from batchgen.daemon.schedule_leases import ScheduleLeases
    from batchgen.ledger.location import SHARED_SCHEMA
    from batchgen.ledger.postgresql import PostgreSQL

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
        from batchgen.report.event_text import WorkerLines

        observers.append(WorkerLines(invocation.err))
    return observers
