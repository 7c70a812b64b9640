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
from typing import Any

from batchgen.errors import BatchgenError
from batchgen.ledger.reader import Reader
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.plan import RETRY_STATES as RETRY_STATES
from batchgen.report.dashboard.job_card import JobLocation, RetryView
from batchgen.report.liveness import process_state, read_lock_holder
from batchgen.report.run_end import exit_words
from batchgen.safe_open import UnsafePathError, open_regular
from batchgen.store.spool import NO_FOLLOW

LOG_NAME = "dashboard.log"  # in .batchgen/, what the run that a page began has said
TAIL_BYTES = 4000
# The interpreter and the batchgen that serve the page. The working folder is no place to import from.
CHILD_CODE = "import sys; sys.path.append(sys.argv.pop(1)); from batchgen.__main__ import main; main()"
ForecastRetry = Callable[[JobLocation, frozenset[str]], dict[str, Any]]


class ActionRefused(Exception):
    """Why nothing was done, for the person who asked."""


@dataclass(frozen=True, slots=True)
class RetryProcess:
    process: subprocess.Popen[bytes]
    log: Path
    states: tuple[str, ...]


class Actions:
    """forecast_retry: what taking up these states again will make and cost. Several threads may ask."""

    def __init__(self, forecast_retry: ForecastRetry) -> None:
        self.forecast_retry = forecast_retry
        self._children: dict[Path, RetryProcess] = {}
        self._lock = threading.Lock()

    def retry(self, location: JobLocation, states: Collection[str]) -> int:
        """Begin `batchgen retry` as a process of its own, which outlives the dashboard. Answers its id."""
        chosen = tuple(state for state in RETRY_STATES if state in states)
        if not chosen or len(chosen) != len(states):
            raise ActionRefused(f"choose from {', '.join(RETRY_STATES)}")
        with self._lock:
            child = self._children.get(location.folder)
            if child is not None and child.process.poll() is None:
                raise ActionRefused(f"it is being asked for again already, by process {child.process.pid}")
            run = last_run(location)
            if run is not None and process_state(run, location.folder) in ("running", "unknown"):
                which = f"run {run.id} is going on, process {run.pid} on {run.host}"
                raise ActionRefused(f"{which}: wait for it or stop it")
            self._children[location.folder] = started = _start_retry(location, chosen)
            return started.process.pid

    def last_retry(self, location: JobLocation) -> RetryView | None:
        """Of this job; None when there was none."""
        child = self._children.get(location.folder)
        if child is None:
            return None
        code = child.process.poll()
        return RetryView(
            states=child.states, pid=child.process.pid, exit_code=code, end=exit_words(code), log=_tail(child.log)
        )


def last_run(location: JobLocation) -> RunRow | None:
    try:
        with Reader.open(location.folder) as reader:
            return reader.last_run()
    except BatchgenError as error:
        raise ActionRefused(str(error)) from None


def _start_retry(location: JobLocation, states: Sequence[str]) -> RetryProcess:
    log = location.folder / STATE_FOLDER / LOG_NAME
    # A manifest says which job; a folder remembers its manifest. With both, an emulated folder stays emulated.
    job = [location.manifest, "--output", str(location.folder)] if location.manifest else [str(location.folder)]
    options = [*(f"--{state}" for state in states), "--yes", "--no-progress"]
    package = str(Path(__file__).resolve().parents[3])
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_FOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell; states are of a fixed list
                [sys.executable, "-P", "-c", CHILD_CODE, package, "retry", *job, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    except OSError as error:
        raise ActionRefused(f"it could not be started: {error.strerror or error}") from None
    return RetryProcess(process, log, tuple(states))


def _tail(log: Path) -> str:
    try:
        with open_regular(str(log)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except (OSError, UnsafePathError):
        return ""


def stop(location: JobLocation, run_id: int) -> int:
    """SIGTERM to the process of this very run, and to no other. Answers its id. Raises ActionRefused."""
    run = last_run(location)
    if run is None or run.id != run_id or run.ended_at is not None:
        raise ActionRefused("that run is no longer running")
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
        if read_lock_holder(location.folder).get("pid") != run.pid or not holds_lock(run.pid, location.folder):
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
