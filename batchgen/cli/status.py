"""`batchgen status`: how a job stands, read from its ledger alone; while it runs, after it ended, after it died."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.cli.options import folder_option, job_argument, json_option, pass_invocation
from batchgen.errors import UsageError
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.facts import Facts, load_job_facts, seconds_since
from batchgen.report.summary import (
    batch_lines,
    cluster_lines,
    money_lines,
    problem_blocks,
    show_block,
    stop_lines,
    waiting_line,
)

STATE_COLUMNS = (
    "succeeded",
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
CLEAR_SCREEN = "\x1b[H\x1b[J"  # to the upper left corner, and nothing below it
NARROW = 80  # below this a table of states does not fit


@click.command("status")
@job_argument
@folder_option
@json_option()
@click.option("--collect", is_flag=True, help="First collect what batches have brought; nothing is asked for.")
@click.option("--watch", is_flag=True, help="Again and again while a run lasts; Ctrl-C leaves, the run goes on.")
@pass_invocation
def command(invocation: Invocation, job: str, output: str | None, as_json: bool, collect: bool, watch: bool) -> None:
    """Show counts, money, what is in flight, uncertain or parked, and how the last run went.

    JOB is a manifest or a job folder.

    \b
    Examples:
      batchgen status catalog.yaml
      batchgen status catalog/ --json
      batchgen status catalog.yaml --watch
    """
    if watch and as_json:
        raise UsageError("--watch is for people: ask for --json again and again")
    if collect:
        _collect(invocation, job, output)
    found = find_job(job, output)
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            watch_status(invocation.out, found.folder)
        return
    facts = load_job_facts(found.folder)
    if as_json:
        invocation.out.json({**facts, "other_folder": str(found.emulated_folder) if found.emulated_folder else None})
        return
    show_status(invocation.out, facts)
    if found.emulated_folder is not None:
        invocation.out.line(f"There is an emulated job too: batchgen status {found.emulated_folder}", "dim")


def _collect(invocation: Invocation, manifest: str, output: str | None) -> None:
    """A run that asks for nothing new. Raises what a run raises."""
    from dataclasses import replace

    import batchgen
    from batchgen.cli.run_job import load_job
    from batchgen.planning.batchable import BatchOptions

    job = load_job(invocation, manifest, output, emulate=False)
    options = batchgen.RunOptions(retry_selection=batchgen.RetrySelection(states=frozenset(), explicit=True))
    batchgen.run_sync(job, options=replace(options, batches=BatchOptions(wait=False, resend=False)))


def watch_status(out: Console, folder: Path) -> None:
    """Until no run lasts any more. A terminal is drawn anew every two seconds; elsewhere a line now and then."""
    printed_at = -math.inf
    while True:
        facts, now_s = load_job_facts(folder), time.monotonic()
        running = facts["run"] is not None and facts["run"]["state"] in ("running", "unknown")
        if out.live:
            out.stream.write(CLEAR_SCREEN)
            show_status(out, facts)
        elif not running or now_s - printed_at >= LINE_INTERVAL_S:
            printed_at = now_s
            out.line(
                f"{formatting.join_counts(facts['samples']) or 'nothing yet'}; {_spent(facts['usd'])}; {last_run(facts['run'])}"
            )
        if not running:
            return
        time.sleep(REFRESH_S)


def _spent(usd: Facts) -> str:
    spent, unknown = (usd["spent"] or 0.0) + usd["estimated"], usd["requests_of_unknown_price"]
    if not usd["maybe_billed_requests"]:
        return formatting.total_usd(spent, unknown)
    maybe = f"maybe {formatting.total_usd(usd['maybe_billed'], usd['maybe_billed_of_unknown_price'])}"
    return f"{formatting.total_usd(spent, unknown)} and {maybe} more" if spent or unknown else maybe


def show_status(out: Console, facts: Facts) -> None:
    """The same facts as `--json`, for people."""
    samples = facts["samples"]
    run = facts["run"] or {"wanted": 0, "kept": 0}
    seen = sum(number for state, number in samples.items() if state != "superseded")
    total = max(seen, run["wanted"] + run["kept"])  # the ledger has no row yet for what was not tried
    out.line(f"{facts['job']}: {samples.get('succeeded', 0):,} of {formatting.count(total, 'sample')} made", "bold")
    if facts["emulated"]:
        out.line("EMULATED: the images are a local emulator's, nothing was billed", "bold yellow")
    _show_counts(out, facts["by_model"])
    show_block(out, "last run", [last_run(facts["run"])])
    for label, lines in stop_lines(facts["run"]) if facts["run"] else ():
        show_block(out, label, lines)
    if facts["requests"]:
        show_block(
            out, "requests", [f"{sum(facts['requests'].values()):,}: {formatting.join_counts(facts['requests'])}"]
        )
        show_block(out, "money", money_lines(facts["usd"], emulated=facts["emulated"]))
    behind = [entry for entry in facts["in_flight"] if entry["to_fetch"]]
    if len(behind) < len(facts["in_flight"]):
        show_block(out, "in flight", _in_flight(facts))
    if behind:
        show_block(out, "to fetch", [f"{TO_FETCH_NOTE}:", *_entry_lines(behind)])
    for label, lines in batch_lines(facts["batches"]):
        show_block(out, label, lines)
    for label, lines in cluster_lines(facts["cluster"]):
        show_block(out, label, lines)
    if derived := facts["derivatives"]:
        show_block(
            out, "derived", [f"{name}: {formatting.join_counts(states)}" for name, states in sorted(derived.items())]
        )
    if facts["waiting"]:
        show_block(out, "waiting", [waiting_line(facts)])
    if unread := facts["unread"]["answers"]:
        kept = f"{formatting.count(unread, 'answer')} paid for and not readable yet, {formatting.size(facts['unread']['bytes'])}"
        show_block(out, "kept", [f"{kept}; every run reads them again before it buys anything"])
    for label, lines in problem_blocks(facts):
        show_block(out, label, lines)
    show_block(out, "folder", [facts["folder"]])
    if facts["bucket"]:
        show_block(out, "bucket", [facts["bucket"]])


def _show_counts(out: Console, by_model: dict[str, dict[str, int]]) -> None:
    states = [state for state in STATE_COLUMNS if any(counts.get(state) for counts in by_model.values())]
    if not states:
        out.line("nothing has been asked for yet")
        return
    if out.columns < NARROW:
        for model, counts in sorted(by_model.items()):
            out.line(f"{model}: {formatting.join_counts(counts)}")
        return
    rows = [(model, *(f"{counts.get(state, 0):,}" for state in states)) for model, counts in sorted(by_model.items())]
    out.table(("model", *states), rows, right=range(1, len(states) + 1))


def last_run(run: Facts | None) -> str:
    """One sentence."""
    if run is None:
        return "none"
    since = formatting.duration(seconds_since(run["started_at"]))
    match run["state"]:
        case "running":
            return f"run {run['id']} is running since {since} (process {run['pid']})"
        case "died":
            return f"run {run['id']} died without an end, begun {since} ago; run it again: what was paid for is found again"
        case "unknown":
            return f"run {run['id']} began {since} ago on {run['host']} (process {run['pid']}); whether it lives cannot be seen here"
    ago = formatting.duration(seconds_since(run["ended_at"]))
    stopped = f", stopped by {run['stopped_by']}" if run["stopped_by"] else ""
    return f"run {run['id']} ended {ago} ago with exit code {run['exit_code']}{stopped}"


def _in_flight(facts: Facts) -> list[str]:
    running = facts["run"] is not None and facts["run"]["state"] in ("running", "unknown")
    head = [] if running else ["sent, but how they ended was not recorded; the next run settles them:"]
    return [*head, *_entry_lines([entry for entry in facts["in_flight"] if not entry["to_fetch"]])]


def _entry_lines(entries: list[Facts]) -> list[str]:
    lines = [
        f"{entry['id']}  {entry['model']}  {formatting.duration(seconds_since(entry['since']))}"
        for entry in entries[:MAX_IN_FLIGHT]
    ]
    return [*lines, f"… and {len(entries) - MAX_IN_FLIGHT:,} more"] if len(entries) > MAX_IN_FLIGHT else lines
