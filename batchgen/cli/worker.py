"""`batchgen worker`: make what was submitted with `--engine cluster`."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.engine.cluster.worker import Worker, WorkerOptions
from batchgen.engine.stopping import handling_stop_signals
from batchgen.errors import UsageError
from batchgen.events import Event
from batchgen.ledger.location import ledger_url
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
