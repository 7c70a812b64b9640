"""What the store needs from the place where images are, a folder or a bucket: a narrow interface, with its requirements
as data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from batchgen.errors import StoreError


class BucketUnavailable(StoreError):
    """The bucket refuses to store or return something, but may do so at another time."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A file as its folder or bucket describes it, without reading it. bytes: -1 if it is not a regular file. stamp:
    the time of its last change in nanoseconds, or its ETag: the same stamp means the same file; '' if unknown.
    mtime_ns: that time, in whole seconds for a bucket; 0 if unknown."""

    path: str
    bytes: int
    stamp: str
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Properties:
    """What a place requires of the store.

    remote: reached over a network: it is listed once instead of being asked for each name, and it may be away.
    atomic_rename: a spooled file becomes an image by a rename, so it is never in both places and never waits in the
    spool. keeps_receipts: a process on another machine may have to finish what one uploaded before it died without
    telling the ledger. parallel_reads: how many files are read at once if all are.
    """

    remote: bool
    atomic_rename: bool
    keeps_receipts: bool
    parallel_reads: int


class Blobs(Protocol):
    """Files by their path, with `/` between its parts. Several threads may use it.

    Every call raises StoreError, and BucketUnavailable if the place is remote; FileNotFoundError where stated.
    """

    @property
    def url(self) -> str:
        """The address of a bucket; empty for a folder."""

    @property
    def properties(self) -> Properties: ...

    def prepare(self) -> None:
        """Prove that a new file is accepted and that none is overwritten, before anything is paid for."""

    def put_new(self, path: str, data: bytes | Path) -> BlobInfo | None:
        """Store a new file, whole before it has its name. Returns it, or None if the name is taken. data: the bytes, or
        a spooled file with them, which is gone afterwards if there is an atomic rename."""

    def replace(self, path: str, file: Path) -> None:
        """Write a spooled file over one that batchgen wrote and can make again."""

    def get(self, path: str, max_bytes: int | None = None) -> Iterator[bytes]:
        """The contents of a file, or its beginning, in pieces. Raises OSError, FileNotFoundError if there is none."""

    def open(self, path: str) -> IO[bytes]:
        """The file, at its start. A link out of the folder is not followed. Raises OSError, FileNotFoundError."""

    def move(self, path: str, new: str) -> None:
        """Move a file to a free name. Raises FileNotFoundError."""

    def delete(self, path: str) -> None:
        """Delete a file that batchgen can make again: paid bytes are never deleted."""

    def list(self, folder: str = "") -> Iterator[BlobInfo]:
        """Every file below a folder ('' for all). In a local folder nothing that is hidden."""

    def stat(self, path: str) -> BlobInfo | None:
        """The file that is there now; None if there is none."""

    def sync(self, *paths: str) -> None:
        """Make the names of these paths durable."""


class Listing:
    """The files in a place: a folder is asked each time, a remote place is listed once, a thousand names per request,
    and then kept up to date with what this process does."""

    def __init__(self, blobs: Blobs, hidden: str, receipts: str) -> None:
        """hidden: the folder whose files do not count as the job's; receipts: the one in it whose paths are kept."""
        self._blobs = blobs
        self._hidden, self._receipts = f"{hidden}/", f"{receipts}/"
        self._lock = threading.Lock()
        self._found: dict[str, BlobInfo] | None = None
        self._receipt_paths: list[str] = []

    def __getitem__(self, path: str) -> BlobInfo | None:
        return self._listed().get(path) if self._blobs.properties.remote else self._blobs.stat(path)

    def __iter__(self) -> Iterator[BlobInfo]:
        yield from list(self._listed().values()) if self._blobs.properties.remote else self._blobs.list()

    def receipt_paths(self) -> list[str]:
        """The paths of receipts, as of the last time that the place was listed."""
        self._listed()
        return self._receipt_paths

    def refresh(self) -> None:
        """Forget what was known."""
        if self._blobs.properties.remote:
            with self._lock:
                self._found = self._list()

    def note(self, path: str, found: BlobInfo | None) -> None:
        """Note that this process has stored, moved or deleted a file."""
        if self._found is None:
            return
        if found is None:
            self._found.pop(path, None)
        else:
            self._found[path] = found

    def _listed(self) -> dict[str, BlobInfo]:
        with self._lock:
            if self._found is None:
                self._found = self._list()
            return self._found

    def _list(self) -> dict[str, BlobInfo]:
        found = list(self._blobs.list())
        self._receipt_paths = [one.path for one in found if one.path.startswith(self._receipts)]
        return {one.path: one for one in found if not one.path.startswith(self._hidden)}
