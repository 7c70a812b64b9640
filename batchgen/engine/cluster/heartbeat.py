"""A worker's membership of its server: it registers under a name of its own, sends a heartbeat every few seconds, and
is woken when there is work."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from batchgen.engine.cluster import queue
from batchgen.errors import LedgerError
from batchgen.ledger.lease import CHANNEL, SERVER_NOW
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL

LISTEN_S = 0.5  # at a time, so that a worker can end without waiting longer
FORGOTTEN_S = 7 * 86400.0  # then a silent worker's name is free again: a machine may sleep that long
_REGISTER = (
    f"INSERT INTO {SHARED_SCHEMA}.worker VALUES (?, ?, ?, ?, {SERVER_NOW}, {SERVER_NOW}, ?) ON CONFLICT DO NOTHING"
    " RETURNING name"
)
_SAY = (
    f"INSERT INTO {SHARED_SCHEMA}.worker AS w VALUES (?, ?, ?, ?, {SERVER_NOW}, {SERVER_NOW}, ?) ON CONFLICT (name) DO UPDATE"
    " SET at = excluded.at WHERE w.host = excluded.host AND w.pid = excluded.pid RETURNING name"
)


@dataclass(frozen=True, slots=True)
class Member:
    """What others can see of a worker."""

    name: str
    concurrency: int
    post_processes: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    @property
    def values(self) -> tuple[object, ...]:
        """The values of its row, apart from the times."""
        return (self.name, self.host, self.pid, self.concurrency, self.post_processes)


@dataclass(slots=True)
class Pulse:
    """A worker's own view of its heartbeat. at: UTC seconds of the last one that the server accepted, 0 before the
    first. problem: why the server cannot be asked, empty if it can."""

    at: float = 0.0
    problem: str = ""
    _at_s: float = -math.inf  # by the monotonic clock, which nobody sets

    def beat(self) -> None:
        self.at, self._at_s, self.problem = time.time(), time.monotonic(), ""

    def state(self) -> str:
        """What is wrong, in words; empty while the server hears from this worker."""
        if self.problem:
            return f"the ledger's server cannot be asked: {self.problem}"
        if not self.at:
            return "it has not joined the queue yet: it waits for the ledger's server"
        silent_s = time.monotonic() - self._at_s
        return f"no heartbeat for {silent_s:.0f} s" if silent_s > queue.STALE_S else ""


def register(server: PostgreSQL, wanted: Member, note: Callable[[str], None]) -> Member:
    """Register under a name that no other worker has, however silent that one is: a suspended worker that comes back
    regards everything claimed under its name as its own. Raises LedgerError."""
    server.execute(f"DELETE FROM {SHARED_SCHEMA}.worker WHERE at < {SERVER_NOW} - ?", (FORGOTTEN_S,))
    member = wanted
    while server.execute(_REGISTER, member.values).fetchone() is None:
        member = replace(wanted, name=f"{wanted.name}-{secrets.token_hex(2)}")
        note(f"a worker named {wanted.name} is at work, or ended without saying so: this one goes by {member.name}")
    return member


def unregister(server: PostgreSQL, member: Member) -> None:
    """Release everything that this worker has claimed, unless another worker has its name now."""
    with contextlib.suppress(LedgerError):
        sql = f"DELETE FROM {SHARED_SCHEMA}.worker WHERE name = ? AND host = ? AND pid = ?"
        server.execute(sql, (member.name, member.host, member.pid))


async def keep_alive(url: str, member: Member, wake: Callable[[], None], pulse: Pulse) -> None:
    """Send heartbeats until cancelled, with a connection and a thread of their own, so that no long operation makes
    this worker look dead.

    wake: called when the server says that there is work. Behind a pooler it never does.
    """
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "heartbeat")
    connection: PostgreSQL | None = None
    said_s = -math.inf
    try:
        while True:
            try:
                if connection is None:
                    name = f"batchgen heart {member.name}"
                    connection = await loop.run_in_executor(thread, queue.open_server, url, name)
                if time.monotonic() - said_s >= queue.HEARTBEAT_S:
                    await loop.run_in_executor(thread, _say_and_listen, connection, member)
                    said_s = time.monotonic()
                    pulse.beat()
                listen_s = min(LISTEN_S, queue.HEARTBEAT_S)
                if await loop.run_in_executor(thread, connection.wait_for_notification, listen_s):
                    wake()
            except LedgerError as error:
                # Connect anew at this pace; a connection that reconnects by itself waits longer each time.
                pulse.problem = str(error)
                if connection is not None:
                    thread.submit(connection.close)
                connection, said_s = None, -math.inf
                await asyncio.sleep(queue.HEARTBEAT_S)
    finally:
        if connection is not None:
            thread.submit(connection.close)
        thread.shutdown(wait=False)


def _say_and_listen(connection: PostgreSQL, member: Member) -> None:
    connection.execute(_SAY, member.values)
    if not connection.pooled:  # or another client's session would listen
        connection.execute(f"LISTEN {CHANNEL}")  # each time: a new connection listens to nothing
