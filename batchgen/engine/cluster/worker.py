"""`batchgen worker`: takes samples and derivatives of all jobs from a server's queue and makes them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from batchgen.engine.cluster import heartbeat, queue
from batchgen.engine.cluster.derivative_session import DerivativeSession, RenderPool, default_workers
from batchgen.engine.cluster.heartbeat import Member, Pulse
from batchgen.engine.cluster.sample_session import open_sample_session
from batchgen.engine.cluster.session import RETRY_DELAY_S, Session, Work, WorkerContext
from batchgen.engine.cluster.submission_end import EndedSubmission, SubmissionEnds
from batchgen.errors import BatchgenError, LedgerError, LedgerUnreachable
from batchgen.events import Notice
from batchgen.ledger import lease
from batchgen.ledger.quota_store import QuotaStore, open_quota_store
from batchgen.ledger.server_access import wait_until_reachable
from batchgen.ledger.work_queue import DERIVATIVES_LANE, Submission, is_of_derivatives, load_submission
from batchgen.ledger.worker_ledger import WorkerConnections
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.settings import Settings

ENDING_LOOK_S = 2.0  # between looks for submissions that have ended
POLL_S = 1.0  # between looks for work, without notifications
GATHER_S = 0.05  # between looks, however many notifications come
TIDY_EVERY_S = 60.0
CLOSE_IDLE_AFTER_S = 60.0  # then a job's session is closed
DEFAULT_CONCURRENCY = 5
SessionKey = tuple[str, int, bool]  # a job's schema, its run, and whether it is for derivatives


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """concurrency: the most requests in flight for one job, None for what its manifest says. until_empty: leave when
    the queue has nothing more. health_file: touched from joining the queue until leaving it. post_processes: for
    derivatives; with 0 it makes none."""

    concurrency: int | None = None
    until_empty: bool = False
    health_file: str | None = None
    post_processes: int = field(default_factory=default_workers)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}")


@dataclass(frozen=True, slots=True)
class JoinedQueue:
    """What a worker has from its server while it is in the queue."""

    connections: WorkerConnections
    shared: QuotaStore
    member: Member
    ends: SubmissionEnds


class Worker:
    """The worker process. It claims as many samples of each lane as it has room for, so that no AI model waits for
    another's quota."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        options: WorkerOptions,
        emit: Callable[..., None],
        send_message: Callable[[EndedSubmission], None] = lambda ended: None,
    ) -> None:
        """emit: called with an event, and with `job` and `run` if the event belongs to one. send_message: see
        SubmissionEnds."""
        self._url = url
        self._settings = settings
        self._options = options
        self._emit = emit
        self._send_message = send_message
        self._sessions: dict[SessionKey, Session[Any]] = {}
        self._opening: dict[SessionKey, asyncio.Task[None]] = {}
        self._not_before_s: dict[SessionKey, float] = {}  # by session that could not be opened
        self._tasks: dict[asyncio.Task[None], str] = {}  # with the lane whose room each uses
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()  # there may be work, or room for it
        self._noted_s: dict[str, float] = {}
        self._render_pool = RenderPool(options.post_processes)
        self._joined: JoinedQueue | None = None
        self.pulse = Pulse()

    async def queue_depths(self) -> tuple[int, list[lease.QueueDepth]]:
        """The number of living workers and the depth of the queue, of the whole server. Raises LedgerError, also before
        this worker has joined."""
        if self._joined is None or self.pulse.problem:
            raise LedgerError(self.pulse.state())
        server = self._joined.connections.reading
        alive = await asyncio.to_thread(lease.workers_alive, server, queue.STALE_S)
        return alive, await asyncio.to_thread(lease.queue_depths, server)

    def stop(self) -> None:
        """Called once, give back what is not in flight and finish what is. Called twice, give that up too."""
        if not self._stop.is_set():
            self._stop.set()
            self._wake.set()
            return
        for session in self._sessions.values():
            session.abandon_in_flight()
        self._render_pool.abandon()

    async def _wait_for_server(self) -> bool:
        """Wait for a server that is not up yet. Returns False if stopped meanwhile. Raises LedgerError, UsageError."""
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
        """Work until stopped, or until the queue is empty if that was requested. Raises LedgerError, UsageError."""
        while await self._wait_for_server():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    self._joined = await self._join(stack)
                    await self._work_until_stopped(self._joined)
                return
            except LedgerUnreachable as error:  # it went away again before this worker had joined
                self._note_throttled(str(error))

    async def _join(self, stack: contextlib.AsyncExitStack) -> JoinedQueue:
        """Join the queue. stack: closes what is opened here and leaves the queue again. Raises LedgerUnreachable,
        LedgerError, UsageError."""
        options = self._options
        await asyncio.to_thread(queue.migrate, self._url)
        server = await asyncio.to_thread(queue.open_server, self._url, f"batchgen worker {options.name}")
        stack.callback(server.close)
        wanted = Member(options.name, options.concurrency or DEFAULT_CONCURRENCY, options.post_processes)
        member = await asyncio.to_thread(heartbeat.register, server, wanted, self._note)
        stack.push_async_callback(asyncio.to_thread, heartbeat.unregister, server, member)
        reading = await asyncio.to_thread(queue.open_server, self._url, f"batchgen worker reads {options.name}")
        stack.callback(reading.close)
        shared = await asyncio.to_thread(open_quota_store, server, self._note)
        stack.callback(shared.close)
        self._run_in_background(stack, heartbeat.keep_alive(self._url, member, self._wake.set, self.pulse))
        self._run_in_background(stack, self._touch_health_file())
        connections = WorkerConnections(server, reading)
        context = WorkerContext(
            self._url, connections, member.name, None, self._settings, self._note_throttled, self._emit
        )
        joined = JoinedQueue(connections, shared, member, SubmissionEnds(context, self._send_message))
        left = asyncio.Event()
        ending = asyncio.create_task(self._end_submissions(joined, left))
        stack.push_async_callback(lambda: ending)  # not cancelled: its thread would go on
        stack.callback(left.set)
        stack.push_async_callback(self._shutdown)
        return joined

    def _run_in_background(self, stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    # --- housekeeping

    async def _work_until_stopped(self, joined: JoinedQueue) -> None:
        looked_s = tidied_s = -math.inf
        while not self._stop.is_set():
            self._wake.clear()
            try:
                await self._claim(joined)
                if time.monotonic() - looked_s >= POLL_S:
                    looked_s = time.monotonic()
                    await self._look_after(joined)
                if time.monotonic() - tidied_s >= TIDY_EVERY_S:
                    tidied_s = time.monotonic()
                    await asyncio.to_thread(joined.connections.writing.transact, [lease.forget_empty_lanes])
            except LedgerError as error:
                self._note_throttled(f"the queue cannot be asked: {error}")
            await asyncio.sleep(GATHER_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _look_after(self, joined: JoinedQueue) -> None:
        for key, session in list(self._sessions.items()):
            if not session.closing:
                await session.poll()
            if session.idle and (session.closing or time.monotonic() - session.last_used_s > CLOSE_IDLE_AFTER_S):
                del self._sessions[key]
                self._wake.set()
                await session.close()
        if self._options.until_empty and not await asyncio.to_thread(
            lease.has_work, joined.connections.reading, self._left_to_others()
        ):
            await asyncio.to_thread(joined.ends.look)
            if not joined.ends.pending:
                self._stop.set()

    async def _end_submissions(self, joined: JoinedQueue, left: asyncio.Event) -> None:
        while not left.is_set():
            try:
                await asyncio.to_thread(joined.ends.look)
            except LedgerError as error:
                self._note_throttled(str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(left.wait(), ENDING_LOOK_S)

    def _left_to_others(self) -> set[str]:
        return set() if self._options.post_processes else {DERIVATIVES_LANE}

    async def _touch_health_file(self) -> None:
        """Touch the health file from the loop that does the work, also while the server is away: what is in flight may
        be paid for."""
        while self._options.health_file is not None:
            with contextlib.suppress(OSError):
                os.close(os.open(self._options.health_file, os.O_WRONLY | os.O_CREAT, 0o644))
                os.utime(self._options.health_file)
            await asyncio.sleep(POLL_S)

    # --- work

    def _slots(self, lane: str) -> int:
        # More than are in flight: some wait for their quota.
        return self._options.post_processes if lane == DERIVATIVES_LANE else 2 * self._concurrency + 4

    @property
    def _concurrency(self) -> int:
        return self._options.concurrency or DEFAULT_CONCURRENCY

    def _room(self, lane: str) -> int:
        return self._slots(lane) - sum(taken == lane for taken in self._tasks.values())

    async def _claim(self, joined: JoinedQueue) -> None:
        keys: dict[str, set[str]] = {}
        for (job, _, _), busy in self._sessions.items():
            keys[job] = keys.get(job, set()) | busy.keys
        holder = lease.Holder(joined.member.name, (), queue.STALE_S)
        full = {lane for lane in {DERIVATIVES_LANE, *self._tasks.values()} if self._room(lane) <= 0}
        closed = [key for key, until_s in self._not_before_s.items() if time.monotonic() < until_s]
        waiting = await asyncio.to_thread(
            lease.next_work, joined.connections.reading, holder, keys, full | self._left_to_others(), closed
        )
        for schema, run, lane in waiting:
            session = self._session_of(joined, (schema, run, lane == DERIVATIVES_LANE))
            if session is None or (room := self._room(lane)) <= 0:
                continue
            for work in await session.claim(lane, room):
                task = asyncio.create_task(self._process(session, work))
                self._tasks[task] = lane
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        lane = self._tasks.pop(task)
        if self._room(lane) >= max(1, self._slots(lane) // 3):  # or each sample would be claimed by itself
            self._wake.set()

    async def _process(self, session: Session[Any], work: Work) -> None:
        try:
            await session.process(work)
        except Exception as error:
            of_derivatives = is_of_derivatives(work.key)
            self._note_error(f"derivatives of {work.key.partition('/')[2]}" if of_derivatives else work.key, error)

    def _session_of(self, joined: JoinedQueue, key: SessionKey) -> Session[Any] | None:
        """The session for some work, None while there is none that can make anything. One that is being opened wakes
        this worker."""
        session = self._sessions.get(key)
        if session is not None:
            return None if session.closing else session
        if key not in self._opening:
            self._opening[key] = asyncio.create_task(self._open(joined, key))
        return None

    async def _open(self, joined: JoinedQueue, key: SessionKey) -> None:
        name, _, _ = key
        try:
            facts = await asyncio.to_thread(load_submission, joined.connections.reader(name), key[1])
            if facts is not None:
                name = facts.name
                self._sessions[key] = await self._open_session(joined, key, facts)
        except Exception as error:
            self._note_error(name, error)
        if key not in self._sessions:
            self._not_before_s[key] = time.monotonic() + RETRY_DELAY_S
        del self._opening[key]
        self._wake.set()

    async def _open_session(self, joined: JoinedQueue, key: SessionKey, facts: Submission) -> Session[Any]:
        schema, run, of_derivatives = key
        emit = partial(self._emit, job=facts.name, run=run)

        def note(message: str) -> None:
            emit(Notice(at=time.time(), message=message))

        member, concurrency = joined.member.name, self._options.concurrency
        context = WorkerContext(self._url, joined.connections, member, concurrency, self._settings, note, emit)
        if of_derivatives:
            context = replace(context, note=self._note_throttled)  # it says the same about each image
            return await asyncio.to_thread(DerivativeSession, context, schema, run, facts, self._render_pool)
        return await open_sample_session(context, schema, run, facts, joined.shared)

    # --- the end

    async def _shutdown(self) -> None:
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        for session in self._sessions.values():
            session.stop(StopReason(StopKind.SIGNAL, "SIGTERM"))
        await asyncio.gather(*self._tasks)
        for session in self._sessions.values():
            await session.close()
        await self._render_pool.close()

    def _note(self, message: str) -> None:
        self._emit(Notice(at=time.time(), message=message))

    def _note_error(self, name: str, error: Exception) -> None:
        bug = "" if isinstance(error, BatchgenError) else f"{type(error).__name__}: "  # a bug in batchgen
        self._note_throttled(f"{name}: {bug}{error}")

    def _note_throttled(self, message: str) -> None:
        """Show the same message at most once a minute."""
        if time.monotonic() - self._noted_s.get(message, -60.0) >= 60.0:
            self._noted_s[message] = time.monotonic()
            self._note(message)
