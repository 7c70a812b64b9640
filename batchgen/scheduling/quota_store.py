"""What all who share a quota or a purse have started, spent and reserved: this user's processes on this host, in one small
SQLite file, or all of a PostgreSQL server, on any machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from batchgen.errors import LedgerError
from batchgen.ledger.database import Change, Connection, Database, Locked, upsert
from batchgen.ledger.schema import SQLite
from batchgen.ledger.writer import Writer
from batchgen.safe_open import private_folder
from batchgen.scheduling.window import (
    Answer,
    Budget,
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

FILE_NAME = "quota.sqlite"
BUSY_S = 5.0  # a transaction takes well under a millisecond; one that waits longer than this waits for a dead disk
SCHEMA = (
    # A place below zero is a turn: whoever waits for the quota may start then, and is no later than others who wait.
    "CREATE TABLE IF NOT EXISTS start (place INTEGER PRIMARY KEY, quota TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS start_by_time ON start (quota, at)",
    "CREATE TABLE IF NOT EXISTS daily (quota TEXT NOT NULL, day REAL NOT NULL, job TEXT NOT NULL,"
    " requests INTEGER NOT NULL, PRIMARY KEY (quota, day, job)) WITHOUT ROWID",
    # A row without `ended` is reserved: its request is in flight, or its process died and it may have been billed.
    # purse: '' is the user's money; an emulated job has one of its own. worker: '' is the job's run itself.
    "CREATE TABLE IF NOT EXISTS spending (at REAL NOT NULL, ended REAL, usd REAL NOT NULL, job TEXT NOT NULL,"
    " account TEXT NOT NULL, purse TEXT NOT NULL, place INTEGER, worker TEXT NOT NULL DEFAULT '')",
    "CREATE INDEX IF NOT EXISTS spending_sum ON spending (purse, at, account, usd, ended)",
    "CREATE UNIQUE INDEX IF NOT EXISTS spending_place ON spending (place) WHERE place IS NOT NULL",
    # What a server's refusals have taught: until when nothing starts, and the rate that is kept to and rises after `rises`.
    "CREATE TABLE IF NOT EXISTS held (quota TEXT PRIMARY KEY, cooled REAL NOT NULL, parked REAL NOT NULL, why TEXT NOT NULL,"
    " rate REAL, rises REAL) WITHOUT ROWID",
)
FOLDED_AFTER_S = 3600.0
TEN_MINUTES_S = 600.0
NEAR_S = 0.05  # a tenth of the window's margin: a stamp that is older by less than this is as good as a new one
ANSWER_S = 3600.0  # no request is in flight for longer
TURN_S = 0.25  # for so long a turn is kept for who does not come; it has died or has nothing to start
ASK_AGAIN_S = 1.0  # of who waits for the quota: a place may have become free, or the lane been parked
FORGET_S = 1.0  # between two times that what has left the window is deleted
SLOW_S = 5.0  # a server that has not answered for so long is said to be away
PUT_START = upsert("start", ("place", "quota", "at"), ("place",))
KEPT_S = 400 * 86400.0
T = TypeVar("T")
Place = Path | str | None  # a folder, a server's URL, or nowhere: in memory
COUNT = """
SELECT used.n, held.cooled, held.parked, held.why, held.rate, held.rises FROM (SELECT count(*) AS n FROM start
 WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))) AS used LEFT JOIN held ON held.quota = ?
"""
LAST = """
SELECT at FROM start WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))
 ORDER BY at DESC LIMIT 1 OFFSET ?
"""
COOL = """
INSERT INTO held VALUES (?, ?, 0, '', ?, ?) ON CONFLICT (quota) DO UPDATE SET
 cooled = CASE WHEN held.cooled > excluded.cooled THEN held.cooled ELSE excluded.cooled END,
 rate = coalesce(excluded.rate, held.rate), rises = coalesce(excluded.rises, held.rises)
"""
PARK = """
INSERT INTO held VALUES (?, 0, ?, ?, NULL, NULL)
 ON CONFLICT (quota) DO UPDATE SET parked = excluded.parked, why = excluded.why
"""


def quota_name(provider: str, base_url: str, secret: str, model: str) -> str:
    """Whose quota it is: the same key of the same server and AI model. Holds a short hash of the key, never the key."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return f"{provider}|{urlsplit(base_url).netloc}|{digest}|{model}"


def account_name(base_url: str, secret: str) -> str:
    """Whose bill it is: the same key of the same server."""
    return "|".join(quota_name("", base_url, secret, "").split("|")[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What binds the starts of a lane beside its requests per minute. usd_per_10_min: of the account."""

    job: str = ""
    account: str = ""
    purse: str = ""
    rpd: int | None = None
    usd_per_10_min: float | None = None
    budgets: tuple[Budget, ...] = ()
    worker: str = ""


class Keeping(Database, Protocol):
    """Where the book is kept. `at`: UTC seconds of the transaction under way; `clock`: the same clock outside of one."""

    far: bool
    midnights: str

    @property
    def at(self) -> float: ...

    def clock(self) -> float: ...


class SharedBook:
    """The book, open. One thread of its own talks to it, so that another process's transaction never holds up the loop.

    In a file, the first fault ends the sharing for this run and is told once: requests per minute are no reason not to make
    pictures. Money is: where budgets count all jobs, the fault is raised, and nothing starts without having asked. A server
    is waited for instead, and told of once: to start without asking would overrun the quota and the budgets of all other
    machines. Times are UTC seconds of this host with a file, because monotonic clocks of two processes
    need not agree; its catch: a wall clock that jumps forward forgets too early, and the server's own refusals then do the
    rest. With a server they are its own seconds, whatever this host's clock says.
    """

    def __init__(self, place: Place, note: Callable[[str], None], *, counts_money: bool = False) -> None:
        """place: a folder, a server's URL, or None: in memory, for a run that shares nothing and still keeps its windows.
        counts_money: budgets bind all jobs together.

        Raises OSError or sqlite3.Error when the folder or the file cannot be written, LedgerError without its server.
        """
        self.keeping = _open(place)
        self.far = self.keeping.far
        self._place = place
        self._counts_money = counts_money
        self._writer = Writer(self.keeping, "book of quota and spend")
        self._note = note
        self._told = False
        self._random = random.Random()

    def starts(self, quota: str, period_s: float, terms: Terms | None = None) -> SharedStarts:
        return SharedStarts(self, quota, period_s, terms or Terms())

    @property
    def broken(self) -> bool:
        return self._writer.broken is not None

    async def ask(self, call: Callable[[Connection], T], otherwise: T) -> T:
        """The answer of one transaction; from the first fault on `otherwise`, or LedgerError with a server or money."""
        try:
            return await (self._patiently(call) if self.far else self._writer.write(call))
        except LedgerError as error:
            if self.far:
                raise
            if self._counts_money:
                raise no_budget_without(self._place, error.__cause__ or error) from error
            self._tell()
            return otherwise

    async def _patiently(self, call: Callable[[Connection], T]) -> T:
        answer = asyncio.ensure_future(self._writer.write(call))
        if not (await asyncio.wait([answer], timeout=SLOW_S))[0] and not self._told:
            self._told = True
            self._note("the server that counts quota and spend does not answer: nothing starts until it does")
        return await answer

    def new_place(self) -> int:
        """A number that no other start of any process has or will have: microseconds since 1970 and ten random bits, or
        all of it random where clocks differ."""
        if self.far:
            return self._random.getrandbits(62) + 1
        return time.time_ns() // 1000 << 10 | self._random.getrandbits(10)

    def tell(self, sql: str, *values: object) -> None:
        """One statement, carried out in order and soon; nobody waits for it."""
        self.put(lambda connection: connection.execute(sql, values))

    def put(self, change: Change) -> Future[object]:
        return self._writer.submit(change)

    def tell_later(self, sql: str, *values: object) -> None:
        """One statement that may wait for the next change, and concerns nothing that is still on its way."""
        self._writer.ride(lambda connection: connection.execute(sql, values))

    def _tell(self) -> None:
        if not self._told and (fault := self._writer.broken) is not None:
            self._told = True
            self._note(f"quota and spend are not shared with other runs from here on: {fault.__cause__ or fault}")

    def unshared(self) -> Answer:
        """The answer to a start when the file cannot be asked any more and no budget counts all jobs: yes."""
        self._tell()
        return Reserved(None)

    # --- money

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

    def clock(self) -> float:
        """UTC seconds by which the book is kept."""
        return self.keeping.clock()

    def close(self) -> None:
        self._writer.close()
        self._tell()  # what nobody waited for may have failed last


class SharedStarts:
    """The starts of one lane: a sliding log of `period_s`, and money, that every process asks before it sends.

    Who is told to wait is given a turn in the log, behind the turns of others, and asks again when it comes. A turn is an
    order and no place: what was sent is counted anew then.
    """

    def __init__(self, book: SharedBook, quota: str, period_s: float, terms: Terms) -> None:
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


def spent(
    connection: Connection, at: float, job: str | None, account: str | None, purse: str, *, settled: bool = False
) -> float:
    """USD spent or, unless only settled, reserved since then, of one job or account where one is named."""
    sql, values = "SELECT coalesce(sum(usd), 0) FROM spending WHERE purse = ? AND at >= ?", [purse, at]
    for column, value in (("job", job), ("account", account)):
        if value is not None:
            sql, values = f"{sql} AND {column} = ?", [*values, value]
    if settled:
        sql += " AND ended IS NOT NULL"
    return float(connection.execute(sql, values).fetchone()[0])


def requests_on(connection: Connection, quota: str, day: float) -> int:
    sql = "SELECT coalesce(sum(requests), 0) FROM daily WHERE quota = ? AND day = ?"
    return int(connection.execute(sql, (quota, day)).fetchone()[0])


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


def no_budget_without(place: Place, error: BaseException | None = None) -> LedgerError:
    """Why a run whose budget counts all jobs does not start, or goes no further."""
    limits = "a budget per day or month, usd_per_10_min or a tier counts what all jobs spend"
    if place is None:
        return LedgerError(
            f"limits: {limits}, and there is no folder to keep that in: set HOME or XDG_STATE_HOME to an absolute path"
            " (StateDirectory=batchgen in a system unit), or use --max-cost or limits: budget_usd, which count one run"
        )
    file = place if isinstance(place, str) else place / FILE_NAME
    return LedgerError(
        f"limits: {limits}. That is counted in {file}, which cannot be used: {error}. Nothing more is started. Repair the file"
        " and run again; if it is damaged, move it away, and each job adds its own spending again when it next runs"
    )


class _File(SQLite):
    """Kept by this host's clock."""

    far = False
    midnights = "CAST(strftime('%s', date(at, 'unixepoch', 'localtime'), 'utc') AS REAL)"

    @property
    def at(self) -> float:
        return time.time()

    def clock(self) -> float:
        return time.time()


def _open(place: Place) -> Keeping:
    keeping: Keeping
    if isinstance(place, str):
        from batchgen.ledger.postgres_quota_backend import ServerBook

        keeping = ServerBook(place, SCHEMA, last="held")
    else:
        if place is not None:
            private_folder(place)
            # SQLite gives its side files the same mode
            os.close(os.open(place / FILE_NAME, os.O_CREAT | os.O_RDWR, 0o600))
        keeping = _connect(":memory:" if place is None else place / FILE_NAME)
    try:
        # Alone: what two fold at the same time would count twice.
        keeping.transact([Locked(lambda connection: _clear(connection, keeping.at, keeping.midnights), ("clear",))])
    except BaseException:
        keeping.close()
        raise
    return keeping


def _connect(path: Path | str) -> _File:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, factory=_File)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    if isinstance(path, Path):
        connection.watch(path)
    return connection


def _prepare(connection: _File) -> None:
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


def _clear(connection: Connection, now: float, midnights: str) -> None:
    connection.execute("DELETE FROM start WHERE at < ?", (now - 86400.0,))
    connection.execute("DELETE FROM daily WHERE day < ?", (now - 3 * 86400.0,))
    connection.execute("DELETE FROM spending WHERE at < ?", (now - KEPT_S,))
    connection.execute("DELETE FROM spending WHERE purse <> '' AND at < ?", (now - 86400.0,))
    _fold(connection, now - FOLDED_AFTER_S, midnights)


def _fold(connection: Connection, before: float, midnights: str) -> None:
    """One row for each local day, job and account in place of one for each request that ended before then: sums stay,
    and asking stays fast after a hundred thousand pictures."""
    connection.execute(
        "INSERT INTO spending (at, ended, usd, job, account, purse) SELECT midnight, midnight, sum(usd), job, account, purse"
        f" FROM (SELECT {midnights} AS midnight, usd, job, account, purse FROM spending"
        " WHERE place IS NOT NULL AND ended < ?) AS each_of_them GROUP BY midnight, job, account, purse",
        (before,),
    )
    connection.execute("DELETE FROM spending WHERE place IS NOT NULL AND ended < ?", (before,))
