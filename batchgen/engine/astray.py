"""Pictures that a run had renamed when it died and not yet recorded, or recorded and not yet made durable: found by their bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import StoredImage
from batchgen.store.store import Store

Change = tuple[str, tuple[Any, ...]]


def ended_in_order(ledger: Ledger) -> bool:
    """Whether the last run did, if there was one."""
    run = ledger.reader.last_run()
    return run is None or run.ended_at is not None


def find_astray(ledger: Ledger, store: Store, note: Callable[[str], None]) -> None:
    """Put right where the ledger says pictures lie, and write what is missing beside them. For after the death of a process
    that moves pictures: it reads the folder."""
    store.look()  # of a bucket: what is known of it may be of before
    owners: dict[str, int] = {}
    astray: list[StoredImage] = []
    for image in ledger.reader.images():
        path = image.file.path
        latest = owners.setdefault(path, image.attempt) == image.attempt
        if not latest or not store.has(path, image.file.bytes):
            astray.append(image)
    strangers: dict[int, list[str]] = defaultdict(list)
    for path, size in store.files() if astray else ():
        if path not in owners:
            strangers[size].append(path)
    for image in astray:
        file = image.file
        same = (path for path in strangers[file.bytes] if store.judge(path, file.sha256, file.bytes) == "right")
        found = next(same, None)
        if found is not None:
            strangers[file.bytes].remove(found)
            ledger.apply(_now_at(image, found, owner=owners[file.path] == image.attempt))
            note(f"{file.path}: an interrupted run had moved it to {found}")
    for path, texts in ledger.reader.texts_beside():
        if store.lacks_beside(path, texts):
            store.write_beside(path, texts)
            store.sync(path)


def _now_at(image: StoredImage, path: str, *, owner: bool) -> Iterator[Change]:
    yield "UPDATE image SET path = ? WHERE attempt_id = ? AND k = ?", (path, image.attempt, image.k)
    if owner:
        where = "WHERE item_id = ? AND n = ? AND path = ?"
        yield f"UPDATE sample SET path = ? {where}", (path, image.item_id, image.n, image.file.path)
