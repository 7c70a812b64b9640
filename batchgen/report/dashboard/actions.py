"""The two things that the page may do: take up again what was not made, and stop a run. Each as the command line does it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.plan import RETRY_STATES as RETRY_STATES
from batchgen.report.background_runs import ActionRefused as ActionRefused
from batchgen.report.background_runs import BackgroundRuns, last_run
from batchgen.report.dashboard.job_card import JobLocation, RetryView
from batchgen.report.liveness import read_lock_holder
from batchgen.report.run_end import exit_words

LOG_NAME = "dashboard.log"
ForecastRetry = Callable[[JobLocation, frozenset[str]], dict[str, Any]]


class Actions(BackgroundRuns):
    """forecast_retry: what taking up these states again will make and cost. Several threads may ask."""

    def __init__(self, forecast_retry: ForecastRetry) -> None:
        super().__init__(LOG_NAME)
        self.forecast_retry = forecast_retry

    def retry(self, location: JobLocation, states: Collection[str]) -> int:
        """Begin `batchgen retry`. Answers the id of its process."""
        chosen = tuple(state for state in RETRY_STATES if state in states)
        if not chosen or len(chosen) != len(states):
            raise ActionRefused(f"choose from {', '.join(RETRY_STATES)}")
        last_run(location)  # a job without a ledger has nothing to retry
        # A manifest says which job; a folder remembers its manifest. With both, an emulated folder stays emulated.
        job = [location.manifest, "--output", str(location.folder)] if location.manifest else [str(location.folder)]
        options = [*(f"--{state}" for state in chosen), "--yes", "--no-progress"]
        return self.start(location, ["retry", *job, *options], chosen).process.pid

    def last_retry(self, location: JobLocation) -> RetryView | None:
        """Of this job; None when there was none."""
        child = self.last(location.folder)
        if child is None:
            return None
        code = child.process.poll()
        return RetryView(
            states=child.states, pid=child.process.pid, exit_code=code, end=exit_words(code), log=child.log_tail()
        )


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
