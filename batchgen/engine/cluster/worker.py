"""`batchgen worker`: takes samples from the queue of a server and makes their pictures, for whichever job they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_worker import Deriving
from batchgen.engine.cluster.queue import Again
from batchgen.engine.cluster.session import AGAIN_S, Place, Session
from batchgen.engine.derivatives import default_workers
from batchgen.errors import BatchgenError, LedgerError, ServerAway
from batchgen.events import Noted
from batchgen.ledger.location import SHARED
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.quota_store import open_shared
from batchgen.ledger.server_wait import until_reachable
from batchgen.ledger.work_queue import submission
from batchgen.settings import Settings

LOOK_S = 1.0
IDLE_S = 60.0  # after which a job's connections are closed
BACK_S = 2.0  # before a lane's fetching is begun again after the server was away
CONCURRENCY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """concurrency: requests in flight for one job at most, None: as its manifest says. until_empty: leave when the queue
    has nothing more. health_file: touched from when the worker has joined the queue until it leaves. post_processes: of
    derivatives; 0: it makes none."""

    concurrency: int | None = None
    until_empty: bool = False
    health_file: str | None = None
    post_processes: int = field(default_factory=default_workers)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}")


class Worker:
    """One process. Each lane is fetched for by itself, so that no AI model's work waits behind another's quota."""

    def __init__(self, url: str, settings: Settings, options: WorkerOptions, emit: Callable[..., None]) -> None:
        """emit: called with an event, and with `job` and `run` where it is one of a job."""
        self._url = url
        self._settings = settings
        self._options = options
        self._emit = emit
        self._sessions: dict[tuple[str, int], Session] = {}
        self._opening: dict[tuple[str, int], asyncio.Task[Session | None]] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._told: dict[str, float] = {}
        self._deriving = Deriving(url, options.name, options.post_processes, self._say)

    def stop(self) -> None:
        """Once: give back what is not on its way, and finish what is. Twice: give that up too."""
        if not self._stop.is_set():
            self._stop.set()
            return
        for session in self._sessions.values():
            session.give_up()
        self._deriving.give_up()

    async def reached(self) -> bool:
        """Waits for a server that is not up yet; False when it was stopped meanwhile. Raises LedgerError, UsageError."""
        waiting = asyncio.create_task(until_reachable(self._url, self._note))
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, stopped):
            task.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        return not self._stop.is_set()

    async def run(self) -> None:
        """Until it is stopped, or the queue is empty when that was asked for. Raises LedgerError, UsageError."""
        while await self.reached():
            try:
                async with contextlib.AsyncExitStack() as held:
                    await self._join(held)
                    await self._look_after()
                return
            except ServerAway as error:  # it came, and was away again before this worker had joined
                self._say(str(error))

    async def _join(self, held: contextlib.AsyncExitStack) -> None:
        """held: leaves the queue again. Raises ServerAway, LedgerError, UsageError."""
        name = self._options.name
        self._server = await asyncio.to_thread(PostgreSQL, self._url, SHARED, f"batchgen worker {name}")
        held.callback(self._server.close)
        await asyncio.to_thread(queue.prepare, self._server)
        self._shared = open_shared(self._url, self._note)
        held.callback(self._shared.close)
        self._app = queue.open_app(self._url, self._shared.clock, self._carry, self._derive)
        held.push_async_callback(asyncio.to_thread, self._forget_worker)
        self._beside(held, self._beat())
        try:
            await held.enter_async_context(self._app.open_async())
        except queue.imported().exceptions.ConnectorException as error:
            raise ServerAway(f"the queue cannot be opened: {' '.join(str(error).split())}") from error
        self._beside(held, self._live())
        held.push_async_callback(self._end)

    def _beside(self, held: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        held.push_async_callback(end)

    # --- looking after

    async def _look_after(self) -> None:
        while not self._stop.is_set():
            try:
                await self._look()
            except LedgerError as error:
                self._say(f"the queue cannot be asked: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_S)

    async def _look(self) -> None:
        lanes, left = await asyncio.to_thread(self._asked)
        for lane in lanes:
            if (task := self._fetching.get(lane)) is None or task.done():
                self._fetching[lane] = asyncio.create_task(self._fetch(lane))
        for key, session in list(self._sessions.items()):
            await session.look()
            if session.idle and (session.over or time.monotonic() - session.used_s > IDLE_S):
                del self._sessions[key]
                await session.close()
        await self._deriving.close_idle()
        await self._revive()
        if self._options.until_empty and not left:
            self._stop.set()

    def _asked(self) -> tuple[list[str], bool]:
        """The lanes there are for this worker, and whether anything in them is left that may be made now or is being made."""
        other = "" if self._options.post_processes else queue.POST
        sql = f"SELECT lane FROM {SHARED}.queue WHERE lane <> ? ORDER BY lane"
        lanes = [lane for (lane,) in self._server.execute(sql, (other,)).fetchall()]
        left = self._server.execute(
            f"SELECT 1 FROM {queue.SCHEMA}.procrastinate_jobs WHERE queue_name <> ? AND (status = 'doing' OR (status = 'todo'"
            " AND (scheduled_at IS NULL OR scheduled_at < clock_timestamp() + interval '10 minutes'))) LIMIT 1",
            (other,),
        ).fetchone()
        return lanes, left is not None

    async def _revive(self) -> None:
        """What was taken by a worker that has fallen silent goes back into the queue; the ledger says what became of it."""
        numbers = await asyncio.to_thread(queue.orphans, self._server, self._options.name, self._has)
        revived = 0
        for number in numbers:
            with contextlib.suppress(queue.imported().exceptions.ProcrastinateException):  # another was quicker
                await self._app.job_manager.retry_job_by_id_async(number, queue.AT_ONCE)
                revived += 1
        if revived:
            self._say(f"{revived} piece(s) of work of a worker that fell silent are taken up again")

    def _has(self, schema: str, run: int, key: str) -> bool:
        session = self._sessions.get((schema, run))
        return session is not None and session.has(key)

    async def _fetch(self, lane: str) -> None:
        slots = 2 * (self._options.concurrency or CONCURRENCY) + 4  # more than are in flight: some wait for their quota
        if lane == queue.POST:
            slots = self._options.post_processes
        try:
            await self._app.run_worker_async(
                queues=[lane], concurrency=slots, name=self._options.name, install_signal_handlers=False,
                delete_jobs="successful", update_heartbeat_interval=queue.HEARTBEAT_S, fetch_job_polling_interval=2.0,
                abort_job_polling_interval=60.0, stalled_worker_timeout=3600.0,
            )  # fmt: skip
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._say(f"the queue cannot be asked: {' '.join(str(error).split())}")
        await asyncio.sleep(BACK_S)

    async def _beat(self) -> None:
        """A connection of its own, so that nothing that takes long makes this worker look dead."""
        heart: PostgreSQL | None = None
        try:
            while True:
                try:
                    if heart is None:
                        heart = await asyncio.to_thread(
                            PostgreSQL, self._url, SHARED, f"batchgen heart {self._options.name}"
                        )
                    await asyncio.to_thread(self._beat_once, heart)
                except LedgerError:
                    heart = None
                await asyncio.sleep(queue.HEARTBEAT_S)
        finally:
            if heart is not None:
                heart.close()

    def _beat_once(self, heart: PostgreSQL) -> None:
        heart.execute(
            f"INSERT INTO {SHARED}.worker VALUES (?, ?, ?, ?, {queue.NOW}, {queue.NOW}, ?)"
            f" ON CONFLICT (name) DO UPDATE SET at = {queue.NOW}",
            (
                self._options.name,
                socket.gethostname(),
                os.getpid(),
                self._options.concurrency or CONCURRENCY,
                self._options.post_processes,
            ),
        )

    def _forget_worker(self) -> None:
        with contextlib.suppress(LedgerError):
            self._server.execute(f"DELETE FROM {SHARED}.worker WHERE name = ?", (self._options.name,))

    async def _live(self) -> None:
        """From the loop that does the work, and also while the server is away: what is in flight may have been paid for."""
        while self._options.health_file is not None:
            with contextlib.suppress(OSError):
                os.close(os.open(self._options.health_file, os.O_WRONLY | os.O_CREAT, 0o644))
                os.utime(self._options.health_file)
            await asyncio.sleep(LOOK_S)

    # --- samples

    async def _carry(self, schema: str, run: int, key: str) -> None:
        await self._kept(key, lambda: self._make(schema, run, key))

    async def _make(self, schema: str, run: int, key: str) -> None:
        session = await self._session(schema, run)
        if session is not None:
            await session.make(key)

    async def _derive(self, schema: str, run: int, item: str, n: int) -> None:
        await self._kept(f"derivatives of {item}", lambda: self._deriving.make(schema, run, item, n))

    async def _kept(self, key: str, make: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong here, the work is not lost: it goes back into the queue."""
        if self._stop.is_set():
            raise Again(time.time() + 1.0)
        try:
            await make()
        except Again:
            raise
        except BatchgenError as error:
            self._say(f"{key}: {error}")
            raise Again(time.time() + AGAIN_S) from None
        except Exception as error:  # a bug of ours
            self._say(f"{key}: {type(error).__name__}: {error}")
            raise Again(time.time() + AGAIN_S) from error

    async def _session(self, schema: str, run: int) -> Session | None:
        place = (schema, run)
        if (session := self._sessions.get(place)) is not None and session.over and session.idle:
            del self._sessions[place]
            await session.close()
        if place not in self._sessions:
            if place not in self._opening:
                self._opening[place] = asyncio.create_task(self._open(schema, run))
            try:
                opened = await asyncio.shield(self._opening[place])
            finally:
                self._opening.pop(place, None)
            if opened is None:
                return None
            self._sessions.setdefault(place, opened)
        return self._sessions[place]

    async def _open(self, schema: str, run: int) -> Session | None:
        def ask() -> Any:
            database = PostgreSQL(self._url, schema, "batchgen worker asks")
            try:
                return submission(database, run)
            finally:
                database.close()

        found = await asyncio.to_thread(ask)
        if found is None:
            return None
        emit = partial(self._emit, job=found.name, run=run)

        def note(message: str) -> None:
            emit(Noted(at=time.time(), message=message))

        where = Place(self._url, self._options.name, self._options.concurrency, self._settings, note, emit)
        session = await asyncio.to_thread(Session, where, schema, run, found)
        try:
            await session.opened(self._shared)
        except BaseException:
            await session.close()
            raise
        return session

    # --- the end

    async def _end(self) -> None:
        for session in self._sessions.values():
            session.stop("SIGTERM")
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        await self._deriving.close()

    def _note(self, message: str) -> None:
        self._emit(Noted(at=time.time(), message=message))

    def _say(self, message: str) -> None:
        """Once a minute at most for the same words."""
        if time.monotonic() - self._told.get(message, -60.0) >= 60.0:
            self._told[message] = time.monotonic()
            self._note(message)
