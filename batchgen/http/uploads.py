"""Uploads files to an API's store, each once per key and server. Uploads are remembered for all runs of this user until
they expire."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from batchgen.errors import InputRejected, UploadFailed
from batchgen.http.addresses import checked_upload_url
from batchgen.http.transport import Transport
from batchgen.records import Request, Response
from batchgen.safe_open import create_private_file
from batchgen.scheduling.window import account_key
from batchgen.single_flight import SingleFlight

if TYPE_CHECKING:
    from batchgen.providers.contract import FileCodec, RemoteFile
    from batchgen.providers.credentials import Credentials

FILE_NAME = "uploads.sqlite"
PIECE_BYTES = 8 * 1024 * 1024  # as the official SDKs do, and a multiple of what the API asks for
USABLE_SHARE = 0.95  # of a file's life: a request that names it may take minutes
FILE_LIFETIME_S = 48 * 3600.0  # if the answer does not say: ai.google.dev/gemini-api/docs/files
MAX_RESUMES = 3
POLL_S, POLL_MAX_S = 0.2, 5.0
READY_TIMEOUT_S = 120.0  # an image is ready at once, or never
BUSY_S = 5.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS upload (owner TEXT, sha256 TEXT, mime TEXT, uri TEXT NOT NULL, until REAL NOT NULL,"
    " PRIMARY KEY (owner, sha256, mime)) WITHOUT ROWID"
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Destination:
    """The store that a file is uploaded to."""

    files: FileCodec
    base_url: str
    credentials: Credentials | None

    @property
    def owner(self) -> str:
        """The server and a short hash of the key."""
        return account_key(self.base_url, self.credentials.account if self.credentials else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file to upload. open: opens it at its start, and refuses one that has changed since it was hashed."""

    name: str
    sha256: str
    mime_type: str
    open: Callable[[], IO[bytes]]


class Uploader:
    """Uploads files and remembers them. Call it from the event loop only. If the memory cannot be kept on disk, it
    lasts for this run, and that is reported once."""

    def __init__(self, folder: Path | None, transport: Transport, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._transport = transport
        self._note = note
        self._cached: dict[tuple[str, str, str], tuple[str, float]] = {}
        self.in_flight = SingleFlight()

    async def uri(self, destination: Destination, upload: Upload, *, min_lifetime_s: float = 0.0) -> str:
        """Where the API finds the file for at least `min_lifetime_s` more. Raises ProviderError, and what `open`
        raises."""
        key = (destination.owner, upload.sha256, upload.mime_type)
        if (known := self._unexpired_uri(key, min_lifetime_s)) is not None:
            return known
        return await self.in_flight.do(key, lambda: self._find_or_upload(key, destination, upload, min_lifetime_s))

    async def forget(self, uris: Iterable[str]) -> None:
        """Forget files that the vendor no longer has. What was uploaded again in the meantime stays."""
        gone = set(uris)
        self._cached = {key: value for key, value in self._cached.items() if value[0] not in gone}
        await self._with_database(
            lambda connection: connection.executemany("DELETE FROM upload WHERE uri = ?", [(uri,) for uri in gone])
        )

    def _unexpired_uri(self, key: tuple[str, str, str], min_lifetime_s: float) -> str | None:
        uri, expires_at = self._cached.get(key, ("", 0.0))
        return uri if expires_at > time.time() + min_lifetime_s else None

    async def _find_or_upload(
        self, key: tuple[str, str, str], destination: Destination, upload: Upload, min_lifetime_s: float
    ) -> str:
        sql = "SELECT uri, until FROM upload WHERE (owner, sha256, mime) = (?, ?, ?)"
        row = await self._with_database(lambda connection: connection.execute(sql, key).fetchone())
        if row is not None:
            self._cached[key] = (str(row[0]), float(row[1]))
            if (known := self._unexpired_uri(key, min_lifetime_s)) is not None:
                return known
        remote, now = await self._upload(destination, upload), time.time()
        lifetime_s = remote.expires - now if remote.expires else FILE_LIFETIME_S
        self._cached[key] = (remote.uri, now + USABLE_SHARE * lifetime_s)
        values = (*key, *self._cached[key])
        await self._with_database(
            lambda connection: connection.execute("INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?)", values)
        )
        return remote.uri

    # --- the wire

    async def _upload(self, destination: Destination, upload: Upload) -> RemoteFile:
        file = await asyncio.to_thread(upload.open)
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            url, granularity = await self.start_upload(destination, upload.mime_type, size_bytes, upload.name)
            return await self.resume_upload(destination, file, url, granularity)

    async def start_upload(
        self, destination: Destination, mime_type: str, size_bytes: int, name: str
    ) -> tuple[str, int]:
        """Start an upload. Returns an address for the pieces, and the number of bytes of which all but the last must be
        a multiple. Raises ProviderError."""
        url, granularity = destination.files.read_start(
            await self._send_step(destination, destination.files.start(mime_type, size_bytes, name))
        )
        checked_upload_url(destination.base_url, url)  # before it is remembered
        return url, granularity

    async def received_bytes(self, destination: Destination, url: str) -> int:
        """How many bytes of an upload that broke off have arrived. Raises ProviderError if it cannot be resumed."""
        return destination.files.read_offset(await self._send_step(destination, destination.files.query_offset(), url))

    async def resume_upload(
        self, destination: Destination, file: IO[bytes], url: str, granularity: int = 1, offset_bytes: int = 0
    ) -> RemoteFile:
        """Send the rest of a file to the address that `start_upload` returned. Raises ProviderError."""
        size_bytes = os.fstat(file.fileno()).st_size
        return await self._wait_until_ready(
            destination, await self._send_pieces(destination, file, size_bytes, url, granularity, offset_bytes)
        )

    async def _send_pieces(
        self, destination: Destination, file: IO[bytes], size_bytes: int, url: str, granularity: int, offset: int
    ) -> RemoteFile:
        """Send a file from disk, with one piece in memory. After a fault, continue where the server says it is."""
        piece_bytes = max(1, PIECE_BYTES // granularity) * granularity
        faults = 0
        while True:
            file.seek(offset)
            data = await asyncio.to_thread(file.read, piece_bytes)
            last = offset + len(data) >= size_bytes
            try:
                request = destination.files.upload_piece(data, offset, last=last)
                remote = destination.files.read_piece(await self._send_step(destination, request, url), last=last)
            except UploadFailed:
                if (faults := faults + 1) > MAX_RESUMES:
                    raise
                offset = await self.received_bytes(destination, url)
            else:
                if remote is not None:
                    return remote
                offset += len(data)

    async def _wait_until_ready(self, destination: Destination, remote: RemoteFile) -> RemoteFile:
        """Wait until the server has processed the file. Raises InputRejected if it cannot use it."""
        waited_s, wait_s = 0.0, POLL_S  # counted, not measured: the process may have been stopped
        while remote.state == "PROCESSING":
            if waited_s + wait_s > READY_TIMEOUT_S:
                raise UploadFailed(f"the uploaded file was not ready within {READY_TIMEOUT_S:.0f} s")
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(POLL_MAX_S, wait_s * 1.5)
            remote = destination.files.read_file(
                await self._send_step(destination, destination.files.get_file(remote.name))
            )
        if remote.state == "FAILED":
            raise InputRejected("the vendor could not process an uploaded reference")
        return remote

    async def _send_step(self, destination: Destination, request: Request, url: str = "") -> Response:
        """Send one request of an upload. url: an address from the server, which takes the place of the key."""
        return await self._transport.upload(destination.base_url, request, destination.credentials, url)

    # --- the memory on disk

    async def _with_database(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of a call on the database, None if there is no memory on disk, or none any more."""
        if self._folder is None:
            return None
        try:
            return await asyncio.to_thread(_transaction, self._folder, call)
        except (OSError, sqlite3.Error) as error:
            self._note(f"uploaded references are not remembered for other runs: {self._folder} cannot be used: {error}")
            self._folder = None
            return None


def _transaction(folder: Path, call: Callable[[sqlite3.Connection], T]) -> T:
    """Run a call in a transaction. The database is opened for each question: there is one per file and run."""
    create_private_file(folder / FILE_NAME)
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME, timeout=BUSY_S)) as connection:
        connection.execute(SCHEMA)
        connection.execute("DELETE FROM upload WHERE until < ?", (time.time(),))
        with connection:
            return call(connection)
