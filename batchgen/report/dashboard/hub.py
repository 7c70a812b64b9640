"""Looks at all jobs now and then, but only while somebody watches, and wakes those who do."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from batchgen.report.dashboard.actions import Actions
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.dashboard.watched_job import LoadManifestInfo, WatchedJob

POLL_INTERVAL_S = 1.0
MAX_POLL_INTERVAL_S = 30.0
IDLE_FACTOR = 20  # the pause after a look, in multiples of its CPU time: at most a twentieth of a core
DISCOVERY_INTERVAL_S = 3.0
PICTURE_THREADS = 2
NICENESS = 10
log = logging.getLogger("batchgen")
T = TypeVar("T")


class Hub:
    """Watches jobs. watches: by id, in the order of the places. All reading of ledgers happens in one thread."""

    def __init__(
        self,
        list_locations: Callable[[], list[JobLocation]],
        load_manifest_info: LoadManifestInfo,
        secrets: Callable[[], Sequence[str]],
        actions: Actions,
    ) -> None:
        self.actions = actions
        self.secrets = secrets
        self.watches: dict[str, WatchedJob] = {}
        self.closing = False
        self.generation = 0
        self._list_locations, self._load_manifest_info = list_locations, load_manifest_info
        self._discovered_s = -DISCOVERY_INTERVAL_S
        self._reader_thread = ThreadPoolExecutor(1, "reading", initializer=_lower_priority)
        self._picture_threads = ThreadPoolExecutor(PICTURE_THREADS, "picturing", initializer=_lower_priority)
        self._open_pages: Counter[str] = Counter()  # "" is the overview
        self._has_clients, self._changed = asyncio.Event(), asyncio.Condition()

    async def in_reader_thread(self, ask: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, ask, *arguments)

    async def in_picture_thread(self, ask: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._picture_threads, ask, *arguments)

    async def poll(self) -> None:
        """Look repeatedly, until cancelled."""
        while True:
            await self._has_clients.wait()
            took_s = 0.0
            try:
                changed, took_s = await self.in_reader_thread(self._timed_poll)
                if changed:
                    await self.notify_clients()
            except Exception as error:  # the next look may succeed
                log.warning("the dashboard could not look at its jobs: %s: %s", type(error).__name__, error)
            await asyncio.sleep(min(MAX_POLL_INTERVAL_S, max(POLL_INTERVAL_S, took_s * IDLE_FACTOR)))

    async def notify_clients(self) -> None:
        async with self._changed:
            self.generation += 1
            self._changed.notify_all()

    async def wait_for_change(self, generation: int, seconds: float) -> None:
        """Wait for a change after `generation`, or for this long."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.generation != generation), seconds)

    async def refresh(self) -> None:
        """Look at the jobs now, for somebody who has just come."""
        await self.in_reader_thread(self._poll_once, True)

    async def find(self, job: str) -> WatchedJob | None:
        if job not in self.watches:
            await self.in_reader_thread(self._discover_jobs)
        return self.watches.get(job)

    @contextmanager
    def watching(self, job: str) -> Iterator[None]:
        """Count a client that watches a job, or with "" all of them."""
        self._open_pages[job] += 1
        self._has_clients.set()
        try:
            yield
        finally:
            self._open_pages[job] -= 1
            self._open_pages += Counter()  # removes those at 0
            if not self._open_pages:
                self._has_clients.clear()

    @property
    def loaded(self) -> dict[str, WatchedJob]:
        """The jobs without those found a moment ago, which the reading thread has not looked at yet."""
        return {job: watch for job, watch in self.watches.items() if watch.card is not None}

    @property
    def clients(self) -> int:
        return self._open_pages.total()

    def _timed_poll(self) -> tuple[bool, float]:
        """Look, and measure the seconds of CPU that it took."""
        started_s = time.thread_time()
        return self._poll_once(), time.thread_time() - started_s

    def _poll_once(self, everything: bool = False) -> bool:
        """Look, in the reading thread. Returns whether anything has changed."""
        changed = self._discover_jobs()
        everything = everything or "" in self._open_pages
        for watch in list(self.watches.values()):
            if everything or watch.location.id in self._open_pages:
                changed |= watch.refresh(samples=watch.location.id in self._open_pages)
        return changed

    def _discover_jobs(self) -> bool:
        if time.monotonic() - self._discovered_s < DISCOVERY_INTERVAL_S:
            return False
        known = self.watches
        before = list(known)
        self.watches = {
            location.id: self.watches.get(location.id)
            or WatchedJob(location, self._load_manifest_info, self.actions.last_retry)
            for location in self._list_locations()
        }
        for job in before:  # whoever looks at a job whose folder is gone is told
            if job in self._open_pages:
                self.watches.setdefault(job, known[job])
        self._discovered_s = time.monotonic()
        return before != list(self.watches)

    async def disconnect_clients(self) -> None:
        """Disconnect all clients."""
        self.closing = True
        await self.notify_clients()

    def close(self) -> None:
        self._reader_thread.shutdown(wait=False, cancel_futures=True)
        self._picture_threads.shutdown(wait=False, cancel_futures=True)


def _lower_priority() -> None:
    """Let a run on this machine go first. Source: setpriority(2); on Linux, niceness belongs to a thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
