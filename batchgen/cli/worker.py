"""`batchgen worker`: makes what was submitted with `--engine cluster`."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.listener import listen
from batchgen.cli.post_run import PostRun
from batchgen.engine.cluster.submission_end import EndedSubmission
from batchgen.engine.cluster.worker import Worker, WorkerOptions
from batchgen.engine.stopping import handling_stop_signals
from batchgen.errors import UsageError
from batchgen.events import Event, Notice
from batchgen.ledger.location import ledger_url
from batchgen.report.event_text import LogWarningPrinter, WorkerLines
from batchgen.settings import LEDGER_VARIABLE, Settings, is_loopback

SIGNAL_EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
NO_MANIFESTS = (
    "a worker takes no manifest: it makes what others submit. Every night, `batchgen run MANIFEST --engine cluster --no-wait`"
    " submits, from a timer (`batchgen schedule`), a CronJob, or `batchgen daemon` with `schedule: {engine: cluster}`"
)


def worker_command(invocation: Invocation, quiet: bool, metrics: tuple[str, int] | None, **options: Any) -> int:
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

    def send_message(ended: EndedSubmission) -> None:
        from batchgen.cli.run_end import report_submission_end  # no image has to wait for it

        words = report_submission_end(PostRun(invocation, "", None, ()), ended, settings)
        emit(Notice(at=time.time(), message=words), job=ended.name, run=ended.outcome.run_id)

    worker = Worker(url, settings, worker_options, emit, send_message)
    serving = nullcontext() if metrics is None else _metrics_server(invocation, worker, observers, metrics, quiet=quiet)
    with ExitStack() as stack:
        if invocation.log is None:
            stack.enter_context(LogWarningPrinter(invocation.err.line))
        return asyncio.run(_run(worker, serving))


def _metrics_server(
    invocation: Invocation, worker: Worker, observers: list[Any], address: tuple[str, int], *, quiet: bool
) -> AbstractAsyncContextManager[None]:
    """The server for metrics. observers: the one that counts is added. Raises UsageError without the library,
    SettingsError."""
    from batchgen.report.metrics import require_library  # most workers serve nothing
    from batchgen.report.worker_server import WorkerCounters, WorkerServer, serving  # it brings a web server

    require_library()
    observers.append(counters := WorkerCounters())
    listener = listen(*address, "--metrics 0")
    host, port = listener.getsockname()[:2]
    if not quiet:
        invocation.err.line(f"metrics at http://{f'[{host}]' if ':' in host else host}:{port}/metrics", "dim")
    server = WorkerServer(worker, counters, invocation.err.fit, loopback=is_loopback(address[0]))
    return serving(server.application(), listener, "batchgen.metrics")


async def _run(worker: Worker, serving: AbstractAsyncContextManager[None]) -> int:
    """Run the worker. Raises LedgerError, UsageError."""
    signals = list[str]()

    def stop(number: int) -> None:
        signals.append(signal.Signals(number).name)
        worker.stop()

    with handling_stop_signals(stop):
        async with serving:
            await worker.run()
    return SIGNAL_EXIT_CODES[signals[0]] if signals else 0


def _observers(invocation: Invocation, *, quiet: bool) -> list[Any]:
    observers = list[Any](() if invocation.log is None else (invocation.log,))
    if not quiet and (invocation.log is None or invocation.log_file is not None):
        observers.append(WorkerLines(invocation.err))
    return observers
