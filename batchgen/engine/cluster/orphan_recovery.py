"""Recovers what dead workers left behind, and never touches what belongs to a living one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from itertools import groupby

from filelock import FileLock

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.queue import stop_expired
from batchgen.engine.cluster.session import adoption_lock, lock_spool, take_spool, unlock_spool
from batchgen.engine.links import settle_downloaded
from batchgen.engine.recovery.open_attempts import adopt_spooled, is_in_place, move_unplaced, settle_by_receipt
from batchgen.engine.recovery.receipts import bind_store
from batchgen.engine.recovery.unrecorded_files import find_moved_files
from batchgen.engine.settle import place_recorded
from batchgen.errors import StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.job_folder import SPOOL
from batchgen.store.store import Store

Note = Callable[[str], None]
_ADOPTING = threading.Lock()  # a worker uses one more connection while it adopts, however many jobs it has


def take_and_adopt_spool(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note) -> FileLock:
    """Create a worker's own spool and lock it. A worker of the same name may have been here before and died.

    Raises JobLocked, LedgerError, StoreError.
    """
    died = os.path.isdir(store.spool)
    lock = take_spool(store, note)
    try:
        bind_store(ledger, store, remote_workers=True)
        adopt_spool(ledger, store, catalogue, note)
        adopt_orphans(ledger, store, catalogue, note, died=died)
    except BaseException:
        unlock_spool(store, lock)
        raise
    return lock


def adopt_orphans(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note, *, died: bool = False) -> None:
    """Place what was recorded and record what is whole in the spools of all workers that have died. One process at a
    time. died: whether a worker has died that is no longer listed, such as this worker's predecessor. Raises JobLocked,
    LedgerError, StoreError."""
    state = os.path.join(store.root, STATE_FOLDER)
    with _ADOPTING, contextlib.closing(ledger.without_waiting()) as ledger, adoption_lock(store, note):
        spools = [store.with_spool(entry.name) for entry in os.scandir(state) if _is_spool(entry)]
        for orphan in spools:
            with contextlib.suppress(StoreError):  # its worker is alive
                lock, died = lock_spool(orphan), True
                try:
                    adopt_spool(ledger, orphan, catalogue, note)
                finally:
                    unlock_spool(orphan, lock)
        with contextlib.suppress(BucketUnavailable):  # then another time
            _settle_placed(ledger, store, spools)
            ledger.flush()
            if died:
                find_moved_files(ledger, store, note)


def adopt_spool(ledger: FencedLedger, orphan: Store, catalogue: Catalogue, note: Note) -> None:
    """Settle what is in a dead worker's spool. orphan: that spool, which this process now holds."""
    names = (entry.partition(".")[0] for entry in os.listdir(orphan.spool))
    numbers = {int(name) for name in names if name.isdigit()}
    move_unplaced(
        ledger, orphan, [image for image in ledger.reader.unplaced_by_workers() if image.attempt in numbers], note
    )
    settle_downloaded(ledger, orphan, catalogue, ledger.attempts_behind_links(sorted(numbers)))
    for attempt in ledger.unanswered_attempts(sorted(numbers)):
        if settle_by_receipt(ledger, orphan, attempt, note):
            continue
        adopt_spooled(ledger, orphan, attempt, note, "spool of a worker that has died")
    ledger.flush()
    waits = ledger.reader.unplaced_by_workers() if orphan.url else ()  # an unreachable bucket has not accepted these
    orphan.clean_spool({image.spool for image in waits})


def _settle_placed(ledger: FencedLedger, store: Store, spools: Sequence[Store]) -> None:
    """Record as placed the images that dead workers moved into place without recording it."""
    for attempt, found in groupby(ledger.reader.unplaced_by_workers(), key=lambda image: image.attempt):
        images = list(found)
        waits = any(os.path.exists(each.spooled(image.spool)) for each in spools for image in images)
        if not waits and all(is_in_place(store, image) for image in images):
            place_recorded(ledger, store, attempt, (), images)


def recover_after_workers(store: Store, url: str, schema: str, catalogue: Catalogue, note: Note) -> None:
    """Recover from dead workers before a run surveys its job. Requests that no queue knows any more are treated as a
    run's own."""
    ledger = FencedLedger(url, schema, 0, f"run {os.getpid()}")
    try:
        if not ledger.reader.has_work_table():
            return
        queue.migrate(url)
        settle_after_workers(ledger, store, catalogue, note)
    finally:
        ledger.close()


def settle_after_workers(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note) -> None:
    """Recover from dead workers with an open ledger, for a job that has a queue."""
    adopt_orphans(ledger, store, catalogue, note)
    ledger.writer.submit(stop_expired).result()
    ledger.unassign_open_attempts()


def _is_spool(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(f"{SPOOL}-") and entry.is_dir(follow_symlinks=False)
