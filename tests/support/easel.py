"""An API that takes a job and answers later, written down from no vendor's; its codec; and its books: what it was asked for."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from batchgen.errors import (
    BadRequest,
    BatchLostMaybeBilled,
    JobCancelled,
    JobFailed,
    KeyRejected,
    RateLimited,
    Refused,
    ServerFault,
)
from batchgen.profiles.profile import Profile
from batchgen.providers.answer_body import decode_image, image_body
from batchgen.providers.credentials import Credentials, KeyHeader
from batchgen.records import Inputs, ListedJob, PendingJob, Reply, Request, Response, Sample

MODELS = {"easel-1": {"provider": "easel", "rpm": 6000, "prices": {"image_usd": 0.03}}}


class Easel:
    name: ClassVar[str] = "easel"

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    @staticmethod
    def encodes(profile: Profile) -> frozenset[str]:
        return frozenset({"seed"})

    @staticmethod
    def credentials(key: str) -> Credentials:
        return KeyHeader("X-Key", key)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        body = {"text": sample.item.prompt, "seed": sample.item.seed}
        return Request(method="POST", path="/jobs", body=json.dumps(body).encode(), timeout_s=5.0)

    def read(self, response: Response) -> Reply | PendingJob:
        if response.status == 429:
            raise RateLimited("slow down", http_status=429)
        if response.status == 503:
            raise ServerFault("busy", http_status=503)
        if not response.is_success:
            raise BadRequest("no", http_status=response.status)
        taken = json.loads(response.body)
        return PendingJob(id=taken["id"], state={"at": taken["at"]}, poll_after_s=0.02)

    def job_input(self, request: Request) -> str:
        return request.body.decode()

    def list_jobs(self, since: float, page: str) -> Request:
        return Request(method="GET", path=f"/jobs?page={page or 0}", body=b"")

    def read_jobs(self, response: Response) -> tuple[list[ListedJob], str]:
        told = json.loads(response.body)
        jobs = [
            ListedJob(
                job=PendingJob(id=each["id"], state={"at": f"/jobs/{each['id']}"}, poll_after_s=0.02),
                input=each["input"],
                created_at=each["created_at"],
            )
            for each in told["jobs"]
        ]
        return jobs, told["next"]

    def poll(self, job: PendingJob) -> Request:
        return Request(method="GET", path=job.state["at"], body=b"", timeout_s=5.0)

    def read_poll(self, job: PendingJob, response: Response) -> Reply | PendingJob:
        if response.status == 404:
            raise BatchLostMaybeBilled(f"{job.id} is not known", reason="job_lost", http_status=404)
        if response.status == 401:
            raise KeyRejected("who are you", http_status=401)
        if not response.is_success:
            raise ServerFault("busy", http_status=response.status)
        if (response.header("content-type") or "").startswith("image/"):
            return Reply(images=(image_body(response),), reply_id=job.id)
        told = json.loads(response.body)
        match told["status"]:
            case "refused":
                raise Refused("no such thing", http_status=200)
            case "cancelled":
                raise JobCancelled("cancelled", http_status=200)
            case "failed":
                raise JobFailed("out of paint", http_status=200)
            case "drawn":  # its image is another question away
                return PendingJob(id=job.id, state={"at": told["at"]}, poll_after_s=0.0)
            case "done":
                return Reply(images=(decode_image(told["png"], "image/png"),), reply_id=job.id)
        return PendingJob(id=job.id, state=job.state, poll_after_s=0.02)


@dataclass
class Studio:
    """Use `serving`. seconds: that a job takes. faults: of polls, by job and in their order: an HTTP status, or "reset".

    ends: how a prompt's jobs end, in their order: done, drawn, refused, failed, lost; done when none is left. lost_answers:
    submits whose answers do not arrive; slow: seconds until the first answer to a prompt.
    """

    seconds: float = 0.1
    faults: list[Any] = field(default_factory=list)
    ends: dict[str, list[str]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost_answers: int = 0
    has_list: bool = True
    slow: dict[str, float] = field(default_factory=dict)
    polls: Counter[str] = field(default_factory=Counter)
    max_open: int = 0
    url: str = ""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        asked = json.loads(body)
        number = str(next(self._numbers))
        ends = self.ends.get(asked["text"], [])
        self.jobs[number] = {
            "text": asked["text"],
            "due": time.monotonic() + self.seconds,
            "end": ends.pop(0) if ends else "done",
            "input": body,
            "created_at": time.time(),
        }
        self.max_open = max(self.max_open, sum(job["due"] > time.monotonic() for job in self.jobs.values()))
        if asked["text"] in self.slow:
            await asyncio.sleep(self.slow.pop(asked["text"]))
        elif self.lost_answers:
            self.lost_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"id": number, "at": f"/jobs/{number}"})

    async def list_all(self, request: web.Request) -> web.Response:
        if not self.has_list:
            return web.Response(status=404)
        page = int(request.query["page"])
        known = [{"id": number, **job} for number, job in self.jobs.items()][::-1]
        following = str(page + 1) if len(known) > 3 * page + 3 else ""
        return web.json_response({"jobs": known[3 * page : 3 * page + 3], "next": following})

    async def tell(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["number"]
        self.polls[number] += 1
        if self.faults:
            fault = self.faults.pop(0)
            if fault == "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return web.Response(status=fault)
        job = self.jobs[number]
        if job["due"] > time.monotonic():
            return web.json_response({"status": "queued"})
        match job["end"]:
            case "lost":
                return web.Response(status=404)
            case "drawn":
                return web.json_response({"status": "drawn", "at": f"/jobs/{number}/image"})
            case "done":
                return web.json_response({"status": "done", "png": base64.b64encode(drawn(job["text"])).decode()})
        return web.json_response({"status": job["end"]})

    async def show(self, request: web.Request) -> web.Response:
        return web.Response(body=drawn(self.jobs[request.match_info["number"]]["text"]), content_type="image/png")


def drawn(text: str) -> bytes:
    """An image of its own for each text."""
    made = io.BytesIO()
    tone = sum(text.encode()) % 256
    Image.new("RGB", (64, 64), (tone, len(text) % 256, 99)).save(made, "PNG")
    return made.getvalue()


@asynccontextmanager
async def serving(studio: Studio) -> AsyncIterator[Studio]:
    app = web.Application()
    app.router.add_post("/jobs", studio.take)
    app.router.add_get("/jobs", studio.list_all)
    app.router.add_get("/jobs/{number}", studio.tell)
    app.router.add_get("/jobs/{number}/image", studio.show)
    async with TestServer(app) as server:
        studio.url = str(server.make_url("")).rstrip("/")
        yield studio
