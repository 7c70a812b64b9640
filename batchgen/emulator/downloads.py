"""Downloads of generated files, in one go or from where one broke off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_faults import BatchFaults
from batchgen.emulator.files import Files, StoredFile
from batchgen.emulator.orders import Answer, Refusal
from batchgen.emulator.reception import Cut, cut, send
from batchgen.emulator.service_faults import meet

_VERSION = "/{version:v1(?:beta)?}"
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloads:
    """Both paths: `/download/v1beta/…` as ai.google.dev's batch page has it, and `/v1/…` as google-genai 3.4.0 asks.

    Range, ETag and If-Range are an assumption; what is known is `alt=media`.
    """

    files: Files
    faults: BatchFaults
    key: Callable[[web.Request], str]
    headers: Mapping[str, str]
    ranges: bool

    def add_to(self, app: web.Application) -> None:
        path = _VERSION + "/files/{file:[^:/]+}:download"
        app.router.add_get(path, self.download)
        app.router.add_get("/download" + path, self.download)

    async def download(self, request: web.Request) -> web.StreamResponse:
        try:
            stored = self._found(request)
            return await self._send(request, stored, meet(self.faults, "download", stored.id))
        except Refusal as refusal:
            answer = Answer(status=refusal.status, body=refusal.body, content_type=refusal.content_type)
            return await send(request, answer)
        except (Cut, ConnectionError):
            return cut(request)

    def _found(self, request: web.Request) -> StoredFile:
        stored = self.files.find(self.key(request), request.match_info["file"])
        if stored.source != "GENERATED":  # documented; the wording is ours
            text = f"The File {stored.id} cannot be downloaded: only generated files can."
            raise errors.refusal(400, text, status="FAILED_PRECONDITION")
        if request.query.get("alt") != "media":
            raise errors.refusal(400, "emulator: alt=media is what makes it a download.")
        return stored

    async def _send(self, request: web.Request, stored: StoredFile, fault: str | None) -> web.StreamResponse:
        if fault == "empty":
            return web.Response(headers=self.headers)
        start, stop = self._part(request, stored)
        part = self.ranges and "Range" in request.headers and (start, stop) != (0, stored.size_bytes)
        headers = {**self.headers, "Content-Type": stored.mime, "ETag": f'"{stored.sha256}"'}
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size_bytes}"
        response = web.StreamResponse(status=206 if part else 200, headers=headers)
        if fault != "cut":
            response.content_length = stop - start
        await response.prepare(request)
        ends = start + (stop - start) // 2 if fault == "half" else stop
        if fault == "cut":
            ends = min(stop, start + stored.size_bytes // 2)
        with stored.path.open("rb") as file:
            file.seek(start)
            while start < ends:
                piece = file.read(min(_PIECE_BYTES, ends - start))
                start += len(piece)
                await response.write(piece)
        if fault == "half" and request.transport is not None:
            request.transport.close()  # what is written still arrives
            return response
        await response.write_eof()
        return response

    def _part(self, request: web.Request, stored: StoredFile) -> tuple[int, int]:
        """First byte and the one after the last. Raises Refusal 416, 400."""
        whole = 0, stored.size_bytes
        if not self.ranges or request.headers.get("If-Range", f'"{stored.sha256}"') != f'"{stored.sha256}"':
            return whole
        try:
            wanted = request.http_range
        except ValueError:
            return whole  # RFC 9110: what is no valid range is ignored
        start, stop, _ = wanted.indices(stored.size_bytes)
        if "Range" in request.headers and start >= stop:
            raise errors.refusal(416, "The requested range is not satisfiable.", status="OUT_OF_RANGE")
        return start, stop
