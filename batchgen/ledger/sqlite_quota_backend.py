"""What all processes of this user on this host share, in one small SQLite file kept by the host's clock."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from batchgen.ledger.database import Connection
from batchgen.ledger.quota_tables import SCHEMA
from batchgen.ledger.schema import SQLiteConnection
from batchgen.safe_open import make_private_folder

FILE_NAME = "quota.sqlite"
BUSY_S = 5.0  # a transaction takes well under a millisecond; one that waits longer than this waits for a dead disk


class SQLiteQuotaBackend(SQLiteConnection):
    """Kept by this host's clock."""

    is_remote = False
    midnight_sql = "CAST(strftime('%s', date(at, 'unixepoch', 'localtime'), 'utc') AS REAL)"

    @property
    def transaction_at(self) -> float:
        return time.time()

    def clock(self) -> float:
        return time.time()


def open_sqlite_backend(folder: Path | None) -> SQLiteQuotaBackend:
    """folder: None keeps everything in memory. Raises OSError or sqlite3.Error when it cannot be written."""
    if folder is not None:
        make_private_folder(folder)
        # SQLite gives its side files the same mode
        os.close(os.open(folder / FILE_NAME, os.O_CREAT | os.O_RDWR, 0o600))
    return _connect(":memory:" if folder is None else folder / FILE_NAME)


def _connect(path: Path | str) -> SQLiteQuotaBackend:
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, factory=SQLiteQuotaBackend
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    if isinstance(path, Path):
        connection.guard_file(path)
    return connection


def _prepare(connection: SQLiteQuotaBackend) -> None:
    give_up_s = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # two that switch a new file at once are refused without any waiting
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.02)
    # No fsync per commit: a power cut outlasts the window, and spend is made good from each job's own ledger.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.transact([_make_tables])


def _make_tables(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS spend")  # of an earlier version; every job's ledger has what it held
    for statement in SCHEMA:
        connection.execute(statement)
    if not any(row[1] == "worker" for row in connection.execute("PRAGMA table_info(spending)")):
        connection.execute("ALTER TABLE spending ADD COLUMN worker TEXT NOT NULL DEFAULT ''")
