"""The last thing a run asks: whether the pictures that its ledger names are the files that stand there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from batchgen.engine.outcome import Discrepancies
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import CurrentPicture
from batchgen.store.objects import BucketAway
from batchgen.store.store import Judgement, Store

READERS = 8
SAID_FROM = 100  # files to read: below, it takes no time worth a word


async def find_discrepancies(ledger: Ledger, store: Store, note: Callable[[str], None]) -> Discrepancies:
    """Once everything is in its place. A file with the size and the stamp that the ledger knows is taken for what it was; one
    with another stamp is read, and its stamp remembered when it is the same all the same."""
    ledger.catch_up()  # placing is not waited for
    try:
        missing, changed, doubtful = await asyncio.to_thread(_look, ledger, store)
        if len(doubtful) >= SAID_FROM:
            note(f"{len(doubtful):,} images have another time or ETag than the ledger knows: they are read once")
        if doubtful:
            read = await asyncio.to_thread(_read, ledger, store, doubtful)
            missing += read["missing"]
            changed += read["changed"]
    except BucketAway as error:
        return Discrepancies(unread=f"whether the images are there could not be seen: {error}")
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


def _read(ledger: Ledger, store: Store, doubtful: Sequence[tuple[CurrentPicture, str]]) -> dict[Judgement, list[str]]:
    """Paths by what was found."""
    found: dict[Judgement, list[str]] = {"right": [], "changed": [], "missing": []}
    with ThreadPoolExecutor(READERS, "verify") as pool:
        judged = pool.map(lambda each: store.judge(each[0].path, each[0].sha256, each[0].bytes), doubtful)
        seen = []
        for (picture, stamp), judgement in zip(doubtful, judged, strict=True):
            found[judgement].append(picture.path)
            if judgement == "right":
                seen.append((stamp, picture.attempt, picture.k))
    ledger.stamped(seen)
    return found
