"""Where the pictures of a job folder are: in it, or in the bucket that its ledger names."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path

from batchgen.errors import LedgerError, UsageError
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.storage_url import normalize_bucket_url
from batchgen.store.job_folder import SPOOL
from batchgen.store.spool import SpoolFile
from batchgen.store.store import Store

ADDRESS_NOTE = "bucket"  # in the state folder: what a damaged ledger can no longer say
STORE_META_KEY = "store"  # the ledger's name for the address; empty or absent for a folder


def open_store(folder: Path, url: str = "", spool: str = SPOOL) -> Store:
    """url: of the bucket, as `normalize_bucket_url` gives it; empty for the folder itself. spool: the name of the spool's folder.
    Raises SettingsError without the extra."""
    if not url:
        return Store(folder, spool)
    from batchgen.store.objects import ObjectStorage

    return Store(folder, spool, ObjectStorage(url))


def open_store_of(folder: Path, reader: Reader) -> Store:
    """For those who only look: what waits in the spool is found there."""
    store = open_store(folder, reader.meta(STORE_META_KEY) or "")
    store.load_pending(reader.unplaced())
    return store


def last_location(folder: Path) -> str:
    """The bucket of a job that has run in this folder; empty when its pictures are here, or nothing can be said."""
    try:
        with Reader.open(folder) as reader:
            return reader.meta(STORE_META_KEY) or ""
    except (LedgerError, sqlite3.Error):
        return noted_location(folder)


def refuse_other_location(reader: Reader, store: Store) -> None:
    """A job whose pictures are somewhere else would buy them all again. Raises UsageError unless they were copied."""
    was = reader.meta(STORE_META_KEY) or ""
    if was == store.url:
        return
    store.load_pending(reader.unplaced())
    missing = sum(latest and not store.has_file(path, size) for path, _, size, latest in reader.expected_files())
    if missing:
        old, new = was or str(store.folder), store.url or str(store.folder)
        raise UsageError(
            f"{missing:,} picture(s) of this job are in {old} and not in {new}, and would be bought again:"
            f" copy what is in {old} to {new} first, or go back to the earlier output"
        )


def noted_location(folder: Path) -> str:
    """As `note_location` left it; empty when it did not."""
    with contextlib.suppress(OSError, ValueError):
        return normalize_bucket_url((folder / STATE_FOLDER / ADDRESS_NOTE).read_text(encoding="utf-8").strip())
    return ""


def note_location(store: Store) -> None:
    """In the job folder, for the day on which the ledger cannot be read."""
    if store.properties.remote and noted_location(store.folder) != store.url:
        note = SpoolFile(store.spool, f"{ADDRESS_NOTE}-{uuid.uuid4().hex}")
        note.write(store.url.encode())
        note.sync()
        os.replace(note.path, store.folder / STATE_FOLDER / ADDRESS_NOTE)
