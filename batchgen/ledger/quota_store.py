"""What all who share a quota or a budget have started, spent and reserved: this user's processes on this host, in one small
SQLite file, or all of a PostgreSQL server, on any machine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

from batchgen.errors import LedgerError
from batchgen.ledger.quota_database import Place, QuotaDatabase, no_budget_without
from batchgen.ledger.quota_lane import SharedStarts
from batchgen.ledger.quota_tables import ANSWER_S, requests_on, spent
from batchgen.ledger.sqlite_quota_backend import BUSY_S, FILE_NAME
from batchgen.scheduling.quota_terms import Terms
from batchgen.scheduling.window import day_began


class SharedBook(QuotaDatabase):
    """The lanes that share a quota, and the money that all jobs have spent or reserved."""

    def starts(self, quota: str, period_s: float, terms: Terms | None = None) -> SharedStarts:
        return SharedStarts(self, quota, period_s, terms or Terms())

    def spend(self, job: str, usd: float, at: float, account: str = "", purse: str = "") -> None:
        sql = "INSERT INTO spending (at, ended, usd, job, account, purse) VALUES (?, ?, ?, ?, ?, ?)"
        self.tell(sql, at, at, usd, job, account, purse)

    def forget_reserved(self, job: str, purse: str = "", worker: str = "") -> None:
        """What a worker of the job, or earlier runs of it, reserved and never settled. Only of who is known to live no
        more, and before the job's ledger is asked: that knows what became of each request."""
        sql = "DELETE FROM spending WHERE job = ? AND purse = ? AND worker = ? AND ended IS NULL"
        self.tell(sql, job, purse, worker)

    def forget_lost(self, job: str, purse: str = "") -> None:
        """The same of all workers whose requests can be in flight no longer."""
        sql = "DELETE FROM spending WHERE job = ? AND purse = ? AND worker <> '' AND ended IS NULL AND at < ?"
        self.tell(sql, job, purse, self.clock() - ANSWER_S)

    async def spent_since(
        self,
        at: float,
        job: str | None = None,
        *,
        account: str | None = None,
        purse: str = "",
        settled: bool = False,
    ) -> float:
        """USD that all jobs, or one, have spent since then, and reserved unless only what is settled is asked for."""
        return await self.ask(lambda connection: spent(connection, at, job, account, purse, settled=settled), 0.0)

    def sent_today(self, quota: str, job: str, requests: int) -> None:
        """The job's ledger knows of so many requests since midnight Pacific."""
        self.tell(
            "INSERT INTO daily VALUES (?, ?, ?, ?) ON CONFLICT (quota, day, job) DO UPDATE SET requests ="
            " CASE WHEN daily.requests > excluded.requests THEN daily.requests ELSE excluded.requests END",
            quota, day_began(self.clock()), job, requests,
        )  # fmt: skip

    async def requests_today(self, quota: str) -> int:
        return await self.ask(lambda connection: requests_on(connection, quota, day_began(self.keeping.at)), 0)


def spent_so_far(place: Place, at: float) -> float:
    """USD of all jobs since then, for read-only commands; 0 when there is no book yet. Raises LedgerError when there is one
    that cannot be read."""
    if isinstance(place, str):
        return _spent_on_server(place, at)
    if place is None or not (place / FILE_NAME).exists():
        return 0.0
    try:
        uri = f"{(place / FILE_NAME).absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as connection:
            return spent(connection, at, None, None, "")
    except sqlite3.Error as error:
        raise no_budget_without(place, error) from error


def _spent_on_server(url: str, at: float) -> float:
    from batchgen.ledger.location import SHARED
    from batchgen.ledger.postgresql import PostgreSQL

    try:
        with contextlib.closing(PostgreSQL(url, SHARED, "batchgen looks")) as connection:
            return spent(connection, at, None, None, "")
    except LedgerError:
        return 0.0


def open_shared(place: Place, note: Callable[[str], None], *, counts_money: bool = False) -> SharedBook:
    """The book in the state folder, or on a server. Without a folder that can be used it is kept in memory, with a note,
    unless budgets have to count what other jobs spend.

    Raises LedgerError when the server cannot be reached, or such a budget could not be kept.
    """
    if place is None and counts_money:
        raise no_budget_without(None)
    try:
        return SharedBook(place, note, counts_money=counts_money)
    except (OSError, sqlite3.Error) as error:
        if counts_money:
            raise no_budget_without(place, error) from error
        note(f"quota and spend are not shared with other runs: {place} cannot be used: {error}")
        return SharedBook(None, note)
