"""The last thing a run asks: whether the pictures that its ledger names are the files that stand there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from batchgen.engine.outcome import Discrepancies
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import CurrentPicture
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.local_folder import FileVerdict
from batchgen.store.store import Store

READERS = 8
STAMP_BATCH_FILES = 500  # files
NOTE_FROM_FILES = 100  # files to read: below, it takes no time worth a word


async def find_discrepancies(ledger: Ledger, store: Store, note: Callable[[str], None]) -> Discrepancies:
    """Once everything is in its place. A file with the size and the stamp that the ledger knows is taken for what it was; one
    with another stamp is read, and its stamp remembered when it is the same all the same."""
    ledger.flush()  # placing is not waited for
    try:
        missing, changed, doubtful = await asyncio.to_thread(_compare_stamps, ledger, store)
        if len(doubtful) >= NOTE_FROM_FILES:
            note(f"{len(doubtful):,} images have a different time or ETag than recorded: reading each of them once")
        if doubtful:
            interrupted = threading.Event()
            try:
                read = await asyncio.to_thread(_verify_contents, ledger, store, doubtful, interrupted)
            finally:
                interrupted.set()
            missing += read["missing"]
            changed += read["changed"]
    except BucketUnavailable as error:
        return Discrepancies(check_failed=f"could not check whether the images are there: {error}")
    return Discrepancies(tuple(missing), tuple(changed), checked=True)


def _compare_stamps(ledger: Ledger, store: Store) -> tuple[list[str], list[str], list[tuple[CurrentPicture, str]]]:
    """Paths of pictures that are missing and that have another size; and pictures with another stamp, each with that."""
    missing, changed, doubtful = list[str](), list[str](), list[tuple[CurrentPicture, str]]()
    stat_lookup, pending_uploads = store.stat_lookup(), store.pending_uploads
    for picture in ledger.reader.current_pictures():
        if (found := stat_lookup(picture.path)) is None:
            if picture.path not in pending_uploads:
                missing.append(picture.path)
        elif found.bytes != picture.bytes:
            changed.append(picture.path)
        elif found.stamp != picture.stamp:
            doubtful.append((picture, found.stamp))
    return missing, changed, doubtful


def _verify_contents(
    ledger: Ledger, store: Store, doubtful: Sequence[tuple[CurrentPicture, str]], interrupted: threading.Event
) -> dict[FileVerdict, list[str]]:
    """Paths by what was found, as far as it came before it was interrupted."""

    def judge(each: tuple[CurrentPicture, str]) -> FileVerdict | None:
        picture, _ = each
        return None if interrupted.is_set() else store.verify(picture.path, picture.sha256)

    found: dict[FileVerdict, list[str]] = {"right": [], "changed": [], "missing": []}
    with ThreadPoolExecutor(READERS, "verify") as pool:
        judged = zip(doubtful, pool.map(judge, doubtful), strict=True)
        while some := list(islice(judged, STAMP_BATCH_FILES)):
            for (picture, _), judgement in some:
                if judgement is not None:
                    found[judgement].append(picture.path)
            ledger.record_stamps(
                [(stamp, each.attempt, each.k) for (each, stamp), judgement in some if judgement == "right"]
            )
    return found
