"""References in buckets: found, identified, hashed and downloaded. Each object is read no more often than it changes,
which a small SQLite file remembers for all runs of this user."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from batchgen.errors import SettingsError, StoreError, UsageError
from batchgen.manifest.addresses import glob_prefix, match_keys, split_object_url
from batchgen.manifest.diagnostics import safe_repr
from batchgen.references.listings import MAX_LISTED, Listings, TooManyObjectsError
from batchgen.references.local import FILE_MAX_BYTES, GLOB_MAX_FILES, BadReferenceError, ReferencePicture
from batchgen.safe_open import create_private_file, private_opener
from batchgen.settings import environment
from batchgen.store.blobs import BlobInfo, BucketUnavailable
from batchgen.store.objects import ObjectStorage, storage_server
from batchgen.store.sniff import HEAD_BYTES, picture_type

FILE_NAME = "references.sqlite"
MAX_OBJECTS = 250_000  # objects, of some 200 bytes each
BUSY_S = 5.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS object (place INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, etag TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, mime TEXT NOT NULL, sha256 TEXT NOT NULL)"
)
T = TypeVar("T")
MAX_PARALLEL = 16
MAX_FAILURES_IN_A_ROW = 3  # then it is not asked again, so that ten thousand items do not wait for it one by one
BACKOFF_S = 60.0
_MAX_INSPECTED = 65_536


class ReferenceBucket:
    """A bucket. last_failure: why it could not be asked, the last `failures_in_a_row` times."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError."""
        self.objects = ObjectStorage(url)
        self.listings = Listings(self.objects)
        self.last_failure = ""
        self.failures_in_a_row = 0
        self.failed_at_s = 0.0


class RemoteReferences:
    """The references in buckets. Several threads may use it; one at a time finds images."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None], file_max_bytes: int = FILE_MAX_BYTES) -> None:
        """folder: of the user's state, which remembers what was learnt about an object for other runs."""
        self._object_cache = ObjectCache(folder, warn)
        self._file_max_bytes = file_max_bytes
        self._buckets: dict[str, ReferenceBucket] = {}
        self._inspected: OrderedDict[str, tuple[BlobInfo, str]] = OrderedDict()  # by address, with the MIME type
        self._lock = threading.RLock()

    # --- while the manifest is read

    def find(self, name: str) -> list[ReferencePicture]:
        """The image with this address, or those of a glob in order of name. Raises BadReferenceError."""
        try:
            url, key = split_object_url(name)
        except ValueError as error:
            raise BadReferenceError(f"{'its address' if '@' in name else safe_repr(name)}: {error}") from None
        try:
            with self._lock:
                bucket = self._bucket(url)
                if glob.has_magic(key):
                    return self._find_all(bucket, key, name)
                return [self._find_one(bucket, key, name)]
        except FileNotFoundError:
            raise BadReferenceError(f"{name!r} there is no such object in the bucket") from None
        except (StoreError, SettingsError) as error:
            raise BadReferenceError(f"{name!r}: {str(error).removeprefix(f'{url}: ')}") from None

    def _find_one(self, bucket: ReferenceBucket, key: str, name: str) -> ReferencePicture:
        if (known := self._inspected.get(f"{bucket.objects.url}/{key}")) is not None:
            return self._picture(bucket, key, name, *known)
        with _counting_failures(bucket):
            listing = bucket.listings.covering(key)
            found = None
            if listing is not None:
                found = next(listing.with_prefix(key), None)
                if found is None or found.path != key:
                    raise FileNotFoundError
            return self._picture(bucket, key, name, *self._inspect(bucket, key, found))

    def _find_all(self, bucket: ReferenceBucket, pattern: str, name: str) -> list[ReferencePicture]:
        with _counting_failures(bucket):
            fixed = glob_prefix(pattern)
            try:
                below = {found.path: found for found in bucket.listings.list_prefix(fixed)}
            except TooManyObjectsError:
                begin = f"{bucket.objects.url}/{fixed}"
                raise BadReferenceError(
                    f"{name!r}: more than {MAX_LISTED:,} objects begin with {begin}: write more of the name before the"
                    " first of * ? ["
                ) from None
            keys = [pattern] if pattern in below else list(match_keys(pattern, below))
            if not keys:
                raise BadReferenceError(f"{name!r} matches no object")
            if len(keys) > GLOB_MAX_FILES:
                raise BadReferenceError(f"{name!r} matches more than {GLOB_MAX_FILES} objects")
            with ThreadPoolExecutor(MAX_PARALLEL) as pool:
                inspected = pool.map(lambda key: self._inspect(bucket, key, below[key]), keys)
                return [
                    self._picture(bucket, key, f"{bucket.objects.url}/{key}", *seen)
                    for key, seen in zip(keys, inspected, strict=True)
                ]

    def _inspect(self, bucket: ReferenceBucket, key: str, found: BlobInfo | None) -> tuple[BlobInfo, str]:
        """The object and its MIME type, '' if it is not an image. found: from a listing. Raises FileNotFoundError."""
        address = f"{bucket.objects.url}/{key}"
        if (known := self._inspected.get(address)) is not None:
            return known
        mime_type = self._recall(address, found)[0] if found is not None else ""
        if found is None or not mime_type:
            found, head = bucket.objects.read_head(key, HEAD_BYTES)
            mime_type = picture_type(head) or ""
            if mime_type and not self._recall(address, found)[0]:
                self._object_cache.put(_cache_key(address), found.stamp, found.bytes, mime_type)
        self._inspected[address] = found, mime_type
        if len(self._inspected) > _MAX_INSPECTED:
            self._inspected.popitem(last=False)
        return found, mime_type

    def _recall(self, address: str, found: BlobInfo) -> tuple[str, str]:
        """The MIME type and sha256 of the object from earlier runs."""
        return self._object_cache.get(_cache_key(address), found.stamp, found.bytes)

    def _picture(
        self, bucket: ReferenceBucket, key: str, name: str, found: BlobInfo, mime_type: str
    ) -> ReferencePicture:
        if found.bytes > self._file_max_bytes:
            most = f"{self._file_max_bytes / 1e6:g} MB"
            raise BadReferenceError(f"{name!r} has {found.bytes / 1e6:.1f} MB, a reference at most {most}")
        if not mime_type:
            raise BadReferenceError(
                f"{name!r} is not an image (PNG, JPEG, WebP, GIF, HEIC, HEIF, AVIF, TIFF or BMP) by its content"
            )
        return ReferencePicture(f"{bucket.objects.url}/{key}", mime_type, found.bytes)

    def _bucket(self, url: str) -> ReferenceBucket:
        """The bucket with an address. Raises SettingsError, BucketUnavailable."""
        bucket = self._buckets.get(url)
        if bucket is None:
            bucket = self._buckets[url] = ReferenceBucket(url)
        if bucket.failures_in_a_row >= MAX_FAILURES_IN_A_ROW and time.monotonic() < bucket.failed_at_s + BACKOFF_S:
            raise BucketUnavailable(bucket.last_failure)
        return bucket

    # --- what is in them

    def digests(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """The sha256 in hex by address, computed several at once. Raises UsageError."""
        with ThreadPoolExecutor(MAX_PARALLEL) as pool:
            return dict(zip(addresses, pool.map(self._digest, addresses), strict=True))

    def _digest(self, address: str) -> str:
        try:
            found = self._blob_info(address)
            if sha256 := self._recall(address, found)[1]:
                return sha256
            digest, head = hashlib.sha256(), b""
            found, pieces = self._stat_and_stream(address)
            for piece in pieces:
                digest.update(piece)
                head = head or piece[:HEAD_BYTES]
        except (FileNotFoundError, StoreError, SettingsError) as error:
            raise UsageError(
                _gone_message(address) if isinstance(error, FileNotFoundError) else f"{address}: {error}"
            ) from None
        mime_type, sha256 = picture_type(head) or "", digest.hexdigest()
        self._object_cache.put(_cache_key(address), found.stamp, found.bytes, mime_type, sha256)
        return sha256

    def fetch(self, address: str, path: str) -> str:
        """Download it into a new file, and return its sha256. Raises UsageError if it is gone, BucketUnavailable,
        OSError."""
        try:
            _, pieces = self._stat_and_stream(address)
        except FileNotFoundError:
            raise UsageError(_gone_message(address)) from None
        digest = hashlib.sha256()
        with open(path, "wb", opener=private_opener) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

    def _blob_info(self, address: str) -> BlobInfo:
        if (known := self._inspected.get(address)) is None:
            bucket, key = self._bucket_and_key(address)
            known = self._inspect(bucket, key, None)
        return known[0]

    def _stat_and_stream(self, address: str) -> tuple[BlobInfo, Iterator[bytes]]:
        bucket, key = self._bucket_and_key(address)
        found, pieces = bucket.objects.stat_and_stream(key)
        if found.bytes > self._file_max_bytes:
            raise UsageError(f"{address}: the reference has grown beyond {self._file_max_bytes / 1e6:g} MB")
        return found, pieces

    def _bucket_and_key(self, address: str) -> tuple[ReferenceBucket, str]:
        url, key = split_object_url(address)
        with self._lock:
            return self._bucket(url), key


def _gone_message(address: str) -> str:
    return f"{address}: the reference is no longer in its bucket"


@contextmanager
def _counting_failures(bucket: ReferenceBucket) -> Iterator[None]:
    """Count how often in a row the bucket could not be asked."""
    try:
        yield
    except BucketUnavailable as error:
        bucket.failures_in_a_row += 1
        bucket.last_failure, bucket.failed_at_s = str(error), time.monotonic()
        raise
    except (BadReferenceError, FileNotFoundError):
        bucket.failures_in_a_row = 0
        raise
    bucket.failures_in_a_row = 0


def _cache_key(address: str) -> str:
    """The key of an address: on another server it means another object."""
    return f"{server}/{address}" if (server := storage_server(address, environment())) else address


class ObjectCache:
    """Remembers objects. Several threads may use it. If it cannot be kept on disk, that is reported once and stops
    nothing."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None], max_objects: int = MAX_OBJECTS) -> None:
        """folder: of the user's state; None remembers nothing."""
        self._folder = folder
        self._warn = warn
        self._max_objects = max_objects
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def get(self, address: str, etag: str, size_bytes: int) -> tuple[str, str]:
        """The MIME type and sha256 of exactly this object, '' if unknown."""
        sql = "SELECT mime, sha256 FROM object WHERE (address, etag, bytes) = (?, ?, ?)"
        row = self._transact(lambda db: db.execute(sql, (address, etag, size_bytes)).fetchone())
        return (row[0], row[1]) if row is not None else ("", "")

    def put(self, address: str, etag: str, size_bytes: int, mime_type: str, sha256: str = "") -> None:
        """Remember an object, replacing the one that the address had before. If there are too many, the oldest are
        forgotten."""
        if not etag:
            return

        def write(db: sqlite3.Connection) -> None:
            row = (address, etag, size_bytes, mime_type, sha256)
            db.execute("INSERT OR REPLACE INTO object (address, etag, bytes, mime, sha256) VALUES (?, ?, ?, ?, ?)", row)
            db.execute("DELETE FROM object WHERE place <= (SELECT max(place) FROM object) - ?", (self._max_objects,))

        self._transact(write)

    def _transact(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if self._folder is None:
                return None
            try:
                if self._connection is None:
                    self._connection = _open_database(self._folder)
                with self._connection:
                    return call(self._connection)
            except (OSError, sqlite3.Error) as error:
                self._warn(f"references in buckets are not remembered: {self._folder} cannot be used: {error}")
                self._folder = None
                self._close()
                return None

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self._close()


def _open_database(folder: Path) -> sqlite3.Connection:
    create_private_file(folder / FILE_NAME)
    connection = sqlite3.connect(folder / FILE_NAME, timeout=BUSY_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # with NORMAL no write waits for the disk
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection
