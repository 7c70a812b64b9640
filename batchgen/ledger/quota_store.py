"""What all who share a quota or a budget have started, spent and reserved: this user's processes on this host, in one small
SQLite file, or all of a PostgreSQL server, on any machine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

from batchgen.errors import LedgerError
from batchgen.ledger.quota_database import QuotaDatabase, QuotaLocation, no_budget_store_error
from batchgen.ledger.quota_lane import SharedStartLog
from batchgen.ledger.quota_tables import REQUEST_MAX_S, requests_on, spent
from batchgen.ledger.sqlite_quota_backend import BUSY_S, FILE_NAME
from batchgen.scheduling.quota_terms import StartLimits
from batchgen.scheduling.window import quota_day_start


class QuotaStore(QuotaDatabase):
    """The lanes that share a quota, and the money that all jobs have spent or reserved."""

    def start_log(self, quota: str, period_s: float, terms: StartLimits | None = None) -> SharedStartLog:
        return SharedStartLog(self, quota, period_s, terms or StartLimits())

    def spend(self, job: str, usd: float, at: float, account: str = "", spend_scope: str = "") -> None:
        sql = "INSERT INTO spending (at, ended, usd, job, account, purse) VALUES (?, ?, ?, ?, ?, ?)"
        self.execute_soon(sql, at, at, usd, job, account, spend_scope)

    def delete_reservations(self, job: str, spend_scope: str = "", worker: str = "") -> None:
        """What a worker of the job, or earlier runs of it, reserved and never settled. Only of who is known to live no
        more, and before the job's ledger is asked: that knows what became of each request."""
        sql = "DELETE FROM spending WHERE job = ? AND purse = ? AND worker = ? AND ended IS NULL"
        self.execute_soon(sql, job, spend_scope, worker)

    def delete_lost_reservations(self, job: str, spend_scope: str = "") -> None:
        """The same of all workers whose requests can be in flight no longer."""
        sql = "DELETE FROM spending WHERE job = ? AND purse = ? AND worker <> '' AND ended IS NULL AND at < ?"
        self.execute_soon(sql, job, spend_scope, self.clock() - REQUEST_MAX_S)

    async def spent_since(
        self,
        at: float,
        job: str | None = None,
        *,
        account: str | None = None,
        spend_scope: str = "",
        settled: bool = False,
    ) -> float:
        """USD that all jobs, or one, have spent since then, and reserved unless only what is settled is asked for."""
        return await self.transact(
            lambda connection: spent(connection, at, job, account, spend_scope, settled=settled), 0.0
        )

    def sent_today(self, quota: str, job: str, requests: int) -> None:
        """The job's ledger knows of so many requests since midnight Pacific."""
        self.execute_soon(
            "INSERT INTO daily VALUES (?, ?, ?, ?) ON CONFLICT (quota, day, job) DO UPDATE SET requests ="
            " CASE WHEN daily.requests > excluded.requests THEN daily.requests ELSE excluded.requests END",
            quota, quota_day_start(self.clock()), job, requests,
        )  # fmt: skip

    async def requests_today(self, quota: str) -> int:
        return await self.transact(
            lambda connection: requests_on(connection, quota, quota_day_start(self.backend.transaction_at)), 0
        )


def read_spent(location: QuotaLocation, at: float) -> float:
    """USD of all jobs since then, for read-only commands; 0 when there is no book yet. Raises LedgerError when there is one
    that cannot be read."""
    if isinstance(location, str):
        return _read_spent_on_server(location, at)
    if location is None or not (location / FILE_NAME).exists():
        return 0.0
    try:
        uri = f"{(location / FILE_NAME).absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as connection:
            return spent(connection, at, None, None, "")
    except sqlite3.Error as error:
        raise no_budget_store_error(location, error) from error


def _read_spent_on_server(url: str, at: float) -> float:
    from batchgen.ledger.location import SHARED_SCHEMA
    from batchgen.ledger.postgresql import PostgreSQL

    try:
        with contextlib.closing(PostgreSQL(url, SHARED_SCHEMA, "batchgen looks")) as connection:
            return spent(connection, at, None, None, "")
    except LedgerError:
        return 0.0


def open_quota_store(location: QuotaLocation, note: Callable[[str], None], *, counts_money: bool = False) -> QuotaStore:
    """The book in the state folder, or on a server. Without a folder that can be used it is kept in memory, with a note,
    unless budgets have to count what other jobs spend.

    Raises LedgerError when the server cannot be reached, or such a budget could not be kept.
    """
    if location is None and counts_money:
        raise no_budget_store_error(None)
    try:
        return QuotaStore(location, note, counts_money=counts_money)
    except (OSError, sqlite3.Error) as error:
        if counts_money:
            raise no_budget_store_error(location, error) from error
        note(f"quota and spend are not shared with other runs: {location} cannot be used: {error}")
        return QuotaStore(None, note)
