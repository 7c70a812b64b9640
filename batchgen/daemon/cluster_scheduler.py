"""The nights of a worker: waits for those of its manifests with all the other workers, and submits the ones that it gets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.daemon.child import ChildProcess
from batchgen.daemon.daemon import EXIT_CODE_MEANINGS, EXIT_SIGNAL_BASE, KILL_AFTER_S, RELOAD_EVERY_S, log_failure
from batchgen.daemon.schedule_leases import EXIT_SIGKILL, Lease, ScheduleLeases
from batchgen.daemon.schedule_state import ScheduleState
from batchgen.daemon.scheduled_jobs import ScheduledJob, ScheduledJobs, timing_json
from batchgen.engine.cluster.queue import STALE_S
from batchgen.errors import BatchgenError, LedgerError
from batchgen.events import (
    Event,
    ScheduledRunEnded,
    ScheduledRunOutput,
    ScheduledRunPlanned,
    ScheduledRunSkipped,
    ScheduledRunStarted,
)
from batchgen.manifest import Manifest
from batchgen.manifest.schedule_section import Schedule
from batchgen.report.formatting import utc_iso
from batchgen.schedule.due import EXIT_SUBMITTED, DueRun, SkippedRun, WaitUntil

RENEW_EVERY_S = STALE_S / 6
MEANING_SUBMITTED = "submitted: the workers make it"
_logger = logging.getLogger("batchgen.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSchedulerOptions:
    """command: how a night of a job is submitted, and in which environment."""

    command: Callable[[ScheduledJob, DueRun], tuple[list[str], Mapping[str, str]]]
    emit: Callable[[Event], None]


class ClusterScheduledJobs(ScheduledJobs):
    """Its schedules count on the server, for all workers, in place of a state file on this host."""

    def __init__(self, patterns: Sequence[str], leases: ScheduleLeases) -> None:
        super().__init__(patterns, Path(), persistent=False)
        self.job_key: dict[Path, str] = {}
        self._leases = leases

    def _add_or_update(self, path: Path, manifest: Manifest, schedule: Schedule, now: float) -> bool:
        if schedule.engine in ("batch", "auto"):
            self.jobs.pop(path, None)
            words = "%s: schedule.engine: %s is not for workers, so it does not run here: `batchgen daemon` runs it"
            _logger.error(words, path, schedule.engine)
            return True
        job, times = (
            self._leases.job_key(Path(manifest.output), manifest.bucket or str(manifest.output)),
            timing_json(schedule),
        )
        self._leases.register(job, manifest.name, times)
        self.job_key[path] = job
        existing = self.jobs.get(path)
        if existing is None:
            self.jobs[path] = ScheduledJob(
                path, manifest.name, schedule, ScheduleState(schedule=times, since=now), None
            )
        else:
            existing.name, existing.schedule = manifest.name, schedule
        return True


@dataclass
class ClusterScheduler:
    """Use `run` beside the worker, `stop` once or more often."""

    scheduled_jobs: ClusterScheduledJobs
    leases: ScheduleLeases
    options: ClusterSchedulerOptions
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _children: set[ChildProcess] = field(default_factory=set)
    _run_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _overruled: set[Path] = field(default_factory=set)

    async def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.is_set():
            wait_s = RENEW_EVERY_S
            try:
                wait_s = await self._start_due()
            except BatchgenError as error:
                _logger.error("the nights cannot be looked after: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
        if self._run_tasks:
            await asyncio.wait(self._run_tasks, timeout=KILL_AFTER_S)
        self._signal_children(getattr(signal, "SIGKILL", signal.SIGTERM))
        await asyncio.gather(*self._run_tasks)

    def stop(self) -> None:
        """A submission that is under way is finished or given up whole; the next worker takes the night up."""
        self._stopping.set()
        self._wake.set()
        self._signal_children(signal.SIGTERM)

    def _signal_children(self, number: int) -> None:
        for child in self._children:
            child.send_signal(number)

    async def _start_due(self) -> float:
        """Begin what is due. Answers seconds until there is something to do."""
        await asyncio.to_thread(self.scheduled_jobs.reload, time.time())
        waits = [float(RELOAD_EVERY_S)]
        for job in list(self.scheduled_jobs.jobs.values()):
            if job.running:
                continue
            job_key, times = self.scheduled_jobs.job_key[job.path], timing_json(job.schedule)
            decision, now = await asyncio.to_thread(self.leases.claim, job_key, times, job.policy)
            self._warn_if_overruled(job.path, decision is None)
            match decision:
                case Lease():
                    job.running = True
                    task = asyncio.create_task(self._run_scheduled(job, decision))
                    self._run_tasks.add(task)
                    task.add_done_callback(self._run_tasks.discard)
                case SkippedRun():
                    self._emit_job_event(ScheduledRunSkipped, job, decision.at)
                    waits.append(0.0)
                case WaitUntil():
                    waits.append(max(0.0, decision.until - now))
                    next_at = job.schedule.cadence.after(now)
                    if job.next_run_at != next_at:
                        job.next_run_at = next_at
                        self._emit_job_event(ScheduledRunPlanned, job, next_at)
        return min(waits)

    def _emit_job_event(
        self, kind: type[ScheduledRunSkipped | ScheduledRunPlanned], job: ScheduledJob, at: float
    ) -> None:
        self.options.emit(kind(at=time.time(), job=job.name, manifest=str(job.path), due=utc_iso(at)))

    def _warn_if_overruled(self, path: Path, overruled: bool) -> None:
        if overruled and path not in self._overruled:
            _logger.warning("%s: a worker has read another schedule for this job later, and that one counts", path)
            self._overruled.add(path)
        elif not overruled:
            self._overruled.discard(path)

    # --- one night

    async def _run_scheduled(self, job: ScheduledJob, lease: Lease) -> None:
        """Never raises: the worker outlives its nights."""
        began, facts = time.time(), {"job": job.name, "manifest": str(job.path)}
        self.options.emit(ScheduledRunStarted(at=began, due=utc_iso(lease.due.at), why=lease.due.why, **facts))
        try:
            code = await self._run_submitter(job, lease)
            stopped = self._stopping.is_set() and code >= EXIT_SIGNAL_BASE
            if code != EXIT_SIGKILL:  # nobody has told it to: whoever notices the silence takes the night up
                await asyncio.to_thread(self.leases.finish, lease, code, stopped=stopped)
            meaning = (
                MEANING_SUBMITTED if code == EXIT_SUBMITTED else EXIT_CODE_MEANINGS.get(code, "stopped by a signal")
            )
            again = utc_iso(job.schedule.cadence.after(time.time()))
            seconds = round(time.time() - began, 1)
            self.options.emit(
                ScheduledRunEnded(
                    at=time.time(), exit_code=code, seconds=seconds, meaning=meaning, again=again, **facts
                )
            )
        except Exception as error:
            log_failure(job.name, error, "the worker goes on")
        finally:
            job.running = False
            self._wake.set()

    async def _run_submitter(self, job: ScheduledJob, lease: Lease) -> int:
        argv, environ = self.options.command(job, lease.due)
        child = await ChildProcess.start(argv, environ)
        self._children.add(child)
        renewal = asyncio.create_task(self._keep_lease(lease, child))
        if self._stopping.is_set():
            child.send_signal(signal.SIGTERM)
        try:
            return await child.wait(lambda line: self._emit_line(job.name, line))
        finally:
            self._children.discard(child)
            renewal.cancel()

    async def _keep_lease(self, lease: Lease, child: ChildProcess) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            with contextlib.suppress(LedgerError):
                if not await asyncio.to_thread(self.leases.renew, lease):
                    child.send_signal(signal.SIGTERM)  # this worker was silent for long, and another has the night

    def _emit_line(self, name: str, line: str) -> None:
        if line.strip():
            self.options.emit(ScheduledRunOutput(at=time.time(), job=name, message=line))
