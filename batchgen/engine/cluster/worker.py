"""`batchgen worker`: takes samples and derivatives from the queue of a server and makes them, for whichever job they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.derivative_session import DerivativeSession, RenderPool
from batchgen.engine.cluster.queue import Requeue
from batchgen.engine.cluster.sample_session import open_sample_session
from batchgen.engine.cluster.session import RETRY_DELAY_S, Session, WorkerContext
from batchgen.engine.derivative_runner import default_workers
from batchgen.errors import BatchgenError, LedgerError, LedgerUnreachable
from batchgen.events import Notice
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.quota_store import QuotaStore, open_quota_store
from batchgen.ledger.server_wait import wait_until_reachable
from batchgen.ledger.work_queue import DERIVATIVES_LANE, Submission, is_of_derivatives, load_submission
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.settings import Settings

if TYPE_CHECKING:
    from procrastinate import App

POLL_S = 1.0
CLOSE_IDLE_AFTER_S = 60.0  # after which a job's connections are closed
RESTART_DELAY_S = 2.0  # before a lane's fetching is begun again after the server was away
DEFAULT_CONCURRENCY = 5
FETCHING: dict[str, Any] = {  # as procrastinate's worker takes it
    "install_signal_handlers": False,
    "delete_jobs": "successful",
    "fetch_job_polling_interval": 2.0,
    "abort_job_polling_interval": 60.0,
    "stalled_worker_timeout": 3600.0,
}
SessionKey = tuple[str, int, bool]  # a job's schema, its run, and whether it is for derivatives


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


@dataclass(frozen=True, slots=True)
class JoinedQueue:
    """What a worker has of the server from when it has joined the queue until it leaves."""

    server: PostgreSQL
    shared: QuotaStore
    app: App


class Worker:
    """One process. Each lane is fetched for by itself, so that no AI model's work waits behind another's quota."""

    def __init__(self, url: str, settings: Settings, options: WorkerOptions, emit: Callable[..., None]) -> None:
        """emit: called with an event, and with `job` and `run` where it is one of a job."""
        self._url = url
        self._settings = settings
        self._options = options
        self._emit = emit
        self._sessions: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Task[Session | None]] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._noted_s: dict[str, float] = {}
        self._render_pool = RenderPool(options.post_processes)

    def stop(self) -> None:
        """Once: give back what is not on its way, and finish what is. Twice: give that up too."""
        if not self._stop.is_set():
            self._stop.set()
            return
        for session in self._sessions.values():
            session.abandon_in_flight()
        self._render_pool.abandon()

    async def _wait_for_server(self) -> bool:
        """Waits for a server that is not up yet; False when it was stopped meanwhile. Raises LedgerError, UsageError."""
        waiting = asyncio.create_task(wait_until_reachable(self._url, self._note))
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
        while await self._wait_for_server():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    await self._poll_until_stopped(await self._join(stack))
                return
            except LedgerUnreachable as error:  # it came, and was away again before this worker had joined
                self._note_throttled(str(error))

    async def _join(self, stack: contextlib.AsyncExitStack) -> JoinedQueue:
        """stack: what is opened here is closed with it, and leaves the queue again. Raises LedgerUnreachable, LedgerError, UsageError."""
        name = self._options.name
        server = await asyncio.to_thread(PostgreSQL, self._url, SHARED_SCHEMA, f"batchgen worker {name}")
        stack.callback(server.close)
        await asyncio.to_thread(queue.migrate, server)
        shared = open_quota_store(self._url, self._note)
        stack.callback(shared.close)
        app = queue.open_app(self._url, shared.clock, partial(self._process, shared))
        stack.push_async_callback(asyncio.to_thread, self._unregister_worker, server)
        self._run_in_background(stack, self._heartbeat())
        try:
            await stack.enter_async_context(app.open_async())
        except queue.import_procrastinate().exceptions.ConnectorException as error:
            raise LedgerUnreachable(f"the queue cannot be opened: {' '.join(str(error).split())}") from error
        self._run_in_background(stack, self._touch_health_file())
        stack.push_async_callback(self._shutdown)
        return JoinedQueue(server, shared, app)

    def _run_in_background(self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    # --- looking after

    async def _poll_until_stopped(self, joined: JoinedQueue) -> None:
        while not self._stop.is_set():
            try:
                await self._poll(joined)
            except LedgerError as error:
                self._note_throttled(f"the queue cannot be asked: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), POLL_S)

    async def _poll(self, joined: JoinedQueue) -> None:
        lanes, left = await asyncio.to_thread(self._query_queue, joined.server)
        for lane in lanes:
            if (task := self._fetching.get(lane)) is None or task.done():
                self._fetching[lane] = asyncio.create_task(self._fetch_lane(joined.app, lane))
        for key, session in list(self._sessions.items()):
            await session.poll()
            if session.idle and (session.closing or time.monotonic() - session.last_used_s > CLOSE_IDLE_AFTER_S):
                del self._sessions[key]
                await session.close()
        await self._requeue_orphans(joined)
        if self._options.until_empty and not left:
            self._stop.set()

    def _query_queue(self, server: PostgreSQL) -> tuple[list[str], bool]:
        """The lanes there are for this worker, and whether anything in them is left that may be made now or is being made."""
        other = "" if self._options.post_processes else DERIVATIVES_LANE
        sql = f"SELECT lane FROM {SHARED_SCHEMA}.queue WHERE lane <> ? ORDER BY lane"
        lanes = [lane for (lane,) in server.execute(sql, (other,)).fetchall()]
        left = server.execute(
            f"SELECT 1 FROM {queue.SCHEMA}.procrastinate_jobs WHERE queue_name <> ? AND (status = 'doing' OR (status = 'todo'"
            " AND (scheduled_at IS NULL OR scheduled_at < clock_timestamp() + interval '10 minutes'))) LIMIT 1",
            (other,),
        ).fetchone()
        return lanes, left is not None

    async def _requeue_orphans(self, joined: JoinedQueue) -> None:
        """What was taken by a worker that has fallen silent goes back into the queue; the ledger says what became of it."""
        numbers = await asyncio.to_thread(queue.orphaned_jobs, joined.server, self._options.name, self._is_processing)
        another_was_quicker = queue.import_procrastinate().exceptions.ProcrastinateException
        requeued = 0
        for number in numbers:
            with contextlib.suppress(another_was_quicker):
                await joined.app.job_manager.retry_job_by_id_async(number, queue.LONG_AGO)
                requeued += 1
        if requeued:
            self._note_throttled(f"{requeued} piece(s) of work of a worker that fell silent are continued by others")

    def _is_processing(self, schema: str, run: int, key: str) -> bool:
        session = self._sessions.get((schema, run, is_of_derivatives(key)))
        return session is not None and session.is_processing(key)

    async def _fetch_lane(self, app: App, lane: str) -> None:
        # More than are in flight: some wait for their quota.
        slots = 2 * (self._options.concurrency or DEFAULT_CONCURRENCY) + 4
        if lane == DERIVATIVES_LANE:
            slots = self._options.post_processes
        try:
            await app.run_worker_async(
                queues=[lane],
                concurrency=slots,
                name=self._options.name,
                update_heartbeat_interval=queue.HEARTBEAT_S,
                **FETCHING,
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._note_throttled(f"the queue cannot be asked: {' '.join(str(error).split())}")
        await asyncio.sleep(RESTART_DELAY_S)

    async def _heartbeat(self) -> None:
        """A connection of its own, so that nothing that takes long makes this worker look dead."""
        connection: PostgreSQL | None = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.to_thread(
                            PostgreSQL, self._url, SHARED_SCHEMA, f"batchgen heart {self._options.name}"
                        )
                    await asyncio.to_thread(self._send_heartbeat, connection)
                except LedgerError:
                    connection = None
                await asyncio.sleep(queue.HEARTBEAT_S)
        finally:
            if connection is not None:
                connection.close()

    def _send_heartbeat(self, connection: PostgreSQL) -> None:
        connection.execute(
            f"INSERT INTO {SHARED_SCHEMA}.worker VALUES (?, ?, ?, ?, {queue.SERVER_NOW}, {queue.SERVER_NOW}, ?)"
            f" ON CONFLICT (name) DO UPDATE SET at = {queue.SERVER_NOW}",
            (
                self._options.name,
                socket.gethostname(),
                os.getpid(),
                self._options.concurrency or DEFAULT_CONCURRENCY,
                self._options.post_processes,
            ),
        )

    def _unregister_worker(self, server: PostgreSQL) -> None:
        with contextlib.suppress(LedgerError):
            server.execute(f"DELETE FROM {SHARED_SCHEMA}.worker WHERE name = ?", (self._options.name,))

    async def _touch_health_file(self) -> None:
        """From the loop that does the work, and also while the server is away: what is in flight may have been paid for."""
        while self._options.health_file is not None:
            with contextlib.suppress(OSError):
                os.close(os.open(self._options.health_file, os.O_WRONLY | os.O_CREAT, 0o644))
                os.utime(self._options.health_file)
            await asyncio.sleep(POLL_S)

    # --- a piece of work

    async def _process(self, shared: QuotaStore, schema: str, run: int, key: str) -> None:
        """Whatever goes wrong here, the work is not lost: it goes back into the queue."""
        if self._stop.is_set():
            raise Requeue(time.time() + 1.0)
        try:
            session = await self._get_session(shared, (schema, run, is_of_derivatives(key)))
            if session is not None:
                await session.process(key)
        except Requeue:
            raise
        except Exception as error:
            bug = "" if isinstance(error, BatchgenError) else f"{type(error).__name__}: "  # of ours
            name = f"derivatives of {key.partition('/')[2]}" if is_of_derivatives(key) else key
            self._note_throttled(f"{name}: {bug}{error}")
            raise Requeue(time.time() + RETRY_DELAY_S) from error

    async def _get_session(self, shared: QuotaStore, session_key: SessionKey) -> Session | None:
        if (session := self._sessions.get(session_key)) is not None and session.closing and session.idle:
            del self._sessions[session_key]
            await session.close()
        if session_key not in self._sessions:
            if session_key not in self._opening:
                self._opening[session_key] = asyncio.create_task(self._open_session(shared, *session_key))
            try:
                opened = await asyncio.shield(self._opening[session_key])
            finally:
                self._opening.pop(session_key, None)
            if opened is None:
                return None
            self._sessions.setdefault(session_key, opened)
        return self._sessions[session_key]

    async def _open_session(self, shared: QuotaStore, schema: str, run: int, of_derivatives: bool) -> Session | None:
        """None when the submission is not there any more."""
        found = await asyncio.to_thread(self._load_submission, schema, run)
        if found is None:
            return None
        emit = partial(self._emit, job=found.name, run=run)

        def note(message: str) -> None:
            emit(Notice(at=time.time(), message=message))

        options = self._options
        context = WorkerContext(self._url, options.name, options.concurrency, self._settings, note, emit)
        if of_derivatives:
            context = replace(context, note=self._note_throttled)  # it says the same of each picture
            return await asyncio.to_thread(DerivativeSession, context, schema, run, found, self._render_pool)
        return await open_sample_session(context, schema, run, found, shared)

    def _load_submission(self, schema: str, run: int) -> Submission | None:
        database = PostgreSQL(self._url, schema, "batchgen worker asks")
        try:
            return load_submission(database, run)
        finally:
            database.close()

    # --- the end

    async def _shutdown(self) -> None:
        for session in self._sessions.values():
            session.stop(StopReason(StopKind.SIGNAL, "SIGTERM"))
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        await self._render_pool.close()

    def _note(self, message: str) -> None:
        self._emit(Notice(at=time.time(), message=message))

    def _note_throttled(self, message: str) -> None:
        """Once a minute at most for the same words."""
        if time.monotonic() - self._noted_s.get(message, -60.0) >= 60.0:
            self._noted_s[message] = time.monotonic()
            self._note(message)
