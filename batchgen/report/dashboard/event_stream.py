"""Server-sent events: each client is told what it has missed since it was last told, and nothing is queued for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from batchgen.report.dashboard.hub import Hub

KEEPALIVE_INTERVAL_S = 5.0
WRITE_TIMEOUT_S = 20.0  # a client that takes nothing for so long is dropped; it comes back by itself
RETRY_MS = 2000
MAX_CLIENTS = 64
# What a client has missed, as an event; empty for nothing.
NextEvent = Callable[[], Awaitable[str]]


async def stream(request: web.Request, hub: Hub, job: str, next_event: NextEvent) -> web.StreamResponse:
    """Until the client leaves, or is too slow, or the server ends. However slow it is, it costs one message of memory."""
    if hub.clients >= MAX_CLIENTS:
        raise web.HTTPServiceUnavailable(reason="too many pages are open")
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    )
    with hub.watching(job), suppress(ConnectionError, TimeoutError):
        await response.prepare(request)
        await _write(request, response, f"retry: {RETRY_MS}\n\n")
        while not hub.closing and request.transport is not None:
            generation = hub.generation
            await _write(request, response, await next_event() or ": \n\n")
            await hub.wait_for_change(generation, KEEPALIVE_INTERVAL_S)
    return response


async def _write(request: web.Request, response: web.StreamResponse, text: str) -> None:
    try:
        await asyncio.wait_for(response.write(text.encode("utf-8", "replace")), WRITE_TIMEOUT_S)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


def format_event(name: str, data: str, event_id: str = "") -> str:
    """data: on one line, as JSON is; empty for no event. Source: HTML, 9.2.5."""
    if not data:
        return ""
    number = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{number}data: {data}\n\n"
