"""Images and thumbnails by their number in the ledger: no path ever comes from the browser."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from batchgen.errors import LedgerError, SettingsError
from batchgen.ledger.reader import HistoryReader
from batchgen.report.picture_views import ReferenceFiles
from batchgen.report.thumbnails import Thumbnails, shrink_stored
from batchgen.safe_open import UnsafePathError, resolve_inside
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.sniff import HEAD_BYTES, sniff
from batchgen.store.store import STORE_META_KEY, Store, open_store

SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
CHUNK_BYTES = 262_144
AVIF = b"ftypavif"  # ISO 14496-12, 4.3: the brand of the first box; no vendor sends it, but `post:` makes it


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """An open image. kind: what its bytes are."""

    file: IO[bytes]
    kind: str
    size: int
    sha256: str


def open_picture(folder: Path, attempt: int, k: int) -> OpenPicture | None:
    """Open an image; None if there is no such image, if it is not inside the folder, or if its bytes are not an
    image."""
    located = _locate_picture(folder, attempt, k)
    return None if located is None else _open(*located)


def open_derivative(folder: Path, item_id: str, n: int, sha: str) -> OpenPicture | None:
    """Open a file made from a sample's image. sha: the beginning of its SHA-256."""

    def find(ledger: HistoryReader) -> tuple[str, str] | None:
        path = ledger.derivative_path(item_id, n, sha)
        return None if path is None else (path, sha)

    located = _locate(folder, find)
    return None if located is None else _open(*located)


def _open(store: Store, path: str, sha256: str) -> OpenPicture | None:
    """Open an image through this process: the browser has no credentials for a bucket, and must not have any."""
    try:
        return _sniff_type(store.open(path), sha256)
    except (OSError, BucketUnavailable):
        return None


def _sniff_type(file: IO[bytes], sha256: str) -> OpenPicture | None:
    head = file.read(HEAD_BYTES)
    kind = sniff(head) or ("avif" if head[4:12] == AVIF else None)
    if kind is None:
        file.close()
        return None
    return OpenPicture(file, f"image/{kind}", file.seek(0, os.SEEK_END), sha256)


def thumbnail(folder: Path, attempt: int, k: int, side: int | None = None) -> bytes | None:
    """A WebP, made now if it does not exist, and kept where the gallery keeps it. side: pixels, for another size, which
    is not kept."""
    if (located := _locate_picture(folder, attempt, k)) is None:
        return None
    store, path, sha256 = located
    try:
        if not store.properties.remote:
            resolve_inside(os.path.realpath(folder), path)
        small = shrink_stored(store, path, side) if side else Thumbnails(folder, store).thumbnail(path, sha256)
    except (UnsafePathError, BucketUnavailable):
        return None
    return small if sniff(small[:HEAD_BYTES]) == "webp" else None


def open_reference(files: ReferenceFiles, sha256: str) -> OpenPicture | None:
    """Open a reference; None unless the file is as it was sent, and an image that a browser shows."""
    try:
        return _sniff_type(files.open(sha256), sha256)
    except OSError:
        return None


def reference_thumbnail(folder: Path, files: ReferenceFiles, sha256: str) -> bytes | None:
    """The thumbnail of a reference. See `thumbnail`."""
    return Thumbnails(folder, files).thumbnail(sha256, sha256) or None


def _locate_picture(folder: Path, attempt: int, k: int) -> tuple[Store, str, str] | None:
    located = _locate(folder, lambda ledger: ledger.placed_picture(attempt, k))
    return located if located is not None and SHA256.fullmatch(located[2]) else None


def _locate(folder: Path, find: Callable[[HistoryReader], tuple[str, str] | None]) -> tuple[Store, str, str] | None:
    """The job's store, and path and sha256 of what was found in its ledger."""
    try:
        with closing(HistoryReader.open(folder)) as ledger:
            located = find(ledger)
            store = _store(folder, ledger.meta(STORE_META_KEY) or "")
            store.load_pending(ledger.unplaced())
    except (LedgerError, SettingsError):
        return None
    return None if located is None else (store, *located)


@lru_cache(64)
def _store(folder: Path, url: str) -> Store:
    """The store of a job, kept so that connections to a bucket are reused."""
    return open_store(folder, url)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The (first, last) byte of a Range header; (0, size - 1) if it is not one that this server understands. None if
    the range is empty.

    Source: RFC 9110, 14.2: a Range that is not understood is ignored, as several ranges are here.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-" or size == 0:
        return 0, size - 1
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size - 1) if int(last) else None
    if int(first) >= size or (last and int(last) < int(first)):
        return None
    return int(first), min(int(last) if last else size - 1, size - 1)


def read_chunks(file: IO[bytes], first: int, last: int) -> Iterator[bytes]:
    file.seek(first)
    left = last - first + 1
    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk
