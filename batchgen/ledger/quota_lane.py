"""The starts of one lane in the shared quota: a sliding log and money that every process asks before it sends."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from batchgen.ledger.database import Connection, Locked
from batchgen.ledger.quota_database import QuotaDatabase
from batchgen.ledger.quota_tables import ANSWER_S, COOL, COUNT, LAST, PARK, PUT_START, requests_on, spent
from batchgen.scheduling.quota_terms import Terms
from batchgen.scheduling.window import (
    Answer,
    BudgetReached,
    DayUsedUp,
    Held,
    Lowered,
    NotBefore,
    Parked,
    Reserved,
    daily_reset,
    day_began,
    risen,
    span_start,
)

TEN_MINUTES_S = 600.0
NEAR_S = 0.05  # a tenth of the window's margin: a stamp that is older by less than this is as good as a new one
TURN_S = 0.25  # for so long a turn is kept for who does not come; it has died or has nothing to start
ASK_AGAIN_S = 1.0  # of who waits for the quota: a place may have become free, or the lane been parked
FORGET_S = 1.0  # between two times that what has left the window is deleted


class SharedStarts:
    """The starts of one lane: a sliding log of `period_s`, and money, that every process asks before it sends.

    Who is told to wait is given a turn in the log, behind the turns of others, and asks again when it comes. A turn is an
    order and no place: what was sent is counted anew then.
    """

    def __init__(self, book: QuotaDatabase, quota: str, period_s: float, terms: Terms) -> None:
        self._book = book
        self._quota = quota
        self._period_s = period_s
        self._terms = terms
        self._bound = terms.rpd is not None or terms.usd_per_10_min is not None or bool(terms.budgets)
        self._behind: dict[int, tuple[Future[object], float]] = {}  # reservations that were not waited for, and when
        self._stamps: dict[int, float] = {}  # of reservations that were waited for
        self._forgot = 0.0
        self._turn: tuple[int, float] | None = None  # number and instant
        self._own_lock = (f"quota {quota}",)
        account = f"account {terms.purse} {terms.account}"
        money = ((f"purse {terms.purse}",) if terms.budgets else ()) + ((account,) if terms.usd_per_10_min else ())
        self._locks = self._own_lock + money

    async def reserve(self, rate: int | None, usd: float = 0.0) -> Answer:
        """A place and USD, else what stands against it. A day or a budget that is used up is said before any wait.

        A lane that nothing binds is not made to wait: what it reserves is written down for the others, on its way to
        them when this returns and there after `written`. Raises LedgerError when a server stays away.
        """
        if rate is None and not self._bound:
            return self._reserve_behind(usd)
        change = Locked(lambda connection: self._reserve(connection, rate, usd), self._locks)
        answer = await self._book.ask(change, None)
        return self._book.unshared() if answer is None else answer

    def _reserve_behind(self, usd: float) -> Answer:
        if self._book.broken and not self._book.far:
            return self._book.unshared()
        place, now = self._book.new_place(), self._book.clock()
        change = Locked(lambda connection: self._write(connection, place, usd, now), self._own_lock)
        self._behind[place] = self._book.put(change), now
        return Reserved(place)

    async def written(self, place: int) -> None:
        reserved = self._behind.get(place)
        if reserved is not None and not reserved[0].done():
            await self._book.ask(lambda connection: None, None)  # what was put in before it is done before it

    def _reserve(self, connection: Connection, rate: int | None, usd: float) -> Answer | None:
        now, terms = self._book.keeping.at, self._terms
        used, *refusals = self._count(connection, now)
        if (held := _held(now, refusals)) is not None:
            return held
        if terms.rpd is not None and requests_on(connection, self._quota, day_began(now)) >= terms.rpd:
            return DayUsedUp(terms.rpd)
        left = [
            (
                budget.usd - spent(connection, span_start(budget.span, now), None, budget.account, terms.purse),
                budget.span,
            )
            for budget in terms.budgets
        ]
        if left and usd > min(left)[0] + 1e-9:
            return BudgetReached(min(left)[1])
        rate = None if rate is None else _allowed(rate, now, refusals)
        money_s = self._money_s(connection, usd, now)
        if rate is not None and used >= rate:
            wait_s = self._queue_s(connection, rate, now)
            return NotBefore(wait_s) if wait_s >= money_s else NotBefore(money_s, "usd_per_10_min")
        if money_s:
            return NotBefore(money_s, "usd_per_10_min")
        place = self._book.new_place()
        self._write(connection, place, usd, now)
        self._stamps[place] = now
        return Reserved(place, used)

    async def held(self) -> Held | None:
        sql = "SELECT cooled, parked, why FROM held WHERE quota = ?"

        def read(connection: Connection) -> Held | None:
            row = connection.execute(sql, (self._quota,)).fetchone()
            return None if row is None else _held(self._book.keeping.at, row)

        return await self._book.ask(read, None)

    # --- the window

    def _count(self, connection: Connection, now: float) -> tuple[Any, ...]:
        """Starts in the window, with the turns that come before this one's; and the row of what is held."""
        row: tuple[Any, ...] = connection.execute(COUNT, (*self._window(now), self._quota)).fetchone()
        return row

    def _window(self, now: float) -> tuple[str, float, float, float, float]:
        # Stamps beyond a whole period ahead were made before the clock was set back, and would block for as long.
        until = now + self._period_s
        if self._turn is not None and self._turn[1] <= now - TURN_S:
            self._turn = None
        return self._quota, now - self._period_s, until, now - TURN_S, until if self._turn is None else self._turn[1]

    def _queue_s(self, connection: Connection, rate: int, now: float) -> float:
        """How long to wait for this one's turn, which is the first instant that keeps the window after all before it."""
        oldest = float(connection.execute(LAST, (*self._window(now), rate - 1)).fetchone()[0])
        at = oldest + self._period_s
        if self._turn is None or abs(self._turn[1] - at) > NEAR_S:
            self._leave_queue(connection)
            if at < now + self._period_s:  # else more wait than a window holds
                self._turn = -self._book.new_place(), at
                connection.execute("INSERT INTO start VALUES (?, ?, ?)", (self._turn[0], self._quota, at))
        return min(max(0.001, at - now), ASK_AGAIN_S)

    def _leave_queue(self, connection: Connection) -> None:
        if self._turn is not None:
            connection.execute("DELETE FROM start WHERE place = ?", (self._turn[0],))
            self._turn = None

    def _forget(self, connection: Connection, now: float) -> None:
        if abs(now - self._forgot) > min(self._period_s, FORGET_S):
            connection.execute(
                "DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ? OR (place < 0 AND at <= ?))",
                (self._quota, now - self._period_s, now + self._period_s, now - TURN_S),
            )
            self._forgot = now

    def _money_s(self, connection: Connection, usd: float, now: float) -> float:
        """How long until the account's USD of ten minutes have room for `usd`; 0 when they have.

        Spend counts from when its answer was in, as the vendor can count it no earlier; while in flight, from its start.
        """
        most = self._terms.usd_per_10_min
        if most is None:
            return 0.0
        window = "FROM spending WHERE purse = ? AND at > ? AND account = ? AND coalesce(ended, at) > ?"
        values = (self._terms.purse, now - ANSWER_S, self._terms.account, now - TEN_MINUTES_S)
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

    def _write(self, connection: Connection, place: int, usd: float, now: float) -> None:
        terms = self._terms
        self._forget(connection, now)
        self._leave_queue(connection)
        connection.execute("INSERT INTO start VALUES (?, ?, ?)", (place, self._quota, now))
        connection.execute(
            "INSERT INTO daily VALUES (?, ?, ?, 1) ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + 1",
            (self._quota, day_began(now), terms.job),
        )
        connection.execute(
            "INSERT INTO spending (at, usd, job, account, purse, place, worker) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (now, usd, terms.job, terms.account, terms.purse, place, terms.worker),
        )

    def sent(self, place: int) -> None:
        at = self._behind.pop(place, (None, 0.0))[1] or self._stamps.pop(place, 0.0)
        now = self._book.clock()
        if not at <= now < at + NEAR_S:
            # Replaced, not updated: the place is already forgotten if connecting took longer than the period.
            self._book.tell_later(PUT_START, place, self._quota, now)

    def settled(self, place: int, usd: float) -> None:
        put = self._book.tell_later if self._behind.pop(place, None) is None else self._book.tell
        if usd:
            put("UPDATE spending SET usd = ?, ended = ? WHERE place = ?", usd, self._book.clock(), place)
        else:
            put("DELETE FROM spending WHERE place = ?", place)

    def refund(self, place: int) -> None:
        self._behind.pop(place, None)
        self._stamps.pop(place, None)
        self._book.tell("DELETE FROM start WHERE place = ?", place)
        self._book.tell("DELETE FROM spending WHERE place = ?", place)
        self._book.tell(
            "UPDATE daily SET requests = requests - 1 WHERE quota = ? AND day = ? AND job = ? AND requests > 0",
            self._quota, day_began(self._book.clock()), self._terms.job,
        )  # fmt: skip

    # --- refusals

    def cooled(self, wait_s: float, lowered: Lowered | None) -> None:
        def write(connection: Connection) -> None:
            now = self._book.keeping.at
            rate, rises = (None, None) if lowered is None else (lowered.rate, now + lowered.rises_in_s)
            connection.execute(COOL, (self._quota, now + wait_s, rate, rises))

        self._book.put(write)

    def parked(self, why: str, hint_s: float | None) -> None:
        def write(connection: Connection) -> None:
            connection.execute(PARK, (self._quota, daily_reset(self._book.keeping.at, hint_s), why[:500]))

        self._book.put(write)


def _held(now: float, row: Sequence[Any]) -> Held | None:
    cooled, parked, why, *_ = row
    if parked is not None and parked > now:
        return Parked(parked - now, why)
    # Longer than any cooling: it was written before the clock was set back.
    return NotBefore(cooled - now, "cooling") if cooled is not None and 0 < cooled - now < ANSWER_S else None


def _allowed(rate: int, now: float, row: Sequence[Any]) -> int:
    """The rate, or less while others' refusals have shown less."""
    *_, lowered_to, rises = row
    return rate if lowered_to is None else max(1, int(min(rate, risen(lowered_to, now - rises, rate))))
