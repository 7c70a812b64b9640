"""What all processes of this user on this host have started and spent, in one small SQLite file."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from batchgen.quota import NotBefore, Reserved

FILE_NAME = "quota.sqlite"
BUSY_S = 5.0  # a transaction takes well under a millisecond; one that waits longer than this waits for a dead disk
OPEN_TRIES = 50
SCHEMA = (
    # AUTOINCREMENT: a place that was forgotten while its request was still connecting is never another one's number.
    "CREATE TABLE IF NOT EXISTS start (place INTEGER PRIMARY KEY AUTOINCREMENT, quota TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS start_by_time ON start (quota, at)",
    "CREATE TABLE IF NOT EXISTS spend (at REAL NOT NULL, usd REAL NOT NULL, job TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS spend_by_time ON spend (at)",
)
KEPT_S = 400 * 86400.0
T = TypeVar("T")


def quota_name(provider: str, base_url: str, secret: str, model: str) -> str:
    """Whose quota it is: the same key of the same server and AI model. Holds a short hash of the key, never the key."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return f"{provider}|{urlsplit(base_url).netloc}|{digest}|{model}"


class SharedFile:
    """The file, open. One thread of its own talks to it, so that another process's transaction never holds up the loop.

    The first fault ends the sharing for this run and is told once: a quota file is no reason not to make pictures.
    Times are UTC seconds, because monotonic clocks of two processes need not agree. Its catch: a wall clock that jumps
    forward forgets too early; the server's own refusals then do the rest.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """Raises OSError or sqlite3.Error when the folder or the file cannot be written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / FILE_NAME
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same mode
        self._connection = _connect(path)
        self._note = note
        self._fault: sqlite3.Error | None = None
        self._told = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shared")

    def starts(self, quota: str, period_s: float) -> SharedStarts:
        return SharedStarts(self, quota, period_s)

    async def ask(self, call: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The answer of one transaction, or `otherwise` from the first fault on."""
        if self._fault is None:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, call)
            if answer is not None:
                return answer
        self._tell()
        return otherwise

    def tell(self, sql: str, *values: object) -> None:
        """One statement, carried out in order and soon; nobody waits for it."""
        self._thread.submit(self._transaction, lambda connection: connection.execute(sql, values))

    def _transaction(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._fault is not None:
            return None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                return call(self._connection)
        except sqlite3.Error as error:
            self._fault = error
            return None

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._note(f"quota and spend are not shared with other runs from here on: {self._fault}")

    # --- money

    def spend(self, job: str, usd: float, at: float | None = None) -> None:
        self.tell("INSERT INTO spend VALUES (?, ?, ?)", time.time() if at is None else at, usd, job)

    async def spent_since(self, at: float, job: str | None = None) -> float:
        """USD that all jobs, or one, have spent since then."""

        def total(connection: sqlite3.Connection) -> float:
            sql = "SELECT coalesce(sum(usd), 0) FROM spend WHERE at >= ? AND (? IS NULL OR job = ?)"
            return float(connection.execute(sql, (at, job, job)).fetchone()[0])

        return await self.ask(total, 0.0)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        if self._fault is not None:
            self._tell()  # what nobody waited for may have failed last
        self._connection.close()


class SharedStarts:
    """The starts of one quota: a sliding log of `period_s` that every process asks before it sends.

    Processes that wait for the same place race for it; none is promised a share.
    """

    def __init__(self, file: SharedFile, quota: str, period_s: float) -> None:
        self._file = file
        self._quota = quota
        self._period_s = period_s

    async def reserve(self, limit: int) -> Reserved | NotBefore:
        """A place if fewer than `limit` started within the period, else how long until the earliest is free."""
        return await self._file.ask(lambda connection: self._reserve(connection, limit), Reserved(None))

    def _reserve(self, connection: sqlite3.Connection, limit: int) -> Reserved | NotBefore:
        now, quota = time.time(), self._quota
        # Stamps beyond a whole period ahead were made before the clock was set back, and would block for as long.
        connection.execute(
            "DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ?)",
            (quota, now - self._period_s, now + self._period_s),
        )
        row = connection.execute(
            "SELECT at FROM start WHERE quota = ? ORDER BY at DESC LIMIT 1 OFFSET ?", (quota, limit - 1)
        ).fetchone()
        if row is not None:
            return NotBefore(max(0.001, float(row[0]) + self._period_s - now))
        return Reserved(connection.execute("INSERT INTO start (quota, at) VALUES (?, ?)", (quota, now)).lastrowid)

    def sent(self, place: int) -> None:
        # Replaced, not updated: the place is already forgotten if connecting took longer than the period.
        self._file.tell("INSERT OR REPLACE INTO start VALUES (?, ?, ?)", place, self._quota, time.time())

    def refund(self, place: int) -> None:
        self._file.tell("DELETE FROM start WHERE place = ?", place)


def open_shared(folder: Path | None, note: Callable[[str], None]) -> SharedFile | None:
    """The file in the state folder; None, with a note, when it cannot be had, and without one when there is no folder."""
    if folder is None:
        return None
    try:
        return SharedFile(folder, note)
    except (OSError, sqlite3.Error) as error:
        note(f"quota and spend are not shared with other runs: {folder} cannot be used: {error}")
        return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    for tries in range(1, OPEN_TRIES + 1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # two that switch a new file at once are refused without any waiting
            if tries == OPEN_TRIES:
                raise
            time.sleep(0.02)
    # No fsync per commit: a power cut outlasts the window, and spend is made good from each job's own ledger.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("DELETE FROM start WHERE at < ?", (time.time() - 86400.0,))
        connection.execute("DELETE FROM spend WHERE at < ?", (time.time() - KEPT_S,))
