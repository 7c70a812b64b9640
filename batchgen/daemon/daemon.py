"""The daemon: waits until its jobs are due, runs each as a process of its own, and records how it ended.

APScheduler does the waiting. Its own store of jobs is not used: it would need SQLAlchemy, and knows neither of a run
that was killed half way nor of exit codes that mean "later".
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchgen.daemon.child import ChildProcess, reap_orphans
from batchgen.daemon.scheduled_jobs import ScheduledJob, ScheduledJobs
from batchgen.errors import BatchgenError, UsageError
from batchgen.events import Event, ScheduledRunEnded, ScheduledRunPlanned, ScheduledRunSkipped, ScheduledRunStarted
from batchgen.os_errors import machine_refusal
from batchgen.report.formatting import count, utc_iso
from batchgen.schedule.due import EXIT_PERSON_NEEDED, DueRun, ScheduledRun, SkippedRun, WaitUntil
from batchgen.schedule.timer_spec import RESUMABLE_EXIT_CODES

NO_APSCHEDULER = (
    "the daemon needs the library APScheduler: pip install 'batchgen[daemon]'; --once and --list do without"
)
RELOAD_EVERY_S = 60
KILL_AFTER_S = 10.0  # after the second signal, before a run that does not leave is killed
EXIT_SIGNAL_BASE = 128
PARTIAL_EXIT_CODES = (3, 4)
ONE_AT_A_TIME = {"max_instances": 1, "coalesce": True, "misfire_grace_time": None}  # for APScheduler
EXIT_CODE_MEANINGS = {
    0: "all images exist",
    1: "a bug in batchgen",
    2: "the manifest or its options are wrong: nothing was sent",
    3: "some items failed or were refused, or a file of `post:` could not be made",
    4: "all that was tried failed",
    EXIT_PERSON_NEEDED: "A PERSON IS NEEDED: key, billing, disk or settings",
    6: "stopped by budget, goes on later",
    7: "stopped by deadline, goes on later",
    8: "stopped by a daily quota, goes on later",
    9: "work is out (batches, the cluster's workers), looked at again soon",
    11: "another run holds the job, tried again soon",
}
_logger = logging.getLogger("batchgen.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """max_runs: how many runs at once. command: how a job is run, and in which environment."""

    command: Callable[[ScheduledJob, DueRun], tuple[list[str], Mapping[str, str]]]
    emit: Callable[[Event], None]
    on_line: Callable[[ScheduledJob, str], None]
    max_runs: int
    grace_s: float
    health_file: Path | None = None
    now: Callable[[], float] = time.time


class Daemon:
    """A daemon, within one event loop."""

    def __init__(self, scheduled_jobs: ScheduledJobs, options: DaemonOptions) -> None:
        self._scheduled_jobs = scheduled_jobs
        self._options = options
        self._now = options.now
        self._run_slots = asyncio.Semaphore(options.max_runs)
        self._stopping = asyncio.Event()
        self._stop_signal = 0
        self._children: set[ChildProcess] = set()
        self._job_tasks: set[asyncio.Task[Any]] = set()
        self._children_starting = 0
        self._exit_codes: list[int] = []
        self._scheduler: Any = None

    async def run(self) -> int:
        """Run until a signal. Returns the exit code. Raises UsageError without APScheduler, StoreError."""
        self._start()
        self._scheduler = _scheduler()
        now = datetime.now(UTC)
        self._scheduler.add_job(
            self._reload_and_plan, "interval", seconds=RELOAD_EVERY_S, id="look", next_run_time=now, **ONE_AT_A_TIME
        )
        self._scheduler.start()
        await self._stopping.wait()
        self._scheduler.pause()
        await self._drain()
        self._scheduler.shutdown(wait=False)
        return 0 if self._stop_signal == signal.SIGTERM else EXIT_SIGNAL_BASE + self._stop_signal

    async def run_once(self) -> int:
        """Run what is due now, then leave. Returns the worst exit code; one that means "later" only if none is
        worse."""
        self._start()
        tasks = [asyncio.create_task(self._run_if_due(job)) for job in self._scheduled_jobs.jobs.values()]
        stopping = asyncio.create_task(self._stopping.wait())
        while tasks and not self._stopping.is_set():
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            tasks = [task for task in tasks if not task.done()]
        await self._drain()
        stopping.cancel()
        if self._stop_signal:
            return EXIT_SIGNAL_BASE + self._stop_signal
        failed = [code for code in self._exit_codes if code not in RESUMABLE_EXIT_CODES]
        return max(failed, default=0) or max(self._exit_codes, default=0)

    def _start(self) -> None:
        self._install_signal_handlers()
        self._scheduled_jobs.reload(self._now())
        if not self._scheduled_jobs.jobs:
            _logger.warning("no manifest has `schedule:` in its head yet")

    # --- what is due

    async def _reload_and_plan(self) -> None:
        """Look every minute, so that an edited manifest or a clock that jumps is noticed within that time."""
        if not self._children_starting:
            reap_orphans({child.pid for child in self._children})
        try:
            self._scheduled_jobs.reload(self._now())
        except BatchgenError as error:
            _logger.error("%s", error)
        for job in self._scheduled_jobs.jobs.values():
            if not job.running:
                self._schedule_check(job, WaitUntil(self._now()))
        if self._options.health_file is not None:
            with suppress(OSError):
                self._options.health_file.touch()

    def _schedule_check(self, job: ScheduledJob, wait: WaitUntil) -> None:
        at = datetime.now(UTC) + timedelta(seconds=max(0.0, wait.until - self._now()))
        what = {"args": [job], "id": str(job.path), "replace_existing": True}
        self._scheduler.add_job(self._run_if_due, "date", run_date=at, **what, **ONE_AT_A_TIME)

    async def _run_if_due(self, job: ScheduledJob) -> None:
        """Run a job if it is due, then wait for the next time. Never raises: the daemon outlives its jobs."""
        task = asyncio.current_task()
        if self._stopping.is_set() or task is None:
            return
        job.running = True
        self._job_tasks.add(task)
        try:
            decision = self._decide(job)
            if isinstance(decision, DueRun):
                async with self._run_slots:
                    if not self._stopping.is_set() and self._scheduled_jobs.jobs.get(job.path) is job:
                        await self._run_scheduled(job, decision)
                decision = self._decide(job)
            if isinstance(decision, WaitUntil):
                self._announce_next(job, decision)
        except Exception as error:
            _log_failure(job.name, error)
        finally:
            job.running = False
            self._job_tasks.discard(task)
            if job.path not in self._scheduled_jobs.jobs and job.state_file is not None:
                job.state_file.release()

    def _decide(self, job: ScheduledJob) -> DueRun | WaitUntil:
        decision = job.decide(self._now())
        if not isinstance(decision, SkippedRun):
            return decision
        self._options.emit(
            ScheduledRunSkipped(at=self._now(), job=job.name, manifest=str(job.path), due=utc_iso(decision.at))
        )
        job.update_state(since=decision.at)
        return self._decide(job)

    def _announce_next(self, job: ScheduledJob, wait: WaitUntil) -> None:
        if self._scheduler is None or self._stopping.is_set() or self._scheduled_jobs.jobs.get(job.path) is not job:
            return
        if job.next_run_at != wait.until:
            job.next_run_at, due = wait.until, utc_iso(wait.until)
            self._options.emit(ScheduledRunPlanned(at=self._now(), job=job.name, manifest=str(job.path), due=due))
        self._schedule_check(job, wait)

    # --- one run

    async def _run_scheduled(self, job: ScheduledJob, due: DueRun) -> None:
        began, facts = self._now(), {"job": job.name, "manifest": str(job.path)}
        run = ScheduledRun(at=due.at, began=began)
        job.update_state(last=run)  # before it begins: a daemon that dies from here on knows what to resume
        self._options.emit(ScheduledRunStarted(at=began, due=utc_iso(due.at), why=due.why, **facts))
        code = await self._run_child(job, due)
        ended = self._now()
        stopped = self._stopping.is_set() and code >= EXIT_SIGNAL_BASE
        self._exit_codes.append(code)
        try:
            job.update_state(last=replace(run, ended=ended, exit_code=code, stopped=stopped))
        finally:
            again, meaning = self._next_run_iso(job, ended), EXIT_CODE_MEANINGS.get(code, "stopped by a signal")
            self._options.emit(
                ScheduledRunEnded(
                    at=ended, exit_code=code, seconds=round(ended - began, 1), meaning=meaning, again=again, **facts
                )
            )
            if code and code not in RESUMABLE_EXIT_CODES and not stopped:
                level = logging.WARNING if code in PARTIAL_EXIT_CODES else logging.ERROR
                _logger.log(level, "%s: exit code %s: %s; runs next at %s", job.name, code, meaning, again)

    async def _run_child(self, job: ScheduledJob, due: DueRun) -> int:
        argv, environ = self._options.command(job, due)
        self._children_starting += 1
        try:
            child = await ChildProcess.start(argv, environ)
            self._children.add(child)
        finally:
            self._children_starting -= 1
        if self._stopping.is_set():
            child.send_signal(signal.SIGTERM)
        try:
            return await child.wait(lambda line: self._options.on_line(job, line))
        finally:
            self._children.discard(child)

    def _next_run_iso(self, job: ScheduledJob, now: float) -> str | None:
        if self._stopping.is_set():
            return None
        decision = job.decide(now)
        return utc_iso(decision.until if isinstance(decision, WaitUntil) else now)

    # --- the end

    def _install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for name, act in (
            ("SIGTERM", self._on_stop_signal),
            ("SIGINT", self._on_stop_signal),
            ("SIGHUP", self._reload_now),
        ):
            number = getattr(signal, name, None)
            if number is None:
                continue
            if sys.platform == "win32":
                signal.signal(number, lambda got, _, act=act: loop.call_soon_threadsafe(act, got))
            else:
                loop.add_signal_handler(number, act, number)

    def _reload_now(self, number: int) -> None:
        if self._scheduler is not None and not self._stopping.is_set():
            self._scheduler.modify_job("look", next_run_time=datetime.now(UTC))

    def _on_stop_signal(self, number: int) -> None:
        """Pass signals on: the first lets runs finish what is in flight, which is paid for; a second one is passed on
        as well."""
        if not self._stopping.is_set():
            self._stop_signal = number
            _logger.warning(
                "asked to stop: %s under way, which finish what is in flight", count(len(self._children), "night")
            )
        self._stopping.set()
        self._signal_children(signal.SIGTERM)

    def _signal_children(self, number: int) -> None:
        for child in self._children:
            child.send_signal(number)

    async def _drain(self) -> None:
        """Wait for the runs. One that takes longer than the grace period is told to give up, and then killed."""
        steps = ((self._options.grace_s, signal.SIGTERM), (KILL_AFTER_S, getattr(signal, "SIGKILL", signal.SIGTERM)))
        for wait_s, number in steps:
            if self._job_tasks:
                await asyncio.wait(self._job_tasks, timeout=wait_s)
            if self._children:
                late = count(len(self._children), "night")
                _logger.warning("%s still under way: %s", late, signal.Signals(number).name)
                self._signal_children(number)
        if self._job_tasks:
            await asyncio.wait(self._job_tasks)


def _log_failure(name: str, error: Exception) -> None:
    """Log a failure of one job, which does not affect the others."""
    if isinstance(error, (BatchgenError, OSError)) or machine_refusal(error):
        _logger.error("%s: %s", name, machine_refusal(error) or error)
    else:
        _logger.error("%s: a bug in batchgen; the other jobs go on", name, exc_info=error)


def _scheduler() -> Any:
    try:
        from apscheduler.schedulers.asyncio import AsyncIOScheduler  # large, so imported only when needed
    except ImportError:
        raise UsageError(NO_APSCHEDULER) from None
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # its messages are logged here
    return AsyncIOScheduler(timezone=UTC)
