"""The starts, spending and reservations of everybody who shares a quota or a budget: this user's processes on this
host, in one small SQLite file, or all clients of a PostgreSQL server on any machine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from batchgen.errors import LedgerError
from batchgen.ledger.database import Connection, LockedChange
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.quota_database import (
    BUSY_S,
    COOL_SQL,
    COUNT_SQL,
    FILE_NAME,
    LAST_START_SQL,
    PARK_SQL,
    REQUEST_MAX_S,
    UPSERT_START,
    QuotaDatabase,
    QuotaLocation,
    no_budget_store_error,
    requests_on,
    spent,
)
from batchgen.money import within
from batchgen.scheduling.window import (
    BudgetReached,
    DayUsedUp,
    LoweredRate,
    NotBefore,
    Parked,
    QuotaDenied,
    Reserved,
    ReserveResult,
    StartLimits,
    daily_quota_reset,
    period_start,
    quota_day_start,
    recovered_rate,
)

TEN_MINUTES_S = 600.0
STAMP_TOLERANCE_S = 0.05  # a tenth of the window's margin: a stamp older by less is as good as a new one
STAMP_LAG = 1 / 60  # of the window: counting by a stamp that is about to change is not far off
QUEUED_START_S = 0.25  # how long a turn is kept for a process that does not come
POLL_MAX_S = 1.0  # while waiting for the quota: a place may have become free, or the lane been parked
PURGE_EVERY_S = 1.0  # between deletions of what has left the window


class SharedStartLog:
    """The starts of one lane: a sliding log of `period_s`, and money, which every process asks before it sends.

    A process that has to wait gets a turn in the log, behind the turns of others, and asks again when it comes. A turn
    is only an order and reserves nothing: what was sent is counted again then.
    """

    def __init__(self, store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> None:
        self._store = store
        self._quota = quota
        self._period_s = period_s
        self._terms = terms
        # Reservations that were not waited for, and when.
        self._pending_writes: dict[int, tuple[Future[object], float]] = {}
        self._reserved_at: dict[int, float] = {}  # of reservations that were waited for
        self._purged_at = 0.0
        self._queued_start: tuple[int, float] | None = None  # number and time
        self._own_lock = (f"quota {quota}",)
        store.lag_at_most(period_s * STAMP_LAG)
        account = f"account {terms.spend_scope} {terms.account}"
        self._locks = self._own_lock + ((f"purse {terms.spend_scope}",) if terms.budgets else ())
        self._locks += (account,) if terms.usd_per_10_min else ()

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        """Reserve a place and USD, or return what prevents it. A day or budget that is used up is reported before any
        waiting.

        A lane without limits does not have to wait: what it reserves is written for the others, on its way to them on
        return and visible after `wait_until_visible`. Raises LedgerError if a server stays away.
        """
        if rate is None and not self._terms.has_limits:
            return self._reserve_without_waiting(usd)
        change = LockedChange(lambda connection: self._reserve(connection, rate, usd), self._locks)
        answer = await self._store.transact(change, None)
        return self._store.unshared_answer() if answer is None else answer

    def _reserve_without_waiting(self, usd: float) -> ReserveResult:
        if self._store.broken and not self._store.is_remote:
            return self._store.unshared_answer()
        quota_slot, now = self._store.new_start_id(), self._store.clock()
        change = LockedChange(lambda connection: self._write(connection, quota_slot, usd, now), self._own_lock)
        self._pending_writes[quota_slot] = self._store.submit(change), now
        return Reserved(quota_slot)

    async def wait_until_visible(self, quota_slot: int) -> None:
        reserved = self._pending_writes.get(quota_slot)
        if reserved is not None and not reserved[0].done():
            await self._store.transact(lambda connection: None, None)  # what was put in before is done before this

    def _reserve(self, connection: Connection, rate: int | None, usd: float) -> ReserveResult | None:
        now, terms = self._store.backend.transaction_at, self._terms
        used, *refusals = self._count(connection, now)
        if (held := _current_hold(now, refusals)) is not None:
            return held
        if terms.rpd is not None and requests_on(connection, self._quota, quota_day_start(now)) >= terms.rpd:
            return DayUsedUp(terms.rpd)
        left = [
            (
                budget.usd
                - spent(connection, period_start(budget.period, now), None, budget.account, terms.spend_scope),
                budget.period,
            )
            for budget in terms.budgets
        ]
        if left and not within(usd, min(left)[0]):
            return BudgetReached(min(left)[1])
        rate = None if rate is None else _allowed_rate(rate, now, refusals)
        spend_wait_s = self._spend_wait_s(connection, usd, now)
        if rate is not None and used >= rate:
            wait_s = self._queue_wait_s(connection, rate, now)
            return NotBefore(wait_s) if wait_s >= spend_wait_s else NotBefore(spend_wait_s, "usd_per_10_min")
        if spend_wait_s:
            return NotBefore(spend_wait_s, "usd_per_10_min")
        quota_slot = self._store.new_start_id()
        self._write(connection, quota_slot, usd, now)
        self._reserved_at[quota_slot] = now
        return Reserved(quota_slot, used)

    async def current_denial(self) -> QuotaDenied | None:
        sql = "SELECT cooled, parked, why FROM held WHERE quota = ?"

        def read(connection: Connection) -> QuotaDenied | None:
            row = connection.execute(sql, (self._quota,)).fetchone()
            return None if row is None else _current_hold(self._store.backend.transaction_at, row)

        return await self._store.transact(read, None)

    # --- the window

    def _count(self, connection: Connection, now: float) -> tuple[Any, ...]:
        """The starts in the window, with the turns before this one's, and the row of refusals."""
        row: tuple[Any, ...] = connection.execute(COUNT_SQL, (*self._window(now), self._quota)).fetchone()
        return row

    def _window(self, now: float) -> tuple[str, float, float, float, float]:
        # Stamps more than a period ahead were made before the clock was set back, and would block for that long.
        until = now + self._period_s
        if self._queued_start is not None and self._queued_start[1] <= now - QUEUED_START_S:
            self._queued_start = None
        return (
            self._quota,
            now - self._period_s,
            until,
            now - QUEUED_START_S,
            until if self._queued_start is None else self._queued_start[1],
        )

    def _queue_wait_s(self, connection: Connection, rate: int, now: float) -> float:
        """How long to wait for this turn, the first moment that keeps the window after all turns before it."""
        oldest = float(connection.execute(LAST_START_SQL, (*self._window(now), rate - 1)).fetchone()[0])
        at = oldest + self._period_s
        if self._queued_start is None or abs(self._queued_start[1] - at) > STAMP_TOLERANCE_S:
            self._leave_queue(connection)
            if at < now + self._period_s:  # or more wait than a window holds
                self._queued_start = -self._store.new_start_id(), at
                connection.execute("INSERT INTO start VALUES (?, ?, ?)", (self._queued_start[0], self._quota, at))
        return min(max(0.001, at - now), POLL_MAX_S)

    def _leave_queue(self, connection: Connection) -> None:
        if self._queued_start is not None:
            connection.execute("DELETE FROM start WHERE place = ?", (self._queued_start[0],))
            self._queued_start = None

    def _purge(self, connection: Connection, now: float) -> None:
        if abs(now - self._purged_at) > min(self._period_s, PURGE_EVERY_S):
            until = now + self._period_s
            self._purge_rows(connection, (self._quota, now - self._period_s, until, now - QUEUED_START_S))
            self._purged_at = now

    def _purge_rows(self, connection: Connection, values: Sequence[object]) -> None:
        sql = "DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ? OR (place < 0 AND at <= ?))"
        connection.execute(sql, values)

    def _spend_wait_s(self, connection: Connection, usd: float, now: float) -> float:
        """How long until the account's USD of ten minutes have room for `usd`; 0 if they have.

        Spending counts from when the answer came, as the vendor cannot count it earlier; while in flight, from the
        start.
        """
        most = self._terms.usd_per_10_min
        if most is None:
            return 0.0
        window = "FROM spending WHERE purse = ? AND at > ? AND account = ? AND coalesce(ended, at) > ?"
        values = (self._terms.spend_scope, now - REQUEST_MAX_S, self._terms.account, now - TEN_MINUTES_S)
        total = float(connection.execute(f"SELECT coalesce(sum(usd), 0) {window}", values).fetchone()[0])
        if within(total + usd, most):
            return 0.0
        rows = connection.execute(f"SELECT coalesce(ended, at), usd {window} ORDER BY 1", values).fetchall()
        leaves = now
        for since, each in rows:
            if within(total + usd, most):
                break
            total, leaves = total - each, since + TEN_MINUTES_S
        return max(0.001, leaves - now) if leaves > now else 0.0

    def _write(self, connection: Connection, quota_slot: int, usd: float, now: float) -> None:
        terms = self._terms
        self._write_start(connection, quota_slot, usd, now, terms.worker)
        connection.execute(
            "INSERT INTO daily VALUES (?, ?, ?, 1) ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + 1",
            (self._quota, quota_day_start(now), terms.job),
        )

    def _write_start(self, connection: Connection, quota_slot: int, usd: float, now: float, worker: str) -> None:
        terms = self._terms
        self._purge(connection, now)
        self._leave_queue(connection)
        connection.execute("INSERT INTO start VALUES (?, ?, ?)", (quota_slot, self._quota, now))
        connection.execute(
            "INSERT INTO spending (at, usd, job, account, purse, place, worker) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (now, usd, terms.job, terms.account, terms.spend_scope, quota_slot, worker),
        )

    def sent(self, quota_slot: int) -> None:
        at = self._pending_writes.pop(quota_slot, (None, 0.0))[1] or self._reserved_at.pop(quota_slot, 0.0)
        now = self._store.clock()
        if not at <= now < at + STAMP_TOLERANCE_S:
            # Replaced, not updated: the place is already forgotten if connecting took longer than the period.
            self._store.execute_lazy(UPSERT_START, quota_slot, self._quota, now)

    def record_cost(self, quota_slot: int, usd: float) -> None:
        recorded = self._pending_writes.pop(quota_slot, None) is None
        put = self._store.execute_lazy if recorded else self._store.execute_soon
        if usd:
            put("UPDATE spending SET usd = ?, ended = ? WHERE place = ?", usd, self._store.clock(), quota_slot)
        else:
            put("DELETE FROM spending WHERE place = ?", quota_slot)

    def refund(self, quota_slot: int) -> None:
        self._pending_writes.pop(quota_slot, None)
        self._reserved_at.pop(quota_slot, None)
        self._store.execute_soon("DELETE FROM start WHERE place = ?", quota_slot)
        self._store.execute_soon("DELETE FROM spending WHERE place = ?", quota_slot)
        sql = "UPDATE daily SET requests = requests - 1 WHERE quota = ? AND day = ? AND job = ? AND requests > 0"
        self._store.execute_soon(sql, self._quota, quota_day_start(self._store.clock()), self._terms.job)

    # --- refusals

    def publish_cooldown(self, wait_s: float, lowered_rate: LoweredRate | None) -> None:
        def write(connection: Connection) -> None:
            now = self._store.backend.transaction_at
            rate, rises = (None, None) if lowered_rate is None else (lowered_rate.rate, now + lowered_rate.rises_in_s)
            connection.execute(COOL_SQL, (self._quota, now + wait_s, rate, rises))

        self._store.submit(write)

    def publish_parking(self, why: str, hint_s: float | None) -> None:
        def write(connection: Connection) -> None:
            until = daily_quota_reset(self._store.backend.transaction_at, hint_s)
            connection.execute(PARK_SQL, (self._quota, until, why[:500]))

        self._store.submit(write)


def _current_hold(now: float, row: Sequence[Any]) -> QuotaDenied | None:
    cooled, parked, why, *_ = row
    if parked is not None and parked > now:
        return Parked(parked - now, why)
    # Longer than any cooldown: it was written before the clock was set back.
    return NotBefore(cooled - now, "cooling") if cooled is not None and 0 < cooled - now < REQUEST_MAX_S else None


def _allowed_rate(rate: int, now: float, row: Sequence[Any]) -> int:
    """The rate, or less while refusals of others have shown less."""
    *_, lowered_to, rises = row
    return rate if lowered_to is None else max(1, int(min(rate, recovered_rate(lowered_to, now - rises, rate))))


class QuotaStore(QuotaDatabase):
    """The lanes that share a quota, and the money that all jobs have spent or reserved."""

    def start_log(self, quota: str, period_s: float, terms: StartLimits | None = None) -> SharedStartLog:
        return SharedStartLog(self, quota, period_s, terms or StartLimits())

    def spend(self, job: str, usd: float, at: float, account: str = "", spend_scope: str = "") -> None:
        sql = "INSERT INTO spending (at, ended, usd, job, account, purse) VALUES (?, ?, ?, ?, ?, ?)"
        self.execute_soon(sql, at, at, usd, job, account, spend_scope)

    def delete_reservations(self, job: str, spend_scope: str = "", worker: str = "") -> None:
        """Delete what a worker of the job, or earlier runs of it, reserved and never settled. Only for processes known
        to be dead, and before the job's ledger is asked, which knows what became of each request."""
        sql = "DELETE FROM spending WHERE job = ? AND purse = ? AND worker = ? AND ended IS NULL"
        self.execute_soon(sql, job, spend_scope, worker)

    def delete_lost_reservations(self, job: str, spend_scope: str = "") -> None:
        """Delete the reservations of all workers that are too old for their requests to be in flight."""
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
        """USD that all jobs, or one, have spent since then, and reserved unless only settled amounts are wanted."""
        return await self.transact(
            lambda connection: spent(connection, at, job, account, spend_scope, settled=settled), 0.0
        )

    def sent_today(self, quota: str, job: str, requests: int) -> None:
        """Note that the job's ledger knows of this many requests since midnight Pacific."""
        sql = (
            "INSERT INTO daily VALUES (?, ?, ?, ?) ON CONFLICT (quota, day, job) DO UPDATE SET requests ="
            " CASE WHEN daily.requests > excluded.requests THEN daily.requests ELSE excluded.requests END"
        )
        self.execute_soon(sql, quota, quota_day_start(self.clock()), job, requests)

    async def requests_today(self, quota: str) -> int:
        return await self.transact(
            lambda connection: requests_on(connection, quota, quota_day_start(self.backend.transaction_at)), 0
        )


def read_spent(location: QuotaLocation, at: float) -> float:
    """USD of all jobs since then, for read-only commands; 0 if nothing is stored yet. Raises LedgerError if the file
    cannot be read."""
    if isinstance(location, str):
        return _read_spent_on_server(location, at)
    if not isinstance(location, Path) or not (location / FILE_NAME).exists():
        return 0.0
    try:
        uri = f"{(location / FILE_NAME).absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as connection:
            return spent(connection, at, None, None, "")
    except sqlite3.Error as error:
        raise no_budget_store_error(location, error) from error


def _read_spent_on_server(url: str, at: float) -> float:
    try:
        with contextlib.closing(PostgreSQL(url, SHARED_SCHEMA, "batchgen looks")) as connection:
            return spent(connection, at, None, None, "")
    except LedgerError:
        return 0.0


def open_quota_store(location: QuotaLocation, note: Callable[[str], None], *, counts_money: bool = False) -> QuotaStore:
    """Open quota and spending in the state folder, or on a server. Without a usable folder they are kept in memory,
    with a note, unless budgets have to count what other jobs spend.

    Raises LedgerError if the server cannot be reached, or such a budget could not be kept.
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
