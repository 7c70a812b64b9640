"""What all processes of this user on this host have started, spent and reserved, in one small SQLite file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from batchgen.errors import LedgerError
from batchgen.ledger.database import Change, Connection, upsert
from batchgen.ledger.schema import SQLite
from batchgen.ledger.writer import Writer
from batchgen.quota import Answer, Budget, BudgetReached, DayUsedUp, NotBefore, Reserved, day_began, span_start

FILE_NAME = "quota.sqlite"
BUSY_S = 5.0  # a transaction takes well under a millisecond; one that waits longer than this waits for a dead disk
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS start (place INTEGER PRIMARY KEY, quota TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS start_by_time ON start (quota, at)",
    "CREATE TABLE IF NOT EXISTS daily (quota TEXT NOT NULL, day REAL NOT NULL, job TEXT NOT NULL,"
    " requests INTEGER NOT NULL, PRIMARY KEY (quota, day, job)) WITHOUT ROWID",
    # A row without `ended` is reserved: its request is in flight, or its process died and it may have been billed.
    # purse: '' is the user's money; an emulated job has one of its own.
    "CREATE TABLE IF NOT EXISTS spending (at REAL NOT NULL, ended REAL, usd REAL NOT NULL, job TEXT NOT NULL,"
    " account TEXT NOT NULL, purse TEXT NOT NULL, place INTEGER)",
    "CREATE INDEX IF NOT EXISTS spending_sum ON spending (purse, at, account, usd, ended)",
    "CREATE UNIQUE INDEX IF NOT EXISTS spending_place ON spending (place) WHERE place IS NOT NULL",
    "DROP TABLE IF EXISTS spend",  # of an earlier version; every job's ledger has what it held
)
FOLDED_AFTER_S = 3600.0
TEN_MINUTES_S = 600.0
NEAR_S = 0.05  # a tenth of the window's margin: a stamp that is older by less than this is as good as a new one
ANSWER_S = 3600.0  # no request is in flight for longer
PUT_START = upsert("start", ("place", "quota", "at"), ("place",))
KEPT_S = 400 * 86400.0
T = TypeVar("T")


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


class SharedFile:
    """The file, open. One thread of its own talks to it, so that another process's transaction never holds up the loop.

    The first fault ends the sharing for this run and is told once: a quota file is no reason not to make pictures.
    Times are UTC seconds, because monotonic clocks of two processes need not agree. Its catch: a wall clock that jumps
    forward forgets too early; the server's own refusals then do the rest.
    folder None: the same in memory, for a run that shares nothing and still keeps its windows.
    """

    def __init__(self, folder: Path | None, note: Callable[[str], None]) -> None:
        """Raises OSError or sqlite3.Error when the folder or the file cannot be written."""
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its side files the same mode
            os.close(os.open(folder / FILE_NAME, os.O_CREAT | os.O_RDWR, 0o600))
        self._writer = Writer(_connect(":memory:" if folder is None else folder / FILE_NAME), "shared")
        self._note = note
        self._told = False
        self._random = random.Random()
        self.left_usd: float | None = None  # of the tightest budget, as last seen

    def starts(self, quota: str, period_s: float, terms: Terms | None = None) -> SharedStarts:
        return SharedStarts(self, quota, period_s, terms or Terms())

    @property
    def broken(self) -> bool:
        return self._writer.broken is not None

    async def ask(self, call: Callable[[Connection], T], otherwise: T) -> T:
        """The answer of one transaction, or `otherwise` from the first fault on."""
        try:
            return await self._writer.write(call)
        except LedgerError:
            self._tell()
            return otherwise

    def new_place(self) -> int:
        """A number that no other start of any process has or will have: microseconds since 1970 and ten random bits."""
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
        if not self._told and self._writer.broken is not None:
            self._told = True
            self._note(f"quota and spend are not shared with other runs from here on: {self._writer.broken.__cause__}")

    def blind(self, usd: float) -> Answer:
        """The answer to a start when the file cannot be asked any more: yes, within what was left of the budgets."""
        self._tell()
        if self.left_usd is not None:
            if usd > self.left_usd + 1e-9:
                return BudgetReached("day")
            self.left_usd -= usd
        return Reserved(None)

    # --- money

    def spend(self, job: str, usd: float, at: float, account: str = "", purse: str = "") -> None:
        self.tell("INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?, NULL)", at, at, usd, job, account, purse)

    def forget_reserved(self, job: str, purse: str = "") -> None:
        """What earlier runs of the job reserved and never settled. Only behind the job's lock, where none of them lives,
        and before its ledger is asked: that knows what became of each request."""
        self.tell("DELETE FROM spending WHERE job = ? AND purse = ? AND ended IS NULL", job, purse)

    async def spent_since(
        self, at: float, job: str | None = None, *, account: str | None = None, purse: str = ""
    ) -> float:
        """USD that all jobs, or one, have spent or reserved since then."""
        return await self.ask(lambda connection: spent(connection, at, job, account, purse), 0.0)

    def sent_today(self, quota: str, job: str, requests: int) -> None:
        """The job's ledger knows of so many requests since midnight Pacific."""
        self.tell(
            "INSERT INTO daily VALUES (?, ?, ?, ?) ON CONFLICT (quota, day, job) DO UPDATE SET requests ="
            " CASE WHEN daily.requests > excluded.requests THEN daily.requests ELSE excluded.requests END",
            quota, day_began(time.time()), job, requests,
        )  # fmt: skip

    async def requests_today(self, quota: str) -> int:
        return await self.ask(lambda connection: requests_on(connection, quota, day_began(time.time())), 0)

    def close(self) -> None:
        self._writer.close()
        self._tell()  # what nobody waited for may have failed last


class SharedStarts:
    """The starts of one lane: a sliding log of `period_s`, and money, that every process asks before it sends.

    Processes that wait for the same place race for it; none is promised a share.
    """

    def __init__(self, file: SharedFile, quota: str, period_s: float, terms: Terms) -> None:
        self._file = file
        self._quota = quota
        self._period_s = period_s
        self._terms = terms
        self._bound = terms.rpd is not None or terms.usd_per_10_min is not None or bool(terms.budgets)
        self._behind: dict[int, tuple[Future[object], float]] = {}  # reservations that were not waited for, and when
        self._forgot = 0.0

    async def reserve(self, rate: int | None, usd: float = 0.0) -> Answer:
        """A place and USD, else what stands against it. A day or a budget that is used up is said before any wait.

        A lane that nothing binds is not made to wait: what it reserves is written down for the others, on its way to
        them when this returns and there after `written`.
        """
        if rate is None and not self._bound:
            return self._reserve_behind(usd)
        answer = await self._file.ask(lambda connection: self._reserve(connection, rate, usd), None)
        return self._file.blind(usd) if answer is None else answer

    def _reserve_behind(self, usd: float) -> Answer:
        if self._file.broken:
            return self._file.blind(usd)
        place, now = self._file.new_place(), time.time()
        self._behind[place] = self._file.put(lambda connection: self._write(connection, place, usd, now)), now
        return Reserved(place)

    async def written(self, place: int) -> None:
        reserved = self._behind.get(place)
        if reserved is not None and not reserved[0].done():
            await self._file.ask(lambda connection: None, None)  # what was put in before it is done before it

    def _reserve(self, connection: Connection, rate: int | None, usd: float) -> Answer | None:
        now, terms = time.time(), self._terms
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
        if left:
            self._file.left_usd = min(left)[0] - usd
        used = self._used(connection, now)
        wait_s = 0.0 if rate is None or used < rate else self._place_s(connection, rate, now)
        money_s = self._money_s(connection, usd, now)
        if wait_s or money_s:
            return NotBefore(max(wait_s, money_s), "usd_per_10_min" if money_s > wait_s else "quota")
        place = self._file.new_place()
        self._write(connection, place, usd, now)
        return Reserved(place, used)

    def _forget(self, connection: Connection, now: float) -> None:
        # Stamps beyond a whole period ahead were made before the clock was set back, and would block for as long.
        connection.execute(
            "DELETE FROM start WHERE quota = ? AND (at <= ? OR at > ?)",
            (self._quota, now - self._period_s, now + self._period_s),
        )
        self._forgot = now

    def _used(self, connection: Connection, now: float) -> int:
        self._forget(connection, now)
        return int(connection.execute("SELECT count(*) FROM start WHERE quota = ?", (self._quota,)).fetchone()[0])

    def _place_s(self, connection: Connection, rate: int, now: float) -> float:
        sql = "SELECT at FROM start WHERE quota = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        oldest = float(connection.execute(sql, (self._quota, rate - 1)).fetchone()[0])
        return max(0.001, oldest + self._period_s - now)

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
        if abs(now - self._forgot) > self._period_s:
            self._forget(connection, now)
        connection.execute("INSERT INTO start VALUES (?, ?, ?)", (place, self._quota, now))
        connection.execute(
            "INSERT INTO daily VALUES (?, ?, ?, 1) ON CONFLICT (quota, day, job) DO UPDATE SET requests = daily.requests + 1",
            (self._quota, day_began(now), terms.job),
        )
        connection.execute(
            "INSERT INTO spending VALUES (?, NULL, ?, ?, ?, ?, ?)",
            (now, usd, terms.job, terms.account, terms.purse, place),
        )

    def sent(self, place: int) -> None:
        _, at = self._behind.pop(place, (None, 0.0))
        now = time.time()
        if not at <= now < at + NEAR_S:
            # Replaced, not updated: the place is already forgotten if connecting took longer than the period.
            self._file.tell_later(PUT_START, place, self._quota, now)

    def settled(self, place: int, usd: float) -> None:
        put = self._file.tell_later if self._behind.pop(place, None) is None else self._file.tell
        if usd:
            put("UPDATE spending SET usd = ?, ended = ? WHERE place = ?", usd, time.time(), place)
        else:
            put("DELETE FROM spending WHERE place = ?", place)

    def refund(self, place: int) -> None:
        self._behind.pop(place, None)
        self._file.tell("DELETE FROM start WHERE place = ?", place)
        self._file.tell("DELETE FROM spending WHERE place = ?", place)
        self._file.tell(
            "UPDATE daily SET requests = requests - 1 WHERE quota = ? AND day = ? AND job = ? AND requests > 0",
            self._quota, day_began(time.time()), self._terms.job,
        )  # fmt: skip


def spent(connection: Connection, at: float, job: str | None, account: str | None, purse: str) -> float:
    """USD spent or reserved since then, of one job or account where one is named."""
    sql, values = "SELECT coalesce(sum(usd), 0) FROM spending WHERE purse = ? AND at >= ?", [purse, at]
    for column, value in (("job", job), ("account", account)):
        if value is not None:
            sql, values = f"{sql} AND {column} = ?", [*values, value]
    return float(connection.execute(sql, values).fetchone()[0])


def requests_on(connection: Connection, quota: str, day: float) -> int:
    sql = "SELECT coalesce(sum(requests), 0) FROM daily WHERE quota = ? AND day = ?"
    return int(connection.execute(sql, (quota, day)).fetchone()[0])


def spent_so_far(folder: Path | None, at: float) -> float:
    """USD of all jobs since then, for who only looks; 0 when there is no file, or none that can be read."""
    if folder is None or not (folder / FILE_NAME).is_file():
        return 0.0
    try:
        uri = f"{(folder / FILE_NAME).absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as connection:
            return spent(connection, at, None, None, "")
    except sqlite3.Error:
        return 0.0


def open_shared(folder: Path | None, note: Callable[[str], None]) -> SharedFile:
    """The file in the state folder; the same in memory, with a note, when it cannot be had, or without a folder."""
    try:
        return SharedFile(folder, note)
    except (OSError, sqlite3.Error) as error:
        note(f"quota and spend are not shared with other runs: {folder} cannot be used: {error}")
        return SharedFile(None, note)


def _connect(path: Path | str) -> SQLite:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, factory=SQLite)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
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
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("DELETE FROM start WHERE at < ?", (time.time() - 86400.0,))
        connection.execute("DELETE FROM daily WHERE day < ?", (time.time() - 3 * 86400.0,))
        connection.execute("DELETE FROM spending WHERE at < ?", (time.time() - KEPT_S,))
        connection.execute("DELETE FROM spending WHERE purse <> '' AND at < ?", (time.time() - 86400.0,))
        _fold(connection, time.time() - FOLDED_AFTER_S)


def _fold(connection: sqlite3.Connection, before: float) -> None:
    """One row for each local day, job and account in place of one for each request that ended before then: sums stay,
    and asking stays fast after a hundred thousand pictures."""
    connection.execute(
        "INSERT INTO spending (at, ended, usd, job, account, purse) SELECT midnight, midnight, sum(usd), job, account, purse"
        " FROM (SELECT CAST(strftime('%s', date(at, 'unixepoch', 'localtime'), 'utc') AS REAL) AS midnight, usd, job,"
        " account, purse FROM spending WHERE place IS NOT NULL AND ended < ?) GROUP BY midnight, job, account, purse",
        (before,),
    )
    connection.execute("DELETE FROM spending WHERE place IS NOT NULL AND ended < ?", (before,))
