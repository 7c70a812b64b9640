"""One run per job across hosts: a lock on the server that goes with the connection that writes, beside the folder's."""

from __future__ import annotations

import hashlib

from batchgen.errors import JobLocked
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.run_lease import describe_holder


class ServerLock:
    """Held from `acquire` until `release`, or until the ledger is closed. A ledger in a file has no need of it.

    A connection that was lost takes it again before anything else is written; when another run was quicker, nothing is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._server = ledger.database if isinstance(ledger.database, PostgreSQL) else None

    def acquire(self) -> None:
        """Raises JobLocked, naming the process and host of who has it when the server tells, and LedgerError."""
        if self._server is None:
            return
        server, number = self._server, _advisory_lock_id(self._server.schema)
        if (other := self._ledger.writer.submit(lambda _: server.acquire_lock(number)).result()) is not None:
            raise JobLocked(f"another run holds this job{describe_holder(other)}: wait for it, or stop it")

    def release(self) -> None:
        if self._server is not None:
            server, number = self._server, _advisory_lock_id(self._server.schema)
            self._ledger.writer.submit(lambda _: server.release_lock(number)).result()


def _advisory_lock_id(schema: str) -> int:
    """Of a schema, for `pg_advisory_lock`: 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(schema.encode()).digest()[:8], signed=True)
