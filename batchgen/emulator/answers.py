"""Answers over HTTP: built from JSON, sent at once, slowly or only in part; and the reading of request bodies."""

from __future__ import annotations

import json
import secrets
import string
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from inspect import isawaitable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import web

JSON_TYPE = "application/json; charset=UTF-8"
PIECES = 20  # the number of pieces of a slow answer
NO_HEADERS: Mapping[str, str] = {}


class Cut(Exception):
    """Raised to end the connection without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. billed_images: what the vendor would charge for; sha256: of the pictures as sent.

    pause: waits between the pieces of an answer that arrives slowly.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = JSON_TYPE
    billed_images: int = 0
    sha256: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: Callable[[], Awaitable[None]] | None = None


class ApiError(Exception):
    """An answer in place of pictures, raised wherever it is decided."""

    def __init__(self, status: int, body: bytes, content_type: str = JSON_TYPE) -> None:
        super().__init__(status, body[:200])
        self.answer = Answer(status=status, body=body, content_type=content_type)


def answering(
    call: Callable[[web.Request], Any],
    headers: Mapping[str, str] = NO_HEADERS,
    error_headers: Mapping[str, str] = NO_HEADERS,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Make an aiohttp handler of a call that returns JSON, an Answer or a response that has been sent.

    The call may be a coroutine; its ApiError becomes an answer. error_headers: of client errors only.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            answer = call(request)
            if isawaitable(answer):
                answer = await answer
        except ApiError as error:
            answer = replace(error.answer, headers=error_headers if error.answer.status < 500 else {})
        if isinstance(answer, web.StreamResponse):
            return answer
        if not isinstance(answer, Answer):
            answer = Answer(body=as_json(answer))
        return await send(request, replace(answer, headers={**headers, **answer.headers}))

    return handle


@web.middleware
async def endings(request: web.Request, handler: Any) -> web.StreamResponse:
    """Wrap every handler: Cut ends the connection with a TCP reset, and unknown paths get an HTML page.

    Google's front end sends such a page, not JSON.
    """
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPNotFound:
        text = "<!DOCTYPE html>\n<title>Error 404 (Not Found)!!1</title>\n<p><b>404.</b> That's an error.\n"
        return web.Response(status=404, text=text, content_type="text/html")
    except (Cut, ConnectionError):
        if request.transport is not None:
            if socket := request.transport.get_extra_info("socket"):
                socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        return web.Response()
    return response


async def read_body(request: web.Request, limit_bytes: int, too_large: Callable[[int], ApiError]) -> bytes:
    """Read a body to its end even when it is too large, so that the client sees the answer. Raises ApiError."""
    pieces: list[bytes] = []
    total = 0
    async for piece in request.content.iter_chunked(1 << 18):
        total += len(piece)
        if total <= limit_bytes:
            pieces.append(piece)
    if total > limit_bytes:
        raise too_large(limit_bytes)
    return b"".join(pieces)


async def send(
    request: web.Request, answer: Answer, before_last: Callable[[], None] = lambda: None
) -> web.StreamResponse:
    """Send an answer. Raises ConnectionError, and what `answer.pause` raises."""
    body = answer.body
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type, **answer.headers})
    response.content_length = len(body)
    await response.prepare(request)
    step = max(1, -(-len(body) // PIECES) if answer.pause else len(body))
    for start in range(0, max(1, len(body)), step):
        if start and answer.pause:
            await answer.pause()
        if start + step >= len(body):
            before_last()
        await response.write(body[start : start + step])
    await response.write_eof()
    return response


def as_json(value: Any, *, compact: bool = False) -> bytes:
    """Write JSON, indented as the vendors' servers send it."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    return json.dumps(value, ensure_ascii=False, **form).encode("utf-8", "replace")


def without_none(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def timestamp(at_s: float, timespec: str = "microseconds") -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def random_id(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot, by question marks."""
    return text.encode("utf-8", "replace").decode()


def json_object(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def origin_of(request: web.Request) -> str:
    """The scheme and host that the client used, for links."""
    return f"{request.scheme}://{request.host}"
