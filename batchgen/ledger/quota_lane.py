"""The starts of one lane in the shared quota: a sliding log and money that every process asks before it sends."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from batchgen.ledger.database import Connection, LockedChange
from batchgen.ledger.quota_database import QuotaDatabase
from batchgen.ledger.quota_tables import (
    COOL_SQL,
    COUNT_SQL,
    LAST_START_SQL,
    PARK_SQL,
    REQUEST_MAX_S,
    UPSERT_START,
    requests_on,
    spent,
)
from batchgen.scheduling.quota_terms import StartLimits
from batchgen.scheduling.window import (
    BudgetReached,
    DayUsedUp,
    LoweredRate,
    NotBefore,
    Parked,
    QuotaDenied,
    Reserved,
    ReserveResult,
    daily_quota_reset,
    period_start,
    quota_day_start,
    recovered_rate,
)

TEN_MINUTES_S = 600.0
STAMP_TOLERANCE_S = (
    0.05  # a tenth of the window's margin: a stamp that is older by less than this is as good as a new one
)
QUEUED_START_S = 0.25  # for so long a turn is kept for who does not come; it has died or has nothing to start
POLL_MAX_S = 1.0  # of who waits for the quota: a place may have become free, or the lane been parked
PURGE_EVERY_S = 1.0  # between two times that what has left the window is deleted


class SharedStartLog:
    """The starts of one lane: a sliding log of `period_s`, and money, that every process asks before it sends.

    Who is told to wait is given a turn in the log, behind the turns of others, and asks again when it comes. A turn is an
    order and no place: what was sent is counted anew then.
    """

    def __init__(self, store: QuotaDatabase, quota: str, period_s: float, terms: StartLimits) -> None:
        self._store = store
        self._quota = quota
        self._period_s = period_s
        self._terms = terms
        self._has_limits = terms.rpd is not None or terms.usd_per_10_min is not None or bool(terms.budgets)
        self._pending_writes: dict[
            int, tuple[Future[object], float]
        ] = {}  # reservations that were not waited for, and when
        self._reserved_at: dict[int, float] = {}  # of reservations that were waited for
        self._purged_at = 0.0
        self._queued_start: tuple[int, float] | None = None  # number and instant
        self._own_lock = (f"quota {quota}",)
        account = f"account {terms.spend_scope} {terms.account}"
        money = ((f"purse {terms.spend_scope}",) if terms.budgets else ()) + (
            (account,) if terms.usd_per_10_min else ()
        )
        self._locks = self._own_lock + money

    async def reserve(self, rate: int | None, usd: float = 0.0) -> ReserveResult:
        """A place and USD, else what stands against it. A day or a budget that is used up is said before any wait.

        A lane that nothing binds is not made to wait: what it reserves is written down for the others, on its way to
        them when this returns and there after `written`. Raises LedgerError when a server stays away.
        """
        if rate is None and not self._has_limits:
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
            await self._store.transact(lambda connection: None, None)  # what was put in before it is done before it

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
        if left and usd > min(left)[0] + 1e-9:
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
        """Starts in the window, with the turns that come before this one's; and the row of what is held."""
        row: tuple[Any, ...] = connection.execute(COUNT_SQL, (*self._window(now), self._quota)).fetchone()
        return row

    def _window(self, now: float) -> tuple[str, float, float, float, float]:
        # Stamps beyond a whole period ahead were made before the clock was set back, and would block for as long.
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
        """How long to wait for this one's turn, which is the first instant that keeps the window after all before it."""
        oldest = float(connection.execute(LAST_START_SQL, (*self._window(now), rate - 1)).fetchone()[0])
        at = oldest + self._period_s
        if self._queued_start is None or abs(self._queued_start[1] - at) > STAMP_TOLERANCE_S:
            self._leave_queue(connection)
            if at < now + self._period_s:  # else more wait than a window holds
                self._queued_start = -self._store.new_start_id(), at
                connection.execute("INSERT INTO start VALUES (?, ?, ?)", (self._queued_start[0], self._quota, at))
        return min(max(0.001, at - now), POLL_MAX_S)

    def _leave_queue(self, connection: Connection) -> None:
        if self._queued_start is not None:
            connection.execute("DELETE FROM start WHERE place = ?", (self._queued_start[0],))
            self._queued_start = None

    def _purge(self, connection: Connection, now: float) -> None:
        if abs(now - self._purged_at) > min(self._period_s, PURGE_EVERY_S):
            connection.execute(
                "DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ? OR (place < 0 AND at <= ?))",
                (self._quota, now - self._period_s, now + self._period_s, now - QUEUED_START_S),
            )
            self._purged_at = now

    def _spend_wait_s(self, connection: Connection, usd: float, now: float) -> float:
        """How long until the account's USD of ten minutes have room for `usd`; 0 when they have.

        Spend counts from when its answer was in, as the vendor can count it no earlier; while in flight, from its start.
        """
        most = self._terms.usd_per_10_min
        if most is None:
            return 0.0
        window = "FROM spending WHERE purse = ? AND at > ? AND account = ? AND coalesce(ended, at) > ?"
        values = (self._terms.spend_scope, now - REQUEST_MAX_S, self._terms.account, now - TEN_MINUTES_S)
        total = float(connection.execute(f"SELECT coalesce(sum(usd), 0) {window}", values).fetchone()[0])
        if total + usd <= most + 1e-9:
            return 0.0
        rows = connection.execute(f"SELECT coalesce(ended, at), usd {window} ORDER BY 1", values).fetchall()
        leaves = now
        for since, each in rows:
            if total + usd <= most + 1e-9:
                break
            total, leaves = total - each, since + TEN_MINUTES_S
        return max(0.001, leaves - now) if leaves > now else 0.0

    def _write(self, connection: Connection, quota_slot: int, usd: float, now: float) -> None:
        terms = self._terms
        self._purge(connection, now)
        self._leave_queue(connection)
        connection.execute("INSERT INTO start VALUES (?, ?, ?)", (quota_slot, self._quota, now))
        connection.execute(
            "INSERT INTO daily VALUES (?, ?, ?, 1) ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + 1",
            (self._quota, quota_day_start(now), terms.job),
        )
        connection.execute(
            "INSERT INTO spending (at, usd, job, account, purse, place, worker) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (now, usd, terms.job, terms.account, terms.spend_scope, quota_slot, terms.worker),
        )

    def sent(self, quota_slot: int) -> None:
        at = self._pending_writes.pop(quota_slot, (None, 0.0))[1] or self._reserved_at.pop(quota_slot, 0.0)
        now = self._store.clock()
        if not at <= now < at + STAMP_TOLERANCE_S:
            # Replaced, not updated: the place is already forgotten if connecting took longer than the period.
            self._store.execute_lazy(UPSERT_START, quota_slot, self._quota, now)

    def record_cost(self, quota_slot: int, usd: float) -> None:
        put = (
            self._store.execute_lazy if self._pending_writes.pop(quota_slot, None) is None else self._store.execute_soon
        )
        if usd:
            put("UPDATE spending SET usd = ?, ended = ? WHERE place = ?", usd, self._store.clock(), quota_slot)
        else:
            put("DELETE FROM spending WHERE place = ?", quota_slot)

    def refund(self, quota_slot: int) -> None:
        self._pending_writes.pop(quota_slot, None)
        self._reserved_at.pop(quota_slot, None)
        self._store.execute_soon("DELETE FROM start WHERE place = ?", quota_slot)
        self._store.execute_soon("DELETE FROM spending WHERE place = ?", quota_slot)
        self._store.execute_soon(
            "UPDATE daily SET requests = requests - 1 WHERE quota = ? AND day = ? AND job = ? AND requests > 0",
            self._quota, quota_day_start(self._store.clock()), self._terms.job,
        )  # fmt: skip

    # --- refusals

    def publish_cooldown(self, wait_s: float, lowered_rate: LoweredRate | None) -> None:
        def write(connection: Connection) -> None:
            now = self._store.backend.transaction_at
            rate, rises = (None, None) if lowered_rate is None else (lowered_rate.rate, now + lowered_rate.rises_in_s)
            connection.execute(COOL_SQL, (self._quota, now + wait_s, rate, rises))

        self._store.submit(write)

    def publish_parking(self, why: str, hint_s: float | None) -> None:
        def write(connection: Connection) -> None:
            connection.execute(
                PARK_SQL, (self._quota, daily_quota_reset(self._store.backend.transaction_at, hint_s), why[:500])
            )

        self._store.submit(write)


def _current_hold(now: float, row: Sequence[Any]) -> QuotaDenied | None:
    cooled, parked, why, *_ = row
    if parked is not None and parked > now:
        return Parked(parked - now, why)
    # Longer than any cooling: it was written before the clock was set back.
    return NotBefore(cooled - now, "cooling") if cooled is not None and 0 < cooled - now < REQUEST_MAX_S else None


def _allowed_rate(rate: int, now: float, row: Sequence[Any]) -> int:
    """The rate, or less while others' refusals have shown less."""
    *_, lowered_to, rises = row
    return rate if lowered_to is None else max(1, int(min(rate, recovered_rate(lowered_to, now - rises, rate))))
