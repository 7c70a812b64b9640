"""Jobs that are taken at once and done later: drawn when they come, shown when their time has passed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

_KEPT = 20_000


@dataclass(slots=True, kw_only=True)
class TakenJob:
    """key: whose it is. model: as its vendor names it; asked: what it was asked for. created_s: UTC seconds; due_s: after
    those. end: the fault it ends with, empty for none. links: its pictures. result: what its vendor answers with, where that is
    known from the start. cancelled_s: UTC seconds, 0 when it was not.
    """

    id: str
    key: str
    model: str
    asked: dict[str, Any]
    created_s: float
    due_s: float
    end: str
    links: tuple[str, ...]
    result: Any = None
    cancelled_s: float = 0.0

    @property
    def is_over(self) -> bool:
        return bool(self.cancelled_s) or time.time() - self.created_s >= self.due_s


class TakenJobs:
    """The newest, by id. Filled from worker threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, TakenJob] = {}
        self._lock = Lock()

    def add(self, job: TakenJob) -> None:
        with self._lock:
            self._jobs[job.id] = job
            if len(self._jobs) > _KEPT:
                self._jobs.pop(next(iter(self._jobs)))

    def find(self, job_id: str, key: str) -> TakenJob | None:
        job = self._jobs.get(job_id)
        return job if job is not None and job.key == key else None

    def newest_first(self, key: str) -> Iterator[TakenJob]:
        with self._lock:
            jobs = list(self._jobs.values())
        return (job for job in reversed(jobs) if job.key == key)

    def clear(self) -> None:
        with self._lock:
            self._jobs.clear()
