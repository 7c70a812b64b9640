"""What happens before a run may write to a ledger on a server: the server has to be up, and no run on any host may have
the job."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from batchgen.errors import JobLocked, LedgerUnreachable
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.run_lease import describe_holder
from batchgen.ledger.server_connection import application_name_for

NOTIFY_EVERY_S = 60.0
RETRY_MAX_S = 5.0


async def wait_until_reachable(url: str, notify: Callable[[str], None], timeout_s: float = math.inf) -> None:
    """Wait until the server accepts connections. notify: called at once, and once a minute, with the reason why not.

    Raises LedgerUnreachable after `timeout_s`, and at once any other connection error. May be cancelled at any time.
    """
    until_s, wait_s, notify_at_s = time.monotonic() + timeout_s, 0.1, -math.inf
    while True:
        try:
            await _try_connect(url)
        except LedgerUnreachable as error:
            now_s = time.monotonic()
            if now_s + wait_s > until_s:
                raise
            if now_s >= notify_at_s:
                notify_at_s = now_s + NOTIFY_EVERY_S
                notify(f"{error}. Waiting for it")
        else:
            return
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, RETRY_MAX_S)


async def _try_connect(url: str) -> None:
    """Try to connect, in a thread that nobody waits for at the end: an address or a name may take long to fail."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not found.done():
            found.set_result(None) if error is None else found.set_exception(error)

    def ask() -> None:
        error: Exception | None = None
        try:
            PostgreSQL(url, SHARED_SCHEMA, application_name_for("waits")).close()
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=ask, name="reaching the ledger's server", daemon=True).start()
    await found


class ServerLock:
    """Ensures one run per job across hosts: a lock on the server that belongs to the connection that writes, besides
    the folder's lock.

    Held from `acquire` until `release`, or until the ledger is closed. A ledger in a file does not need it.

    After a reconnect it is taken again before anything else is written; if another run was quicker, nothing is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._server = ledger.database if isinstance(ledger.database, PostgreSQL) else None

    def acquire(self) -> None:
        """Acquire the lock. Raises JobLocked, naming the holder's process and host if the server tells, and
        LedgerError."""
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
    """The number of a schema's lock for `pg_advisory_lock`: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(schema.encode()).digest()[:8], signed=True)
