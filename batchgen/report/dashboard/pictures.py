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
from batchgen.ledger.history import Chronicle
from batchgen.report.thumbnails import Thumbnails
from batchgen.safe_open import OutsideError, open_regular, resolve
from batchgen.store.bucket import BucketStore
from batchgen.store.objects import BucketAway
from batchgen.store.open_store import META, open_store, take_up
from batchgen.store.sniff import HEAD_BYTES, sniff
from batchgen.store.store import Store

SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
CHUNK_BYTES = 262_144
AVIF = b"ftypavif"  # ISO 14496-12, 4.3: the brand of the first box; no vendor sends it, but `post:` makes it


@dataclass(frozen=True, slots=True)
class Found:
    """An open picture. kind: what its bytes say it is."""

    file: IO[bytes]
    kind: str
    size: int
    sha256: str


def find(folder: Path, attempt: int, k: int) -> Found | None:
    """None when there is no such picture, none that lies inside the folder, or its bytes are none."""
    named = _named(folder, attempt, k)
    if named is None:
        return None
    store, path, sha256 = named
    return _fetched(store, path, sha256) if isinstance(store, BucketStore) else _opened(folder, path, sha256)


def find_derivative(folder: Path, item_id: str, n: int, sha: str) -> Found | None:
    """The same of what was made of a sample's picture. sha: how its SHA-256 begins."""
    try:
        with closing(Chronicle.open(folder)) as ledger:
            path = ledger.derivative_of(item_id, n, sha)
    except (LedgerError, sqlite3.Error):
        return None
    return None if path is None else _opened(folder, path, sha)


def _opened(folder: Path, path: str, sha256: str) -> Found | None:
    try:
        file = open_regular(resolve(os.path.realpath(folder), path))
    except OutsideError:
        return None
    return _sniffed(file, sha256)


def _fetched(store: BucketStore, path: str, sha256: str) -> Found | None:
    """Through this process: the browser has no credentials for the bucket, and shall have none."""
    try:
        return _sniffed(store.open(path), sha256)
    except (FileNotFoundError, BucketAway):
        return None


def _sniffed(file: IO[bytes], sha256: str) -> Found | None:
    head = file.read(HEAD_BYTES)
    kind = sniff(head) or ("avif" if head[4:12] == AVIF else None)
    if kind is None:
        file.close()
        return None
    return Found(file, f"image/{kind}", file.seek(0, os.SEEK_END), sha256)


def thumbnail(folder: Path, attempt: int, k: int) -> bytes | None:
    """WebP, made now if it was not made before, and kept where the gallery keeps it."""
    named = _named(folder, attempt, k)
    if named is None:
        return None
    store, path, sha256 = named
    try:
        if not store.url:
            resolve(os.path.realpath(folder), path)
        small = Thumbnails(folder, store=store).one(path, sha256)
    except (OutsideError, BucketAway):
        return None
    return small if sniff(small[:HEAD_BYTES]) == "webp" else None


def _named(folder: Path, attempt: int, k: int) -> tuple[Store, str, str] | None:
    try:
        with closing(Chronicle.open(folder)) as ledger:
            named = ledger.picture_of(attempt, k)
            store = _store(folder, ledger.meta(META) or "")
            take_up(store, ledger)
    except (LedgerError, SettingsError, sqlite3.Error):
        return None
    return (store, *named) if named is not None and SHA256.fullmatch(named[1]) else None


@lru_cache(64)
def _store(folder: Path, url: str) -> Store:
    """One for a job, so that connections to a bucket are used again."""
    return open_store(folder, url)


def part(header: str, size: int) -> tuple[int, int] | None:
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


def pieces(file: IO[bytes], first: int, last: int) -> Iterator[bytes]:
    file.seek(first)
    left = last - first + 1
    while left > 0 and (piece := file.read(min(CHUNK_BYTES, left))):
        left -= len(piece)
        yield piece
