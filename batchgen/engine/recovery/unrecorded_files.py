"""Finds images that are not where the ledger says, by their bytes: a person, or a run that died, has moved them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import RecordedImage
from batchgen.ledger.reader import Reader
from batchgen.store.store import Store
from batchgen.store.stored_files import DRAFTS, SUPERSEDED

Change = tuple[str, tuple[Any, ...]]


class UnrecordedFiles:
    """The files of a store that are not what the ledger has under their names. They are listed on first use, in memory
    that does not grow with their number, and only read if their size is that of a missing image.

    aside: whether to include `superseded/` and `drafts/`; a person who moves an image there wants it out of the way.
    """

    def __init__(self, store: Store, reader: Reader | None, *, aside: bool = False) -> None:
        self._store = store
        self._reader = reader
        self._aside = aside
        self._database: sqlite3.Connection | None = None
        self._found: dict[str, str] = {}  # by sample

    def __contains__(self, path: str) -> bool:
        return self._files().execute("SELECT 1 FROM file WHERE path = ?", (path,)).fetchone() is not None

    def find(self, key: str, size_bytes: int, sha256: str) -> str | None:
        """Where exactly these bytes are. No two samples get the same file, and a sample always gets the same one."""
        if key in self._found:
            return self._found[key]
        files = self._files()
        sql = "SELECT path FROM file WHERE bytes = ? ORDER BY path"
        for (path,) in files.execute(sql, (size_bytes,)).fetchall():
            with contextlib.suppress(OSError):  # it is gone by now
                if self._store.sha256(path) == sha256:
                    files.execute("DELETE FROM file WHERE path = ?", (path,))
                    self._found[key] = path
                    return str(path)
        return None

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _files(self) -> sqlite3.Connection:
        if self._database is None:
            files = self._database = sqlite3.connect("", isolation_level=None)
            files.execute("CREATE TABLE file (path TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID")
            files.execute("BEGIN")
            files.executemany("INSERT OR IGNORE INTO file VALUES (?, ?)", self._candidates())
            if self._reader is not None:
                files.executemany("DELETE FROM file WHERE path = ? AND bytes = ?", self._reader.recorded_files())
            files.execute("CREATE INDEX by_size ON file (bytes)")
            files.execute("COMMIT")
        return self._database

    def _candidates(self) -> Iterator[tuple[str, int]]:
        for path, size in self._store.files():
            if self._aside or path.partition("/")[0] not in (SUPERSEDED, DRAFTS):
                yield path, size


def last_run_ended(ledger: Ledger) -> bool:
    """Whether the last run ended, if there was one."""
    run = ledger.reader.last_run()
    return run is None or run.ended_at is not None


def find_moved_files(ledger: Ledger, store: Store, note: Callable[[str], None]) -> None:
    """Correct where the ledger says images are, and write missing texts beside them. Used after the death of a process
    that moves images: it reads the folder."""
    store.stat_lookup()  # what is known of a bucket may be out of date
    owners: dict[str, int] = {}
    misplaced: list[RecordedImage] = []
    for image in ledger.reader.images():
        path = image.file.path
        latest = owners.setdefault(path, image.attempt) == image.attempt
        if not latest or not store.has_file(path, image.file.bytes):
            misplaced.append(image)
    with contextlib.closing(UnrecordedFiles(store, ledger.reader, aside=True)) as files:
        for image in misplaced:
            found = files.find(f"{image.attempt} {image.k}", image.file.bytes, image.file.sha256)
            if found is not None:
                ledger.run_statements(_relocations(image, found, owner=owners[image.file.path] == image.attempt))
                note(f"{image.file.path}: an interrupted run had moved it to {found}")
    for path, texts in ledger.reader.all_sidecar_texts():
        if store.lacks_sidecars(path, texts):
            store.write_sidecars(path, texts)
            store.sync(path)


def _relocations(image: RecordedImage, path: str, *, owner: bool) -> Iterator[Change]:
    yield "UPDATE image SET path = ? WHERE attempt_id = ? AND k = ?", (path, image.attempt, image.k)
    if owner:
        where = "WHERE item_id = ? AND n = ? AND path = ?"
        yield f"UPDATE sample SET path = ? {where}", (path, image.item_id, image.n, image.file.path)
