"""The Files API's paths: resumable uploads, and files to look at, list and delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_faults import BatchFaults
from batchgen.emulator.fields import Anything, Message, Violation, read
from batchgen.emulator.files import Files, StoredFile, Upload
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Refusal, encoded
from batchgen.emulator.pages import page_of
from batchgen.emulator.reception import Cut, cut, read_body, send
from batchgen.emulator.statistics import Statistics

_VERSION = "/{version:v1(?:beta)?}"
_START_BYTES = 1 << 20
_FIELDS = ("name", "displayName", "mimeType", "sizeBytes")
_FILE = Message({"file": Message({name: Anything() for name in _FIELDS})})
_Handler = Callable[[web.Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRoutes:
    """Source: ai.google.dev/gemini-api/docs/files and requests of google-genai 3.4.0 and @google/genai 3.1.0."""

    files: Files
    faults: BatchFaults
    statistics: Statistics
    options: EmulatorOptions
    key: Callable[[web.Request], str]
    headers: Mapping[str, str]

    def add_to(self, app: web.Application) -> None:
        one = _VERSION + "/files/{file:[^:/]+}"
        app.router.add_post("/upload" + _VERSION + "/files", self._plain(self.upload))
        app.router.add_get(_VERSION + "/files", self._plain(self.listing))
        app.router.add_get(one, self._plain(self.get))
        app.router.add_delete(one, self._plain(self.delete))

    def _plain(self, handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                answer = await handler(request)
            except Refusal as refusal:
                # The SDKs take an answer without this header for one to ask again.
                answer = Answer(
                    status=refusal.status,
                    body=refusal.body,
                    content_type=refusal.content_type,
                    headers={"X-Goog-Upload-Status": "final"} if refusal.status < 500 else {},
                )
            except (Cut, ConnectionError):
                return cut(request)
            return await send(request, replace(answer, headers={**self.headers, **answer.headers}))

        return handle

    async def upload(self, request: web.Request) -> Answer:
        """One path for all steps: `start`, then by `upload_id`, which stands for the key: pieces, `query`, `cancel`."""
        commands = {word.strip() for word in request.headers.get("X-Goog-Upload-Command", "").lower().split(",")}
        if "start" in commands:
            return await self._start(request)
        upload_id = request.query.get("upload_id", "")
        if "query" in commands and (done := self.files.finished(upload_id)):
            # Known of Google's upload protocol in general, not of this API.
            return Answer(body=encoded({"file": _shown(request, done)}), headers={"X-Goog-Upload-Status": "final"})
        upload = self.files.upload(upload_id)
        if "query" in commands:
            return Answer(body=b"", headers=_active(upload))
        if not commands & {"upload", "finalize"}:
            raise errors.refusal(400, "X-Goog-Upload-Command: expected start, upload, finalize or query.")
        if "upload" in commands:
            await self._take(request, upload, last="finalize" in commands)
        if "finalize" not in commands:
            return Answer(body=b"", headers=_active(upload))
        if upload.received_bytes != upload.size_bytes:  # refused by wording of ours
            raise errors.refusal(400, f"Expected {upload.size_bytes} bytes, received {upload.received_bytes}.")
        stored = await asyncio.to_thread(self.files.finish, upload)
        self.statistics.uploads += 1
        if self._fault("upload_lost"):
            raise Cut
        return Answer(body=encoded({"file": _shown(request, stored)}), headers={"X-Goog-Upload-Status": "final"})

    async def _start(self, request: web.Request) -> Answer:
        key = self.key(request)
        if request.headers.get("X-Goog-Upload-Protocol", "").lower() != "resumable":
            raise errors.refusal(400, "emulator: the upload protocol has to be resumable.")
        given = _metadata(await read_body(request, _START_BYTES) or b"")
        size = request.headers.get("X-Goog-Upload-Header-Content-Length", "")
        if not size.isdecimal():  # a length that is not known beforehand: not documented for this API
            raise errors.refusal(400, "X-Goog-Upload-Header-Content-Length: expected a number of bytes.")
        upload = self.files.begin(
            key,
            mime=str(given.get("mimeType") or request.headers.get("X-Goog-Upload-Header-Content-Type", "")),
            size_bytes=int(size),
            display_name=str(given.get("displayName", "")),
            name=str(given.get("name", "")),
        )
        url = f"{_origin(request)}{request.path}?upload_id={upload.id}&upload_protocol=resumable"
        granularity = str(self.options.upload_granularity_bytes)
        headers = {
            "X-Goog-Upload-URL": url,
            "X-Goog-Upload-Control-URL": url,
            "X-Goog-Upload-Chunk-Granularity": granularity,
        }
        return Answer(body=b"", headers={**headers, "X-Goog-Upload-Status": "active"})

    async def _take(self, request: web.Request, upload: Upload, *, last: bool) -> None:
        """One piece onto the disk as it comes; what arrived before a cut stays. The wordings are ours."""
        fault = self.files.fault(upload) or self._fault("upload_500", "upload_503", "upload_reset")
        if request.headers.get("X-Goog-Upload-Offset") != str(upload.received_bytes):
            raise errors.refusal(400, f"X-Goog-Upload-Offset: the next byte expected is {upload.received_bytes}.")
        length = request.content_length or 0
        if upload.received_bytes + length > upload.size_bytes:
            raise errors.refusal(400, f"More bytes than the {upload.size_bytes} that were announced.")
        granularity = self.options.upload_granularity_bytes
        if not last and length % granularity:
            raise errors.refusal(400, f"A piece that is not the last holds a multiple of {granularity} bytes.")
        if fault in ("500", "503"):
            await request.read()
            raise errors.refusal(int(fault), "The service is currently unavailable.")
        left = length // 2 if fault == "reset" else upload.size_bytes - upload.received_bytes
        async for piece in request.content.iter_chunked(1 << 18):
            upload.append(piece[:left])
            self.statistics.uploaded_bytes += len(piece[:left])
            left -= len(piece[:left])
            if not left and fault == "reset":
                raise Cut

    def _fault(self, *names: str) -> str | None:
        return (self.faults.take(frozenset(names)) or "").removeprefix("upload_") or None

    async def listing(self, request: web.Request) -> Answer:
        """10 a page unless told, at most 100."""
        found = [_shown(request, stored) for stored in self.files.of(self.key(request))]
        return Answer(body=encoded(page_of("files", found, request.query, default=10, most=100)))

    async def get(self, request: web.Request) -> Answer:
        return Answer(body=encoded(_shown(request, self.files.find(self.key(request), request.match_info["file"]))))

    async def delete(self, request: web.Request) -> Answer:
        self.files.delete(self.key(request), request.match_info["file"])
        return Answer(body=encoded({}))


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _shown(request: web.Request, stored: StoredFile) -> dict[str, Any]:
    return stored.as_json(f"{_origin(request)}/{request.match_info['version']}")


def _active(upload: Upload) -> dict[str, str]:
    return {"X-Goog-Upload-Status": "active", "X-Goog-Upload-Size-Received": str(upload.received_bytes)}


def _metadata(body: bytes) -> dict[str, Any]:
    """What the start says about the file; nothing is allowed. Raises Refusal 400."""
    try:
        value = json.loads(body) if body else {}
    except ValueError as error:
        raise errors.not_json(f"Parser error: {error}") from None
    violations: list[Violation] = []
    found = read(_FILE, value, "", violations)
    if violations:
        raise errors.bad_fields(violations)
    metadata: dict[str, Any] = found.get("file", {})
    return metadata
