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
from batchgen.report.dashboard.event_stream import format_event, stream
from batchgen.report.dashboard.guard import BODY_MAX_BYTES, RequestGuard, add_headers, error_response
from batchgen.report.dashboard.hub import Hub
from batchgen.report.dashboard.job_location import JobLocation
from batchgen.report.dashboard.watched_job import WatchedJob
from batchgen.report.gallery import PageParts, render_document, safe_json

OVERVIEW_PAGE = PageParts(
    ("gallery", "dashboard"), ("overview", "confirm"), ("elements", "card", "overview"), live=True
)
JOB_PAGE = PageParts(
    ("gallery", "dashboard"), ("job", "gallery", "confirm"), ("elements", "gallery", "card", "job"), live=True
)
IMMUTABLE_CACHE = "private, max-age=86400, immutable"  # their addresses change with them
SAMPLE_NUMBER = re.compile(r"[0-9]{1,9}")
GZIP_ABOVE_BYTES = 10_000
SHUTDOWN_S = 1.0


@dataclass(frozen=True)
class Dashboard:
    """read_only: without actions."""

    hub: Hub
    guard: RequestGuard
    read_only: bool = False

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.guard.middleware()], client_max_size=BODY_MAX_BYTES)
        app.on_response_prepare.append(add_headers)
        get = partial(app.router.add_get, allow_head=False)
        get("/", self.overview)
        get("/events", self.overview_events)
        get("/healthz", self.health)
        get("/metrics", self.metrics)
        get("/jobs/{job}", self.redirect_to_job)
        get("/jobs/{job}/", self.job)
        get("/jobs/{job}/events", self.job_events)
        get("/jobs/{job}/nights", self.nights)
        get(r"/jobs/{job}/pictures/{attempt:\d{1,18}}-{k:\d{1,9}}", self.picture)
        get(r"/jobs/{job}/thumbnails/{attempt:\d{1,18}}-{k:\d{1,9}}", self.thumbnail)
        get("/jobs/{job}/derivatives/{sha:[0-9a-f]{12}}", self.derivative)
        if not self.read_only:
            get("/jobs/{job}/prospect", self.forecast_retry)
            app.router.add_post("/jobs/{job}/retry", self.retry)
            app.router.add_post("/jobs/{job}/stop", self.stop)
        return app

    async def _watch(self, request: web.Request) -> WatchedJob:
        watch = await self.hub.find(request.match_info["job"])
        if watch is None:
            raise web.HTTPNotFound(reason="there is no such job here")
        return watch

    @property
    def _live(self) -> dict[str, Any]:
        return {"csrf": "" if self.read_only else self.guard.csrf}

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def overview(self, request: web.Request) -> web.StreamResponse:
        await self.hub.refresh()
        text = safe_json({"live": self._live, "jobs": self._cards(), "at": time.time()}, self.hub.secrets())
        return await _page(request, OVERVIEW_PAGE, "jobs", text)

    def _cards(self) -> list[dict[str, Any]]:
        return [watch.card for watch in self.hub.loaded.values()]

    async def overview_events(self, request: web.Request) -> web.StreamResponse:
        versions: dict[str, int] | None = None

        async def next_event() -> str:
            nonlocal versions
            loaded = self.hub.loaded
            now = {job: watch.version for job, watch in loaded.items()}
            if now == versions:
                return ""
            changed = [watch.card for job, watch in loaded.items() if now[job] != (versions or {}).get(job)]
            versions = now
            return format_event(
                "jobs", safe_json({"order": list(now), "jobs": changed, "at": time.time()}, self.hub.secrets())
            )

        await self.hub.refresh()
        return await stream(request, self.hub, "", next_event)

    async def redirect_to_job(self, request: web.Request) -> web.Response:
        await self._watch(request)
        return web.Response(status=308, headers={"Location": f"{request.path}/"})

    async def job(self, request: web.Request) -> web.StreamResponse:
        watch = await self._watch(request)
        text = await self.hub.in_reader_thread(watch.page_facts, self._live)
        if text is None:
            blank = {"job": watch.card["job"], "at": time.time(), "samples": [], "settings": [], "providers": {},
                     "nights": [], "manifest": "", "beside": None, "conversations": {}, "emulated": False, "wanted": 0,
                     "base": "", "key": watch.location.id, "live": {**self._live, "at": ""}}  # fmt: skip
            text = safe_json(blank, self.hub.secrets())
        card = safe_json(watch.card, self.hub.secrets())
        title = safe_json(watch.card["job"], self.hub.secrets())
        return await _page(
            request, JOB_PAGE, json.loads(title), f'{text[:-1]},"key":"{watch.location.id}","card":{card}}}'
        )

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        watch, version = await self._watch(request), -1
        mark = request.headers.get("Last-Event-ID") or request.query.get("at", "")

        async def next_event() -> str:
            nonlocal version, mark
            version, card, mark, samples = await self.hub.in_reader_thread(watch.changes_since, version, mark)
            return format_event("card", card) + format_event("samples", samples, mark)

        await self.hub.in_reader_thread(partial(watch.refresh, samples=True))
        return await stream(request, self.hub, watch.location.id, next_event)

    async def nights(self, request: web.Request) -> web.Response:
        return web.Response(
            text=await self.hub.in_reader_thread((await self._watch(request)).nights), content_type="application/json"
        )

    async def picture(self, request: web.Request) -> web.StreamResponse:
        attempt, k = (int(request.match_info[name]) for name in ("attempt", "k"))
        found = await self.hub.in_picture_thread(
            pictures.open_picture, (await self._watch(request)).location.folder, attempt, k
        )
        if found is None:
            raise web.HTTPNotFound(reason="there is no such picture")
        with closing(found.file):
            return await self._send(request, found)

    async def derivative(self, request: web.Request) -> web.StreamResponse:
        """The item and the sample whose it is stand in the query."""
        folder, item, n = (
            (await self._watch(request)).location.folder,
            request.query.get("id", ""),
            request.query.get("n", ""),
        )
        number = int(n) if SAMPLE_NUMBER.fullmatch(n) else 0
        found = await self.hub.in_picture_thread(
            pictures.open_derivative, folder, item, number, request.match_info["sha"]
        )
        if found is None:
            raise web.HTTPNotFound(reason="there is no such file")
        with closing(found.file):
            return await self._send(request, found)

    async def _send(self, request: web.Request, found: pictures.OpenPicture) -> web.StreamResponse:
        tag = f'"{found.sha256}"'
        headers = {"ETag": tag, "Cache-Control": IMMUTABLE_CACHE, "Accept-Ranges": "bytes", "Content-Type": found.kind}
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers={"ETag": tag, "Cache-Control": IMMUTABLE_CACHE})
        wanted = request.headers.get("Range", "") if request.headers.get("If-Range", tag) == tag else ""
        span = pictures.parse_range(wanted, found.size)
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
            parts = pictures.read_chunks(found.file, first, last)
            while chunk := await self.hub.in_picture_thread(next, parts, b""):
                await response.write(chunk)
        return response

    async def thumbnail(self, request: web.Request) -> web.Response:
        attempt, k = (int(request.match_info[name]) for name in ("attempt", "k"))
        small = await self.hub.in_picture_thread(
            pictures.thumbnail, (await self._watch(request)).location.folder, attempt, k
        )
        if small is None:
            raise web.HTTPNotFound(reason="there is no preview")
        return web.Response(body=small, content_type="image/webp", headers={"Cache-Control": IMMUTABLE_CACHE})

    async def forecast_retry(self, request: web.Request) -> web.Response:
        states = frozenset(request.query.get("states", "").split(",")) & set(actions.RETRY_STATES)
        return await self._run_action(
            partial(self.hub.actions.forecast_retry, (await self._watch(request)).location, states)
        )

    async def retry(self, request: web.Request) -> web.Response:
        states = (await _body(request)).get("states")
        chosen = [state for state in states if isinstance(state, str)] if isinstance(states, list) else []
        # In this thread: a child takes the niceness of the thread that begets it.
        return await self._run_action(partial(self._retry, (await self._watch(request)).location, chosen), here=True)

    def _retry(self, location: JobLocation, states: list[str]) -> dict[str, Any]:
        return {"pid": self.hub.actions.retry(location, states)}

    async def stop(self, request: web.Request) -> web.Response:
        run = (await _body(request)).get("run")
        return await self._run_action(
            partial(self._stop, (await self._watch(request)).location, run if isinstance(run, int) else -1)
        )

    def _stop(self, location: JobLocation, run: int) -> dict[str, Any]:
        return {"pid": actions.stop(location, run)}

    async def _run_action(self, action: Callable[[], dict[str, Any]], *, here: bool = False) -> web.Response:
        try:
            answer = action() if here else await self.hub.in_picture_thread(action)
        except (actions.ActionRefused, BatchgenError) as error:
            return web.Response(status=409, text=safe_json({"error": str(error)}, self.hub.secrets()),
                                content_type="application/json")  # fmt: skip
        return web.json_response(answer)

    async def metrics(self, request: web.Request) -> web.Response:
        await self.hub.refresh()
        folders = [watch.location.folder for watch in self.hub.watches.values()]
        try:
            body, kind = await self.hub.in_reader_thread(metrics.exposition, folders)
        except ImportError:
            return error_response(501, metrics.MISSING_LIBRARY)
        return web.Response(body=body, headers={"Content-Type": kind})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(reason="that is no JSON") from None
    if not isinstance(found, dict):
        raise web.HTTPBadRequest(reason="an object is wanted")
    return found


async def _page(request: web.Request, parts: PageParts, title: str, facts_text: str) -> web.StreamResponse:
    body = await asyncio.to_thread(_encoded, render_document(parts, title, facts_text))
    policy = f"{parts.policy}; frame-ancestors 'none'"
    response = web.Response(
        body=body, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": policy}
    )
    if len(body) > GZIP_ABOVE_BYTES:
        response.enable_compression()
    return response


def _encoded(pieces: Iterator[str]) -> bytes:
    return "".join(pieces).encode("utf-8", "replace")


async def serve(make_dashboard: Callable[[int], Dashboard], listener: socket.socket, stop: asyncio.Event) -> None:
    """Until `stop` is set. make_dashboard: given the port. listener: bound to the address."""
    dashboard = make_dashboard(listener.getsockname()[1])
    browser_log = logging.getLogger("batchgen.dashboard")  # what a browser sends amiss is no news for a terminal
    browser_log.addHandler(logging.NullHandler())
    browser_log.propagate = False
    runner = web.AppRunner(
        dashboard.application(), access_log=None, logger=browser_log, shutdown_timeout=SHUTDOWN_S, handle_signals=False
    )
    await runner.setup()
    polling = asyncio.create_task(dashboard.hub.poll())
    try:
        await web.SockSite(runner, listener).start()
        await stop.wait()
    finally:
        polling.cancel()
        await dashboard.hub.disconnect_clients()
        await runner.cleanup()
        dashboard.hub.close()
