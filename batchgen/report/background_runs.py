"""Runs that a view begins for a person: processes of their own, as the command line would start them, which outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import BatchgenError
from batchgen.ledger.location import has_ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.liveness import process_state
from batchgen.safe_open import UnsafePathError, make_private_folder, open_regular
from batchgen.store.spool import NO_FOLLOW

TAIL_BYTES = 4000
# The interpreter and the batchgen of this process. The working folder is no place to import from.
CHILD_CODE = "import sys; sys.path.append(sys.argv.pop(1)); from batchgen.__main__ import main; main()"


class ActionRefused(Exception):
    """Why nothing was done, for the person who asked."""


@dataclass(frozen=True, slots=True)
class BackgroundRun:
    """log: what it has said. states: those that it retries, when it is a retry."""

    process: subprocess.Popen[bytes]
    log: Path
    states: tuple[str, ...] = ()

    def log_tail(self) -> str:
        """The end of what it has said; empty when that cannot be read."""
        try:
            with open_regular(str(self.log)) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return file.read(TAIL_BYTES).decode("utf-8", errors="replace")
        except (OSError, UnsafePathError):
            return ""


class BackgroundRuns:
    """At most one for each job. log_name: of the file in `.batchgen/` with what the last one of a job has said. Several threads
    may ask."""

    def __init__(self, log_name: str) -> None:
        self._log_name = log_name
        self._children: dict[Path, BackgroundRun] = {}
        self._lock = threading.Lock()

    def start(self, location: JobLocation, command: Sequence[str], states: tuple[str, ...] = ()) -> BackgroundRun:
        """Begin a command of batchgen's. Raises ActionRefused, also while the job has a run of anybody's."""
        with self._lock:
            child = self._children.get(location.folder)
            if child is not None and child.process.poll() is None:
                raise ActionRefused(f"process {child.process.pid} is at work on it already: wait for it or stop it")
            run = last_run(location) if has_ledger(location.folder) else None
            if run is not None and process_state(run, location.folder) in ("running", "unknown"):
                which = f"run {run.id} is going on, process {run.pid} on {run.host}"
                raise ActionRefused(f"{which}: wait for it or stop it")
            log = location.folder / STATE_FOLDER / self._log_name
            self._children[location.folder] = started = BackgroundRun(_start(command, log), log, states)
            return started

    def last(self, folder: Path) -> BackgroundRun | None:
        """What was begun last for the job in this folder."""
        return self._children.get(folder)


def last_run(location: JobLocation) -> RunRow | None:
    """Raises ActionRefused when there is no ledger, or it cannot be read."""
    try:
        with Reader.open(location.folder) as reader:
            return reader.last_run()
    except BatchgenError as error:
        raise ActionRefused(str(error)) from None


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    try:
        log.parent.parent.mkdir(parents=True, exist_ok=True)  # of a job's first run
        make_private_folder(log.parent)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_FOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            return subprocess.Popen(  # noqa: S603 - our own interpreter, no shell; a command of batchgen's
                [sys.executable, "-P", "-c", CHILD_CODE, package, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    except OSError as error:
        raise ActionRefused(f"it could not be started: {error.strerror or error}") from None
