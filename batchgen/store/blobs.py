"""What the store asks of the place where pictures lie, be it a folder or a bucket: a narrow interface, and wishes as data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from batchgen.dataclass import dataclass
from batchgen.errors import StoreError


class BucketUnavailable(StoreError):
    """The bucket does not take or give what it should, and may another time."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A file as its folder or bucket tells of it, unread. bytes: -1 for what is not a plain file. stamp: the time of its last
    change in nanoseconds, or its ETag: with the same one it is the same file; '' when that is not known. mtime_ns: that time,
    of a bucket in whole seconds; 0 when it is not known."""

    path: str
    bytes: int
    stamp: str
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Properties:
    """What a place wishes of the store above it.

    remote: reached over a network: listed once and not asked for each name, and it may be away.
    atomic_rename: a spooled file becomes a picture by a rename, so it is never in both places and never waits in the spool.
    keeps_receipts: a process on another machine may have to finish what one put there and died before it told the ledger.
    parallel_reads: so many files are read at once when all are.
    """

    remote: bool
    atomic_rename: bool
    keeps_receipts: bool
    parallel_reads: int


class Blobs(Protocol):
    """Files by their path, with `/` between parts. Safe to use from several threads.

    Every call raises StoreError, and BucketUnavailable where the place is remote; FileNotFoundError where it says so.
    """

    @property
    def url(self) -> str:
        """The address of a bucket; empty for a folder."""

    @property
    def properties(self) -> Properties: ...

    def prepare(self) -> None:
        """Prove that a new file is taken and that none is written over, before anything is paid for."""

    def put_new(self, path: str, data: bytes | Path) -> BlobInfo | None:
        """The new file, whole before it has its name; None when the name is taken. data: the bytes, or a spooled file that
        holds them, which is gone afterwards where there is an atomic rename."""

    def replace(self, path: str, file: Path) -> None:
        """Write a spooled file over what is known to be ours and can be made again."""

    def get(self, path: str, max_bytes: int | None = None) -> Iterator[bytes]:
        """What the file holds, or begins with, in pieces. Raises OSError, FileNotFoundError when there is none."""

    def open(self, path: str) -> IO[bytes]:
        """The file, at its start. A link out of the folder is not followed. Raises OSError, FileNotFoundError."""

    def move(self, path: str, new: str) -> None:
        """To a name that is free. Raises FileNotFoundError."""

    def delete(self, path: str) -> None:
        """Only for what is ours and can be made again: paid bytes are never deleted."""

    def list(self, folder: str = "") -> Iterator[BlobInfo]:
        """Every file below a folder ('' is all). Below a local folder nothing that is hidden."""

    def stat(self, path: str) -> BlobInfo | None:
        """What stands there now; None when nothing does."""

    def sync(self, *paths: str) -> None:
        """Make the names of these paths durable."""


class Listing:
    """What lies in a place: a folder is asked each time, a remote one is listed once, a thousand to a request, and kept up to
    date by what this process does."""

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
        """As of the last time that the place was listed."""
        self._listed()
        return self._receipt_paths

    def refresh(self) -> None:
        """Forget what was known."""
        if self._blobs.properties.remote:
            with self._lock:
                self._found = self._list()

    def note(self, path: str, found: BlobInfo | None) -> None:
        """This process has put, moved or deleted it."""
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
