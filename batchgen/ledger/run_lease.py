"""Ensures one run per job behind a pooler, where no lock outlasts a transaction: with a row that its holder renews and
that expires otherwise."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from batchgen.errors import JobLocked, LedgerError
from batchgen.ledger.database import Connection

LEASE_S = 60.0  # then a run that died no longer holds its job
_SERVER_NOW = "extract(epoch FROM clock_timestamp())"
_TABLE = "batchgen.run_lease"
_TABLE_DDL = (
    f"CREATE TABLE IF NOT EXISTS {_TABLE} (number BIGINT PRIMARY KEY, token TEXT NOT NULL, holder TEXT NOT NULL,"
    " until DOUBLE PRECISION NOT NULL)"
)
_HOLDER_SQL = f"SELECT holder FROM {_TABLE} WHERE number = ? AND until > {_SERVER_NOW}"


class RunLease:
    """A lease on a job. holder: the server's name for whoever has it. Each transaction of its connection renews it
    first, so that nothing is written once another run has it."""

    def __init__(self, number: int, holder: str) -> None:
        self._number = number
        self._holder = holder
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()

    def acquire(self, db: Connection) -> str | None:
        """Acquire the lease. Returns None, or who has it. The caller holds the advisory lock of the same number until
        the end of the transaction."""
        if db.execute("SELECT to_regclass(?)", (_TABLE,)).fetchone() == (None,):
            db.execute(_TABLE_DDL)
        taken = db.execute(
            f"INSERT INTO {_TABLE} AS l VALUES (?, ?, ?, {_SERVER_NOW} + ?) ON CONFLICT (number) DO UPDATE SET"
            f" token = excluded.token, holder = excluded.holder, until = excluded.until WHERE l.until <= {_SERVER_NOW}"
            " OR l.token = excluded.token RETURNING 1",
            (self._number, self._token, self._holder, LEASE_S),
        ).fetchone()
        return None if taken is not None else _holder(db, self._number) or ""

    def renew(self, db: Connection) -> None:
        """Renew the lease. Raises JobLocked if it now belongs to another run."""
        sql = f"UPDATE {_TABLE} SET until = {_SERVER_NOW} + ? WHERE number = ? AND token = ? RETURNING 1"
        if db.execute(sql, (LEASE_S, self._number, self._token)).fetchone() is None:
            raise JobLocked(f"another run has taken this job over{describe_holder(_holder(db, self._number) or '')}")

    def keep(self, renew: Callable[[], object]) -> None:
        """Keep renewing the lease until `stop`, also while nothing is written."""

        def run() -> None:
            while not self._stop.wait(LEASE_S / 4):
                with suppress(LedgerError, JobLocked):  # whoever writes next is told
                    renew()

        threading.Thread(target=run, name="lease of a run", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def release(self, db: Connection) -> None:
        db.execute(f"DELETE FROM {_TABLE} WHERE number = ? AND token = ?", (self._number, self._token))


def describe_holder(application_name: str) -> str:
    """The holder in words; empty if it is not a process of batchgen."""
    match = re.fullmatch(r"batchgen \w+ (\d+) (.+)", application_name)
    return f" (process {match[1]} on {match[2]})" if match else ""


def holder_of_lease(db: Connection, number: int) -> str | None:
    """The holder of a job by such a row; None if nobody has it."""
    if db.execute("SELECT to_regclass(?)", (_TABLE,)).fetchone()[0] is None:
        return None
    return _holder(db, number)


def _holder(db: Connection, number: int) -> str | None:
    row = db.execute(_HOLDER_SQL, (number,)).fetchone()
    return None if row is None else str(row[0])
