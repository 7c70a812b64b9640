"""The Files API: resumable uploads onto the disk, files that live for a while and belong to one key, and downloads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from aiohttp import web

from batchgen.emulator import google
from batchgen.emulator.answers import (
    Answer,
    Cut,
    answering,
    as_json,
    origin_of,
    random_id,
    read_body,
    timestamp,
    without_none,
)
from batchgen.emulator.faults import CALL_FAULTS, FILE_KNOWN, UPLOAD_FAULTS, markers, unknown_marker
from batchgen.emulator.google_schemas import UPLOAD_FILE
from batchgen.emulator.pictures import picture_size
from batchgen.emulator.pipeline import Pipeline

_MOST_BYTES = 2 * 1024**3  # ai.google.dev/gemini-api/docs/files: 2 GB a file
_START_BYTES = 1 << 20
_PIECE_BYTES = 1 << 18
_FINAL = {"X-Goog-Upload-Status": "final"}


@dataclass(slots=True, kw_only=True)
class StoredFile:
    """A file of one key, on disk even while it grows: an upload can continue, and batches write their results.

    pixels: None if it is not a picture that decodes. Times: seconds since 1970, set when it is whole.
    """

    id: str
    key: str
    mime: str
    path: Path
    generated: bool = False
    display_name: str = ""
    announced_bytes: int = 0
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    pixels: tuple[int, int] | None = None
    created_s: float = 0.0
    ready_s: float = 0.0
    expires_s: float = 0.0

    def append(self, piece: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(piece)
        self.digest.update(piece)
        self.size_bytes += len(piece)

    @property
    def sha256(self) -> str:
        return str(self.digest.hexdigest())

    @property
    def state(self) -> str:
        if any(name == "failed" for name, _ in markers(self.display_name)):
            return "FAILED"
        return "ACTIVE" if time.time() >= self.ready_s else "PROCESSING"

    def as_json(self, request: web.Request) -> dict[str, Any]:
        """Show a file as ai.google.dev/api/files does. Recorded hashes are base64 of the hex text."""
        origin, version = origin_of(request), request.match_info["version"]
        state = self.state
        return without_none(
            name=f"files/{self.id}",
            displayName=self.display_name or None,
            mimeType=self.mime,
            sizeBytes=str(self.size_bytes),
            createTime=timestamp(self.created_s),
            updateTime=timestamp(self.ready_s),
            expirationTime=timestamp(self.expires_s),
            sha256Hash=base64.b64encode(self.sha256.encode()).decode(),
            uri=f"{origin}/{version}/files/{self.id}",
            state=state,
            source="GENERATED" if self.generated else "UPLOADED",
            # The documents name these fields but show no example of an error; the path is that of their own download.
            downloadUri=f"{origin}/download/{version}/files/{self.id}:download?alt=media" if self.generated else None,
            error=google.rpc_status("INTERNAL", "The file could not be processed.") if state == "FAILED" else None,
        )


class Files:
    """All uploads and files of one emulator, in a temporary folder that goes with it. Used from worker threads too.

    Source: ai.google.dev/gemini-api/docs/files and requests of google-genai 3.4.0 and @google/genai 3.1.0. Downloads
    have two paths: `/download/v1beta/…` of ai.google.dev's batch page, and `/v1/…` of google-genai 3.4.0.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._options = pipeline.options
        self._statistics = pipeline.statistics
        self._faults = pipeline.call_faults
        self._folder: Path | None = None
        self._uploads: dict[str, StoredFile] = {}
        self._files: dict[str, StoredFile] = {}
        self._lock = Lock()

    def routes(self) -> list[web.RouteDef]:
        every, one = f"{google.VERSION}/files", google.VERSION + "/files/{file:[^:/]+}"
        # Without the upload's status in it, the SDKs repeat a call that got an error.
        final = partial(answering, headers=google.HEADERS, error_headers=_FINAL)
        download = answering(self._download, google.HEADERS)
        return [
            web.post(f"/upload{every}", final(self._upload)),
            web.get(every, final(self._listing)),
            web.get(one, final(lambda request: self._found(request).as_json(request))),
            web.delete(one, final(self._delete)),
            web.get(f"{one}:download", download),
            web.get(f"/download{one}:download", download),
        ]

    def path(self, name: str) -> Path:
        """The path of a file in the temporary folder, which exists from the first call until the emulator closes."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="batchgen-emulator-"))
        return self._folder / name

    def add(self, whole: StoredFile) -> None:
        """Add a whole file; pictures are decoded once here, so that no request for content has to.

        Results of a batch live as long as uploads do; the documents also speak of six weeks.
        """
        if whole.mime.startswith("image/"):
            whole.pixels = picture_size(whole.path)
        whole.created_s = whole.ready_s = time.time()
        if not whole.generated:
            whole.ready_s += self._options.file_processing_s
        whole.expires_s = whole.created_s + self._options.file_life_s
        with self._lock:
            self._files[whole.id] = whole

    def find(self, key: str, file_id: str) -> StoredFile:
        """The file by its id. Raises ApiError 403, the same for one that never was, has expired, or belongs to another
        key.

        googleapis/python-genai#1218: one wording for all of it, and 403 rather than 404.
        """
        found = self._unexpired().get(file_id)
        if found is None or found.key != key:
            raise google.error(403, f"You do not have permission to access the File {file_id} or it may not exist.")
        return found

    def find_active(self, key: str, file_id: str) -> StoredFile:
        """The file by its id, once it is ready. Raises ApiError, with 400 while it is being processed.

        The 400 is known from public issues; the documents only say to wait.
        """
        found = self.find(key, file_id)
        problem = f"The File {found.id} is not in an ACTIVE state and usage is not allowed."
        google.require(found.state == "ACTIVE", problem, "FAILED_PRECONDITION")
        return found

    def at_uri(self, key: str, uri: str) -> StoredFile | None:
        """The file that a `fileUri` refers to; None for a link to elsewhere. Raises ApiError."""
        match = re.search(r"/v1(?:beta)?/files/([^/?#]+)$", uri)
        return self.find_active(key, match.group(1)) if match else None

    def clear(self) -> None:
        self._uploads.clear()
        with self._lock:
            self._files.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _unexpired(self) -> dict[str, StoredFile]:
        """All files that have not expired, oldest first; the others are deleted."""
        now_s = time.time()
        with self._lock:
            for expired in [one for one in self._files.values() if one.expires_s <= now_s]:
                del self._files[expired.id]
                expired.path.unlink(missing_ok=True)
            return dict(self._files)

    async def _upload(self, request: web.Request) -> Answer:
        """Handle one path for all steps: `start`, then pieces and `query` by `upload_id`, which stands for the key."""
        commands = {word.strip() for word in request.headers.get("X-Goog-Upload-Command", "").lower().split(",")}
        if "start" in commands:
            return await self._start(request)
        upload = self._uploads.get(request.query.get("upload_id", ""))
        # A client whose answer was lost asks how much is stored: known of Google's upload protocol in general.
        known = upload and (not upload.expires_s or ("query" in commands and self._files.get(upload.id) is upload))
        if upload is None or not known:  # the wording is ours
            raise google.error(404, "Upload not found, or it has already been finalized.")
        if "query" not in commands:
            commanded = commands & {"upload", "finalize"}
            google.require(commanded, "X-Goog-Upload-Command: expected start, upload, finalize or query.")
            if "upload" in commands:
                await self._take(request, upload, last="finalize" in commands)
            if "finalize" in commands:
                await self._finalize(upload)
        if upload.expires_s:
            return Answer(body=as_json({"file": upload.as_json(request)}), headers=_FINAL)
        received = str(upload.size_bytes)
        return Answer(headers={"X-Goog-Upload-Status": "active", "X-Goog-Upload-Size-Received": received})

    async def _start(self, request: web.Request) -> Answer:
        key = google.known_key(request)
        headers = request.headers
        protocol = headers.get("X-Goog-Upload-Protocol", "").lower()
        google.require(protocol == "resumable", "emulator: the upload protocol has to be resumable.")
        body = await read_body(request, _START_BYTES, google.API.too_large)
        given = google.read_fields(body or b"{}", UPLOAD_FILE).get("file", {})
        size = headers.get("X-Goog-Upload-Header-Content-Length", "")
        # An upload of unknown length is not documented for this API.
        google.require(size.isdecimal(), "X-Goog-Upload-Header-Content-Length: expected a number of bytes.")
        mime = str(given.get("mimeType") or headers.get("X-Goog-Upload-Header-Content-Type", ""))
        upload_id = secrets.token_urlsafe(24)
        upload = StoredFile(
            id=str(given.get("name", "")).removeprefix("files/") or random_id(12),
            key=key,
            mime=mime or "application/octet-stream",
            path=self.path(upload_id),
            display_name=str(given.get("displayName", "")),
            announced_bytes=int(size),
        )
        self._check(upload)
        self._uploads[upload_id] = upload
        upload.path.touch()
        url = f"{origin_of(request)}{request.path}?upload_id={upload_id}&upload_protocol=resumable"
        sent = {
            "X-Goog-Upload-URL": url,
            "X-Goog-Upload-Control-URL": url,
            "X-Goog-Upload-Chunk-Granularity": str(self._options.upload_granularity_bytes),
            "X-Goog-Upload-Status": "active",
        }
        return Answer(headers=sent)

    def _check(self, upload: StoredFile) -> None:
        """Refuse an upload that breaks the rules of ai.google.dev/api/files, in words of ours. Raises ApiError."""
        problem = unknown_marker(upload.display_name, FILE_KNOWN, "the Files API")
        google.require(not problem, problem)
        named = re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", upload.id)
        google.require(named, "* File.name: may hold up to 40 lowercase letters, digits and inner dashes.\n")
        if upload.id in self._files:
            raise google.error(409, f"Requested entity already exists: files/{upload.id}", status="ALREADY_EXISTS")
        small = upload.announced_bytes <= _MOST_BYTES
        google.require(small, f"Upload size exceeds the limit: {_MOST_BYTES} bytes.")

    async def _take(self, request: web.Request, upload: StoredFile, *, last: bool) -> None:
        """Write one piece to the disk as it comes; what arrived before a cut stays. The wordings are ours."""
        # By the file's display name, whose attempts count over all uploads of its key, or by option.
        by_name = self._faults.take(UPLOAD_FAULTS, f"{upload.key} {upload.display_name}", upload.display_name)
        fault = (by_name or self._faults.take(CALL_FAULTS["upload"] - {"upload_lost"}) or "").removeprefix("upload_")
        offset, length = request.headers.get("X-Goog-Upload-Offset"), request.content_length or 0
        next_byte, announced = upload.size_bytes, upload.announced_bytes
        granularity = self._options.upload_granularity_bytes
        google.require(offset == str(next_byte), f"X-Goog-Upload-Offset: the next byte expected is {next_byte}.")
        google.require(next_byte + length <= announced, f"More bytes than the {announced} that were announced.")
        aligned = last or not length % granularity
        google.require(aligned, f"A piece that is not the last holds a multiple of {granularity} bytes.")
        if fault in ("500", "503"):
            await request.read()
            raise google.error(int(fault), "The service is currently unavailable.")
        left = length // 2 if fault == "reset" else announced - next_byte
        async for piece in request.content.iter_chunked(_PIECE_BYTES):
            taken = piece[:left]
            upload.append(taken)
            self._statistics.uploaded_bytes += len(taken)
            left -= len(taken)
            if not left and fault == "reset":
                raise Cut

    async def _finalize(self, upload: StoredFile) -> None:
        received, announced = upload.size_bytes, upload.announced_bytes  # the wording is ours
        google.require(received == announced, f"Expected {announced} bytes, received {received}.")
        await asyncio.to_thread(self.add, upload)
        self._statistics.uploads += 1
        if self._faults.take(frozenset({"upload_lost"})):
            raise Cut

    def _listing(self, request: web.Request) -> dict[str, Any]:
        """List files, newest first, 10 a page by default, at most 100."""
        key = google.known_key(request)
        found = [one.as_json(request) for one in reversed(self._unexpired().values()) if one.key == key]
        return google.page_of("files", found, request.query, default=10, most=100)

    def _delete(self, request: web.Request) -> dict[str, Any]:
        found = self._found(request)
        with self._lock:
            self._files.pop(found.id, None)
        found.path.unlink(missing_ok=True)
        return {}

    def _found(self, request: web.Request) -> StoredFile:
        return self.find(google.known_key(request), request.match_info["file"])

    async def _download(self, request: web.Request) -> web.StreamResponse:
        stored = self._found(request)
        problem = f"The File {stored.id} cannot be downloaded: only generated files can."  # the wording is ours
        google.require(stored.generated, problem, "FAILED_PRECONDITION")
        media = request.query.get("alt") == "media"
        google.require(media, "emulator: alt=media is what makes it a download.")
        fault = google.call_fault(self._faults, "download", stored.id)
        if fault == "empty":
            return web.Response(headers=google.HEADERS)
        start, stop = self._part(request, stored)
        headers = {**google.HEADERS, "Content-Type": stored.mime, "ETag": f'"{stored.sha256}"'}
        if self._options.batch.ranges:
            headers["Accept-Ranges"] = "bytes"
        part = (start, stop) != (0, stored.size_bytes)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size_bytes}"
        response = web.StreamResponse(status=206 if part else 200, headers=headers)
        if fault != "cut":
            response.content_length = stop - start
        await response.prepare(request)
        if fault == "half":
            stop = start + (stop - start) // 2
        elif fault == "cut":
            stop = min(stop, start + stored.size_bytes // 2)
        with stored.path.open("rb") as file:
            if fault == "cut" and start + 2 < stop < stored.size_bytes:
                file.seek(stop - 1)
                stop -= 2 * (file.read(1) == b"\n")  # in the middle of a line, wherever the half of the file falls
            file.seek(start)
            while piece := file.read(min(_PIECE_BYTES, stop - file.tell())):
                await response.write(piece)
        if fault == "half" and request.transport is not None:
            request.transport.close()  # what is written still arrives
        else:
            await response.write_eof()
        return response

    def _part(self, request: web.Request, stored: StoredFile) -> tuple[int, int]:
        """The first byte to send and the one after the last. Raises ApiError 416.

        Range, ETag and If-Range are an assumption; what is known is `alt=media`.
        """
        whole, tag = (0, stored.size_bytes), f'"{stored.sha256}"'
        if not self._options.batch.ranges or request.headers.get("If-Range", tag) != tag:
            return whole
        try:
            start, stop, _ = request.http_range.indices(stored.size_bytes)
        except ValueError:
            return whole  # RFC 9110: an invalid range is ignored
        if "Range" in request.headers and start >= stop:
            raise google.error(416, "The requested range is not satisfiable.", status="OUT_OF_RANGE")
        return start, stop
