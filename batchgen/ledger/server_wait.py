"""Waiting for the server of a ledger that is not up yet."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from batchgen.errors import LedgerUnreachable
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.server_connection import application_name_for

NOTIFY_EVERY_S = 60.0
RETRY_MAX_S = 5.0


async def wait_until_reachable(url: str, notify: Callable[[str], None], timeout_s: float = math.inf) -> None:
    """Returns when the server lets us in. notify: hears at once, and once a minute, why it does not.

    Raises LedgerUnreachable after `timeout_s`, and at once what else connecting raises. May be cancelled at any time.
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
    """In a thread that nobody waits for at the end: an address or a name may take long to give no answer."""
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
