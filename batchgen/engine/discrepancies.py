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
from batchgen.store.objects import BucketAway
from batchgen.store.store import Judgement, Store

READERS = 8
STAMPED_AT_ONCE = 500  # files
SAID_FROM = 100  # files to read: below, it takes no time worth a word


async def find_discrepancies(ledger: Ledger, store: Store, note: Callable[[str], None]) -> Discrepancies:
    """Once everything is in its place. A file with the size and the stamp that the ledger knows is taken for what it was; one
    with another stamp is read, and its stamp remembered when it is the same all the same."""
    ledger.catch_up()  # placing is not waited for
    try:
        missing, changed, doubtful = await asyncio.to_thread(_look, ledger, store)
        if len(doubtful) >= SAID_FROM:
            note(f"{len(doubtful):,} images have a different time or ETag than recorded: reading each of them once")
        if doubtful:
            interrupted = threading.Event()
            try:
                read = await asyncio.to_thread(_read, ledger, store, doubtful, interrupted)
            finally:
                interrupted.set()
            missing += read["missing"]
            changed += read["changed"]
    except BucketAway as error:
        return Discrepancies(unread=f"could not check whether the images are there: {error}")
    return Discrepancies(tuple(missing), tuple(changed), looked=True)


def _look(ledger: Ledger, store: Store) -> tuple[list[str], list[str], list[tuple[CurrentPicture, str]]]:
    """Paths of pictures that are missing and that have another size; and pictures with another stamp, each with that."""
    missing, changed, doubtful = list[str](), list[str](), list[tuple[CurrentPicture, str]]()
    look, waiting = store.look(), store.waiting
    for picture in ledger.reader.current_pictures():
        if (stands := look(picture.path)) is None:
            if picture.path not in waiting:
                missing.append(picture.path)
        elif stands.bytes != picture.bytes:
            changed.append(picture.path)
        elif stands.stamp != picture.stamp:
            doubtful.append((picture, stands.stamp))
    return missing, changed, doubtful


def _read(
    ledger: Ledger, store: Store, doubtful: Sequence[tuple[CurrentPicture, str]], interrupted: threading.Event
) -> dict[Judgement, list[str]]:
    """Paths by what was found, as far as it came before it was interrupted."""

    def judge(each: tuple[CurrentPicture, str]) -> Judgement | None:
        picture, _ = each
        return None if interrupted.is_set() else store.judge(picture.path, picture.sha256, picture.bytes)

    found: dict[Judgement, list[str]] = {"right": [], "changed": [], "missing": []}
    with ThreadPoolExecutor(READERS, "verify") as pool:
        judged = zip(doubtful, pool.map(judge, doubtful), strict=True)
        while some := list(islice(judged, STAMPED_AT_ONCE)):
            for (picture, _), judgement in some:
                if judgement is not None:
                    found[judgement].append(picture.path)
            ledger.stamped([(stamp, each.attempt, each.k) for (each, stamp), judgement in some if judgement == "right"])
    return found
