"""A job opened for writing: what its run is asked to do, and its folder, ledger and results behind the job's locks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchgen.engine.context import Broadcast, Emit
from batchgen.engine.job import Job
from batchgen.engine.outcome import RunOptions
from batchgen.errors import JobLocked
from batchgen.events import Notice, Observer
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, has_ledger, job_identity, ledger_url, server_address, validated_url
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import ResultsFile, has_result_lines, results_order
from batchgen.ledger.reviews import Pending, absorb_reviews, pending_reviews
from batchgen.ledger.server_access import ServerLock
from batchgen.store.lock import JobLock
from batchgen.store.store import Store, last_location, open_store


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one run is asked to do, and its observers."""

    job: Job
    store: Store
    options: RunOptions
    emit: Emit

    @property
    def emulated(self) -> bool:
        return self.options.emulator_url is not None

    @property
    def manifest_path(self) -> str:
        """The manifest's path, empty if it is not a file."""
        return "" if self.job.manifest.is_data else os.path.abspath(self.job.manifest.path)

    def note(self, message: str) -> None:
        self.emit(Notice(at=time.time(), message=message))

    @property
    def server(self) -> LedgerServer | None:
        """The server for a new ledger, None if it goes into the job folder. Raises SettingsError."""
        ledger, store = self.options.ledger, self.store
        url = validated_url(ledger) if ledger else ledger_url(self.job.settings)
        return None if url is None else LedgerServer(url, self.job.manifest.name, job_identity(store.url or store.root))

    @property
    def server_url(self) -> str:
        """The address of the server that has the ledger, or will have it; empty for a ledger in the folder."""
        return server_address(self.store.folder, self.server) or ""


def run_request(job: Job, options: RunOptions, observers: Iterable[Observer]) -> RunRequest:
    return RunRequest(job, open_store(job.folder, job.bucket), options, Broadcast(observers))


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job. was_there: whether the job had a ledger before. results: not opened yet."""

    store: Store
    ledger: Ledger
    results: ResultsFile
    was_there: bool
    _lock: JobLock
    _server_lock: ServerLock

    def release_locks(self) -> None:
        """Release the locks before closing: nothing is left to write that could collide with another run."""
        self._server_lock.release()
        self._lock.release()


@contextmanager
def locked_job(store: Store) -> Iterator[JobLock]:
    """Create the folder and lock it for this process. Raises JobLocked, StoreError."""
    store.prepare()
    lock = JobLock(store.folder)
    lock.acquire()
    try:
        yield lock
    finally:
        store.emergency_spool.release_space()
        lock.release()


@contextmanager
def open_job_state(store: Store, lock: JobLock, server: LedgerServer | None = None) -> Iterator[JobState]:
    """Open the state of a job. server: for the ledger of a job that has none yet; None puts it in the folder. Raises
    JobLocked, LedgerError."""
    was_there = has_ledger(store.folder)
    ledger = Ledger(store.folder, server)
    try:
        server_lock = ServerLock(ledger)
        server_lock.acquire()
        yield JobState(store, ledger, ResultsFile(store.folder, ledger.reader), was_there, lock, server_lock)
    finally:
        ledger.close()


@contextmanager
def open_finished_job(folder: Path) -> Iterator[JobState]:
    """Open a job that has run, with its images where the run left them. Raises JobLocked, StoreError, LedgerError."""
    has_result_lines(folder)  # never overwrite a user's own results.jsonl
    store = open_store(folder, last_location(folder))
    with locked_job(store) as lock, open_job_state(store, lock) as state:
        store.load_pending(state.ledger.reader.unplaced())
        yield state


def absorb_reviews_unless_locked(folder: Path) -> Pending | None:
    """Record in ledger and results what people said about the images of a job that has run. Returns None while a run
    holds the job, as the run does it by itself. Raises StoreError, LedgerError."""
    with Reader.open(folder) as reader:
        if not pending_reviews(folder, reader, to_end=True).mark:
            return Pending()
    try:
        with open_finished_job(folder) as state:
            pending = absorb_reviews(folder, state.ledger)
            if pending.changes and state.ledger.reader.meta("results_tidy") == "yes":
                order = list(results_order(folder, state.ledger.reader.meta)())
                state.results.rebuild(lambda: order)
            return pending
    except JobLocked:
        return None
