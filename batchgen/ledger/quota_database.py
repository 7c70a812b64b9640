"""The database of what all jobs share (starts, daily counts, spending, refusals): its tables and statements, the file
or server that has it, and the one thread that uses it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from batchgen.errors import LedgerError
from batchgen.ledger.database import Change, Connection, Cursor, Database, LockedChange, upsert_sql
from batchgen.ledger.location import SHARED_SCHEMA, create_shared_tables
from batchgen.ledger.postgresql import PostgreSQL, SharedConnection
from batchgen.ledger.schema import SQLiteConnection
from batchgen.ledger.writer import LAZY_DELAY_S, Writer
from batchgen.safe_open import create_private_file
from batchgen.scheduling.window import Reserved, ReserveResult

CLOCK_DRIFT = 0.0005  # seconds a second: the most that a synchronised clock drifts
CLOCK_JUMP_S = 1.0
# No flush per commit, as with the file: the starts that a crash of the server forgets are less than a second's, and
# spending is restored from each job's own ledger. A process that stops in the middle must not keep the others from
# starting.
TRANSACTION_SETTINGS = (
    "set_config('synchronous_commit', 'off', true), set_config('idle_in_transaction_session_timeout', '10s', true)"
)
BEGIN = f"SELECT extract(epoch FROM clock_timestamp()), {TRANSACTION_SETTINGS}"
# An aggregate is complete before the values beside it are computed: the clock is read when all locks are held.
BEGIN_LOCKED = (
    f"SELECT extract(epoch FROM clock_timestamp()), {TRANSACTION_SETTINGS}, count(pg_advisory_xact_lock(name))"
    " FROM (SELECT unnest(?::bigint[]) AS name ORDER BY 1) AS names"
)
FILE_NAME = "quota.sqlite"
BUSY_S = 5.0  # a transaction takes well under a millisecond; if it waits longer, the disk is dead
SERVER_LAZY_DELAY_S = 1.0  # what nobody waits for goes along with the next block of starts
SLOW_SERVER_S = 5.0  # then a server that does not answer is reported to be away
FOLDED_AFTER_S = 3600.0
T = TypeVar("T")
QuotaLocation = Path | str | PostgreSQL | None  # a folder, a server (its URL or a connection), or in memory
SCHEMA = (
    # A place below zero is a turn: whoever waits for the quota may start then, after all others who wait longer.
    "CREATE TABLE IF NOT EXISTS start (place INTEGER PRIMARY KEY, quota TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS start_by_time ON start (quota, at)",
    "CREATE TABLE IF NOT EXISTS daily (quota TEXT NOT NULL, day REAL NOT NULL, job TEXT NOT NULL,"
    " requests INTEGER NOT NULL, PRIMARY KEY (quota, day, job)) WITHOUT ROWID",
    # A row without `ended` is a reservation: its request is in flight, or its process died and it may have been billed.
    # purse: '' is the user's money; an emulated job has one of its own. worker: '' is the job's run itself.
    "CREATE TABLE IF NOT EXISTS spending (at REAL NOT NULL, ended REAL, usd REAL NOT NULL, job TEXT NOT NULL,"
    " account TEXT NOT NULL, purse TEXT NOT NULL, place INTEGER, worker TEXT NOT NULL DEFAULT '')",
    "CREATE INDEX IF NOT EXISTS spending_sum ON spending (purse, at, account, usd, ended)",
    "CREATE UNIQUE INDEX IF NOT EXISTS spending_place ON spending (place) WHERE place IS NOT NULL",
    # What a server's refusals have taught: until when nothing starts, and the rate to keep, which rises after `rises`.
    "CREATE TABLE IF NOT EXISTS held (quota TEXT PRIMARY KEY, cooled REAL NOT NULL, parked REAL NOT NULL, why TEXT NOT NULL,"
    " rate REAL, rises REAL) WITHOUT ROWID",
)
UPSERT_START = upsert_sql("start", ("place", "quota", "at"), ("place",))
REQUEST_MAX_S = 3600.0  # no request is in flight for longer
RETENTION_S = 400 * 86400.0
COUNT_SQL = """
SELECT used.n, held.cooled, held.parked, held.why, held.rate, held.rises FROM (SELECT count(*) AS n FROM start
 WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))) AS used LEFT JOIN held ON held.quota = ?
"""
LAST_START_SQL = """
SELECT at FROM start WHERE quota = ? AND at > ? AND at <= ? AND (place > 0 OR (at > ? AND at < ?))
 ORDER BY at DESC LIMIT 1 OFFSET ?
"""
COOL_SQL = """
INSERT INTO held VALUES (?, ?, 0, '', ?, ?) ON CONFLICT (quota) DO UPDATE SET
 cooled = CASE WHEN held.cooled > excluded.cooled THEN held.cooled ELSE excluded.cooled END,
 rate = coalesce(excluded.rate, held.rate), rises = coalesce(excluded.rises, held.rises)
"""
PARK_SQL = """
INSERT INTO held VALUES (?, 0, ?, ?, NULL, NULL)
 ON CONFLICT (quota) DO UPDATE SET parked = excluded.parked, why = excluded.why
"""


def spent(
    connection: Connection, at: float, job: str | None, account: str | None, spend_scope: str, *, settled: bool = False
) -> float:
    """USD spent since then, or also reserved unless only settled ones count, of one job or account if given."""
    sql, values = "SELECT coalesce(sum(usd), 0) FROM spending WHERE purse = ? AND at >= ?", [spend_scope, at]
    for column, value in (("job", job), ("account", account)):
        if value is not None:
            sql, values = f"{sql} AND {column} = ?", [*values, value]
    if settled:
        sql += " AND ended IS NOT NULL"
    return float(connection.execute(sql, values).fetchone()[0])


def requests_on(connection: Connection, quota: str, day: float) -> int:
    sql = "SELECT coalesce(sum(requests), 0) FROM daily WHERE quota = ? AND day = ?"
    return int(connection.execute(sql, (quota, day)).fetchone()[0])


class SQLiteQuotaBackend(SQLiteConnection):
    """What this user's processes on this host share, by this host's clock."""

    is_remote = False
    midnight_sql = "CAST(strftime('%s', date(at, 'unixepoch', 'localtime'), 'utc') AS REAL)"

    @property
    def transaction_at(self) -> float:
        return time.time()

    def clock(self) -> float:
        return time.time()


def open_sqlite_backend(folder: Path | None) -> SQLiteQuotaBackend:
    """Open the file. folder: None keeps everything in memory. Raises OSError or sqlite3.Error if it cannot be written
    to."""
    path = None if folder is None else folder / FILE_NAME
    if path is not None:
        create_private_file(path)
    connection = sqlite3.connect(
        path or ":memory:", timeout=BUSY_S, isolation_level=None, check_same_thread=False, factory=SQLiteQuotaBackend
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    if path is not None:
        connection.guard_file(path)
    return connection


def _prepare(connection: SQLiteQuotaBackend) -> None:
    give_up_s = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # two that switch a new file at once are refused without waiting
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.02)
    # No fsync per commit: a power cut outlasts the window, and spending is restored from each job's own ledger.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.transact([_make_tables])


def _make_tables(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS spend")  # an earlier version's; every job's ledger has its contents
    for statement in SCHEMA:
        connection.execute(statement)
    if not any(row[1] == "worker" for row in connection.execute("PRAGMA table_info(spending)")):
        connection.execute("ALTER TABLE spending ADD COLUMN worker TEXT NOT NULL DEFAULT ''")


class PostgresQuotaBackend:
    """What all jobs of a server share. A transaction takes all locks of its changes first and in order, so that no two
    ever wait for each other. Only the server's clock counts."""

    is_remote = True  # others may be on other machines
    midnight_sql = "floor(at / 900) * 900"  # a multiple of it is midnight in every time zone

    def __init__(self, server: str | PostgreSQL) -> None:
        """server: its address, or a shared connection, which is left open. Raises LedgerError."""
        self._own = PostgreSQL(server, SHARED_SCHEMA, "batchgen shares") if isinstance(server, str) else None
        self._database = SharedConnection(self._own or cast("PostgreSQL", server), SHARED_SCHEMA)
        self.transaction_at = 0.0  # UTC seconds by the server, of the current transaction
        self._clock_offset_s = 0.0  # from this process's monotonic clock
        self._clock_error_s = float("inf")
        self._measured_at_s = 0.0
        try:
            create_shared_tables(self._database, SCHEMA, last_table="held")
            self.transact([])
        except BaseException:
            self.close()
            raise

    def clock(self) -> float:
        """UTC seconds by the server, for stamps made here. Late by at most the quickest recent answer, never early."""
        return time.monotonic() + self._clock_offset_s

    def transact(self, changes: Sequence[Change]) -> list[Any]:
        locks = {name for change in changes if isinstance(change, LockedChange) for name in change.locks}
        return self._database.transact([partial(self._begin, sorted(map(advisory_lock_id, locks))), *changes])[1:]

    def _begin(self, locks: list[int], connection: Connection) -> None:
        sent_at_s = time.monotonic()
        row = connection.execute(*((BEGIN_LOCKED, (locks,)) if locks else (BEGIN, ()))).fetchone()
        self.transaction_at = float(row[0])
        self._set_clock(self.transaction_at, sent_at_s)

    def run_locked(self, lock: str, sql: str, values: Sequence[Any]) -> list[Any]:
        """Run one statement under a lock, in a single message, so that the lock is only held for as long as the server
        takes, not until this process hears of it. It may happen twice. Returns the rows."""
        sent_at_s = time.monotonic()
        (begin, *_), rows = self._database.run_script([(BEGIN_LOCKED, ([advisory_lock_id(lock)],)), (sql, values)])
        self._set_clock(float(begin[0]), sent_at_s)
        return rows

    def _set_clock(self, server_at: float, sent_at_s: float) -> None:
        answered_at_s = time.monotonic()
        offset_s, error_s = server_at - sent_at_s, answered_at_s - sent_at_s
        jumped = abs(offset_s - self._clock_offset_s) > error_s + CLOCK_JUMP_S  # or this host slept
        if jumped or error_s <= self._clock_error_s + CLOCK_DRIFT * (answered_at_s - self._measured_at_s):
            self._clock_offset_s, self._clock_error_s, self._measured_at_s = offset_s, error_s, answered_at_s

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Cursor:
        return self._database.execute(sql, values)

    def executemany(self, sql: str, rows: Any, /) -> None:
        self._database.executemany(sql, rows)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()


def advisory_lock_id(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


class QuotaBackend(Database, Protocol):
    """Where quota and spending are stored. `at`: UTC seconds of the current transaction; `clock`: the same clock
    outside of one."""

    is_remote: bool
    midnight_sql: str

    @property
    def transaction_at(self) -> float: ...

    def clock(self) -> float: ...


class QuotaDatabase:
    """The quota's database, used by one thread of its own, so that another process's transaction never blocks the loop.

    With a file, the first fault ends the sharing for this run and is reported once: requests per minute are no reason
    not to make images. Money is: if budgets count all jobs, the fault is raised, and nothing starts without asking. A
    server is waited for instead, which is reported once: starting without asking would overrun the quota and the
    budgets of all other machines. Times are UTC seconds of this host with a file, because monotonic clocks of two
    processes need not agree. The catch: if the wall clock jumps forward, starts are forgotten too early, and the
    server's refusals have to make up for it. With a server they are its own seconds, whatever this host's clock says.
    """

    def __init__(self, location: QuotaLocation, note: Callable[[str], None], *, counts_money: bool = False) -> None:
        """location: a folder, a server's URL, or None: in memory, for a run that shares nothing and still keeps its
        windows. counts_money: budgets bind all jobs together.

        Raises OSError or sqlite3.Error if the folder or the file cannot be written to, LedgerError without its server.
        """
        self.backend = _open_backend(location)
        self.is_remote = self.backend.is_remote
        self._location = location
        self._counts_money = counts_money
        delay_s = SERVER_LAZY_DELAY_S if self.is_remote else LAZY_DELAY_S
        self._writer = Writer(self.backend, "book of quota and spend", delay_s)
        self._note = note
        self._fault_reported = False
        self._random = random.Random()

    @property
    def broken(self) -> bool:
        return self._writer.broken is not None

    async def transact(self, call: Callable[[Connection], T], default: T) -> T:
        """Run one transaction and return its answer. After the first fault return `default`, or raise LedgerError with
        a server or money."""
        try:
            return await (self.await_server(self._writer.write(call)) if self.is_remote else self._writer.write(call))
        except LedgerError as error:
            if self.is_remote:
                raise
            if self._counts_money:
                raise no_budget_store_error(self._location, error.__cause__ or error) from error
            self._report_fault()
            return default

    async def await_server(self, asked: Awaitable[T]) -> T:
        """Wait for a server's answer; that it is away is reported once."""
        answer = asyncio.ensure_future(asked)
        if not (await asyncio.wait([answer], timeout=SLOW_SERVER_S))[0] and not self._fault_reported:
            self._fault_reported = True
            self._note("the server that counts quota and spend does not answer: nothing starts until it does")
        return await answer

    def new_start_id(self) -> int:
        """A number that no other start of any process has: microseconds since 1970 and ten random bits, or a fully
        random one if clocks differ."""
        if self.is_remote:
            return self._random.getrandbits(62) + 1
        return time.time_ns() // 1000 << 10 | self._random.getrandbits(10)

    def execute_soon(self, sql: str, *values: object) -> None:
        """Execute one statement in order and soon; nobody waits for it."""
        self.submit(lambda connection: connection.execute(sql, values))

    def submit(self, change: Change) -> Future[object]:
        return self._writer.submit(change)

    def execute_lazy(self, sql: str, *values: object) -> None:
        """Execute one statement that may wait for the next change and concerns nothing in progress."""
        self.submit_lazily(lambda connection: connection.execute(sql, values))

    def lag_at_most(self, lag_s: float) -> None:
        """Write what nobody waits for within this many seconds."""
        self._writer.lazy_delay_s = min(self._writer.lazy_delay_s, lag_s)

    def submit_lazily(self, change: Change) -> None:
        self._writer.enqueue_lazy(change)

    def _report_fault(self) -> None:
        if not self._fault_reported and (fault := self._writer.broken) is not None:
            self._fault_reported = True
            self._note(f"quota and spend are not shared with other runs from here on: {fault.__cause__ or fault}")

    def unshared_answer(self) -> ReserveResult:
        """The answer to a start if the file cannot be used any more and no budget counts all jobs: yes."""
        self._report_fault()
        return Reserved(None)

    def clock(self) -> float:
        """UTC seconds of the clock that quota and spending use."""
        return self.backend.clock()

    def close(self) -> None:
        self._writer.close()
        self._report_fault()  # a statement that nobody waited for may have failed last


def _open_backend(location: QuotaLocation) -> QuotaBackend:
    backend: QuotaBackend = (
        PostgresQuotaBackend(location) if isinstance(location, str | PostgreSQL) else open_sqlite_backend(location)
    )
    try:
        # Alone: two folding at the same time would count twice.
        backend.transact([LockedChange(partial(_clear_old, backend), ("clear",))])
    except BaseException:
        backend.close()
        raise
    return backend


def _clear_old(backend: QuotaBackend, connection: Connection) -> None:
    now = backend.transaction_at
    connection.execute("DELETE FROM start WHERE at < ?", (now - 86400.0,))
    connection.execute("DELETE FROM daily WHERE day < ?", (now - 3 * 86400.0,))
    connection.execute("DELETE FROM spending WHERE at < ?", (now - RETENTION_S,))
    connection.execute("DELETE FROM spending WHERE purse <> '' AND at < ?", (now - 86400.0,))
    _fold_ended(connection, now - FOLDED_AFTER_S, backend.midnight_sql)


def _fold_ended(connection: Connection, before: float, midnight_sql: str) -> None:
    """Replace the rows of requests that ended before then by one for each local day, job and account: sums stay the
    same, and queries stay fast after a hundred thousand images."""
    connection.execute(
        "INSERT INTO spending (at, ended, usd, job, account, purse) SELECT midnight, midnight, sum(usd), job, account, purse"
        f" FROM (SELECT {midnight_sql} AS midnight, usd, job, account, purse FROM spending"
        " WHERE place IS NOT NULL AND ended < ?) AS each_of_them GROUP BY midnight, job, account, purse",
        (before,),
    )
    connection.execute("DELETE FROM spending WHERE place IS NOT NULL AND ended < ?", (before,))


def no_budget_store_error(location: QuotaLocation, error: BaseException | None = None) -> LedgerError:
    """Why a run whose budget counts all jobs does not start, or stops."""
    limits = "a budget per day or month, usd_per_10_min or a tier counts what all jobs spend"
    if location is None:
        return LedgerError(
            f"limits: {limits}, and there is no folder to keep that in: set HOME or XDG_STATE_HOME to an absolute path"
            " (StateDirectory=batchgen in a system unit), or use --max-cost or limits: budget_usd, which count one run"
        )
    file = location / FILE_NAME if isinstance(location, Path) else location
    return LedgerError(
        f"limits: {limits}. That is counted in {file}, which cannot be used: {error}. Nothing more is started. Repair the file"
        " and run again; if it is damaged, move it away, and each job adds its own spending again when it next runs"
    )
