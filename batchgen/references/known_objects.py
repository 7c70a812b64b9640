"""What this user's runs have learned of objects in buckets: type and sha256, by address, ETag and size, in one small SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from batchgen.safe_open import make_private_folder

FILE_NAME = "references.sqlite"
MAX_OBJECTS = 250_000  # objects, of some 200 bytes each
BUSY_S = 5.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS object (place INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, etag TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, mime TEXT NOT NULL, sha256 TEXT NOT NULL)"
)
T = TypeVar("T")


class ObjectCache:
    """Safe to use from several threads. A memory that cannot be kept on disk is no reason to stop: it is said once."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None], max_objects: int = MAX_OBJECTS) -> None:
        """folder: of the user's state; None remembers nothing."""
        self._folder = folder
        self._warn = warn
        self._max_objects = max_objects
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def get(self, address: str, etag: str, size_bytes: int) -> tuple[str, str]:
        """MIME type and sha256 of this very object, '' for what is not known."""
        sql = "SELECT mime, sha256 FROM object WHERE (address, etag, bytes) = (?, ?, ?)"
        row = self._transact(lambda db: db.execute(sql, (address, etag, size_bytes)).fetchone())
        return (row[0], row[1]) if row is not None else ("", "")

    def put(self, address: str, etag: str, size_bytes: int, mime_type: str, sha256: str = "") -> None:
        """In the place of what the address held before; of too many, those learned first are forgotten."""
        if not etag:
            return

        def write(db: sqlite3.Connection) -> None:
            row = (address, etag, size_bytes, mime_type, sha256)
            db.execute("INSERT OR REPLACE INTO object (address, etag, bytes, mime, sha256) VALUES (?, ?, ?, ?, ?)", row)
            db.execute("DELETE FROM object WHERE place <= (SELECT max(place) FROM object) - ?", (self._max_objects,))

        self._transact(write)

    def _transact(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if self._folder is None:
                return None
            try:
                if self._connection is None:
                    self._connection = _open_database(self._folder)
                with self._connection:
                    return call(self._connection)
            except (OSError, sqlite3.Error) as error:
                self._warn(f"references in buckets are not remembered: {self._folder} cannot be used: {error}")
                self._folder = None
                self._close()
                return None

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self._close()


def _open_database(folder: Path) -> sqlite3.Connection:
    make_private_folder(folder)
    os.close(os.open(folder / FILE_NAME, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(folder / FILE_NAME, timeout=BUSY_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # with NORMAL no write waits for the disk
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection
