"""`batchgen worker`: make what was submitted with `--engine cluster`; `batchgen cancel`: take back what has not begun."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.engine.cluster.stop import cancel
from batchgen.engine.cluster.worker import Worker, WorkerOptions
from batchgen.engine.stopping import handling_stop_signals
from batchgen.errors import UsageError
from batchgen.events import Event
from batchgen.ledger.location import ledger_url, read_pointer, server_address
from batchgen.report import formatting
from batchgen.report.event_text import LogWarningPrinter, WorkerLines
from batchgen.settings import LEDGER_VARIABLE, Settings

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
NO_MANIFESTS = (
    "a worker takes no manifest: it makes what others submit. Every night, `batchgen run MANIFEST --engine cluster --no-wait`"
    " submits, from a timer (`batchgen schedule`), a CronJob, or `batchgen daemon` with `schedule: {engine: cluster}`"
)


def worker_command(invocation: Invocation, quiet: bool, **options: Any) -> int:
    if click.get_current_context().args:
        raise UsageError(NO_MANIFESTS)
    worker_options = WorkerOptions(**{name: given for name, given in options.items() if given not in (None, "")})
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
        return asyncio.run(_run(worker))


async def _run(worker: Worker) -> int:
    """Raises LedgerError, UsageError."""
    signals = list[str]()

    def stop(number: int) -> None:
        signals.append(signal.Signals(number).name)
        worker.stop()

    with handling_stop_signals(stop):
        await worker.run()
    return SIGNAL_EXIT_CODES[signals[0]] if signals else 0


def _observers(invocation: Invocation, *, quiet: bool) -> list[Any]:
    observers = list[Any](() if invocation.log is None else (invocation.log,))
    if not quiet and (invocation.log is None or invocation.log_file is not None):
        observers.append(WorkerLines(invocation.err))
    return observers


def cancel_command(invocation: Invocation, job: str, output: str | None, dry_run: bool, as_json: bool) -> None:
    folder = find_job(job, output).folder
    there = read_pointer(folder)
    if there is None:
        raise UsageError(
            f"{folder} has its ledger in a file: nothing of it is with a cluster; stop its run with Ctrl-C"
        )
    withdrawn, left = cancel(server_address(folder, None) or "", there.schema, dry_run=dry_run)
    if as_json:
        invocation.answer({"folder": str(folder), "dry_run": dry_run, "withdrawn": withdrawn, "in_flight": left})
        return
    rest = f"; {formatting.count(left, 'sample')} in flight will be finished" if left else ""
    invocation.out.line(f"{formatting.count(withdrawn, 'sample')} {'to withdraw' if dry_run else 'withdrawn'}{rest}")
