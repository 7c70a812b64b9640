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
from batchgen.engine.cluster.derivative_worker import DerivativeWorker
from batchgen.engine.cluster.queue import Requeue
from batchgen.engine.cluster.session import RETRY_DELAY_S, JobSession, WorkerContext
from batchgen.engine.derivative_runner import default_workers
from batchgen.errors import BatchgenError, LedgerError, LedgerUnreachable
from batchgen.events import Notice
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.quota_store import open_quota_store
from batchgen.ledger.server_wait import wait_until_reachable
from batchgen.ledger.work_queue import load_submission
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.settings import Settings, state_folder

POLL_S = 1.0
CLOSE_IDLE_AFTER_S = 60.0  # after which a job's connections are closed
RESTART_DELAY_S = 2.0  # before a lane's fetching is begun again after the server was away
DEFAULT_CONCURRENCY = 5


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
        self._sessions: dict[tuple[str, int], JobSession] = {}
        self._opening: dict[tuple[str, int], asyncio.Task[JobSession | None]] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._noted_s: dict[str, float] = {}
        self._derivative_worker = DerivativeWorker(
            url, options.name, options.post_processes, state_folder(settings), self._note_throttled
        )

    def stop(self) -> None:
        """Once: give back what is not on its way, and finish what is. Twice: give that up too."""
        if not self._stop.is_set():
            self._stop.set()
            return
        for session in self._sessions.values():
            session.abandon_in_flight()
        self._derivative_worker.abandon_in_flight()

    async def wait_for_server(self) -> bool:
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
        while await self.wait_for_server():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    await self._join(stack)
                    await self._poll_until_stopped()
                return
            except LedgerUnreachable as error:  # it came, and was away again before this worker had joined
                self._note_throttled(str(error))

    async def _join(self, stack: contextlib.AsyncExitStack) -> None:
        """stack: what is opened here is closed with it, and leaves the queue again. Raises LedgerUnreachable, LedgerError, UsageError."""
        name = self._options.name
        self._server = await asyncio.to_thread(PostgreSQL, self._url, SHARED_SCHEMA, f"batchgen worker {name}")
        stack.callback(self._server.close)
        await asyncio.to_thread(queue.migrate, self._server)
        self._shared = open_quota_store(self._url, self._note)
        stack.callback(self._shared.close)
        self._app = queue.open_app(self._url, self._shared.clock, self._on_sample, self._on_picture)
        stack.push_async_callback(asyncio.to_thread, self._unregister_worker)
        self._run_in_background(stack, self._heartbeat())
        try:
            await stack.enter_async_context(self._app.open_async())
        except queue.import_procrastinate().exceptions.ConnectorException as error:
            raise LedgerUnreachable(f"the queue cannot be opened: {' '.join(str(error).split())}") from error
        self._run_in_background(stack, self._touch_health_file())
        stack.push_async_callback(self._shutdown)

    def _run_in_background(self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    # --- looking after

    async def _poll_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                await self._poll()
            except LedgerError as error:
                self._note_throttled(f"the queue cannot be asked: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), POLL_S)

    async def _poll(self) -> None:
        lanes, left = await asyncio.to_thread(self._query_queue)
        for lane in lanes:
            if (task := self._fetching.get(lane)) is None or task.done():
                self._fetching[lane] = asyncio.create_task(self._fetch_lane(lane))
        for key, session in list(self._sessions.items()):
            await session.poll()
            if session.idle and (session.closing or time.monotonic() - session.last_used_s > CLOSE_IDLE_AFTER_S):
                del self._sessions[key]
                await session.close()
        await self._derivative_worker.close_idle()
        await self._requeue_orphans()
        if self._options.until_empty and not left:
            self._stop.set()

    def _query_queue(self) -> tuple[list[str], bool]:
        """The lanes there are for this worker, and whether anything in them is left that may be made now or is being made."""
        other = "" if self._options.post_processes else queue.DERIVATIVES_QUEUE
        sql = f"SELECT lane FROM {SHARED_SCHEMA}.queue WHERE lane <> ? ORDER BY lane"
        lanes = [lane for (lane,) in self._server.execute(sql, (other,)).fetchall()]
        left = self._server.execute(
            f"SELECT 1 FROM {queue.SCHEMA}.procrastinate_jobs WHERE queue_name <> ? AND (status = 'doing' OR (status = 'todo'"
            " AND (scheduled_at IS NULL OR scheduled_at < clock_timestamp() + interval '10 minutes'))) LIMIT 1",
            (other,),
        ).fetchone()
        return lanes, left is not None

    async def _requeue_orphans(self) -> None:
        """What was taken by a worker that has fallen silent goes back into the queue; the ledger says what became of it."""
        numbers = await asyncio.to_thread(queue.orphaned_jobs, self._server, self._options.name, self._is_processing)
        requeued = 0
        for number in numbers:
            with contextlib.suppress(
                queue.import_procrastinate().exceptions.ProcrastinateException
            ):  # another was quicker
                await self._app.job_manager.retry_job_by_id_async(number, queue.LONG_AGO)
                requeued += 1
        if requeued:
            self._note_throttled(f"{requeued} piece(s) of work of a worker that fell silent are taken up again")

    def _is_processing(self, schema: str, run: int, key: str) -> bool:
        session = self._sessions.get((schema, run))
        return session is not None and session.is_processing(key)

    async def _fetch_lane(self, lane: str) -> None:
        slots = (
            2 * (self._options.concurrency or DEFAULT_CONCURRENCY) + 4
        )  # more than are in flight: some wait for their quota
        if lane == queue.DERIVATIVES_QUEUE:
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

    def _unregister_worker(self) -> None:
        with contextlib.suppress(LedgerError):
            self._server.execute(f"DELETE FROM {SHARED_SCHEMA}.worker WHERE name = ?", (self._options.name,))

    async def _touch_health_file(self) -> None:
        """From the loop that does the work, and also while the server is away: what is in flight may have been paid for."""
        while self._options.health_file is not None:
            with contextlib.suppress(OSError):
                os.close(os.open(self._options.health_file, os.O_WRONLY | os.O_CREAT, 0o644))
                os.utime(self._options.health_file)
            await asyncio.sleep(POLL_S)

    # --- samples

    async def _on_sample(self, schema: str, run: int, key: str) -> None:
        await self._requeue_on_error(key, lambda: self._process(schema, run, key))

    async def _process(self, schema: str, run: int, key: str) -> None:
        session = await self._get_session(schema, run)
        if session is not None:
            await session.process_sample(key)

    async def _on_picture(self, schema: str, run: int, item: str, n: int) -> None:
        await self._requeue_on_error(
            f"derivatives of {item}", lambda: self._derivative_worker.process_picture(schema, run, item, n)
        )

    async def _requeue_on_error(self, key: str, process: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong here, the work is not lost: it goes back into the queue."""
        if self._stop.is_set():
            raise Requeue(time.time() + 1.0)
        try:
            await process()
        except Requeue:
            raise
        except BatchgenError as error:
            self._note_throttled(f"{key}: {error}")
            raise Requeue(time.time() + RETRY_DELAY_S) from None
        except Exception as error:  # a bug of ours
            self._note_throttled(f"{key}: {type(error).__name__}: {error}")
            raise Requeue(time.time() + RETRY_DELAY_S) from error

    async def _get_session(self, schema: str, run: int) -> JobSession | None:
        session_key = (schema, run)
        if (session := self._sessions.get(session_key)) is not None and session.closing and session.idle:
            del self._sessions[session_key]
            await session.close()
        if session_key not in self._sessions:
            if session_key not in self._opening:
                self._opening[session_key] = asyncio.create_task(self._open_session(schema, run))
            try:
                opened = await asyncio.shield(self._opening[session_key])
            finally:
                self._opening.pop(session_key, None)
            if opened is None:
                return None
            self._sessions.setdefault(session_key, opened)
        return self._sessions[session_key]

    async def _open_session(self, schema: str, run: int) -> JobSession | None:
        def ask() -> Any:
            database = PostgreSQL(self._url, schema, "batchgen worker asks")
            try:
                return load_submission(database, run)
            finally:
                database.close()

        found = await asyncio.to_thread(ask)
        if found is None:
            return None
        emit = partial(self._emit, job=found.name, run=run)

        def note(message: str) -> None:
            emit(Notice(at=time.time(), message=message))

        context = WorkerContext(self._url, self._options.name, self._options.concurrency, self._settings, note, emit)
        session = await asyncio.to_thread(JobSession, context, schema, run, found)
        try:
            await session.start(self._shared)
        except BaseException:
            await session.close()
            raise
        return session

    # --- the end

    async def _shutdown(self) -> None:
        for session in self._sessions.values():
            session.stop(StopReason(StopKind.SIGNAL, "SIGTERM"))
        for task in self._fetching.values():
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        await self._derivative_worker.close()

    def _note(self, message: str) -> None:
        self._emit(Notice(at=time.time(), message=message))

    def _note_throttled(self, message: str) -> None:
        """Once a minute at most for the same words."""
        if time.monotonic() - self._noted_s.get(message, -60.0) >= 60.0:
            self._noted_s[message] = time.monotonic()
            self._note(message)
