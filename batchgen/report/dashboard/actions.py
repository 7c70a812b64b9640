"""The two things that the page may do: take up again what was not made, and stop a run. Each as the command line does it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import BatchgenError
from batchgen.ledger.reader import Reader, RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.report.dashboard.place import Place
from batchgen.report.facts import Facts, holder_of, process_state
from batchgen.safe_open import OutsideError, open_regular
from batchgen.store.spool import NO_FOLLOW

LOG = "dashboard.log"  # in .batchgen/, what the run that a page began has said
TAIL_BYTES = 4000
STATES = ("failed", "refused", "uncertain")
# The interpreter and the batchgen that serve the page. The working folder is no place to import from.
CHILD = "import sys; sys.path.append(sys.argv.pop(1)); from batchgen.__main__ import main; main()"
Prospect = Callable[[Place, frozenset[str]], Facts]


class ActionRefused(Exception):
    """Why nothing was done, for the person who asked."""


@dataclass(frozen=True, slots=True)
class Child:
    process: subprocess.Popen[bytes]
    log: Path
    states: tuple[str, ...]


class Actions:
    """prospect: what taking up these states again will make and cost. Several threads may ask."""

    def __init__(self, prospect: Prospect) -> None:
        self.prospect = prospect
        self._children: dict[Path, Child] = {}
        self._lock = threading.Lock()

    def retry(self, place: Place, states: Collection[str]) -> int:
        """Begin `batchgen retry` as a process of its own, which outlives the dashboard. Answers its id."""
        chosen = tuple(state for state in STATES if state in states)
        if not chosen or len(chosen) != len(states):
            raise ActionRefused(f"choose of {', '.join(STATES)}")
        with self._lock:
            child = self._children.get(place.folder)
            if child is not None and child.process.poll() is None:
                raise ActionRefused(f"it is being taken up again already, by process {child.process.pid}")
            run = last_run(place)
            if run is not None and process_state(run, place.folder) in ("running", "unknown"):
                raise ActionRefused(
                    f"run {run.id} is going on, process {run.pid} on {run.host}: wait for it or stop it"
                )
            self._children[place.folder] = begun = _begin(place, chosen)
            return begun.process.pid

    def told(self, place: Place) -> Facts | None:
        """What became of the last retry that was begun here; None when there was none."""
        child = self._children.get(place.folder)
        if child is None:
            return None
        code = child.process.poll()
        return {"states": child.states, "pid": child.process.pid, "exit_code": code, "log": _tail(child.log)}


def last_run(place: Place) -> RunRow | None:
    try:
        with Reader.open(place.folder) as reader:
            return reader.last_run()
    except BatchgenError as error:
        raise ActionRefused(str(error)) from None


def _begin(place: Place, states: Sequence[str]) -> Child:
    log = place.folder / STATE_FOLDER / LOG
    # A manifest says which job; a folder remembers its manifest. With both, an emulated folder stays emulated.
    job = [place.manifest, "--output", str(place.folder)] if place.manifest else [str(place.folder)]
    options = [*(f"--{state}" for state in states), "--yes", "--no-progress"]
    package = str(Path(__file__).resolve().parents[3])
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_FOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell; states are of a fixed list
                [sys.executable, "-P", "-c", CHILD, package, "retry", *job, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    except OSError as error:
        raise ActionRefused(f"it could not be begun: {error.strerror or error}") from None
    return Child(process, log, tuple(states))


def _tail(log: Path) -> str:
    try:
        with open_regular(str(log)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except (OSError, OutsideError):
        return ""


def stop(place: Place, run_id: int) -> int:
    """SIGTERM to the process of this very run, and to no other. Answers its id. Raises ActionRefused."""
    run = last_run(place)
    if run is None or run.id != run_id or run.ended_at is not None:
        raise ActionRefused("that run is not going on any more")
    if run.host != socket.gethostname():
        raise ActionRefused(f"it runs on {run.host}: stop it there, `kill {run.pid}`")
    if not hasattr(os, "pidfd_open") or not os.path.exists("/proc/locks"):
        raise ActionRefused(f"this system does not say who holds the job's lock: stop it with `kill {run.pid}`")
    try:
        # Held from before the check on: the number cannot be given to another process meanwhile.
        handle = os.pidfd_open(run.pid)
    except OSError:
        raise ActionRefused("its process is gone; run it again and it goes on") from None
    try:
        if holder_of(place.folder).get("pid") != run.pid or not holds_lock(run.pid, place.folder):
            raise ActionRefused(f"process {run.pid} does not hold the lock of this job: it is left alone")
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        os.close(handle)
    return run.pid


def holds_lock(pid: int, folder: Path) -> bool:
    """Source: proc(5), /proc/locks: number, kind, mode, access, process, major:minor:inode, from, to."""
    try:
        inode = str(os.stat(folder / STATE_FOLDER / "lock").st_ino)
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            rows = [line.split() for line in file]
    except OSError:
        return False
    return any(
        len(row) == 8 and row[3] == "WRITE" and row[4] == str(pid) and row[5].rpartition(":")[2] == inode
        for row in rows
    )
