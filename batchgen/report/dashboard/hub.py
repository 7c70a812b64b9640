"""Looks at all jobs now and then, but only while somebody watches, and wakes those who do."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from batchgen.report.dashboard.actions import Actions
from batchgen.report.dashboard.place import Place
from batchgen.report.dashboard.watch import Declare, Secrets, Watch

LOOK_EVERY_S = 1.0
LOOK_MOST_S = 30.0
REST = 20  # so many times the CPU time of a look is waited after it: at most a twentieth of a core
PLACES_EVERY_S = 3.0
PICTURE_THREADS = 2
NICENESS = 10
log = logging.getLogger("batchgen")
T = TypeVar("T")


class Hub:
    """watches: by id, in the order of the places. All reading of ledgers is done in one thread."""

    def __init__(self, places: Callable[[], list[Place]], declare: Declare, secrets: Secrets, actions: Actions) -> None:
        self.actions = actions
        self.secrets = secrets
        self.watches: dict[str, Watch] = {}
        self.closing = False
        self.generation = 0
        self._places, self._declare = places, declare
        self._placed_s = -PLACES_EVERY_S
        self._reading = ThreadPoolExecutor(1, "reading", initializer=_step_back)
        self.picturing = ThreadPoolExecutor(PICTURE_THREADS, "picturing", initializer=_step_back)
        self._watched: Counter[str] = Counter()  # "" is the overview
        self._somebody, self._changed = asyncio.Event(), asyncio.Condition()

    async def read(self, ask: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, ask, *arguments)

    async def picture(self, ask: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.picturing, ask, *arguments)

    async def poll(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._somebody.wait()
            took_s = 0.0
            try:
                changed, took_s = await self.read(self._timed_look)
                if changed:
                    await self.wake()
            except Exception as error:  # the next look may fare better
                log.warning("the dashboard could not look at its jobs: %s: %s", type(error).__name__, error)
            await asyncio.sleep(min(LOOK_MOST_S, max(LOOK_EVERY_S, took_s * REST)))

    async def wake(self) -> None:
        async with self._changed:
            self.generation += 1
            self._changed.notify_all()

    async def wait(self, generation: int, seconds: float) -> None:
        """For a change after `generation`, or so long."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.generation != generation), seconds)

    async def refresh(self) -> None:
        """The jobs as they are now, for who has just come."""
        await self.read(self._look, True)

    async def find(self, job: str) -> Watch | None:
        if job not in self.watches:
            await self.read(self._find_places)
        return self.watches.get(job)

    @contextmanager
    def looking(self, job: str) -> Iterator[None]:
        """While a client watches a job, or with "" all of them."""
        self._watched[job] += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._watched[job] -= 1
            self._watched += Counter()  # forgets those at 0
            if not self._watched:
                self._somebody.clear()

    @property
    def seen(self) -> dict[str, Watch]:
        """Without those that were found a moment ago, which the reading thread has yet to look at."""
        return {job: watch for job, watch in self.watches.items() if watch.card}

    @property
    def clients(self) -> int:
        return self._watched.total()

    def _timed_look(self) -> tuple[bool, float]:
        """And the seconds of CPU that it took."""
        started_s = time.thread_time()
        return self._look(), time.thread_time() - started_s

    def _look(self, everything: bool = False) -> bool:
        """In the reading thread. Whether anything has changed."""
        changed = self._find_places()
        everything = everything or "" in self._watched
        for watch in list(self.watches.values()):
            if everything or watch.place.id in self._watched:
                changed |= watch.look(samples=watch.place.id in self._watched)
        return changed

    def _find_places(self) -> bool:
        if time.monotonic() - self._placed_s < PLACES_EVERY_S:
            return False
        known = self.watches
        before = list(known)
        self.watches = {
            place.id: self.watches.get(place.id) or Watch(place, self._declare, self.secrets, self.actions.told)
            for place in self._places()
        }
        for job in before:  # who looks at a job whose folder has gone is told so
            if job in self._watched:
                self.watches.setdefault(job, known[job])
        self._placed_s = time.monotonic()
        return before != list(self.watches)

    async def leave(self) -> None:
        """No client is kept any longer."""
        self.closing = True
        await self.wake()

    def close(self) -> None:
        self._reading.shutdown(wait=False, cancel_futures=True)
        self.picturing.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """A run on this machine goes first. Source: setpriority(2), on Linux niceness is of a thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
