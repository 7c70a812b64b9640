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
from batchgen.report.facts import Facts, outcome_facts
from batchgen.report.summary import next_steps, show_summary
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
    """The options of `run` and `retry`, read. deadline: UTC seconds."""

    retry_selection: RetrySelection
    only: tuple[str, ...]
    limit: int | None
    concurrency: int | None
    max_usd: float | None
    deadline: float | None
    stall_s: float | None
    hold_uncertain: bool
    engine: str
    batches: dict[str, Any]
    yes: bool
    quiet: bool
    progress: bool
    metrics_file: str | None

    @classmethod
    def parse(cls, options: dict[str, Any], retry_selection: RetrySelection) -> RunArguments:
        return cls(
            retry_selection=retry_selection, only=tuple(options.get("only", ())), limit=options.get("limit"),
            concurrency=options["concurrency"],
            max_usd=options["max_cost"], deadline=deadline(options["until"], options["max_duration"], time.time()),
            stall_s=options["stall"], hold_uncertain=options.get("on_uncertain") == "hold", engine=options["engine"],
            batches=parse_batch_options(options), yes=options["yes"],
            quiet=options["quiet"], progress=not options["no_progress"], metrics_file=options["metrics_file"],
        )  # fmt: skip


def parse_batch_options(options: dict[str, Any]) -> dict[str, Any]:
    """What was asked of batches, as fields of BatchOptions. Raises UsageError for what contradicts itself."""
    wait, at, size = not options["no_wait"], options["fallback_at"], options["batch_size"]
    given = [name for name, said in (("--no-wait", not wait), ("--fallback-at", at), ("--batch-size", size)) if said]
    if given and options["engine"] == "online":
        raise UsageError(f"{given[0]} is about batches: add --engine batch or --engine auto")
    if at is not None and not wait:
        raise UsageError("--fallback-at waits until then: leave --no-wait out")
    return {"wait": wait, "fallback_at": at, "size": size}


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

    after: told whom the manifest wants to tell, even when its key file cannot be read.
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


def run_job(invocation: Invocation, job: Job, arguments: RunArguments, post_run: PostRun) -> int:
    """Ask, run, report. Answers the exit code. Raises what a run raises before anything is sent."""
    import batchgen

    err = invocation.err
    if job.emulated and not arguments.batches["wait"]:
        raise UsageError("--no-wait leaves batches to a later run, and the emulator's end with this one: leave it out")
    if job.emulated and not arguments.quiet and not invocation.json_on_stderr:
        err.line(EMULATED_NOTICE, "bold yellow")
    if not arguments.yes and sys.stdin.isatty() and err.tty:
        _confirm_cost(invocation, job, arguments)
    options = batchgen.RunOptions(
        retry_selection=arguments.retry_selection, only=arguments.only, limit=arguments.limit, concurrency=arguments.concurrency,
        max_usd=arguments.max_usd, deadline=arguments.deadline, stall_s=arguments.stall_s,
        hold_uncertain=arguments.hold_uncertain, install_signal_handlers=True, batches=_batch_options(arguments),
    )  # fmt: skip
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    with ExitStack() as stack:
        observers = [*_metrics(job, arguments, stack), *_observers(invocation, arguments, stack)]
        outcome = batchgen.run_sync(job, observers=observers, options=options, engine=arguments.engine)
    facts = _facts(job, outcome, arguments.engine)
    post_run.report_end(job, facts)
    if (not arguments.quiet or outcome.exit_code) and not invocation.json_on_stderr:
        show_summary(invocation.err, facts)
    if invocation.json:
        invocation.out.json(facts)
    return outcome.exit_code


def _batch_options(arguments: RunArguments) -> BatchOptions:
    from batchgen.planning.batchable import BatchOptions, ChunkLimits

    size = arguments.batches["size"]
    return BatchOptions(
        wait=arguments.batches["wait"],
        fallback_at=arguments.batches["fallback_at"],
        limits=ChunkLimits(requests=size) if size else ChunkLimits(),
    )


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    """SIGTERM before the run minds signals itself: nothing is in flight, so leave at once, tidily."""
    raise SystemExit(128 + number)


def _confirm_cost(invocation: Invocation, job: Job, arguments: RunArguments) -> None:
    """Once, on a terminal, and only about money worth a question: a few dollars, or a price that nobody knows.

    Raises UsageError on a no.
    """
    import batchgen

    if job.emulated:
        return
    forecast = batchgen.plan(
        job, retry_selection=arguments.retry_selection, only=arguments.only, limit=arguments.limit, concurrency=arguments.concurrency,
        max_usd=arguments.max_usd, engine=arguments.engine,
    ).forecast  # fmt: skip
    unknown = dict.fromkeys(load.model for load in forecast.by_model.values() if load.price_unknown)
    most = forecast.known_usd if arguments.max_usd is None else min(forecast.known_usd, arguments.max_usd)
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
    if arguments.progress and err.live and not arguments.quiet:
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


def _facts(job: Job, outcome: Outcome, engine: str) -> Facts:
    default_folder = job.manifest.output.with_name(job.manifest.output.name + (".emulated" if job.emulated else ""))
    with Reader.open(job.folder) as reader:
        facts = outcome_facts(
            outcome,
            reader,
            job.manifest.name,
            os.path.abspath(job.manifest.path),
            own_folder=job.folder != default_folder,
        )
    facts["engine"] = engine
    facts["next"] = next_steps(facts)
    return facts
