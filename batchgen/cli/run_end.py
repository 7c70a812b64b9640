"""What follows a run: its summary on the terminal, as JSON, in Markdown and as a message, and the heartbeat."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.cli.post_run import PostRun
from batchgen.cli.run_arguments import RunArguments
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.addresses import manifest_problem, parameters_problem
from batchgen.report import notify, view
from batchgen.report.queries import read_summary, read_summary_of_submission
from batchgen.report.summary import blocks, headline, next_steps, show_summary, summary_markdown
from batchgen.report.view import RunSummary
from batchgen.safe_open import private_opener
from batchgen.settings import Settings

if TYPE_CHECKING:
    from batchgen.engine.cluster.submission_end import EndedSubmission

NOTIFIED_FILE = "told.json"  # in the job's state folder: of which model's end people were told, and when
_INCLUDED_BLOCKS = {
    *("stopped", "down", "images", "changed", "missing", "derived", "money", "why"),
    *("blocked", "uncertain", "parked", "unlike", "folder", "next"),
}


def report_run(
    invocation: Invocation, job: batchgen.Job, outcome: batchgen.Outcome, arguments: RunArguments, post_run: PostRun
) -> None:
    retried = arguments.selection.states if arguments.selection is not None else ()
    summary = read_summary(outcome, job, arguments.engine, tuple(retried))
    post_run.append(summary_markdown(summary, invocation.err.fit))
    if post_run.addresses and not outcome.already_announced:
        _notify(post_run, job, summary)
    took_place = summary.exit_code in notify.HEARTBEAT_CODES
    if post_run.heartbeat and took_place and (problem := notify.send_heartbeat(post_run.heartbeat)):
        post_run.warn(f"no heartbeat was sent: {problem}")
    if (not arguments.quiet or outcome.exit_code) and not invocation.json_on_stderr:
        show_summary(invocation.err, summary)
    if invocation.json:
        invocation.answer({**view.as_json(summary), "next": next_steps(summary)})


def report_submission_end(post_run: PostRun, ended: EndedSubmission, settings: Settings) -> str:
    """Send the message about a submission that a worker ended. Returns how it ended, in one line. Raises
    LedgerError."""
    summary = read_summary_of_submission(ended.outcome, ended.ledger.reader, ended.name)
    for address in (addresses := [str(address) for address in ended.notify.get("to") or ()]):
        # Anybody who can write to the server must not be sent what else this worker's environment contains.
        if problem := manifest_problem(address) or parameters_problem(address):
            post_run.warn(f"{summary.job}: no message is sent: {problem}")
            return headline(summary)
    post_run.add_recipients(addresses, ended.notify.get("on"), settings)
    if notify.notify_events(summary.exit_code, parked=bool(summary.parked), shutdown=False) & post_run.events:
        post_run.send(*_message(summary, ()))
    return headline(summary)


def _notify(post_run: PostRun, job: batchgen.Job, summary: RunSummary) -> None:
    folder, today = job.folder, datetime.now(UTC).date()
    notified = _read_notified(folder)
    profiles = [job.manifest.catalogue.resolve(model) for model in _models(folder)]
    due_notices = notify.due_shutdown_notices(profiles, notified, today) if "shutdown" in post_run.events else {}
    events = notify.notify_events(summary.exit_code, parked=bool(summary.parked), shutdown=bool(due_notices))
    if not events & post_run.events:
        return
    lines = [notify.shutdown_line(profile, today) for profile in profiles if profile.id in due_notices]
    if post_run.send(*_message(summary, lines)) and due_notices:
        path = folder / STATE_FOLDER / NOTIFIED_FILE
        # If it cannot be written, people are told once more.
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(json.dumps({**notified, **due_notices}))


def _message(summary: RunSummary, shutdown_lines: Sequence[str]) -> tuple[str, str]:
    """The subject and a body of at most ten lines. Text from others is not sanitized yet."""
    lines = ["emulated: nothing was billed"] if summary.emulated else []
    lines += shutdown_lines
    for label, block in blocks(summary):
        if label in _INCLUDED_BLOCKS:
            lines += [f"{label}: {line.strip()}" for line in (block[:1] if label == "folder" else block)]
    return f"batchgen: {headline(summary)}", notify.limit_lines(lines)


def _models(folder: Path) -> list[str]:
    """The AI models of everything that the job wants."""
    with Reader.open(folder) as reader:
        return sorted(model for model, states in reader.counts_by_model().items() if set(states) - {"superseded"})


def _read_notified(folder: Path) -> dict[str, int]:
    try:
        found = json.loads((folder / STATE_FOLDER / NOTIFIED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
