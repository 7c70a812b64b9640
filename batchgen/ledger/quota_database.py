"""One thread that talks to the database of the shared quota, and what a fault of it means: a file is done without, a server
is waited for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

from batchgen.errors import LedgerError
from batchgen.ledger.database import Change, Connection, Database, LockedChange
from batchgen.ledger.quota_tables import SCHEMA, clear_old
from batchgen.ledger.sqlite_quota_backend import FILE_NAME, open_sqlite_backend
from batchgen.ledger.writer import Writer
from batchgen.scheduling.window import Reserved, ReserveResult

SLOW_SERVER_S = 5.0  # a server that has not answered for so long is said to be away
T = TypeVar("T")
QuotaLocation = Path | str | None  # a folder, a server's URL, or nowhere: in memory


class QuotaBackend(Database, Protocol):
    """Where the book is kept. `at`: UTC seconds of the transaction under way; `clock`: the same clock outside of one."""

    is_remote: bool
    midnight_sql: str

    @property
    def transaction_at(self) -> float: ...

    def clock(self) -> float: ...


class QuotaDatabase:
    """One thread of its own talks to it, so that another process's transaction never holds up the loop.

    In a file, the first fault ends the sharing for this run and is told once: requests per minute are no reason not to make
    pictures. Money is: where budgets count all jobs, the fault is raised, and nothing starts without having asked. A server
    is waited for instead, and told of once: to start without asking would overrun the quota and the budgets of all other
    machines. Times are UTC seconds of this host with a file, because monotonic clocks of two processes
    need not agree; its catch: a wall clock that jumps forward forgets too early, and the server's own refusals then do the
    rest. With a server they are its own seconds, whatever this host's clock says.
    """

    def __init__(self, location: QuotaLocation, note: Callable[[str], None], *, counts_money: bool = False) -> None:
        """location: a folder, a server's URL, or None: in memory, for a run that shares nothing and still keeps its windows.
        counts_money: budgets bind all jobs together.

        Raises OSError or sqlite3.Error when the folder or the file cannot be written, LedgerError without its server.
        """
        self.backend = _open_backend(location)
        self.is_remote = self.backend.is_remote
        self._location = location
        self._counts_money = counts_money
        self._writer = Writer(self.backend, "book of quota and spend")
        self._note = note
        self._fault_reported = False
        self._random = random.Random()

    @property
    def broken(self) -> bool:
        return self._writer.broken is not None

    async def transact(self, call: Callable[[Connection], T], default: T) -> T:
        """The answer of one transaction; from the first fault on `default`, or LedgerError with a server or money."""
        try:
            return await (self._write_to_server(call) if self.is_remote else self._writer.write(call))
        except LedgerError as error:
            if self.is_remote:
                raise
            if self._counts_money:
                raise no_budget_store_error(self._location, error.__cause__ or error) from error
            self._report_fault()
            return default

    async def _write_to_server(self, call: Callable[[Connection], T]) -> T:
        answer = asyncio.ensure_future(self._writer.write(call))
        if not (await asyncio.wait([answer], timeout=SLOW_SERVER_S))[0] and not self._fault_reported:
            self._fault_reported = True
            self._note("the server that counts quota and spend does not answer: nothing starts until it does")
        return await answer

    def new_start_id(self) -> int:
        """A number that no other start of any process has or will have: microseconds since 1970 and ten random bits, or
        all of it random where clocks differ."""
        if self.is_remote:
            return self._random.getrandbits(62) + 1
        return time.time_ns() // 1000 << 10 | self._random.getrandbits(10)

    def execute_soon(self, sql: str, *values: object) -> None:
        """One statement, carried out in order and soon; nobody waits for it."""
        self.submit(lambda connection: connection.execute(sql, values))

    def submit(self, change: Change) -> Future[object]:
        return self._writer.submit(change)

    def execute_lazy(self, sql: str, *values: object) -> None:
        """One statement that may wait for the next change, and concerns nothing that is still on its way."""
        self._writer.enqueue_lazy(lambda connection: connection.execute(sql, values))

    def _report_fault(self) -> None:
        if not self._fault_reported and (fault := self._writer.broken) is not None:
            self._fault_reported = True
            self._note(f"quota and spend are not shared with other runs from here on: {fault.__cause__ or fault}")

    def unshared_answer(self) -> ReserveResult:
        """The answer to a start when the file cannot be asked any more and no budget counts all jobs: yes."""
        self._report_fault()
        return Reserved(None)

    def clock(self) -> float:
        """UTC seconds by which the book is kept."""
        return self.backend.clock()

    def close(self) -> None:
        self._writer.close()
        self._report_fault()  # what nobody waited for may have failed last


def _open_backend(location: QuotaLocation) -> QuotaBackend:
    backend: QuotaBackend
    if isinstance(location, str):
        from batchgen.ledger.postgres_quota_backend import PostgresQuotaBackend

        backend = PostgresQuotaBackend(location, SCHEMA, last_table="held")
    else:
        backend = open_sqlite_backend(location)
    try:
        # Alone: what two fold at the same time would count twice.
        backend.transact(
            [
                LockedChange(
                    lambda connection: clear_old(connection, backend.transaction_at, backend.midnight_sql), ("clear",)
                )
            ]
        )
    except BaseException:
        backend.close()
        raise
    return backend


def no_budget_store_error(location: QuotaLocation, error: BaseException | None = None) -> LedgerError:
    """Why a run whose budget counts all jobs does not start, or goes no further."""
    limits = "a budget per day or month, usd_per_10_min or a tier counts what all jobs spend"
    if location is None:
        return LedgerError(
            f"limits: {limits}, and there is no folder to keep that in: set HOME or XDG_STATE_HOME to an absolute path"
            " (StateDirectory=batchgen in a system unit), or use --max-cost or limits: budget_usd, which count one run"
        )
    file = location if isinstance(location, str) else location / FILE_NAME
    return LedgerError(
        f"limits: {limits}. That is counted in {file}, which cannot be used: {error}. Nothing more is started. Repair the file"
        " and run again; if it is damaged, move it away, and each job adds its own spending again when it next runs"
    )
