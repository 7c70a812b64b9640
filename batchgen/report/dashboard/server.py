"""The dashboard's addresses: the overview, a page for each job, their events, pictures, actions, metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.errors import BatchgenError
from batchgen.report import metrics
from batchgen.report.dashboard import actions, pictures
from batchgen.report.dashboard.guard import BODY_MAX_BYTES, Guard, add_headers, refused
from batchgen.report.dashboard.hub import Hub
from batchgen.report.dashboard.place import Place
from batchgen.report.dashboard.stream import event, stream
from batchgen.report.dashboard.watch import Watch
from batchgen.report.facts import Facts
from batchgen.report.gallery import Parts, document, safe_json

OVERVIEW = Parts(("gallery", "dashboard"), ("overview", "confirm"), ("elements", "card", "overview"), live=True)
JOB = Parts(("gallery", "dashboard"), ("job", "gallery", "confirm"), ("elements", "gallery", "card", "job"), live=True)
IMMUTABLE = "private, max-age=86400, immutable"  # their addresses change with them
SAMPLE = re.compile(r"[0-9]{1,9}")
GZIP_ABOVE_BYTES = 10_000
SHUTDOWN_S = 1.0


@dataclass(frozen=True)
class Dashboard:
    """read_only: without actions."""

    hub: Hub
    guard: Guard
    read_only: bool = False

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.guard.middleware()], client_max_size=BODY_MAX_BYTES)
        app.on_response_prepare.append(add_headers)
        get = partial(app.router.add_get, allow_head=False)
        get("/", self.overview)
        get("/events", self.overview_events)
        get("/healthz", self.health)
        get("/metrics", self.metrics)
        get("/jobs/{job}", self.to_job)
        get("/jobs/{job}/", self.job)
        get("/jobs/{job}/events", self.job_events)
        get("/jobs/{job}/nights", self.nights)
        get(r"/jobs/{job}/pictures/{attempt:\d{1,18}}-{k:\d{1,9}}", self.picture)
        get(r"/jobs/{job}/thumbnails/{attempt:\d{1,18}}-{k:\d{1,9}}", self.thumbnail)
        get("/jobs/{job}/derivatives/{sha:[0-9a-f]{12}}", self.derivative)
        if not self.read_only:
            get("/jobs/{job}/prospect", self.prospect)
            app.router.add_post("/jobs/{job}/retry", self.retry)
            app.router.add_post("/jobs/{job}/stop", self.stop)
        return app

    async def _watch(self, request: web.Request) -> Watch:
        watch = await self.hub.find(request.match_info["job"])
        if watch is None:
            raise web.HTTPNotFound(reason="there is no such job here")
        return watch

    @property
    def _live(self) -> Facts:
        return {"csrf": "" if self.read_only else self.guard.csrf}

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def overview(self, request: web.Request) -> web.StreamResponse:
        await self.hub.refresh()
        text = safe_json({"live": self._live, "jobs": self._cards(), "at": time.time()}, self.hub.secrets())
        return await _page(request, OVERVIEW, "jobs", text)

    def _cards(self) -> list[Facts]:
        return [watch.card for watch in self.hub.seen.values()]

    async def overview_events(self, request: web.Request) -> web.StreamResponse:
        versions: dict[str, int] | None = None

        async def missed() -> str:
            nonlocal versions
            seen = self.hub.seen
            now = {job: watch.version for job, watch in seen.items()}
            if now == versions:
                return ""
            changed = [watch.card for job, watch in seen.items() if now[job] != (versions or {}).get(job)]
            versions = now
            return event(
                "jobs", safe_json({"order": list(now), "jobs": changed, "at": time.time()}, self.hub.secrets())
            )

        await self.hub.refresh()
        return await stream(request, self.hub, "", missed)

    async def to_job(self, request: web.Request) -> web.Response:
        await self._watch(request)
        return web.Response(status=308, headers={"Location": f"{request.path}/"})

    async def job(self, request: web.Request) -> web.StreamResponse:
        watch = await self._watch(request)
        text = await self.hub.read(watch.page_facts, self._live)
        if text is None:
            blank = {"job": watch.card["job"], "at": time.time(), "samples": [], "settings": [], "providers": {},
                     "nights": [], "manifest": "", "beside": None, "conversations": {}, "emulated": False, "wanted": 0,
                     "base": "", "key": watch.place.id, "live": {**self._live, "at": ""}}  # fmt: skip
            text = safe_json(blank, self.hub.secrets())
        card = safe_json(watch.card, self.hub.secrets())
        title = safe_json(watch.card["job"], self.hub.secrets())
        return await _page(request, JOB, json.loads(title), f'{text[:-1]},"key":"{watch.place.id}","card":{card}}}')

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        watch, version = await self._watch(request), -1
        mark = request.headers.get("Last-Event-ID") or request.query.get("at", "")

        async def missed() -> str:
            nonlocal version, mark
            version, card, mark, samples = await self.hub.read(watch.missed, version, mark)
            return event("card", card) + event("samples", samples, mark)

        await self.hub.read(partial(watch.look, samples=True))
        return await stream(request, self.hub, watch.place.id, missed)

    async def nights(self, request: web.Request) -> web.Response:
        return web.Response(
            text=await self.hub.read((await self._watch(request)).nights), content_type="application/json"
        )

    async def picture(self, request: web.Request) -> web.StreamResponse:
        attempt, k = (int(request.match_info[name]) for name in ("attempt", "k"))
        found = await self.hub.picture(pictures.find, (await self._watch(request)).place.folder, attempt, k)
        if found is None:
            raise web.HTTPNotFound(reason="there is no such picture")
        with closing(found.file):
            return await self._send(request, found)

    async def derivative(self, request: web.Request) -> web.StreamResponse:
        """The item and the sample whose it is stand in the query."""
        folder, item, n = (
            (await self._watch(request)).place.folder,
            request.query.get("id", ""),
            request.query.get("n", ""),
        )
        number = int(n) if SAMPLE.fullmatch(n) else 0
        found = await self.hub.picture(pictures.find_derivative, folder, item, number, request.match_info["sha"])
        if found is None:
            raise web.HTTPNotFound(reason="there is no such file")
        with closing(found.file):
            return await self._send(request, found)

    async def _send(self, request: web.Request, found: pictures.Found) -> web.StreamResponse:
        tag = f'"{found.sha256}"'
        headers = {"ETag": tag, "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes", "Content-Type": found.kind}
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers={"ETag": tag, "Cache-Control": IMMUTABLE})
        wanted = request.headers.get("Range", "") if request.headers.get("If-Range", tag) == tag else ""
        span = pictures.part(wanted, found.size)
        if span is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{found.size}"})
        first, last = span
        whole = last - first + 1 == found.size
        if not whole:
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        response = web.StreamResponse(status=200 if whole else 206, headers=headers)
        response.content_length = last - first + 1
        with suppress(ConnectionError):
            await response.prepare(request)
            parts = pictures.pieces(found.file, first, last)
            while piece := await self.hub.picture(next, parts, b""):
                await response.write(piece)
        return response

    async def thumbnail(self, request: web.Request) -> web.Response:
        attempt, k = (int(request.match_info[name]) for name in ("attempt", "k"))
        small = await self.hub.picture(pictures.thumbnail, (await self._watch(request)).place.folder, attempt, k)
        if small is None:
            raise web.HTTPNotFound(reason="there is no preview")
        return web.Response(body=small, content_type="image/webp", headers={"Cache-Control": IMMUTABLE})

    async def prospect(self, request: web.Request) -> web.Response:
        states = frozenset(request.query.get("states", "").split(",")) & set(actions.STATES)
        return await self._act(partial(self.hub.actions.prospect, (await self._watch(request)).place, states))

    async def retry(self, request: web.Request) -> web.Response:
        states = (await _body(request)).get("states")
        chosen = [state for state in states if isinstance(state, str)] if isinstance(states, list) else []
        # In this thread: a child takes the niceness of the thread that begets it.
        return await self._act(partial(self._retry, (await self._watch(request)).place, chosen), here=True)

    def _retry(self, place: Place, states: list[str]) -> Facts:
        return {"pid": self.hub.actions.retry(place, states)}

    async def stop(self, request: web.Request) -> web.Response:
        run = (await _body(request)).get("run")
        return await self._act(
            partial(self._stop, (await self._watch(request)).place, run if isinstance(run, int) else -1)
        )

    def _stop(self, place: Place, run: int) -> Facts:
        return {"pid": actions.stop(place, run)}

    async def _act(self, act: Callable[[], Facts], *, here: bool = False) -> web.Response:
        try:
            answer = act() if here else await self.hub.picture(act)
        except (actions.ActionRefused, BatchgenError) as error:
            return web.Response(status=409, text=safe_json({"error": str(error)}, self.hub.secrets()),
                                content_type="application/json")  # fmt: skip
        return web.json_response(answer)

    async def metrics(self, request: web.Request) -> web.Response:
        await self.hub.refresh()
        folders = [watch.place.folder for watch in self.hub.watches.values()]
        try:
            body, kind = await self.hub.read(metrics.exposition, folders)
        except ImportError:
            return refused(501, metrics.MISSING)
        return web.Response(body=body, headers={"Content-Type": kind})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(reason="that is no JSON") from None
    if not isinstance(found, dict):
        raise web.HTTPBadRequest(reason="an object is wanted")
    return found


async def _page(request: web.Request, parts: Parts, title: str, facts_text: str) -> web.StreamResponse:
    body = await asyncio.to_thread(_encoded, document(parts, title, facts_text))
    policy = f"{parts.policy}; frame-ancestors 'none'"
    response = web.Response(
        body=body, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": policy}
    )
    if len(body) > GZIP_ABOVE_BYTES:
        response.enable_compression()
    return response


def _encoded(pieces: Iterator[str]) -> bytes:
    return "".join(pieces).encode("utf-8", "replace")


async def serve(make: Callable[[int], Dashboard], listener: socket.socket, stop: asyncio.Event) -> None:
    """Until `stop` is set. make: given the port. listener: bound to the address."""
    dashboard = make(listener.getsockname()[1])
    quiet = logging.getLogger("batchgen.dashboard")  # what a browser sends amiss is no news for a terminal
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    runner = web.AppRunner(
        dashboard.application(), access_log=None, logger=quiet, shutdown_timeout=SHUTDOWN_S, handle_signals=False
    )
    await runner.setup()
    polling = asyncio.create_task(dashboard.hub.poll())
    try:
        await web.SockSite(runner, listener).start()
        await stop.wait()
    finally:
        polling.cancel()
        await dashboard.hub.leave()
        await runner.cleanup()
        dashboard.hub.close()
