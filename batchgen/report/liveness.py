"""Whether the process of a run still works on its job."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER


def run_state(run: RunRow, alive: bool | None) -> str:
    """ended; running; died (its process is gone and no end recorded); unknown (another host's process)."""
    return "ended" if run.ended_at is not None else {True: "running", False: "died", None: "unknown"}[alive]


def process_state(run: RunRow, folder: Path) -> str:
    return run_state(run, is_alive_in(run, folder))


def is_alive_in(run: RunRow | None, folder: Path) -> bool | None:
    """`is_process_alive` on this machine, for the job in a folder."""
    return is_process_alive(run, socket.gethostname(), read_lock_holder(folder))


def read_lock_holder(folder: Path) -> dict[str, Any]:
    """The note that a run keeps beside its lock; empty when there is none."""
    try:
        note = json.loads((folder / STATE_FOLDER / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def is_process_alive(run: RunRow | None, host: str, holder: Mapping[str, Any]) -> bool | None:
    """Whether the process of an unended run still works on the job; None when it ran on another host.

    holder: the note that a run keeps beside its lock and removes when it ends in order.
    """
    if run is None or run.ended_at is not None:
        return False
    if run.host != host:
        return None
    if holder.get("pid") != run.pid:
        return False
    if os.name == "nt":  # signal 0 is Ctrl-C there; the note has to do
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(run.pid)


def _is_zombie(pid: int) -> bool:
    """A process that was killed and not yet reaped still answers signal 0. Source: proc(5), /proc/pid/stat field 3."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return False
