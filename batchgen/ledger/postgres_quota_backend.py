"""The database of what all jobs of a server share: its locks are taken in order, and its clock is the only one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from batchgen.ledger.database import Change, Connection, Cursor, LockedChange
from batchgen.ledger.location import SHARED_SCHEMA, create_shared_tables
from batchgen.ledger.postgresql import PostgreSQL

CLOCK_DRIFT = 0.0005  # seconds a second: a clock that its server corrects differs by no more
CLOCK_JUMP_S = 1.0
# No flush per commit, as with the file: what a crash of the server forgets of starts is less than a second's, and spend is
# made good from each job's own ledger. One that stops in the middle must not keep the others from starting.
TRANSACTION_SETTINGS = (
    "set_config('synchronous_commit', 'off', true), set_config('idle_in_transaction_session_timeout', '10s', true)"
)
BEGIN = f"SELECT extract(epoch FROM clock_timestamp()), {TRANSACTION_SETTINGS}"
# An aggregate is complete before what stands beside it is computed: the clock is read when all locks are held.
BEGIN_LOCKED = (
    f"SELECT extract(epoch FROM clock_timestamp()), {TRANSACTION_SETTINGS}, count(pg_advisory_xact_lock(name))"
    " FROM (SELECT unnest(?::bigint[]) AS name ORDER BY 1) AS names"
)


class PostgresQuotaBackend:
    """A transaction takes all locks of its changes first and sorted, so that no two ever wait for each other."""

    is_remote = True  # others may be on other machines
    midnight_sql = "floor(at / 900) * 900"  # every time zone's midnight is a multiple of it

    def __init__(self, url: str, schema: Sequence[str], last_table: str) -> None:
        """last_table: the table that is made last. Raises LedgerError."""
        self._database = PostgreSQL(url, SHARED_SCHEMA, "batchgen shares")
        self.transaction_at = 0.0  # UTC seconds by the server, of the transaction that is under way
        self._clock_offset_s = 0.0  # of this process's monotonic clock
        self._clock_error_s = float("inf")
        self._measured_at_s = 0.0
        try:
            create_shared_tables(self._database, schema, last_table)
            self.transact([])
        except BaseException:
            self._database.close()
            raise

    def clock(self) -> float:
        """UTC seconds by the server, for what is stamped here; late by at most the quickest answer of late, never early."""
        return time.monotonic() + self._clock_offset_s

    def transact(self, changes: Sequence[Change]) -> list[Any]:
        locks = {name for change in changes if isinstance(change, LockedChange) for name in change.locks}
        return self._database.transact([partial(self._begin, sorted(map(advisory_lock_id, locks))), *changes])[1:]

    def _begin(self, locks: list[int], connection: Connection) -> None:
        sent_at_s = time.monotonic()
        self.transaction_at = float(
            connection.execute(*((BEGIN_LOCKED, (locks,)) if locks else (BEGIN, ()))).fetchone()[0]
        )
        answered_at_s = time.monotonic()
        error_s = answered_at_s - sent_at_s
        jumped = (
            abs(self.transaction_at - sent_at_s - self._clock_offset_s) > error_s + CLOCK_JUMP_S
        )  # the server's clock, or this host slept
        if jumped or error_s <= self._clock_error_s + CLOCK_DRIFT * (answered_at_s - self._measured_at_s):
            self._clock_offset_s, self._clock_error_s, self._measured_at_s = (
                self.transaction_at - sent_at_s,
                error_s,
                answered_at_s,
            )

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Cursor:
        return self._database.execute(sql, values)

    def executemany(self, sql: str, rows: Any, /) -> None:
        self._database.executemany(sql, rows)

    def close(self) -> None:
        self._database.close()


def advisory_lock_id(name: str) -> int:
    """Of an advisory lock."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
