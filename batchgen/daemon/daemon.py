"""The daemon: waits for the nights of its roster, runs each as a process of its own, and writes down how it ended.

APScheduler does the waiting. Its own memory of jobs is not used: it would need SQLAlchemy, and knows neither of a run
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

from batchgen.daemon.child import Child, reap_orphans
from batchgen.daemon.scheduled_jobs import Roster, Scheduled
from batchgen.errors import BatchgenError, UsageError
from batchgen.events import Event, NightBegan, NightEnded, NightPlanned, NightSkipped
from batchgen.os_errors import refusal
from batchgen.report.figures import count, utc_iso
from batchgen.schedule.due import PERSON, Due, Night, Skipped, Wait
from batchgen.schedule.timetable import LATER_CODES

MISSING = "the daemon needs the library APScheduler: pip install 'batchgen[daemon]'; --once and --list do without"
LOOK_EVERY_S = 60
GIVE_UP_S = 10.0  # after the second signal, until a run that does not leave is killed
BY_SIGNAL = 128
PARTLY = (3, 4)
MEANINGS = {
    0: "all images exist",
    1: "a bug in batchgen",
    2: "the manifest or its options are wrong: nothing was sent",
    3: "some items failed or were refused, or a file of `post:` could not be made",
    4: "all that was tried failed",
    PERSON: "A PERSON IS NEEDED: key, billing, disk or settings",
    6: "stopped by budget, goes on later",
    7: "stopped by deadline, goes on later",
    8: "stopped by a daily quota, goes on later",
    9: "batches are out, looked at again soon",
    11: "another run holds the job, tried again soon",
}
_logger = logging.getLogger("batchgen.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """places: how many nights at once. command: how a night of a job is run, and in which environment."""

    command: Callable[[Scheduled, Due], tuple[list[str], Mapping[str, str]]]
    emit: Callable[[Event], None]
    hear: Callable[[Scheduled, str], None]
    places: int
    grace_s: float
    health_file: Path | None = None
    now: Callable[[], float] = time.time


class Watch:
    """One for each daemon, within one event loop."""

    def __init__(self, roster: Roster, orders: Orders) -> None:
        self._roster = roster
        self._orders = orders
        self._now = orders.now
        self._places = asyncio.Semaphore(orders.places)
        self._stopping = asyncio.Event()
        self._signal = 0
        self._children: set[Child] = set()
        self._turns: set[asyncio.Task[Any]] = set()
        self._starting = 0
        self._codes: list[int] = []
        self._scheduler: Any = None

    async def run(self) -> int:
        """Until a signal. Answers the exit code. Raises UsageError without APScheduler, StoreError."""
        self._begin()
        self._scheduler = _scheduler()
        self._scheduler.add_job(
            self._look, "interval", seconds=LOOK_EVERY_S, id="look", next_run_time=datetime.now(UTC),
            max_instances=1, coalesce=True, misfire_grace_time=None,
        )  # fmt: skip
        self._scheduler.start()
        await self._stopping.wait()
        self._scheduler.pause()
        await self._end()
        self._scheduler.shutdown(wait=False)
        return 0 if self._signal == signal.SIGTERM else BY_SIGNAL + self._signal

    async def run_once(self) -> int:
        """What is due now, and then leave. Answers the worst exit code; one that means "later" only when none is worse."""
        self._begin()
        turns = [asyncio.create_task(self._turn(job)) for job in self._roster.jobs.values()]
        stopping = asyncio.create_task(self._stopping.wait())
        while turns and not self._stopping.is_set():
            await asyncio.wait([stopping, *turns], return_when=asyncio.FIRST_COMPLETED)
            turns = [turn for turn in turns if not turn.done()]
        await self._end()
        stopping.cancel()
        if self._signal:
            return BY_SIGNAL + self._signal
        failed = [code for code in self._codes if code not in LATER_CODES]
        return max(failed, default=0) or max(self._codes, default=0)

    def _begin(self) -> None:
        self._mind_signals()
        self._roster.reread(self._now())
        if not self._roster.jobs:
            _logger.warning("no manifest has `schedule:` in its head yet")

    # --- what is due

    async def _look(self) -> None:
        """Every minute, so that neither an edited manifest nor a clock that jumps is overlooked for longer."""
        if not self._starting:
            reap_orphans({child.pid for child in self._children})
        try:
            self._roster.reread(self._now())
        except BatchgenError as error:
            _logger.error("%s", error)
        for job in self._roster.jobs.values():
            if not job.running:
                self._wait_for(job, Wait(self._now()))
        if self._orders.health_file is not None:
            with suppress(OSError):
                self._orders.health_file.touch()

    def _wait_for(self, job: Scheduled, wait: Wait) -> None:
        at = datetime.now(UTC) + timedelta(seconds=max(0.0, wait.until - self._now()))
        self._scheduler.add_job(
            self._turn, "date", run_date=at, args=[job], id=str(job.path),
            max_instances=1, coalesce=True, misfire_grace_time=None, replace_existing=True,
        )  # fmt: skip

    async def _turn(self, job: Scheduled) -> None:
        """Run the night of a job if one is due, then wait for the next. Never raises: the daemon outlives its jobs."""
        task = asyncio.current_task()
        if self._stopping.is_set() or task is None:
            return
        job.running = True
        self._turns.add(task)
        try:
            verdict = self._verdict(job)
            if isinstance(verdict, Due):
                async with self._places:
                    if not self._stopping.is_set() and self._roster.jobs.get(job.path) is job:
                        await self._night(job, verdict)
                verdict = self._verdict(job)
            if isinstance(verdict, Wait):
                self._plan(job, verdict)
        except Exception as error:
            log_failure(job.name, error, "the other jobs go on")
        finally:
            job.running = False
            self._turns.discard(task)
            if job.path not in self._roster.jobs and job.diary is not None:
                job.diary.release()

    def _verdict(self, job: Scheduled) -> Due | Wait:
        verdict = job.decide(self._now())
        if not isinstance(verdict, Skipped):
            return verdict
        self._orders.emit(NightSkipped(at=self._now(), job=job.name, manifest=str(job.path), due=utc_iso(verdict.at)))
        job.note(since=verdict.at)
        return self._verdict(job)

    def _plan(self, job: Scheduled, wait: Wait) -> None:
        if self._scheduler is None or self._stopping.is_set() or self._roster.jobs.get(job.path) is not job:
            return
        if job.planned != wait.until:
            job.planned, due = wait.until, utc_iso(wait.until)
            self._orders.emit(NightPlanned(at=self._now(), job=job.name, manifest=str(job.path), due=due))
        self._wait_for(job, wait)

    # --- one night

    async def _night(self, job: Scheduled, due: Due) -> None:
        began, facts = self._now(), {"job": job.name, "manifest": str(job.path)}
        night = Night(at=due.at, began=began)
        job.note(last=night)  # before it begins: a daemon that dies from here on knows what to take up again
        self._orders.emit(NightBegan(at=began, due=utc_iso(due.at), why=due.why, **facts))
        code = await self._child(job, due)
        ended = self._now()
        stopped = self._stopping.is_set() and code >= BY_SIGNAL
        self._codes.append(code)
        try:
            job.note(last=replace(night, ended=ended, exit_code=code, stopped=stopped))
        finally:
            again, meaning = self._again(job, ended), MEANINGS.get(code, "stopped by a signal")
            self._orders.emit(
                NightEnded(
                    at=ended, exit_code=code, seconds=round(ended - began, 1), meaning=meaning, again=again, **facts
                )
            )
            if code and code not in LATER_CODES and not stopped:
                level = logging.WARNING if code in PARTLY else logging.ERROR
                _logger.log(level, "%s: exit code %s: %s; runs next at %s", job.name, code, meaning, again)

    async def _child(self, job: Scheduled, due: Due) -> int:
        argv, environ = self._orders.command(job, due)
        self._starting += 1
        try:
            child = await Child.start(argv, environ)
            self._children.add(child)
        finally:
            self._starting -= 1
        if self._stopping.is_set():
            child.tell(signal.SIGTERM)
        try:
            return await child.wait(lambda line: self._orders.hear(job, line))
        finally:
            self._children.discard(child)

    def _again(self, job: Scheduled, now: float) -> str | None:
        if self._stopping.is_set():
            return None
        verdict = job.decide(now)
        return utc_iso(verdict.until if isinstance(verdict, Wait) else now)

    # --- the end

    def _mind_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name, act in (("SIGTERM", self._stop), ("SIGINT", self._stop), ("SIGHUP", self._reread)):
            number = getattr(signal, name, None)
            if number is None:
                continue
            if sys.platform == "win32":
                signal.signal(number, lambda got, _, act=act: loop.call_soon_threadsafe(act, got))
            else:
                loop.add_signal_handler(number, act, number)

    def _reread(self, number: int) -> None:
        if self._scheduler is not None and not self._stopping.is_set():
            self._scheduler.modify_job("look", next_run_time=datetime.now(UTC))

    def _stop(self, number: int) -> None:
        """What is in flight was paid for: the first signal lets the runs finish it, a second one is passed on as well."""
        if not self._stopping.is_set():
            self._signal = number
            _logger.warning(
                "told to stop: %s under way, to finish what is in flight", count(len(self._children), "night")
            )
        self._stopping.set()
        self._tell_all(signal.SIGTERM)

    def _tell_all(self, number: int) -> None:
        for child in self._children:
            child.tell(number)

    async def _end(self) -> None:
        """Wait for the nights; who takes longer than the grace is told to give up, and then killed."""
        steps = ((self._orders.grace_s, signal.SIGTERM), (GIVE_UP_S, getattr(signal, "SIGKILL", signal.SIGTERM)))
        for wait_s, number in steps:
            if self._turns:
                await asyncio.wait(self._turns, timeout=wait_s)
            if self._children:
                late = count(len(self._children), "night")
                _logger.warning("%s still under way: %s", late, signal.Signals(number).name)
                self._tell_all(number)
        if self._turns:
            await asyncio.wait(self._turns)


def log_failure(name: str, error: Exception, rest: str) -> None:
    """One job's trouble, which is not the others'. rest: what goes on."""
    if isinstance(error, (BatchgenError, OSError)) or refusal(error):
        _logger.error("%s: %s", name, refusal(error) or error)
    else:
        _logger.error("%s: a bug in batchgen; %s", name, rest, exc_info=error)


def _scheduler() -> Any:
    try:
        from apscheduler.schedulers.asyncio import AsyncIOScheduler  # large, so imported only when it is needed
    except ImportError:
        raise UsageError(MISSING) from None
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # what there is to say is said here
    return AsyncIOScheduler(timezone=UTC)
