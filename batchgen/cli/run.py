"""`batchgen run` and `retry`: the question before a run, what is shown during it, and the summary after it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import click

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job, find_manifest
from batchgen.cli.post_run import PostRun
from batchgen.cli.run_arguments import RunArguments, load_job
from batchgen.engine.job_state import absorb_reviews_unless_locked
from batchgen.errors import UsageError
from batchgen.events import Event, RunStarted
from batchgen.report import formatting
from batchgen.report.event_text import LogWarningPrinter, RunLines

CONFIRM_ABOVE_USD = 5.0
EMULATED_NOTICE = "EMULATED: a local emulator answers; these images are not real and nothing is billed"


def run_command(invocation: Invocation, manifest: str, **options: Any) -> int:
    arguments = RunArguments(**options)
    invocation.open_log(quiet=arguments.quiet)
    return _run(invocation, manifest, arguments)


def retry_command(
    invocation: Invocation,
    job: str,
    *,
    failed: bool,
    refused: bool,
    uncertain: bool,
    rejected: bool,
    reasons: tuple[str, ...],
    **options: Any,
) -> int:
    chosen = {"failed": failed, "refused": refused, "uncertain": uncertain, "rejected": rejected}
    states = frozenset(state for state, asked in chosen.items() if asked)
    selection = batchgen.RetrySelection(explicit=True, states=states or frozenset(chosen), reasons=frozenset(reasons))
    arguments = RunArguments(**options, selection=selection)
    invocation.open_log(quiet=arguments.quiet)
    if not states and not reasons:
        raise UsageError("say what to ask for again: --failed, --refused, --uncertain, --rejected or --reason R")
    if arguments.with_comments and states and not rejected:
        raise UsageError("--with-comments is about images that were rejected: add --rejected")
    folder = find_job(job, arguments.output).folder
    absorb_reviews_unless_locked(folder)  # or the run would not know what people have rejected since
    manifest, emulated = find_manifest(job, folder)
    return _run(invocation, manifest, replace(arguments, output=str(folder), emulate=emulated))


def _run(invocation: Invocation, manifest: str, arguments: RunArguments) -> int:
    """Ask, run, report. Returns the exit code. Raises what a run raises before anything is sent."""
    if arguments.dry_run:
        from batchgen.cli.plan import show_plan  # a run needs none of it

        show_plan(invocation, manifest, arguments)
        return 0
    post_run = PostRun(invocation, manifest, arguments.summary, arguments.notify)
    with post_run.reporting_failure():
        job = load_job(invocation, manifest, arguments.output, emulate=arguments.emulate, post_run=post_run)
        options = arguments.run_options()
        if job.emulated and arguments.no_wait:
            raise UsageError(
                "--no-wait leaves jobs and batches to a later run, and the emulator's end with this one: leave it out"
            )
        if arguments.check_only:
            arguments.plan(job, arguments.engine)  # reads the manifest to its end
            _confirm_cost(invocation, job, arguments)
            return 0
        if job.emulated and not arguments.quiet and not invocation.json_on_stderr:
            invocation.err.line(EMULATED_NOTICE, "bold yellow")
        _confirm_cost(invocation, job, arguments)
        signal.signal(signal.SIGTERM, _exit_on_sigterm)
        with ExitStack() as stack:
            observers = _observers(invocation, job, arguments, stack)
            outcome = batchgen.run_sync(job, observers=observers, options=options, engine=arguments.engine)
        from batchgen.cli.run_end import report_run  # no request has to wait for it

        report_run(invocation, job, outcome, arguments, post_run)
        return outcome.exit_code


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    """Exit at once and in order on a SIGTERM before the run handles signals itself: nothing is in flight."""
    raise SystemExit(128 + number)


def _confirm_cost(invocation: Invocation, job: batchgen.Job, arguments: RunArguments) -> None:
    """Ask once, on a terminal, and only if it is worth a question: a few dollars, or an unknown price.

    Raises UsageError on a no.
    """
    if job.emulated or arguments.yes or not (sys.stdin.isatty() and invocation.err.tty):
        return
    forecast = arguments.plan(job, arguments.engine).forecast
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


def _observers(invocation: Invocation, job: batchgen.Job, arguments: RunArguments, stack: ExitStack) -> list[Any]:
    """The observers of a run: metrics and the log if requested, and either the live view, plain lines or nothing."""
    err, log, observers = invocation.err, invocation.log, list[Any]()
    observers.append(partial(_hide_package_keys, invocation, job))
    if arguments.metrics_file is not None:
        from batchgen.report.metrics import MetricsFile  # few runs write one

        # An emulated run never counts as a success of the job.
        name = job.manifest.name + (".emulated" if job.emulated else "")
        observers.append(stack.enter_context(MetricsFile(arguments.metrics_file, name, job.folder)))
    if log is not None:
        observers.append(log)
        if invocation.log_file is None:
            return observers
    print_line: Callable[[str], None] = err.line
    if not arguments.no_progress and err.live and not arguments.quiet:
        from batchgen.report.progress import ProgressView  # it brings rich, which only a terminal needs

        progress = stack.enter_context(ProgressView(err))
        observers.append(progress)
        print_line = progress.print_line
    elif not arguments.quiet:
        observers.append(RunLines(err))
    if log is None:
        stack.enter_context(LogWarningPrinter(print_line))
    return observers


def _hide_package_keys(invocation: Invocation, job: batchgen.Job, event: Event) -> None:
    """Hide the keys of providers from packages: which models the items name is known when the run starts."""
    if isinstance(event, RunStarted):
        invocation.hide_keys(job.settings, job.manifest.catalogue.providers)
