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

from batchgen.daemon.child import Child
from batchgen.daemon.daemon import BY_SIGNAL, GIVE_UP_S, LOOK_EVERY_S, MEANINGS, log_failure
from batchgen.daemon.schedule_leases import KILLED, Rota, Turn
from batchgen.daemon.schedule_state import Entry
from batchgen.daemon.scheduled_jobs import Roster, Scheduled, times_of
from batchgen.engine.cluster.queue import STALE_S
from batchgen.errors import BatchgenError, LedgerError
from batchgen.events import Event, NightBegan, NightEnded, NightPlanned, NightSaid, NightSkipped
from batchgen.manifest import Manifest
from batchgen.manifest.schedule_section import Schedule
from batchgen.report.figures import utc_iso
from batchgen.schedule.due import SUBMITTED, Due, Skipped, Wait

BEAT_S = STALE_S / 6
IN_QUEUE = "submitted: the workers make it"
_logger = logging.getLogger("batchgen.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftOrders:
    """command: how a night of a job is submitted, and in which environment."""

    command: Callable[[Scheduled, Due], tuple[list[str], Mapping[str, str]]]
    emit: Callable[[Event], None]


class SharedRoster(Roster):
    """Its schedules count on the server, for all workers, in place of a diary on this host."""

    def __init__(self, patterns: Sequence[str], rota: Rota) -> None:
        super().__init__(patterns, Path(), writes=False)
        self.known: dict[Path, str] = {}
        self._rota = rota

    def _take(self, path: Path, manifest: Manifest, schedule: Schedule, now: float) -> bool:
        if schedule.engine in ("batch", "auto"):
            self.jobs.pop(path, None)
            words = "%s: schedule.engine: %s is not for workers, so it does not run here: `batchgen daemon` runs it"
            _logger.error(words, path, schedule.engine)
            return True
        job, times = (
            self._rota.known(Path(manifest.output), manifest.bucket or str(manifest.output)),
            times_of(schedule),
        )
        self._rota.declare(job, manifest.name, times)
        self.known[path] = job
        kept = self.jobs.get(path)
        if kept is None:
            self.jobs[path] = Scheduled(path, manifest.name, schedule, Entry(schedule=times, since=now), None)
        else:
            kept.name, kept.schedule = manifest.name, schedule
        return True


@dataclass
class Shift:
    """Use `run` beside the worker, `stop` once or more often."""

    roster: SharedRoster
    rota: Rota
    orders: ShiftOrders
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _children: set[Child] = field(default_factory=set)
    _nights: set[asyncio.Task[None]] = field(default_factory=set)
    _overruled: set[Path] = field(default_factory=set)

    async def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.is_set():
            wait_s = BEAT_S
            try:
                wait_s = await self._look()
            except BatchgenError as error:
                _logger.error("the nights cannot be looked after: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
        if self._nights:
            await asyncio.wait(self._nights, timeout=GIVE_UP_S)
        self._tell(getattr(signal, "SIGKILL", signal.SIGTERM))
        await asyncio.gather(*self._nights)

    def stop(self) -> None:
        """A submission that is under way is finished or given up whole; the next worker takes the night up."""
        self._stopping.set()
        self._wake.set()
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for child in self._children:
            child.tell(number)

    async def _look(self) -> float:
        """Begin what is due. Answers seconds until there is something to do."""
        await asyncio.to_thread(self.roster.reread, time.time())
        waits = [float(LOOK_EVERY_S)]
        for job in list(self.roster.jobs.values()):
            if job.running:
                continue
            known, times = self.roster.known[job.path], times_of(job.schedule)
            verdict, now = await asyncio.to_thread(self.rota.claim, known, times, job.rule)
            self._say_overruled(job.path, verdict is None)
            match verdict:
                case Turn():
                    job.running = True
                    task = asyncio.create_task(self._night(job, verdict))
                    self._nights.add(task)
                    task.add_done_callback(self._nights.discard)
                case Skipped():
                    self._tell_of(NightSkipped, job, verdict.at)
                    waits.append(0.0)
                case Wait():
                    waits.append(max(0.0, verdict.until - now))
                    following = job.schedule.cadence.after(now)
                    if job.planned != following:
                        job.planned = following
                        self._tell_of(NightPlanned, job, following)
        return min(waits)

    def _tell_of(self, kind: type[NightSkipped | NightPlanned], job: Scheduled, at: float) -> None:
        self.orders.emit(kind(at=time.time(), job=job.name, manifest=str(job.path), due=utc_iso(at)))

    def _say_overruled(self, path: Path, overruled: bool) -> None:
        if overruled and path not in self._overruled:
            _logger.warning("%s: a worker has read another schedule for this job later, and that one counts", path)
            self._overruled.add(path)
        elif not overruled:
            self._overruled.discard(path)

    # --- one night

    async def _night(self, job: Scheduled, turn: Turn) -> None:
        """Never raises: the worker outlives its nights."""
        began, facts = time.time(), {"job": job.name, "manifest": str(job.path)}
        self.orders.emit(NightBegan(at=began, due=utc_iso(turn.due.at), why=turn.due.why, **facts))
        try:
            code = await self._submitted(job, turn)
            stopped = self._stopping.is_set() and code >= BY_SIGNAL
            if code != KILLED:  # nobody has told it to: whoever notices the silence takes the night up
                await asyncio.to_thread(self.rota.ended, turn, code, stopped=stopped)
            meaning = IN_QUEUE if code == SUBMITTED else MEANINGS.get(code, "stopped by a signal")
            again = utc_iso(job.schedule.cadence.after(time.time()))
            seconds = round(time.time() - began, 1)
            self.orders.emit(
                NightEnded(at=time.time(), exit_code=code, seconds=seconds, meaning=meaning, again=again, **facts)
            )
        except Exception as error:
            log_failure(job.name, error, "the worker goes on")
        finally:
            job.running = False
            self._wake.set()

    async def _submitted(self, job: Scheduled, turn: Turn) -> int:
        argv, environ = self.orders.command(job, turn.due)
        child = await Child.start(argv, environ)
        self._children.add(child)
        beating = asyncio.create_task(self._beat(turn, child))
        if self._stopping.is_set():
            child.tell(signal.SIGTERM)
        try:
            return await child.wait(lambda line: self._hear(job.name, line))
        finally:
            self._children.discard(child)
            beating.cancel()

    async def _beat(self, turn: Turn, child: Child) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(LedgerError):
                if not await asyncio.to_thread(self.rota.heard, turn):
                    child.tell(signal.SIGTERM)  # this worker was silent for long, and another has the night

    def _hear(self, name: str, line: str) -> None:
        if line.strip():
            self.orders.emit(NightSaid(at=time.time(), job=name, message=line))
