"""Pictures and thumbnails by their number in the ledger: no path ever comes from the browser."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from batchgen.errors import LedgerError, SettingsError
from batchgen.ledger.history import HistoryReader
from batchgen.report.thumbnails import Thumbnails
from batchgen.safe_open import UnsafePathError, open_regular, resolve_inside
from batchgen.store.bucket import BucketStore
from batchgen.store.objects import BucketUnavailable
from batchgen.store.open_store import STORE_META_KEY, load_pending, open_store
from batchgen.store.sniff import HEAD_BYTES, sniff
from batchgen.store.store import Store

SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
CHUNK_BYTES = 262_144
AVIF = b"ftypavif"  # ISO 14496-12, 4.3: the brand of the first box; no vendor sends it, but `post:` makes it


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """An open picture. kind: what its bytes say it is."""

    file: IO[bytes]
    kind: str
    size: int
    sha256: str


def open_picture(folder: Path, attempt: int, k: int) -> OpenPicture | None:
    """None when there is no such picture, none that lies inside the folder, or its bytes are none."""
    located = _locate(folder, attempt, k)
    if located is None:
        return None
    store, path, sha256 = located
    return _open_remote(store, path, sha256) if isinstance(store, BucketStore) else _open_local(folder, path, sha256)


def open_derivative(folder: Path, item_id: str, n: int, sha: str) -> OpenPicture | None:
    """The same of what was made of a sample's picture. sha: how its SHA-256 begins."""
    try:
        with closing(HistoryReader.open(folder)) as ledger:
            path = ledger.derivative_path(item_id, n, sha)
    except (LedgerError, sqlite3.Error):
        return None
    return None if path is None else _open_local(folder, path, sha)


def _open_local(folder: Path, path: str, sha256: str) -> OpenPicture | None:
    try:
        file = open_regular(resolve_inside(os.path.realpath(folder), path))
    except UnsafePathError:
        return None
    return _sniff_type(file, sha256)


def _open_remote(store: BucketStore, path: str, sha256: str) -> OpenPicture | None:
    """Through this process: the browser has no credentials for the bucket, and shall have none."""
    try:
        return _sniff_type(store.open(path), sha256)
    except (FileNotFoundError, BucketUnavailable):
        return None


def _sniff_type(file: IO[bytes], sha256: str) -> OpenPicture | None:
    head = file.read(HEAD_BYTES)
    kind = sniff(head) or ("avif" if head[4:12] == AVIF else None)
    if kind is None:
        file.close()
        return None
    return OpenPicture(file, f"image/{kind}", file.seek(0, os.SEEK_END), sha256)


def thumbnail(folder: Path, attempt: int, k: int) -> bytes | None:
    """WebP, made now if it was not made before, and kept where the gallery keeps it."""
    located = _locate(folder, attempt, k)
    if located is None:
        return None
    store, path, sha256 = located
    try:
        if not store.url:
            resolve_inside(os.path.realpath(folder), path)
        small = Thumbnails(folder, store=store).thumbnail(path, sha256)
    except (UnsafePathError, BucketUnavailable):
        return None
    return small if sniff(small[:HEAD_BYTES]) == "webp" else None


def _locate(folder: Path, attempt: int, k: int) -> tuple[Store, str, str] | None:
    try:
        with closing(HistoryReader.open(folder)) as ledger:
            located = ledger.placed_picture(attempt, k)
            store = _store(folder, ledger.meta(STORE_META_KEY) or "")
            load_pending(store, ledger)
    except (LedgerError, SettingsError, sqlite3.Error):
        return None
    return (store, *located) if located is not None and SHA256.fullmatch(located[1]) else None


@lru_cache(64)
def _store(folder: Path, url: str) -> Store:
    """One for a job, so that connections to a bucket are used again."""
    return open_store(folder, url)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte of a Range header; (0, size - 1) when it is none that we read. None when nothing is there.

    Source: RFC 9110, 14.2: a Range that is not understood is passed over. Several ranges at once are not.
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
