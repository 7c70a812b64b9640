"""`batchgen status`: the state of a job, read from its ledger alone, while it runs, after it ended, and after it
died."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import JobFolder, find_job
from batchgen.errors import UsageError
from batchgen.report import formatting, view
from batchgen.report.acceptance import (
    HEAD,
    NOTES,
    ComparisonView,
    acceptance_text,
    comparison_rows,
    conclusion,
    load_comparison,
    load_variants,
)
from batchgen.report.billing import BillingView, billing_blocks, load_billing, money_lines
from batchgen.report.console import Console
from batchgen.report.queries import load_status
from batchgen.report.summary import (
    batch_lines,
    cluster_lines,
    parked_lines,
    problem_blocks,
    show_block,
    stop_lines,
    waiting_line,
)
from batchgen.report.totals import STATE_WORDS, manifest_lines, state_counts_text, totals_text
from batchgen.report.view import JobStatus, LastRun, MoneyView, OpenRequest

STATE_COLUMNS = (
    "succeeded",
    "rejected",
    "running",
    "submitted",
    "wanted",
    "refused",
    "failed",
    "uncertain",
    "blocked",
    "superseded",
)
MAX_IN_FLIGHT = 10
TO_FETCH_NOTE = "paid for but not downloaded yet; the next run downloads them at no charge"
REFRESH_S = 2.0
LINE_INTERVAL_S = 30.0
CLEAR_SCREEN = "\x1b[H\x1b[J"  # to the upper left corner, then clear everything below
NARROW = 80  # columns; with fewer, a table of states does not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions:
    """The parsed options. output: the job's folder. compare: the name of the variants to show side by side."""

    output: str | None
    as_json: bool
    collect: bool
    watch: bool
    billing: bool
    compare: str | None

    def check(self) -> None:
        """Raises UsageError if two answers were requested."""
        if self.watch and (self.billing or self.compare):
            other = "--billing" if self.billing else "--compare"
            raise UsageError(f"--watch shows how a run goes on: ask for {other} without it")
        if self.billing and self.compare:
            raise UsageError("--billing and --compare are two answers: ask for one of them")
        if self.watch and self.as_json:
            raise UsageError("--watch is for people: ask for --json again and again")


def status_command(invocation: Invocation, job: str, **given: Any) -> None:
    options = StatusOptions(**given)
    options.check()
    if options.collect:
        from batchgen.cli.run_arguments import collect_batches  # most who ask for the status want no run

        collect_batches(invocation, job, options.output)
    found = find_job(job, options.output)
    if options.billing:
        show_billing(invocation, load_billing(found.folder), as_json=options.as_json)
    elif options.compare:
        show_comparison(invocation, load_comparison(found.folder, options.compare), as_json=options.as_json)
    elif options.watch:
        with contextlib.suppress(KeyboardInterrupt):
            watch_status(invocation.out, found.folder)
    elif options.as_json:
        _answer(invocation, found)
    else:
        show_status(invocation.out, load_status(found.folder))
        if found.emulated_folder is not None:
            invocation.out.line(f"There is an emulated job too: batchgen status {found.emulated_folder}", "dim")


def _answer(invocation: Invocation, found: JobFolder) -> None:
    other = str(found.emulated_folder) if found.emulated_folder else None
    variants = load_variants(found.folder)
    status = view.as_json(load_status(found.folder))
    invocation.answer({**status, "variants": view.as_json(variants), "other_folder": other})


def show_billing(invocation: Invocation, found: BillingView, *, as_json: bool) -> None:
    """Show the billing by model and by run, and why more was billed than there are images."""
    if as_json:
        invocation.out.json(view.as_json(found))
        return
    invocation.out.line(f"{found.job}{' EMULATED' if found.emulated else ''}: what was billed", "bold")
    for label, lines in billing_blocks(found):
        show_block(invocation.out, label, lines)


def show_comparison(invocation: Invocation, found: ComparisonView, *, as_json: bool) -> None:
    """Show a line for each variant, and what the comparison allows to conclude."""
    if as_json:
        invocation.out.json(view.as_json(found))
        return
    out, kind = invocation.out, found.by if found.by in ("model", "tag") else f"tag {found.by}="
    out.line(f"{found.job}{' EMULATED' if found.emulated else ''}: accepted images by {kind}", "bold")
    out.table((found.by, *HEAD[1:]), comparison_rows(found.variants), right=(1, 2, 3, 5, 6))
    if words := conclusion(found.variants):
        out.line(words)
    for note in NOTES:
        out.line(note, "dim")


def watch_status(out: Console, folder: Path) -> None:
    """Show the status until no run is going on. A terminal is redrawn every two seconds; elsewhere a line is printed
    now and then."""
    printed_at = -math.inf
    while True:
        status, now_s = load_status(folder), time.monotonic()
        if out.live:
            out.stream.write(CLEAR_SCREEN)
            show_status(out, status)
        elif not status.running or now_s - printed_at >= LINE_INTERVAL_S:
            printed_at = now_s
            out.line(f"{totals_text(status.totals)}; {_spent(status.usd)}; {last_run(status.run)}")
        if not status.running:
            return
        time.sleep(REFRESH_S)


def _spent(usd: MoneyView) -> str:
    spent, unknown = usd.known, usd.requests_of_unknown_price
    if not usd.maybe_billed_requests:
        return formatting.total_usd(spent, unknown)
    maybe = f"maybe {formatting.total_usd(usd.maybe_billed, usd.maybe_billed_of_unknown_price)}"
    return f"{formatting.total_usd(spent, unknown)} and {maybe} more" if spent or unknown else maybe


def show_status(out: Console, status: JobStatus) -> None:
    """Show the same as `--json`, for people."""
    out.line(f"{status.job}: {totals_text(status.totals)}", "bold")
    if status.emulated:
        out.line("EMULATED: the images are a local emulator's, nothing was billed", "bold yellow")
    _show_counts(out, status.by_model)
    for label, lines in _blocks(status):
        show_block(out, label, lines)


def _blocks(status: JobStatus) -> Iterator[tuple[str, Sequence[str]]]:
    if lines := manifest_lines(status.totals, status.manifest):
        yield "manifest", lines
    yield "last run", [last_run(status.run)]
    if status.run is not None:
        yield from stop_lines(status.run)
    if status.requests:
        yield "requests", [f"{sum(status.requests.values()):,}: {formatting.join_counts(status.requests)}"]
        yield "money", money_lines(status.usd, emulated=status.emulated)
    to_fetch = [request for request in status.in_flight if request.to_fetch]
    if sent := [request for request in status.in_flight if not request.to_fetch]:
        unsettled = "sent, but how they ended was not recorded; the next run settles them:"
        yield "in flight", [*([] if status.running else [unsettled]), *_request_lines(sent)]
    if status.jobs:
        later = "its API has taken them and answers later; the next run asks about them:"
        yield "jobs", [*([] if status.running else [later]), *_request_lines(status.jobs)]
    if to_fetch:
        yield "to fetch", [f"{TO_FETCH_NOTE}:", *_request_lines(to_fetch)]
    yield from batch_lines(status.batches)
    yield from cluster_lines(status.cluster)
    if status.derivatives:
        yield (
            "derived",
            [f"{name}: {formatting.join_counts(states)}" for name, states in sorted(status.derivatives.items())],
        )
    if status.waiting:
        yield "waiting", [waiting_line(status)]
    if unread := status.unread.answers:
        kept = f"{formatting.count(unread, 'answer')} paid for and not readable yet, {formatting.size(status.unread.bytes)}"
        yield "kept", [f"{kept}; every run reads them again before it buys anything"]
    yield from problem_blocks(status)
    yield from parked_lines({model: parked.until for model, parked in status.parked.items()})
    yield "folder", [status.folder]
    if status.bucket:
        yield "bucket", [status.bucket]
    if text := acceptance_text(status, emulated=status.emulated):
        yield "accepted", [text]


def _show_counts(out: Console, by_model: Mapping[str, Mapping[str, int]]) -> None:
    states = [state for state in STATE_COLUMNS if any(counts.get(state) for counts in by_model.values())]
    if not states:
        out.line("nothing has been asked for yet")
        return
    if out.columns < NARROW:
        for model, counts in sorted(by_model.items()):
            out.line(f"{model}: {state_counts_text(counts)}")
        return
    rows = [(model, *(f"{counts.get(state, 0):,}" for state in states)) for model, counts in sorted(by_model.items())]
    out.table(("model", *(STATE_WORDS.get(state, state) for state in states)), rows, right=range(1, len(states) + 1))


def last_run(run: LastRun | None) -> str:
    """The last run in one sentence."""
    if run is None:
        return "none"
    since = formatting.duration(run.started_at.ago_s)
    match run.state:
        case "running":
            return f"run {run.id} is running since {since} (process {run.pid})"
        case "died":
            return (
                f"run {run.id} died without an end, begun {since} ago; run it again: what was paid for is found again"
            )
        case "unknown":
            return f"run {run.id} began {since} ago on {run.host} (process {run.pid}); whether it lives cannot be seen here"
    ago = formatting.duration(run.ended_at.ago_s if run.ended_at is not None else 0.0)
    stopped = f", stopped by {run.stopped_by}" if run.stopped_by else ""
    return f"run {run.id} ended {ago} ago with exit code {run.exit_code}{stopped}"


def _request_lines(requests: Sequence[OpenRequest]) -> list[str]:
    lines = [
        f"{request.id}  {request.model}  {formatting.duration(request.since.ago_s)}"
        for request in requests[:MAX_IN_FLIGHT]
    ]
    return [*lines, f"… and {len(requests) - MAX_IN_FLIGHT:,} more"] if len(requests) > MAX_IN_FLIGHT else lines
