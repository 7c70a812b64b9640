"""Derivatives alone, handed over to workers: `batchgen post JOB --engine cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from batchgen import __version__
from batchgen.engine.cluster.derivative_jobs import Missing, find_missing
from batchgen.engine.cluster.submit import prepare, submit
from batchgen.engine.cluster.watch import Watch
from batchgen.engine.outcome import Tally
from batchgen.errors import UsageError
from batchgen.events import Event, Noted
from batchgen.ledger import derivative_work, work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import Pointer, address, pointer
from batchgen.ledger.missing_state import has_lines
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.server_lock import ServerLock
from batchgen.ledger.work_queue import Submission
from batchgen.manifest import Manifest
from batchgen.store.lock import JobLock
from batchgen.store.store import Store

NO_RUN = 0  # what is submitted without a run


async def hand_over(manifest: Manifest, folder: Path, only: Sequence[str], note: Callable[[str], None]) -> Tally:
    """All that is missing of the pictures that are there, made by workers; returns when nothing is left in the queue.

    Raises ManifestError, JobLocked, StoreError, LedgerError, SettingsError, UsageError.
    """
    there = pointer(folder)
    if there is None:
        raise UsageError(f"{folder} has its ledger in a file, which workers cannot reach: leave --engine cluster away")
    for _ in manifest.items():  # to its end, so that half a manifest takes nothing away
        pass
    has_lines(folder)  # a user's own results.jsonl is never written over
    url = address(folder, None) or ""
    await asyncio.to_thread(prepare, url)
    await asyncio.to_thread(_submit, manifest, folder, only, url, there)
    ledger = Ledger(folder)

    def say(event: Event) -> None:
        if isinstance(event, Noted):
            note(event.message)

    try:
        watch = Watch(url, there.schema, ledger.reader, say)
        try:
            await watch.derived()
            tally = watch.tally(NO_RUN)
        finally:
            watch.close()
        if tally.changed:
            ResultsFile(folder, ledger.reader).rebuild()
        return tally
    finally:
        ledger.close()


def _submit(manifest: Manifest, folder: Path, only: Sequence[str], url: str, there: Pointer) -> None:
    store, lock = Store(folder.absolute()), JobLock(folder)  # workers are not in this working directory
    store.prepare()
    lock.acquire()
    try:
        ledger = Ledger(folder)
        try:
            ServerLock(ledger).acquire()
            emulated = ledger.reader.meta("emulated") == "yes"
            missing = find_missing(manifest, ledger, store, only, emulated=emulated)
            submit(url, there.schema, lambda db: _hand(db, there.schema, missing, manifest.name, store.root))
        finally:
            ledger.close()
    finally:
        lock.release()


def _hand(db: Connection, schema: str, missing: Missing, name: str, folder: str) -> None:
    if work_queue.submission(db, NO_RUN) is None:
        facts = Submission(
            name=name, folder=folder, bucket="", limits={}, models={}, lanes={}, hold_uncertain=True, emulator_url=None,
            version=__version__,
        )  # fmt: skip
        work_queue.insert_submission(db, NO_RUN, facts, None, None)
    derivative_work.forget_counts(db, NO_RUN)
    missing.submit(db, schema, NO_RUN)
