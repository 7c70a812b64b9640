"""`batchgen history`: the runs of one or many jobs, one line each, read from their ledgers alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job, find_job_folders
from batchgen.errors import LedgerError, UsageError
from batchgen.ledger.acceptance import AcceptanceReader
from batchgen.ledger.reviews import reviewed
from batchgen.ledger.runs import RunRow
from batchgen.report import formatting, view
from batchgen.report.acceptance import AcceptanceView, acceptance_fields
from batchgen.report.console import Console
from batchgen.report.queries import read_run
from batchgen.report.run_state import process_state, stop_words
from batchgen.report.view import MoneyView, RunView

WIDE = 100  # columns; with fewer there is no room for the cost of an accepted image


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun(RunView, AcceptanceView):
    job: str
    folder: str
    emulated: bool


def history_command(invocation: Invocation, jobs: tuple[str, ...], last: int, as_json: bool) -> None:
    folders = set[Path]()
    for job in jobs:
        folders |= find_job_folders(Path(job)) or {find_job(job).folder}
    if not jobs:
        folders = find_job_folders(Path("jobs")) | find_job_folders(Path())
    if not folders:
        raise UsageError("nothing has run in jobs/ or here: name a manifest or a job folder")
    runs, unreadable = list[JobRun](), list[LedgerError]()
    for folder in sorted(folders):
        try:
            runs += load_runs(folder, last)
        except LedgerError as error:  # one damaged job hides none of the others
            unreadable.append(error)
    runs.sort(key=lambda run: (run.began, run.job, run.run), reverse=True)
    if as_json:
        invocation.out.json(view.as_json(runs[:last]))
    else:
        print_runs(invocation.out, runs[:last])
    for also in unreadable[1:]:
        invocation.err.line(str(also))
    if unreadable:
        raise unreadable[0]


def load_runs(folder: Path, last: int) -> list[JobRun]:
    with reviewed(AcceptanceReader.open(folder), folder) as reader:
        name, emulated = reader.meta("name") or folder.name, reader.meta("emulated") == "yes"
        more = {"job": name, "folder": str(folder), "emulated": emulated}
        return [_job_run(reader, run, process_state(run, folder), more) for run in reader.runs(last)]


def _job_run(reader: AcceptanceReader, run: RunRow, state: str, more: dict[str, Any]) -> JobRun:
    """A run for the table. state: from `process_state`."""
    found = read_run(RunView, reader, run, state)
    acceptance = reader.run_acceptance(run.id, found.seconds)
    rejections = reader.rejections(run.id) if acceptance.rejected else []
    return view.view_of(JobRun, found, **acceptance_fields(acceptance, rejections), **more)


def print_runs(out: Console, runs: list[JobRun]) -> None:
    """Print a line for each run. Estimates are marked with `~`, what may be charged on top with `+?`."""
    wide = out.columns >= WIDE
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began)),
            run.job + (" (emulated)" if run.emulated else ""),
            "" if run.seconds is None else formatting.duration(run.seconds),
            f"{run.made:,}",
            formatting.join_counts(run.not_made) or "-",
            _money(run.usd),
            *((f"{run.accepted:,}" if run.made else "-", _each(run)) if wide else ()),
            _end_text(run),
        )
        for run in runs
    ]
    head = ("began", "job", "took", "made", "not made", "money", *(("accepted", "each") if wide else ()), "end")
    out.table(head, rows, right=(2, 3, *range(5, len(head) - 1)), flexible=len(head) - 1)


def _each(run: JobRun) -> str:
    """The cost of an accepted image in money and time."""
    if not run.accepted or run.minutes_per_accepted is None:
        return "-"
    sign = "~" if run.usd_per_accepted_estimated else ""
    more = "+?" if run.usd_per_accepted_at_least else ""
    usd = "unknown" if run.usd_per_accepted is None else f"{sign}{formatting.usd(run.usd_per_accepted)}{more}"
    return f"{usd}, {formatting.duration(60 * run.minutes_per_accepted)}"


def _money(usd: MoneyView) -> str:
    unpriced = usd.requests_of_unknown_price
    if formatting.known_amount(usd.known, unpriced + usd.maybe_billed_of_unknown_price) is None:
        return "unknown"
    sign = "~" if usd.estimated else ""
    more = "+?" if usd.maybe_billed_requests or unpriced else ""
    return f"{sign}{formatting.usd(usd.known)}{more}"


def _end_text(run: RunView) -> str:
    if run.state != "ended":
        return run.state
    why = f", {stop_words(run.stopped_by)}" if run.stopped_by else ""
    return f"exit {run.exit_code}{why}"
