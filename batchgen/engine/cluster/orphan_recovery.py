"""What dead workers left behind: taken up by whoever is alive, and never from one that is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from itertools import groupby

from filelock import FileLock, Timeout

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.cancellation import stop_what_is_over
from batchgen.engine.links import take_up
from batchgen.engine.recovery.interrupted import adopted, is_in_place, place_left, settled_by_receipt
from batchgen.engine.recovery.unrecorded_files import find_moved_files
from batchgen.engine.settle import finish
from batchgen.errors import StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.profiles.catalogue import Catalogue
from batchgen.safe_open import PRIVATE_MODE
from batchgen.store.bucket import BucketStore
from batchgen.store.objects import BucketAway
from batchgen.store.open_store import open_store
from batchgen.store.spool import disk_error
from batchgen.store.store import SPOOL, Store

LOCK = ".lock"
Note = Callable[[str], None]


def own(store: Store) -> FileLock:
    """Hold a worker's spool until the end of its process, however it ends. Raises StoreError when another has it."""
    lock = FileLock(f"{store.spool}{LOCK}", mode=PRIVATE_MODE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{store.spool} is another worker's: give each worker a --name of its own") from None
    except OSError as error:
        raise disk_error(error, store.spool) from None
    return lock


def disown(store: Store, lock: FileLock) -> None:
    """Leave nothing behind that nobody needs."""
    with contextlib.suppress(OSError):
        os.rmdir(store.spool)
        os.unlink(lock.lock_file)
    lock.release()


def take_over(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note, *, died: bool = False) -> None:
    """Place what was recorded, and record what is whole, in all spools whose worker has died. One process at a time. died:
    whether one has that is not among these any more: this worker's own forerunner."""
    state = os.path.join(store.root, STATE_FOLDER)
    with FileLock(os.path.join(state, f"heirs{LOCK}"), mode=PRIVATE_MODE):
        spools = [_spool(store, entry.name) for entry in os.scandir(state) if _is_spool(entry)]
        for left in spools:
            with contextlib.suppress(StoreError):  # its worker lives
                lock, died = own(left), True
                try:
                    empty(ledger, left, catalogue, note)
                finally:
                    disown(left, lock)
        with contextlib.suppress(BucketAway):  # then another time
            _note_placed(ledger, store, spools)
            ledger.catch_up()
            if died:
                find_moved_files(ledger, store, note)


def empty(ledger: FencedLedger, left: Store, catalogue: Catalogue, note: Note) -> None:
    """left: the spool of somebody who has died, which is ours now."""
    names = (entry.partition(".")[0] for entry in os.listdir(left.spool))
    numbers = {int(name) for name in names if name.isdigit()}
    place_left(ledger, left, [image for image in ledger.reader.unplaced_of_workers() if image.attempt in numbers], note)
    take_up(ledger, left, catalogue, ledger.behind_links(sorted(numbers)))
    for attempt in ledger.unanswered(sorted(numbers)):
        if isinstance(left, BucketStore) and settled_by_receipt(ledger, left, attempt, note):
            continue
        adopted(ledger, left, attempt, note, "spool of a worker that has died")
    ledger.catch_up()
    waits = ledger.reader.unplaced_of_workers() if left.url else ()  # a bucket that is away has not taken them
    left.forget_spool({image.spool for image in waits})


def _note_placed(ledger: FencedLedger, store: Store, spools: Sequence[Store]) -> None:
    """Pictures that stand under their names, of workers that died before they could say so."""
    for attempt, found in groupby(ledger.reader.unplaced_of_workers(), key=lambda image: image.attempt):
        images = list(found)
        waits = any(os.path.exists(each.spooled(image.spool)) for each in spools for image in images)
        if not waits and all(is_in_place(store, image) for image in images):
            finish(ledger, store, attempt, (), images)


def after_workers(store: Store, url: str, schema: str, catalogue: Catalogue, note: Note) -> None:
    """What a run does for those who died, before it looks at how things stand. Requests that no queue knows of any more
    are as if a run had sent them."""
    ledger = FencedLedger(url, schema, 0, f"run {os.getpid()}")
    ledger.defer = lambda db, numbers: queue.defer(db, schema, numbers)
    try:
        if not ledger.reader.has_work():
            return
        take_over(ledger, store, catalogue, note)
        ledger.writer.submit(lambda db: stop_what_is_over(db, schema)).result()
        ledger.disown()
        if put_back := ledger.writer.submit(lambda db: queue.missed(db, schema)).result():
            note(f"{put_back} sample(s) had fallen out of the queue and are in it again")
    finally:
        ledger.close()


def _spool(store: Store, name: str) -> Store:
    found = open_store(store.folder, store.url, name)
    if isinstance(found, BucketStore) and isinstance(store, BucketStore):
        found.token, found.shared = store.token, True
    return found


def _is_spool(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(f"{SPOOL}-") and entry.is_dir(follow_symlinks=False)
