"""`batchgen worker`: make what was submitted with `--engine cluster`."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import log_options, pass_invocation
from batchgen.errors import UsageError
from batchgen.ledger.places import server_url
from batchgen.settings import LEDGER, Settings

if TYPE_CHECKING:
    from batchgen.engine.cluster.worker import Worker

LEFT = {"SIGINT": 130, "SIGTERM": 143}


@click.command("worker")
@click.option("--ledger", metavar="URL", help="postgresql://user@host/database; better in BATCHGEN_LEDGER.")
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
@click.option("--health-file", type=click.Path(), metavar="FILE", help="Touched every second while the worker works.")
@click.option("--dead-after", type=click.FloatRange(min=1.0), default=30.0, hidden=True, metavar="S")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is amiss.")
@log_options
@pass_invocation
def command(invocation: Invocation, **options: Any) -> int:
    """Make the pictures that `batchgen run --engine cluster` has submitted, on any machine that reaches the ledger.

    The files of `post:` too, in processes. It needs the API keys (not for those files), and the job's folder under the
    same path, or a bucket as output. Any number of workers share
    quota and budgets. The first Ctrl-C or SIGTERM gives back what has not begun and finishes what is in flight, the
    second gives that up too.

    \b
    Examples:
      BATCHGEN_LEDGER=postgresql://batchgen@db/batchgen batchgen worker
      batchgen worker --until-empty --concurrency 8
      batchgen worker --post-processes 16
    """
    from batchgen.engine.cluster.worker import Worker, WorkerOptions

    invocation.open_log(quiet=options["quiet"])
    settings = Settings.load()
    invocation.keep_secret(settings)
    url = options["ledger"] or settings.text(LEDGER)
    if url is None:
        raise UsageError(f"which ledger? --ledger postgresql://user@host/database, or {LEDGER}")
    given = {name: options[name] for name in ("name", "post_processes") if options[name] not in (None, "")}
    worker_options = WorkerOptions(
        concurrency=options["concurrency"],
        until_empty=options["until_empty"],
        health_file=options["health_file"],
        dead_after_s=options["dead_after"],
        **given,
    )
    observers = _observers(invocation, quiet=options["quiet"])

    def emit(event: Any) -> None:
        for observer in observers:
            observer(event)

    worker = Worker(server_url(url, "--ledger" if options["ledger"] else LEDGER), settings, worker_options, emit)
    return asyncio.run(_run(worker))


async def _run(worker: Worker) -> int:
    loop, left = asyncio.get_running_loop(), list[str]()

    def stop(number: int) -> None:
        left.append(signal.Signals(number).name)
        worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(stop, got))
        else:
            loop.add_signal_handler(number, stop, number)
    await worker.run()
    return LEFT[left[0]] if left else 0


def _observers(invocation: Invocation, *, quiet: bool) -> list[Any]:
    observers = list[Any](() if invocation.log is None else (invocation.log,))
    if not quiet and (invocation.log is None or invocation.log_file is not None):
        from batchgen.report.lines import Working

        observers.append(Working(invocation.err))
    return observers
