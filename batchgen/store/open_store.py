"""Where the pictures of a job folder are: in it, or in the bucket that its ledger names."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from batchgen.errors import LedgerError, UsageError
from batchgen.ledger.reader import Reader
from batchgen.store.store import SPOOL, Store, noted_location

STORE_META_KEY = "store"  # the ledger's name for the address; empty or absent for a folder


def open_store(folder: Path, url: str = "", spool: str = SPOOL) -> Store:
    """url: of the bucket, as `bucket_url` gives it; empty for the folder itself. spool: the name of the spool's folder.
    Raises SettingsError without the extra."""
    if not url:
        return Store(folder, spool)
    from batchgen.store.bucket import BucketStore

    return BucketStore(folder, url, spool)


def open_store_of(folder: Path, reader: Reader) -> Store:
    """For those who only look: what waits in the spool is found there."""
    store = open_store(folder, reader.meta(STORE_META_KEY) or "")
    load_pending(store, reader)
    return store


def load_pending(store: Store, reader: Reader) -> None:
    """What the ledger has and the bucket has not, since an earlier run."""
    if store.url:
        store.load_pending(reader.unplaced())


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
    load_pending(store, reader)
    missing = sum(latest and not store.has_file(path, size) for path, _, size, latest in reader.expected_files())
    if missing:
        old, new = was or str(store.folder), store.url or str(store.folder)
        raise UsageError(
            f"{missing:,} picture(s) of this job are in {old} and not in {new}, and would be bought again:"
            f" copy what is in {old} to {new} first, or go back to the earlier output"
        )
