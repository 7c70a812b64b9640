"""The dashboard's addresses: the overview, a page for each job, their events, images, actions, metrics."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from batchgen.errors import BatchgenError
from batchgen.report import metrics
from batchgen.report.dashboard import actions, pictures
from batchgen.report.dashboard.clients import PARAMETER, Client, add_client
from batchgen.report.dashboard.guard import (
    BODY_MAX_BYTES,
    CLIENT_KEY,
    RequestGuard,
    add_headers,
    error_response,
    page_policy,
)
from batchgen.report.dashboard.hub import Hub
from batchgen.report.dashboard.watched_job import Live, WatchedJob
from batchgen.report.gallery import GALLERY_SCRIPTS, PageParts, render_document, safe_json
from batchgen.report.worker_server import serving
from batchgen.sanitize import redact_secrets

STYLES = ("gallery", "dashboard")
OVERVIEW_PAGE = PageParts(STYLES, ("overview", "confirm"), ("elements", "card", "overview"), live=True)
JOB_PAGE = PageParts(STYLES, ("job", "gallery", "people", "confirm"), (*GALLERY_SCRIPTS, "card", "job"), live=True)
IMMUTABLE_CACHE = "private, max-age=86400, immutable"  # their addresses change with them
SAMPLE_NUMBER = re.compile(r"[0-9]{1,9}")
GZIP_ABOVE_BYTES = 10_000
KEEPALIVE_INTERVAL_S = 5.0
WRITE_TIMEOUT_S = 20.0  # a client that reads nothing for this long is dropped; it reconnects by itself
RETRY_MS = 2000
MAX_CLIENTS = 64
MAX_LINK_DAYS = 365
NextEvent = Callable[[], Awaitable[str]]  # what a client has missed, as an event; empty for nothing


@dataclass(frozen=True)
class Dashboard:
    """The dashboard. read_only: without actions."""

    hub: Hub
    guard: RequestGuard
    read_only: bool = False

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.guard.middleware(self._find_folder)], client_max_size=BODY_MAX_BYTES)
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
        get("/jobs/{job}/references/{sha:[0-9a-f]{64}}", self.reference)
        get("/jobs/{job}/thumbnails/{sha:[0-9a-f]{64}}", self.reference_thumbnail)
        get("/jobs/{job}/derivatives/{sha:[0-9a-f]{12}}", self.derivative)
        if not self.read_only:
            get("/jobs/{job}/prospect", self.forecast_retry)
            app.router.add_post("/jobs/{job}/retry", self.retry)
            app.router.add_post("/jobs/{job}/stop", self.stop)
            app.router.add_post("/jobs/{job}/reviews", self.review)
            app.router.add_post("/jobs/{job}/clients", self.invite)
        return app

    async def _find_folder(self, job: str) -> Path | None:
        watch = await self.hub.find(job)
        return None if watch is None else watch.location.folder

    async def _watch(self, request: web.Request) -> WatchedJob:
        watch = await self.hub.find(request.match_info["job"])
        if watch is None:
            raise web.HTTPNotFound(reason="there is no such job here")
        return watch

    def _live(self, client: Client | None = None) -> Live:
        invites = bool(self.guard.token) and client is None and not self.read_only
        csrf = "" if self.read_only else self.guard.csrf_for(client)
        return Live(csrf, client=client.name if client else "", invites=invites)

    def _text(self, view: Any) -> str:
        return safe_json(view, self.hub.secrets())

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def overview(self, request: web.Request) -> web.StreamResponse:
        await self.hub.refresh()
        cards = [watch.card for watch in self.hub.loaded.values()]
        text = self._text({"live": self._live(), "jobs": cards, "at": time.time()})
        return await _page(request, OVERVIEW_PAGE, "jobs", text)

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
            return format_event("jobs", self._text({"order": list(now), "jobs": changed, "at": time.time()}))

        await self.hub.refresh()
        return await self._stream(request, "", next_event)

    async def redirect_to_job(self, request: web.Request) -> web.Response:
        await self._watch(request)
        return web.Response(status=308, headers={"Location": f"{request.path}/"})

    async def job(self, request: web.Request) -> web.StreamResponse:
        watch = await self._watch(request)

        def texts() -> tuple[str, str]:
            page = watch.page(self._live(request.get(CLIENT_KEY)))
            return redact_secrets(page.job, self.hub.secrets()), self._text(page)

        return await _page(request, JOB_PAGE, *await self.hub.in_reader_thread(texts))

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        watch, version, client = await self._watch(request), -1, _client_name(request)
        mark = request.headers.get("Last-Event-ID") or request.query.get("at", "")

        def changes() -> str:
            nonlocal version, mark
            version, card, mark, samples = watch.changes_since(version, mark, client)
            events = [format_event("card", self._text(card))] if card else []
            events += [format_event("samples", self._text(samples), mark)] if samples else []
            return "".join(events)

        await self.hub.in_reader_thread(partial(watch.refresh, samples=True))
        return await self._stream(request, watch.location.id, partial(self.hub.in_reader_thread, changes))

    async def _stream(self, request: web.Request, job: str, next_event: NextEvent) -> web.StreamResponse:
        """Send server-sent events until the client leaves, or is too slow, or the server ends. Each client gets what it
        has missed since its last event and nothing is queued for it: however slow it is, it takes one message of
        memory."""
        if self.hub.clients >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(reason="too many pages are open")
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        with self.hub.watching(job), suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            await _write(request, response, f"retry: {RETRY_MS}\n\n")
            while not self.hub.closing and request.transport is not None:
                generation = self.hub.generation
                await _write(request, response, await next_event() or ": \n\n")
                await self.hub.wait_for_change(generation, KEEPALIVE_INTERVAL_S)
        return response

    async def nights(self, request: web.Request) -> web.Response:
        watch = await self._watch(request)
        text = await self.hub.in_reader_thread(lambda: self._text(watch.runs()))
        return web.Response(text=text, content_type="application/json")

    async def picture(self, request: web.Request) -> web.StreamResponse:
        attempt, k = await self._picture_number(request)
        return await self._send(request, "there is no such image", pictures.open_picture, attempt, k)

    async def _picture_number(self, request: web.Request) -> tuple[int, int]:
        """(attempt, k). A client gets those on its page."""
        attempt, k = request.match_info["attempt"], request.match_info["k"]
        if client := _client_name(request):
            watch = await self._watch(request)
            if not await self.hub.in_reader_thread(watch.shows_client, client, f"{attempt}-{k}"):
                raise web.HTTPNotFound(reason="there is no such image")
        return int(attempt), int(k)

    async def derivative(self, request: web.Request) -> web.StreamResponse:
        """Serve a derivative; the query has its item and sample."""
        item, n, sha = request.query.get("id", ""), request.query.get("n", ""), request.match_info["sha"]
        number = int(n) if SAMPLE_NUMBER.fullmatch(n) else 0
        return await self._send(request, "there is no such file", pictures.open_derivative, item, number, sha)

    async def _send(
        self, request: web.Request, missing: str, find: Callable[..., pictures.OpenPicture | None], *named: int | str
    ) -> web.StreamResponse:
        folder = (await self._watch(request)).location.folder
        return await self._answer(request, missing, await self.hub.in_picture_thread(find, folder, *named))

    async def reference(self, request: web.Request) -> web.StreamResponse:
        """Serve a file that was sent along, by its SHA-256: only what the job's own manifest names is ever found."""
        files = await self.hub.in_reader_thread((await self._watch(request)).references)
        found = await self.hub.in_picture_thread(pictures.open_reference, files, request.match_info["sha"])
        return await self._answer(request, "the reference is not there, or has changed since", found)

    async def _answer(
        self, request: web.Request, missing: str, found: pictures.OpenPicture | None
    ) -> web.StreamResponse:
        if found is None:
            raise web.HTTPNotFound(reason=missing)
        with closing(found.file):
            return await self._send_picture(request, found)

    async def _send_picture(self, request: web.Request, found: pictures.OpenPicture) -> web.StreamResponse:
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
        folder = (await self._watch(request)).location.folder
        number = await self._picture_number(request)
        return _thumbnail(await self.hub.in_picture_thread(pictures.thumbnail, folder, *number))

    async def reference_thumbnail(self, request: web.Request) -> web.Response:
        watch = await self._watch(request)
        files, sha = await self.hub.in_reader_thread(watch.references), request.match_info["sha"]
        return _thumbnail(
            await self.hub.in_picture_thread(pictures.reference_thumbnail, watch.location.folder, files, sha)
        )

    async def forecast_retry(self, request: web.Request) -> web.Response:
        states = frozenset(request.query.get("states", "").split(",")) & set(actions.RETRY_STATES)
        location = (await self._watch(request)).location
        return await self._run_action(
            lambda: self.hub.in_picture_thread(self.hub.actions.forecast_retry, location, states)
        )

    async def retry(self, request: web.Request) -> web.Response:
        states = (await _body(request)).get("states")
        chosen = [state for state in states if isinstance(state, str)] if isinstance(states, list) else []
        location = (await self._watch(request)).location

        async def begin() -> dict[str, Any]:
            # In this thread: a child inherits the nice value of the thread that starts it.
            return {"pid": self.hub.actions.retry(location, chosen)}

        return await self._run_action(begin)

    async def stop(self, request: web.Request) -> web.Response:
        run = (await _body(request)).get("run")
        run_id, location = run if isinstance(run, int) else -1, (await self._watch(request)).location
        return await self._run_action(
            lambda: self.hub.in_picture_thread(lambda: {"pid": actions.stop(location, run_id)})
        )

    async def review(self, request: web.Request) -> web.Response:
        """Record a review, which the reviewer then sees like everybody else: by the events."""
        watch, given = await self._watch(request), await _body(request)
        name = _client_name(request) or str(given.get("name", ""))

        def record() -> dict[str, Any]:
            watch.record_review(given, name)
            return {}

        answer = await self._run_action(lambda: self.hub.in_reader_thread(record))
        await self.hub.notify_clients()
        return answer

    async def invite(self, request: web.Request) -> web.Response:
        """Make a link for a client, which is shown once."""
        folder, given = (await self._watch(request)).location.folder, await _body(request)
        name, days = given.get("name"), given.get("days")

        def add() -> dict[str, Any]:
            if not self.guard.token:
                raise actions.ActionRefused("this dashboard has no token: whoever reaches it may do everything")
            if not isinstance(name, str) or not isinstance(days, int) or not 0 < days <= MAX_LINK_DAYS:
                raise actions.ActionRefused(f"a link has a name, and lasts 1 to {MAX_LINK_DAYS} days")
            token = add_client(folder, name, days * 86400.0)
            return {"address": f"{request.headers['Origin']}/jobs/{request.match_info['job']}/?{PARAMETER}={token}"}

        return await self._run_action(lambda: self.hub.in_picture_thread(add))

    async def _run_action(self, action: Callable[[], Awaitable[dict[str, Any]]]) -> web.Response:
        try:
            answer = await action()
        except (actions.ActionRefused, BatchgenError) as error:
            text = self._text({"error": str(error)})
            return web.Response(status=409, text=text, content_type="application/json")
        return web.json_response(answer)

    async def metrics(self, request: web.Request) -> web.Response:
        await self.hub.refresh()
        folders = [watch.location.folder for watch in self.hub.watches.values()]
        try:
            body, kind = await self.hub.in_reader_thread(metrics.exposition, folders)
        except ImportError:
            return error_response(501, metrics.MISSING_LIBRARY)
        return web.Response(body=body, headers={"Content-Type": kind})


def _client_name(request: web.Request) -> str:
    """The name of a client; empty for anybody else."""
    client = request.get(CLIENT_KEY)
    return "" if client is None else client.name


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(reason="that is not JSON") from None
    if not isinstance(found, dict):
        raise web.HTTPBadRequest(reason="expected a JSON object")
    return found


def _thumbnail(small: bytes | None) -> web.Response:
    if small is None:
        raise web.HTTPNotFound(reason="there is no preview")
    return web.Response(body=small, content_type="image/webp", headers={"Cache-Control": IMMUTABLE_CACHE})


async def _page(request: web.Request, parts: PageParts, title: str, facts_text: str) -> web.StreamResponse:
    pieces = render_document(parts, title, facts_text)
    body = await asyncio.to_thread(lambda: "".join(pieces).encode("utf-8", "replace"))
    response = web.Response(body=body, content_type="text/html", charset="utf-8", headers=page_policy(parts))
    if len(body) > GZIP_ABOVE_BYTES:
        response.enable_compression()
    return response


async def _write(request: web.Request, response: web.StreamResponse, text: str) -> None:
    try:
        await asyncio.wait_for(response.write(text.encode("utf-8", "replace")), WRITE_TIMEOUT_S)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


def format_event(name: str, data: str, event_id: str = "") -> str:
    """An event. data: on one line, as JSON is. Source: HTML, 9.2.5."""
    number = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{number}data: {data}\n\n"


async def serve(make_dashboard: Callable[[int], Dashboard], listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. make_dashboard: called with the port. listener: bound to the address."""
    dashboard = make_dashboard(listener.getsockname()[1])
    try:
        async with serving(dashboard.application(), listener, "batchgen.dashboard"):
            polling = asyncio.create_task(dashboard.hub.poll())
            try:
                await stop.wait()
            finally:
                polling.cancel()
                await dashboard.hub.disconnect_clients()
    finally:
        dashboard.hub.close()
