"""Running a job for a person: the question before it, what is shown meanwhile, the summary after it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.post_run import PostRun
from batchgen.errors import UsageError
from batchgen.ledger.location import ledger_url
from batchgen.ledger.reader import Reader
from batchgen.planning.plan import RetrySelection
from batchgen.report import formatting
from batchgen.report.queries import read_summary
from batchgen.report.summary import next_steps, show_summary
from batchgen.report.view import RunSummary, as_json
from batchgen.settings import set_ledger_url

if TYPE_CHECKING:
    from batchgen.api import Job
    from batchgen.engine.outcome import Outcome
    from batchgen.events import Observer
    from batchgen.planning.batchable import BatchOptions

CONFIRM_ABOVE_USD = 5.0
EMULATED_NOTICE = "EMULATED: a local emulator answers; these images are not real and nothing is billed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """The options of `run`, `retry` and `plan` as click has read them, under its names; those with defaults, some of these
    commands do not have. until, fallback_at: UTC seconds; max_duration, stall: seconds."""

    output: str | None
    only: tuple[str, ...]
    limit: int | None
    concurrency: int | None
    max_cost: float | None
    engine: str
    as_json: bool
    emulate: bool = False
    fresh: bool = False
    retry_states: frozenset[str] | None = None
    on_uncertain: str = "retry"
    until: float | None = None
    max_duration: float | None = None
    stall: float | None = None
    no_wait: bool = False
    fallback_at: float | None = None
    batch_size: int | None = None
    yes: bool = False
    quiet: bool = False
    no_progress: bool = False
    summary: str | None = None
    notify: tuple[str, ...] = ()
    metrics_file: str | None = None

    @property
    def hold_uncertain(self) -> bool:
        return self.on_uncertain == "hold"

    @property
    def retry_selection(self) -> RetrySelection:
        """As --retry, --fresh and --on-uncertain say it."""
        return retry_selection_of(self.retry_states, fresh=self.fresh, hold=self.hold_uncertain)


def check_batch_options(arguments: RunArguments) -> None:
    """Raises UsageError for what contradicts itself."""
    at, size = arguments.fallback_at, arguments.batch_size
    given = [
        name for name, said in (("--no-wait", arguments.no_wait), ("--fallback-at", at), ("--batch-size", size)) if said
    ]
    if given and arguments.engine == "online":
        raise UsageError(f"{given[0]} is about batches: add --engine batch or --engine auto")
    if at is not None and arguments.no_wait:
        raise UsageError("--fallback-at waits until then: leave --no-wait out")


def deadline(until: float | None, max_duration_s: float | None, now: float) -> float | None:
    """The earlier of the two, in UTC seconds."""
    given = [at for at in (until, None if max_duration_s is None else now + max_duration_s) if at is not None]
    return min(given, default=None)


def retry_selection_of(states: frozenset[str] | None, *, fresh: bool, hold: bool) -> RetrySelection:
    """states: as `--retry` named them, None for the default, which leaves out uncertain ones when they are held."""
    if states is None:
        states = frozenset({"failed"} if hold else {"failed", "uncertain"})
    return RetrySelection(states=states, fresh=fresh)


def load_job(
    invocation: Invocation, manifest: str, output: str | None, *, emulate: bool, post_run: PostRun | None = None
) -> Job:
    """Open a job and hide its keys from every output. Raises ManifestError, SettingsError.

    post_run: told whom the manifest wants to tell, even when its key file cannot be read.
    """
    import batchgen

    job = batchgen.load(manifest, output=output, emulate=emulate)
    if post_run is not None:
        post_run.configure(job)
    invocation.hide_keys(job.settings, job.manifest.catalogue.providers)
    set_ledger_url(ledger_url(job.settings))  # for whatever else looks at this job, wherever its folder is
    if invocation.log is not None:
        invocation.log.bind(job=job.manifest.name)
    return job


def run_job(
    invocation: Invocation, job: Job, arguments: RunArguments, retry_selection: RetrySelection, post_run: PostRun
) -> int:
    """Ask, run, report. Answers the exit code. Raises what a run raises before anything is sent."""
    import batchgen

    check_batch_options(arguments)
    stops_at = deadline(arguments.until, arguments.max_duration, time.time())
    err = invocation.err
    if job.emulated and arguments.no_wait:
        raise UsageError("--no-wait leaves batches to a later run, and the emulator's end with this one: leave it out")
    if job.emulated and not arguments.quiet and not invocation.json_on_stderr:
        err.line(EMULATED_NOTICE, "bold yellow")
    if not arguments.yes and sys.stdin.isatty() and err.tty:
        _confirm_cost(invocation, job, arguments, retry_selection)
    options = batchgen.RunOptions(
        retry_selection=retry_selection, only=arguments.only, limit=arguments.limit, concurrency=arguments.concurrency,
        max_usd=arguments.max_cost, deadline=stops_at, stall_s=arguments.stall,
        hold_uncertain=arguments.hold_uncertain, install_signal_handlers=True, batches=_batch_options(arguments),
    )  # fmt: skip
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    with ExitStack() as stack:
        observers = [*_metrics(job, arguments, stack), *_observers(invocation, arguments, stack)]
        outcome = batchgen.run_sync(job, observers=observers, options=options, engine=arguments.engine)
    summary = _summary(job, outcome, arguments.engine)
    post_run.report_end(job, summary)
    if (not arguments.quiet or outcome.exit_code) and not invocation.json_on_stderr:
        show_summary(invocation.err, summary)
    if invocation.json:
        invocation.out.json({**as_json(summary), "next": next_steps(summary)})
    return outcome.exit_code


def _batch_options(arguments: RunArguments) -> BatchOptions:
    from batchgen.planning.batchable import BatchOptions, ChunkLimits

    size = arguments.batch_size
    return BatchOptions(
        wait=not arguments.no_wait,
        fallback_at=arguments.fallback_at,
        limits=ChunkLimits(requests=size) if size else ChunkLimits(),
    )


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    """SIGTERM before the run minds signals itself: nothing is in flight, so leave at once, tidily."""
    raise SystemExit(128 + number)


def _confirm_cost(invocation: Invocation, job: Job, arguments: RunArguments, retry_selection: RetrySelection) -> None:
    """Once, on a terminal, and only about money worth a question: a few dollars, or a price that nobody knows.

    Raises UsageError on a no.
    """
    import batchgen

    if job.emulated:
        return
    forecast = batchgen.plan(
        job, retry_selection=retry_selection, only=arguments.only, limit=arguments.limit, concurrency=arguments.concurrency,
        max_usd=arguments.max_cost, engine=arguments.engine,
    ).forecast  # fmt: skip
    unknown = dict.fromkeys(load.model for load in forecast.by_model.values() if load.price_unknown)
    most = forecast.known_usd if arguments.max_cost is None else min(forecast.known_usd, arguments.max_cost)
    if most <= CONFIRM_ABOVE_USD and not unknown:
        return
    images = formatting.count(forecast.images, "image")
    known = f", estimated {formatting.usd(most)}" if most else ""
    nobody = f"{'; ' if most else ', '}no price is known for {', '.join(unknown)}" if unknown else ""
    question = f"{images}{known}{nobody}. Go ahead?"
    if not click.confirm(invocation.err.fit(question), err=True):
        raise UsageError("nothing was sent")


def _metrics(job: Job, arguments: RunArguments, stack: ExitStack) -> list[Observer]:
    if arguments.metrics_file is None:
        return []
    from batchgen.report.metrics import MetricsFile

    # An emulated night is none: it never counts as a success of the job.
    name = job.manifest.name + (".emulated" if job.emulated else "")
    return [stack.enter_context(MetricsFile(arguments.metrics_file, name, job.folder))]


def _observers(invocation: Invocation, arguments: RunArguments, stack: ExitStack) -> list[Observer]:
    """The log when one is asked for, and one of: live view, plain lines, nothing."""
    err, log = invocation.err, invocation.log
    if log is not None and invocation.log_file is None:
        return [log]
    observers = list[Any](() if log is None else (log,))
    print_line: Callable[[str], None] = err.line
    if not arguments.no_progress and err.live and not arguments.quiet:
        from batchgen.report.progress import ProgressView

        progress = stack.enter_context(ProgressView(err))
        observers, print_line = [*observers, progress], progress.print_line
    elif not arguments.quiet:
        from batchgen.report.event_text import RunLines

        observers.append(RunLines(err))
    if log is None:
        from batchgen.report.event_text import LogWarningPrinter

        stack.enter_context(LogWarningPrinter(print_line))
    return observers


def _summary(job: Job, outcome: Outcome, engine: str) -> RunSummary:
    default_folder = job.manifest.output.with_name(job.manifest.output.name + (".emulated" if job.emulated else ""))
    manifest = os.path.abspath(job.manifest.path)
    with Reader.open(job.folder) as reader:
        own_folder = job.folder != default_folder
        return read_summary(outcome, reader, job.manifest.name, manifest, engine, own_folder=own_folder)
