"""Jobs that are taken at once and done later: drawn when they come, shown when their time has passed.

Several vendors share this.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from threading import RLock
from typing import Any, ClassVar

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, as_json
from batchgen.emulator.pictures import Link
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec

_KEPT = 20_000
_PAGE = 100
_DRAWN = ("", "job_removed", "job_black")  # ends for which there are pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec(Spec):
    """A job that was understood. key: whose it is. asked: as it was sent. images: those sent along, as links or
    base64."""

    key: str
    asked: dict[str, Any]
    images: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class TakenJob:
    """A job that was taken.

    model: as its vendor names it. created_s: UTC seconds; due_s: after those. end: the fault it ends with, empty for
    none. links: to its pictures. result: its vendor's answer, where that is known from the start. cancelled_s: UTC
    seconds, 0 when it was not.
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
    def late_s(self) -> float:
        """Seconds since it was due; negative before."""
        return time.time() - self.created_s - self.due_s

    @property
    def is_over(self) -> bool:
        return bool(self.cancelled_s) or self.late_s >= 0

    @property
    def waits(self) -> bool:
        """Whether it waits, which it does for the first half of its time."""
        return self.late_s < -self.due_s / 2

    def is_removed(self, kept_s: float) -> bool:
        return self.is_over and (self.end == "job_removed" or self.late_s > kept_s)


def detailed(status: int, detail: Any) -> ApiError:
    """An error in the form of FastAPI, which two of the vendors use."""
    return ApiError(status, as_json({"detail": detail}), "application/json")


class JobVendor(Api, ABC):
    """One vendor's server. A subclass also says:

    faults: names that can happen. link: the name of a picture, of `id`, `n`, `token` (a UUID) and its ending as `jpeg`
    or as `jpg`.
    """

    bad_keys = ("bad",)
    paid_methods = ("POST",)
    worded: ClassVar[Callable[..., ApiError]] = staticmethod(detailed)
    faults: ClassVar[frozenset[str]]
    link: ClassVar[str]

    def __init__(self, pipeline: Pipeline) -> None:
        self._links = pipeline.links
        self._jobs: dict[str, TakenJob] = {}  # filled from worker threads
        self._lock = RLock()
        endpoint = Endpoint(api=self, faults=self.faults, parse=self.parse, compose=self.compose, takes_jobs=True)
        self.submit = partial(pipeline.handle, endpoint=endpoint)

    @abstractmethod
    def routes(self) -> list[web.RouteDef]: ...

    @abstractmethod
    def parse(self, request: web.Request, body: bytes) -> JobSpec:
        """Read a request. Raises ApiError."""

    @abstractmethod
    def compose(self, job: Job[Any]) -> Answer:
        """Take the job and say so. Raises ApiError."""

    def has_room(self, taken: TakenJob) -> bool:
        """Whether another job may be taken; no other comes in meanwhile."""
        return True

    def new_id(self) -> str:
        return str(uuid.uuid4())

    def clear(self) -> None:
        with self._lock:
            self._jobs.clear()

    def take(
        self,
        job: Job[Any],
        digests: tuple[str, ...],
        *,
        failed: bool = False,
        result: Callable[[tuple[str, ...], list[bytes]], Any] = lambda links, pictures: None,
    ) -> tuple[TakenJob, list[bytes]]:
        """Draw the pictures at once, to hand out when the job's time has passed. Failed and refused jobs cost nothing
        here.

        digests: of the images sent along. result: `TakenJob.result`, of links and pictures. Raises ApiError.
        """
        spec, number = replace(job.spec, references=digests), self.new_id()
        end = (job.fault or "") if (job.fault or "").startswith("job_") else ""
        count = spec.count if end in _DRAWN and not failed else 0
        pictures = [replace(job, spec=spec).paint(n) for n in range(count)]
        ending, links = spec.mime.removeprefix("image/"), list[str]()
        for n, data in enumerate(pictures):
            endings = {"jpeg": ending, "jpg": ending.replace("jpeg", "jpg")}
            name = self.link.format(id=number, n=n, token=uuid.uuid4(), **endings)
            links.append(job.origin + self._links.add(name, Link(data, spec.mime)))
        taken = TakenJob(
            id=number,
            key=spec.key,
            model=spec.model.id,
            asked=spec.asked,
            created_s=time.time(),
            due_s=job.draw.uniform(*job.options.latency_of(spec.model.id)),
            end=end,
            links=tuple(links),
            result=result(tuple(links), pictures),
        )
        with self._lock:
            if not self.has_room(taken):
                raise self.named("429")
            self._jobs[number] = taken
            if len(self._jobs) > _KEPT:
                self._jobs.pop(next(iter(self._jobs)))
        return taken, pictures

    def find(self, request: web.Request, job_id: str) -> TakenJob | None:
        """The job of this id, None if the request's key has none such. Raises ApiError for a bad key."""
        key, job = self.key(request), self._jobs.get(job_id)
        return job if job is not None and job.key == key else None

    def newest_first(self, key: str) -> list[TakenJob]:
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.key == key]

    def page(
        self, request: web.Request, since: str, until: str = "", model: str | None = "", most: int = _PAGE
    ) -> tuple[list[TakenJob], int | None]:
        """One page of jobs, newest first, and the cursor of the next page, which is a count here. Raises ApiError.

        since, until: the parameters that bound it. model: empty for all.
        """
        key, query = self.key(request), request.query
        first_s, last_s = _seconds(query.get(since), 0.0), _seconds(query.get(until), float("inf"))
        jobs = [
            job for job in self.newest_first(key) if first_s <= job.created_s <= last_s and model in ("", job.model)
        ]
        start = int(query.get("cursor") or 0)
        following = start + min(most, _PAGE)
        return jobs[start:following], following if len(jobs) > following else None


def _seconds(text: str | None, default_s: float) -> float:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return default_s
