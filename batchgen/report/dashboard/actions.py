"""What a page may do: start a run, as a process of its own that outlives it and as the command line would start it
(assistants do that too); stop one; and add one person's word about one image to the job's journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from batchgen.errors import BatchgenError
from batchgen.ledger.location import has_ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.verdicts import VerdictReader, last_ruling, review_state
from batchgen.planning.plan import RETRY_STATES as RETRY_STATES
from batchgen.records import HAS_IMAGE, Verdict
from batchgen.report.dashboard.job_card import JobLocation, RetryView
from batchgen.report.gallery_data import SampleView
from batchgen.report.picture_views import SHA256_BEGINS_CHARS, PictureView, verdict_views
from batchgen.report.run_state import exit_words, process_state, read_lock_holder
from batchgen.safe_open import UnsafePathError, make_private_folder, open_regular
from batchgen.store.spool import NO_FOLLOW

TAIL_BYTES = 4000
# The interpreter and the batchgen of this process. Nothing is imported from the working folder.
CHILD_CODE = "import sys; sys.path.append(sys.argv.pop(1)); from batchgen.__main__ import main; main()"
LOG_NAME = "dashboard.log"
ForecastRetry = Callable[[JobLocation, frozenset[str]], dict[str, Any]]
T = TypeVar("T", str, int)


class ActionRefused(Exception):
    """The reason why nothing was done, for the person who asked."""


@dataclass(frozen=True, slots=True)
class BackgroundRun:
    """A run in the background. log: what it has said. states: those that it retries, if it is a retry."""

    process: subprocess.Popen[bytes]
    log: Path
    states: tuple[str, ...] = ()

    def log_tail(self) -> str:
        """The end of what it has said; empty if that cannot be read."""
        try:
            with open_regular(str(self.log)) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return file.read(TAIL_BYTES).decode("utf-8", errors="replace")
        except (OSError, UnsafePathError):
            return ""


class BackgroundRuns:
    """Starts runs in the background, at most one for each job. log_name: of the file in `.batchgen/` with the output of
    the last one of a job. Several threads may use it."""

    def __init__(self, log_name: str) -> None:
        self._log_name = log_name
        self._children: dict[Path, BackgroundRun] = {}
        self._lock = threading.Lock()

    def start(self, location: JobLocation, command: Sequence[str], states: tuple[str, ...] = ()) -> BackgroundRun:
        """Start a command of batchgen. Raises ActionRefused, also while anybody is running the job."""
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
        """The last run that was started for the job in this folder."""
        return self._children.get(folder)


def last_run(location: JobLocation) -> RunRow | None:
    """The last run in the ledger. Raises ActionRefused if there is no ledger, or it cannot be read."""
    try:
        with Reader.open(location.folder) as reader:
            return reader.last_run()
    except BatchgenError as error:
        raise ActionRefused(str(error)) from None


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[3])
    try:
        log.parent.parent.mkdir(parents=True, exist_ok=True)  # for a job's first run
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


class Actions(BackgroundRuns):
    """forecast_retry: what retrying these states will make and cost. Several threads may use it."""

    def __init__(self, forecast_retry: ForecastRetry) -> None:
        super().__init__(LOG_NAME)
        self.forecast_retry = forecast_retry

    def retry(self, location: JobLocation, states: Collection[str]) -> int:
        """Start `batchgen retry`. Returns the id of its process."""
        chosen = tuple(state for state in RETRY_STATES if state in states)
        if not chosen or len(chosen) != len(states):
            raise ActionRefused(f"choose from {', '.join(RETRY_STATES)}")
        last_run(location)  # a job without a ledger has nothing to retry
        # A manifest says which job; a folder remembers its manifest. With both, an emulated folder stays emulated.
        job = [location.manifest, "--output", str(location.folder)] if location.manifest else [str(location.folder)]
        options = [*(f"--{state}" for state in chosen), "--yes", "--no-progress"]
        return self.start(location, ["retry", *job, *options], chosen).process.pid

    def last_retry(self, location: JobLocation) -> RetryView | None:
        """The last retry of this job; None if there was none."""
        child = self.last(location.folder)
        if child is None:
            return None
        code = child.process.poll()
        return RetryView(
            states=child.states, pid=child.process.pid, exit_code=code, end=exit_words(code), log=child.log_tail()
        )


def stop(location: JobLocation, run_id: int) -> int:
    """Send SIGTERM to the process of exactly this run. Returns its id. Raises ActionRefused."""
    run = last_run(location)
    if run is None or run.id != run_id or run.ended_at is not None:
        raise ActionRefused("that run is no longer running")
    if run.host != socket.gethostname():
        raise ActionRefused(f"it runs on {run.host}: stop it there, `kill {run.pid}`")
    if not hasattr(os, "pidfd_open") or not os.path.exists("/proc/locks"):
        raise ActionRefused(f"this system does not say who holds the job's lock: stop it with `kill {run.pid}`")
    try:
        # Held from before the check on: the number cannot be given to another process in the meantime.
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
    """Whether a process holds a job's lock. Source: proc(5), /proc/locks: number, kind, mode, access, process,
    major:minor:inode, from, to."""
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


def record_review(folder: Path, given: Mapping[str, Any], name: str) -> Verdict:
    """Record a review, durably, and return it. given: from the page: id, n, sha, ruling, stars, comment. Raises
    ActionRefused with what is wrong, also if the image is another one by now; LedgerError, StoreError."""
    item_id, n, sha = _value(given, "id", str), _value(given, "n", int), _value(given, "sha", str)
    with closing(VerdictReader.open(folder)) as reader:
        sha256, _ = reader.reviewable([item_id]).get((item_id, n), ("", None))
    if len(sha) != SHA256_BEGINS_CHARS or not sha256.startswith(sha):
        raise ActionRefused("the image was made again or is gone: look at the page again")
    said = (_value(given, "ruling", str), _value(given, "stars", int), _value(given, "comment", str))
    try:
        review = make_review(name, item_id, n, sha256, *said)
    except ValueError as error:
        raise ActionRefused(str(error)) from None
    return append_reviews(folder, [review])[0]


def with_review(sample: SampleView, review: Verdict) -> SampleView | None:
    """The sample after this review, without asking the ledger; None if it shows another image."""
    picture = next((each for each in sample.pictures if each.kind == "image"), None)
    if picture is None or picture.sha != review.sha256[:SHA256_BEGINS_CHARS]:
        return None
    others = tuple(each for each in picture.verdicts if (each.by, each.name) != (review.by, review.name))
    says = review.ruling != "none" or review.score is not None or review.message  # otherwise it withdraws what was said
    after = (*others, *(verdict_views([review], review.sha256) if says else ()))
    changed = replace(picture, verdicts=after)
    sample = replace(sample, pictures=[changed if each is picture else each for each in sample.pictures])
    before, now = _verdicts(picture, review), _verdicts(changed, review)
    if sample.state not in HAS_IMAGE or (last_ruling(before) is None and last_ruling(now) is None):
        return sample
    state = review_state(now)
    if state == (sample.state, sample.reason, sample.message):
        return sample
    return replace(sample, **state._asdict(), at=round(review.at))


def _verdicts(picture: PictureView, review: Verdict) -> list[Verdict]:
    said: Sequence[Any] = picture.verdicts  # like `Verdict`, without what is the same for all
    names = ("by", "name", "ruling", "reason", "message", "at")
    return [replace(review, **{name: getattr(each, name) for name in names}) for each in said]


def _value(given: Mapping[str, Any], field: str, kind: type[T]) -> T:
    value = given.get(field)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ActionRefused(f"{field}: expected {'text' if kind is str else 'a whole number'}")
    return value
