"""Whether a run is still going on, by its process; and in words how it ended, by its exit code and by what stopped it,
and what was down."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.errors import BREAKER_SCOPES
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.report import formatting
from batchgen.sanitize import short_message

if TYPE_CHECKING:
    from batchgen.report.view import OutageView

STOP_REASONS = {
    "budget": "the budget is used up",
    "deadline": "the time is up",
    "stalled": "nothing succeeded any more",
    "cancelled": "it was cancelled",
    "SIGINT": "interrupted (SIGINT)",
    "SIGTERM": "asked to stop (SIGTERM)",
    "SIGHUP": "the terminal went away (SIGHUP)",
    "key_rejected": "the API key was rejected",
    "location_unsupported": "the API does not serve this location",
    "account_restricted": "the vendor has restricted this account",
    "billing": "the vendor stopped billing this account",
    "disk": "could not write to the disk or the ledger",
}
EXIT_WORDS = {
    0: "finished",
    1: "stopped by a bug",
    2: "could not start",
    3: "some images not made",
    4: "too much failed",
    5: "needs a person",
    6: "budget used up",
    7: "deadline reached",
    8: "daily quota used up",
    9: "waiting for the vendor or workers",
    129: "stopped",
    130: "stopped",
    143: "stopped",
}


def run_state(run: RunRow, alive: bool | None) -> str:
    """The state of a run: ended; running; died (its process is gone and no end recorded); unknown (another host's
    process)."""
    return "ended" if run.ended_at is not None else {True: "running", False: "died", None: "unknown"}[alive]


def process_state(run: RunRow, folder: Path) -> str:
    """The `run_state` on this machine, for a run of the job in a folder."""
    return run_state(run, is_process_alive(run, folder))


def read_lock_holder(folder: Path) -> dict[str, Any]:
    """The note that a run keeps beside its lock and removes when it ends properly; empty if there is none."""
    try:
        note = json.loads((folder / STATE_FOLDER / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def is_process_alive(run: RunRow | None, folder: Path) -> bool | None:
    """Whether the process of an unended run is still working on the job in this folder; None if it runs on another
    host."""
    if run is None or run.ended_at is not None:
        return False
    if run.host != socket.gethostname():
        return None
    if read_lock_holder(folder).get("pid") != run.pid:
        return False
    if os.name == "nt":  # signal 0 is Ctrl-C there; the note has to be enough
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(run.pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process was killed and not reaped yet: it still answers signal 0. Source: proc(5), /proc/pid/stat field
    3."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return False


def exit_words(exit_code: int | None) -> str:
    """An exit code in words; empty for a run without an end."""
    return "" if exit_code is None else EXIT_WORDS.get(exit_code, f"exit code {exit_code}")


def stop_words(stopped_by: str) -> str:
    """What stopped a run in words; empty if nothing did."""
    return STOP_REASONS.get(stopped_by, stopped_by)


def outage_summary(outage: OutageView) -> str:
    """An outage in words after the run, or from outside."""
    now, why = time.time(), outage_cause(outage.reason, outage.message)
    since = formatting.local_time(outage.since, now)
    if outage.until is None:
        return f"{outage_condition(outage.scope, outage.name)} since {since} ({why})"
    until = formatting.local_time(outage.until, now)
    name, account = outage.name, outage.scope == "account"
    what = f"the account at {name} was at its spending limit" if account else f"{name} was down"
    return f"{what} from {since} to {until} ({why})"


def ongoing_outage(outages: Sequence[OutageView]) -> str | None:
    """The outage that the run ended with, in words: the one with the widest reach."""
    lasting = [outage for outage in outages if outage.until is None]
    widest = max(lasting, key=lambda outage: BREAKER_SCOPES.index(outage.scope), default=None)
    if widest is None:
        return None
    name = "the API" if widest.scope == "host" else widest.name
    return f"{outage_condition(widest.scope, name)} since {formatting.local_time(widest.since, time.time())}"


def outage_condition(scope: str, name: str) -> str:
    return f"the account at {name} has been at its spending limit" if scope == "account" else f"{name} has been down"


def outage_cause(reason: str, message: str) -> str:
    return f"{reason}: {short_message(message)}"
