"""The Files API's store: uploads in pieces onto the disk, and files that live for a while and belong to one key."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import secrets
import shutil
import string
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from batchgen.emulator import google_errors as errors
from batchgen.emulator.faults import fault_for, markers
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import picture_size

# In a file's display name. reset: the connection ends when half of a piece is stored; failed: the state FAILED.
FILE_FAULTS = frozenset({"500", "503", "reset", "failed"})
_MOST_BYTES = 2 * 1024**3  # ai.google.dev/gemini-api/docs/files: 2 GB a file
_ID_CHARACTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file, whole. sha256: in hex. pixels: None if it is not a picture that decodes. Times: seconds since 1970."""

    id: str
    key: str
    mime: str
    display_name: str
    size_bytes: int
    sha256: str
    pixels: tuple[int, int] | None
    path: Path
    created_s: float
    ready_s: float
    expires_s: float
    source: Literal["UPLOADED", "GENERATED"] = "UPLOADED"

    def state(self) -> str:
        if any(name == "failed" for name, _ in markers(self.display_name)):
            return "FAILED"
        return "ACTIVE" if time.time() >= self.ready_s else "PROCESSING"

    def as_json(self, base: str) -> dict[str, Any]:
        """ai.google.dev/api/files. base: origin and version. Recorded hashes are base64 of the hex text."""
        found: dict[str, Any] = {"name": f"files/{self.id}"}
        if self.display_name:
            found["displayName"] = self.display_name
        found |= {
            "mimeType": self.mime,
            "sizeBytes": str(self.size_bytes),
            "createTime": stamp(self.created_s),
            "updateTime": stamp(self.ready_s),
            "expirationTime": stamp(self.expires_s),
            "sha256Hash": base64.b64encode(self.sha256.encode()).decode(),
            "uri": f"{base}/files/{self.id}",
            "state": self.state(),
            "source": self.source,
        }
        if self.source == "GENERATED":  # the documents name the field; the path is that of their own download
            origin, _, version = base.rpartition("/")
            found["downloadUri"] = f"{origin}/download/{version}/files/{self.id}:download?alt=media"
        if found["state"] == "FAILED":  # the documents name the field and show no example
            found["error"] = {"code": 13, "message": "The file could not be processed."}
        return found


@dataclass(slots=True, kw_only=True)
class Upload:
    """One that is under way. The bytes that arrived are on disk, so that a client may ask how many and go on."""

    id: str
    file_id: str
    key: str
    mime: str
    display_name: str
    size_bytes: int
    path: Path
    received_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, piece: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(piece)
        self.digest.update(piece)
        self.received_bytes += len(piece)


class Files:
    """All uploads and files of one emulator, in a temporary folder that goes with it. Asked from worker threads too."""

    def __init__(self, options: EmulatorOptions) -> None:
        self._options = options
        self._folder: Path | None = None
        self._uploads: dict[str, Upload] = {}
        self._files: dict[str, StoredFile] = {}
        self._finished: dict[str, str] = {}  # by upload: its file
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def begin(self, key: str, *, mime: str, size_bytes: int, display_name: str, name: str = "") -> Upload:
        """Raises Refusal. name: `files/…` as the client wants it, empty for one of ours."""
        for fault, _ in markers(display_name):
            if fault not in FILE_FAULTS:
                raise errors.refusal(400, f"emulator: the Files API has no fault named {fault!r}")
        file_id = name.removeprefix("files/") or "".join(secrets.choice(_ID_CHARACTERS) for _ in range(12))
        # ai.google.dev/api/files has these rules; their wording is ours.
        if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", file_id):
            raise errors.refusal(400, "* File.name: may hold up to 40 lowercase letters, digits and inner dashes.\n")
        if file_id in self._files:
            raise errors.refusal(409, f"Requested entity already exists: files/{file_id}", status="ALREADY_EXISTS")
        if size_bytes > _MOST_BYTES:
            raise errors.refusal(400, f"Upload size exceeds the limit: {_MOST_BYTES} bytes.")
        upload_id = secrets.token_urlsafe(24)
        upload = Upload(
            id=upload_id,
            file_id=file_id,
            key=key,
            mime=mime or "application/octet-stream",
            display_name=display_name,
            size_bytes=size_bytes,
            path=self.place(upload_id),
        )
        upload.path.touch()
        self._uploads[upload_id] = upload
        return upload

    def place(self, name: str) -> Path:
        """Where something of this name may lie until the emulator ends."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="batchgen-emulator-"))
        return self._folder / name

    def add_generated(self, key: str, file_id: str, path: Path, size_bytes: int, sha256: str) -> StoredFile:
        """Results of a batch. They live as long as uploads do; the documents speak of six weeks too."""
        now_s = time.time()
        stored = StoredFile(
            id=file_id,
            key=key,
            mime="application/jsonl",
            display_name="",
            size_bytes=size_bytes,
            sha256=sha256,
            pixels=None,
            path=path,
            created_s=now_s,
            ready_s=now_s,
            expires_s=now_s + self._options.file_life_s,
            source="GENERATED",
        )
        with self._lock:
            self._files[file_id] = stored
        return stored

    def finished(self, upload_id: str) -> StoredFile | None:
        """The file that an upload became; a client whose answer was lost asks for it."""
        return self._files.get(self._finished.get(upload_id, ""))

    def upload(self, upload_id: str) -> Upload:
        """Raises Refusal for one that never began or is over; the wording is ours."""
        if upload_id not in self._uploads:
            raise errors.refusal(404, "Upload not found, or it has already been finalized.")
        return self._uploads[upload_id]

    def fault(self, upload: Upload) -> str | None:
        """What this piece shall suffer; attempts count for key and display name, over all their uploads."""
        place = (upload.key, upload.display_name)
        self._attempts[place] += 1
        fault = fault_for(upload.display_name, self._attempts[place], {}, random.Random(0))
        return None if fault == "failed" else fault

    def finish(self, upload: Upload) -> StoredFile:
        """Decodes pictures once, so that no request for content has to."""
        pixels = picture_size(upload.path) if upload.mime.startswith("image/") else None
        now_s = time.time()
        stored = StoredFile(
            id=upload.file_id,
            key=upload.key,
            mime=upload.mime,
            display_name=upload.display_name,
            size_bytes=upload.received_bytes,
            sha256=upload.digest.hexdigest(),
            pixels=pixels,
            path=upload.path,
            created_s=now_s,
            ready_s=now_s + self._options.file_processing_s,
            expires_s=now_s + self._options.file_life_s,
        )
        with self._lock:
            self._files[stored.id] = stored
            self._finished[upload.id] = stored.id
        self._uploads.pop(upload.id, None)
        return stored

    def find(self, key: str, file_id: str) -> StoredFile:
        """Raises Refusal 403, the same for a file that never was, is over, or belongs to another key."""
        found = next((one for one in self._living() if one.id == file_id), None)
        if found is None or found.key != key:
            raise errors.no_such_file(file_id)
        return found

    def usable(self, key: str, uri: str) -> StoredFile | None:
        """The file that a `fileUri` means; None for a link to elsewhere. Raises Refusal."""
        match = re.search(r"/v1(?:beta)?/files/([^/?#]+)$", uri)
        if match is None:
            return None
        found = self.find(key, match.group(1))
        if found.state() != "ACTIVE":
            raise errors.file_not_active(found.id)
        return found

    def of(self, key: str) -> list[StoredFile]:
        """Newest first."""
        return [found for found in reversed(self._living()) if found.key == key]

    def delete(self, key: str, file_id: str) -> None:
        found = self.find(key, file_id)
        with self._lock:
            self._files.pop(found.id, None)
        found.path.unlink(missing_ok=True)

    def clear(self) -> None:
        self._uploads.clear()
        with self._lock:
            self._files.clear()
            self._finished.clear()
        self._attempts.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _living(self) -> list[StoredFile]:
        """All files, oldest first, once those that expired are gone."""
        now_s = time.time()
        with self._lock:
            expired = [one for one in self._files.values() if one.expires_s <= now_s]
            for one in expired:
                del self._files[one.id]
                one.path.unlink(missing_ok=True)
            return list(self._files.values())


def stamp(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
