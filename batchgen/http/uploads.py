"""Files uploaded to an API's store: each once per key and server, remembered for all runs of this user until it expires."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from batchgen.errors import InputRejected, UploadFailed
from batchgen.http.single_flight import SingleFlight
from batchgen.http.transport import Transport, granted_address
from batchgen.safe_open import private_folder
from batchgen.scheduling.quota_terms import account_name

if TYPE_CHECKING:
    from batchgen.providers.gemini_files import GeminiFiles, RemoteFile
    from batchgen.records import Request

FILE_NAME = "uploads.sqlite"
PIECE_BYTES = 8 * 1024 * 1024  # the official SDKs' and the granularity that the API asks for
USED_SHARE = 0.95  # of its life: a request that names the file may be under way for minutes
LIFE_S = 48 * 3600.0  # where the answer does not say: ai.google.dev/gemini-api/docs/files
TAKEN_UP_MOST = 3
POLL_S, POLL_MOST_S = 0.2, 5.0
READY_S = 120.0  # a picture is ready at once; one that is not by then will not be
BUSY_S = 5.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS upload (owner TEXT, sha256 TEXT, mime TEXT, uri TEXT NOT NULL, until REAL NOT NULL,"
    " PRIMARY KEY (owner, sha256, mime)) WITHOUT ROWID"
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Destination:
    """Whose store it is. auth: header name and value, never shown."""

    files: GeminiFiles
    base_url: str
    auth: tuple[str, str] | None

    @property
    def owner(self) -> str:
        """Server and a short hash of the key."""
        return account_name(self.base_url, self.auth[1] if self.auth else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file to upload. open: gives it at its start, and refuses one that has changed since it was hashed."""

    name: str
    sha256: str
    mime_type: str
    open: Callable[[], IO[bytes]]


class Uploads:
    """The event loop is its only caller. A memory that cannot be kept on disk is kept for this run, and said once."""

    def __init__(self, folder: Path | None, transport: Transport, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._transport = transport
        self._note = note
        self._known: dict[tuple[str, str, str], tuple[str, float]] = {}
        self.going = SingleFlight()

    async def uri(self, to: Destination, upload: Upload, *, for_s: float = 0.0) -> str:
        """Where the API finds the file for at least `for_s` more. Raises ProviderError, and what `open` raises."""
        key = (to.owner, upload.sha256, upload.mime_type)
        if (known := self._living(key, for_s)) is not None:
            return known
        return await self.going.do(key, lambda: self._found_or_uploaded(key, to, upload, for_s))

    async def forget(self, uris: Iterable[str]) -> None:
        """They are gone at the vendor's. What was uploaded anew meanwhile stays."""
        gone = set(uris)
        self._known = {key: value for key, value in self._known.items() if value[0] not in gone}
        await self._with_file(
            lambda connection: connection.executemany("DELETE FROM upload WHERE uri = ?", [(uri,) for uri in gone])
        )

    def _living(self, key: tuple[str, str, str], for_s: float) -> str | None:
        uri, until = self._known.get(key, ("", 0.0))
        return uri if until > time.time() + for_s else None

    async def _found_or_uploaded(self, key: tuple[str, str, str], to: Destination, upload: Upload, for_s: float) -> str:
        sql = "SELECT uri, until FROM upload WHERE (owner, sha256, mime) = (?, ?, ?)"
        row = await self._with_file(lambda connection: connection.execute(sql, key).fetchone())
        if row is not None:
            self._known[key] = (str(row[0]), float(row[1]))
            if (known := self._living(key, for_s)) is not None:
                return known
        remote, now = await self._upload(to, upload), time.time()
        life_s = remote.expires - now if remote.expires else LIFE_S
        self._known[key] = (remote.uri, now + USED_SHARE * life_s)
        values = (*key, *self._known[key])
        await self._with_file(
            lambda connection: connection.execute("INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?)", values)
        )
        return remote.uri

    # --- the wire

    async def _upload(self, to: Destination, upload: Upload) -> RemoteFile:
        file = await asyncio.to_thread(upload.open)
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            url, granularity = await self.begin(to, upload.mime_type, size_bytes, upload.name)
            return await self.go_on(to, file, url, granularity)

    async def begin(self, to: Destination, mime_type: str, size_bytes: int, name: str) -> tuple[str, int]:
        """An address for the pieces, and of what all but the last must be a multiple, in bytes. Raises ProviderError."""
        url, granularity = to.files.started(*await self._ask(to, to.files.start(mime_type, size_bytes, name)))
        granted_address(to.base_url, url)  # before it is remembered
        return url, granularity

    async def received(self, to: Destination, url: str) -> int:
        """How much of an upload that broke off has arrived, in bytes. Raises ProviderError when it cannot be gone on with."""
        return to.files.received(*await self._ask(to, to.files.query(), url))

    async def go_on(
        self, to: Destination, file: IO[bytes], url: str, granularity: int = 1, offset_bytes: int = 0
    ) -> RemoteFile:
        """What is left of a file, to the address that `begin` gave. Raises ProviderError."""
        size_bytes = os.fstat(file.fileno()).st_size
        return await self._ready(to, await self._pieces(to, file, size_bytes, url, granularity, offset_bytes))

    async def _pieces(
        self, to: Destination, file: IO[bytes], size_bytes: int, url: str, granularity: int, offset: int
    ) -> RemoteFile:
        """From disk, one piece in memory. After a fault it goes on from where the server says that it is."""
        piece_bytes = max(1, PIECE_BYTES // granularity) * granularity
        faults = 0
        while True:
            file.seek(offset)
            data = await asyncio.to_thread(file.read, piece_bytes)
            last = offset + len(data) >= size_bytes
            try:
                request = to.files.piece(data, offset, last=last)
                remote = to.files.stored(*await self._ask(to, request, url), last=last)
            except UploadFailed:
                if (faults := faults + 1) > TAKEN_UP_MOST:
                    raise
                offset = await self.received(to, url)
            else:
                if remote is not None:
                    return remote
                offset += len(data)

    async def _ready(self, to: Destination, remote: RemoteFile) -> RemoteFile:
        """Once the server has looked at the file. Raises InputRejected when it cannot use it."""
        waited_s, wait_s = 0.0, POLL_S  # counted and not measured: this process may have been stopped meanwhile
        while remote.state == "PROCESSING":
            if waited_s + wait_s > READY_S:
                raise UploadFailed(f"the uploaded file was not ready within {READY_S:.0f} s")
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(POLL_MOST_S, wait_s * 1.5)
            remote = to.files.seen(*await self._ask(to, to.files.look(remote.name)))
        if remote.state == "FAILED":
            raise InputRejected("the vendor could not process an uploaded reference")
        return remote

    async def _ask(self, to: Destination, request: Request, url: str = "") -> tuple[int, Mapping[str, str], bytes]:
        """url: an address that the server gave, which stands for the key."""
        return await self._transport.upload(to.base_url, request, to.auth, url)

    # --- the memory on disk

    async def _with_file(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """None when there is no memory on disk, or none any more."""
        if self._folder is None:
            return None
        try:
            return await asyncio.to_thread(_transaction, self._folder, call)
        except (OSError, sqlite3.Error) as error:
            self._note(f"uploaded references are not remembered for other runs: {self._folder} cannot be used: {error}")
            self._folder = None
            return None


def _transaction(folder: Path, call: Callable[[sqlite3.Connection], T]) -> T:
    with _opened(folder) as connection, connection:
        return call(connection)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """Opened for each question: there is one per file and run."""
    private_folder(folder)
    os.close(os.open(folder / FILE_NAME, os.O_CREAT | os.O_RDWR, 0o600))
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME, timeout=BUSY_S)) as connection:
        connection.execute(SCHEMA)
        connection.execute("DELETE FROM upload WHERE until < ?", (time.time(),))
        yield connection
