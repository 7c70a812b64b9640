"""Ends a submission that nobody watches: one worker writes its results and its end, and sends the message, once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.engine.cluster.orphan_recovery import settle_after_workers
from batchgen.engine.cluster.session import RETRY_DELAY_S, WorkerContext, open_submitted_store
from batchgen.engine.outcome import Outcome, count_ending, read_outcome
from batchgen.engine.recovery.receipts import bind_store
from batchgen.errors import BatchgenError, JobLocked
from batchgen.ledger import endings
from batchgen.ledger.endings import Ending
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.results import RESULTS_FILE, ResultsFile, begins_like_ours, results_order
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.profiles.catalogue import load_catalogue
from batchgen.store.lock import JobLock
from batchgen.store.store import Store

HEAD_BYTES = 100
SPOOL_NAME = "end"  # never created: nothing is received here


@dataclass(frozen=True, slots=True)
class EndedSubmission:
    """A submission that has ended. notify: from its manifest. ledger: open while the message is sent."""

    name: str
    outcome: Outcome
    notify: Mapping[str, Any]
    ledger: FencedLedger


class SubmissionEnds:
    """Ends the submissions of all jobs of a server, as one of its workers. Call it in a thread."""

    def __init__(self, worker: WorkerContext, send_message: Callable[[EndedSubmission], None]) -> None:
        """send_message: sends what the manifest asked for; raises nothing."""
        self.pending = False  # at the last look, one was due that a submitter or another worker has
        self._lock = threading.Lock()
        self._worker = worker
        self._send_message = send_message
        self._not_before_s: dict[str, float] = {}  # by schema, of jobs that this worker could not end

    def look(self) -> None:
        """End the submissions that are due. Raises LedgerError."""
        server = self._worker.connections.writing
        with self._lock:
            found = endings.due(server, queue.STALE_S)
            mine = [one for one in found if time.monotonic() >= self._not_before_s.get(one[0].schema, 0.0)]
            self.pending = False
            for ending, submitter_has_left in mine:
                if submitter_has_left and endings.claim(server, ending, self._worker.name, queue.STALE_S):
                    self._end_claimed(ending, server)
                else:
                    self.pending = True

    def _end_claimed(self, ending: Ending, server: PostgreSQL) -> None:
        name = self._worker.name
        try:
            exit_code = self._end(ending)
        except Exception as error:  # another worker may reach the job's folder
            if not isinstance(error, JobLocked):  # a run that has the job ends it itself
                bug = "" if isinstance(error, BatchgenError) else f"{type(error).__name__}: "  # a bug in batchgen
                self._worker.note(f"{ending.schema}: its end was not written: {bug}{error}")
            self._not_before_s[ending.schema] = time.monotonic() + RETRY_DELAY_S
            endings.give_back(server, ending, name)
        else:
            endings.record_end(server, ending, name, exit_code)

    def _end(self, ending: Ending) -> int:
        """End one submission. Raises BatchgenError."""
        with contextlib.closing(self._worker.ledger(ending.schema, ending.run_id)) as ledger:
            facts = ledger.submission()
            if facts is None:
                return 0
            store = open_submitted_store(self._worker, facts, ending.schema, SPOOL_NAME)
            os.makedirs(os.path.dirname(store.spool), mode=0o700, exist_ok=True)
            with nullcontext() if facts.bucket else _locked(store):
                bind_store(ledger, store, remote_workers=True)
                catalogue = load_catalogue().with_overrides(facts.models)
                settle_after_workers(ledger, store, catalogue, self._worker.note)
                _write_results(ledger, store, self._worker.note)
                outcome = self._read_outcome(ledger, facts.folder, facts.bucket)
                ledger.run_ended(outcome.exit_code, outcome.stopped_by, outcome.recorded)
            self._send_message(EndedSubmission(facts.name, outcome, ending.notify, ledger))
            return outcome.exit_code

    def _read_outcome(self, ledger: FencedLedger, folder: str, bucket: str) -> Outcome:
        reader, run_id = ledger.reader, ledger.run_id
        server = self._worker.connections.reader(ledger.schema)
        found = ClusterMonitor(server, ledger.schema, reader, lambda event: None).ending_of(run_id)
        run = next(run for run in reader.runs() if run.id == run_id)
        counted = count_ending(found, reader, run_id, run.wanted)
        outcome = read_outcome(reader, run_id, counted, time.time() - run.started_at, folder=folder, bucket=bucket)
        return replace(outcome, kept=run.kept)


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Keep any run from beginning in the meantime. Raises JobLocked, StoreError."""
    lock = JobLock(store.folder)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_results(ledger: FencedLedger, store: Store, note: Callable[[str], None]) -> None:
    """Write the results beside the images. The submitter's own file of a job in a bucket is written again by the next
    run. Raises StoreError."""
    order = list(results_order(store.folder, ledger.reader.meta)())
    ResultsFile(store.folder, ledger.reader).rebuild(lambda: order)
    if not store.properties.remote:
        return
    ledger.set_meta(results_tidy="no")
    with contextlib.suppress(FileNotFoundError):
        if not begins_like_ours(b"".join(store.blobs.get(RESULTS_FILE, HEAD_BYTES))):
            note(f"{store.url}/{RESULTS_FILE} was not written by batchgen and stays as it is")
            return
    store.blobs.replace(RESULTS_FILE, store.folder / RESULTS_FILE)
