"""References in buckets: found, looked at, hashed and fetched, each object read no more often than it changes."""

from __future__ import annotations

import glob
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from batchgen.errors import SettingsError, StoreError, UsageError
from batchgen.manifest.diagnostics import safe_repr
from batchgen.manifest.storage_url import glob_prefix, match_keys, split_object_url
from batchgen.references.known_objects import ObjectCache
from batchgen.references.listings import MAX_LISTED, Listings, TooManyObjectsError
from batchgen.references.local import FILE_MAX_BYTES, GLOB_MAX_FILES, BadReferenceError, ReferencePicture, picture_type
from batchgen.safe_open import private_opener
from batchgen.settings import environment
from batchgen.store.blobs import BlobInfo, BucketUnavailable
from batchgen.store.objects import ObjectStorage, storage_server

MAX_PARALLEL = 16
HEAD_BYTES = 16
MAX_FAILURES_IN_A_ROW = (
    3  # in a row; then it is left alone, so that ten thousand items do not wait for it one after the other
)
BACKOFF_S = 60.0
_MAX_INSPECTED = 65_536


class ReferenceBucket:
    """One bucket. fault: why it could not be asked, the last `faults` times, and when that was."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError."""
        self.objects = ObjectStorage(url)
        self.listings = Listings(self.objects)
        self.last_failure = ""
        self.failures_in_a_row = 0
        self.failed_at_s = 0.0


class RemoteReferences:
    """Safe to use from several threads; pictures are found by one at a time."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None], file_max_bytes: int = FILE_MAX_BYTES) -> None:
        """folder: of the user's state, where what was learned of an object is remembered for other runs."""
        self._object_cache = ObjectCache(folder, warn)
        self._file_max_bytes = file_max_bytes
        self._buckets: dict[str, ReferenceBucket] = {}
        self._inspected: OrderedDict[str, tuple[BlobInfo, str]] = OrderedDict()  # by address, with the MIME type
        self._lock = threading.RLock()

    # --- while the manifest is read

    def find(self, name: str) -> list[ReferencePicture]:
        """The picture of this address, or those of a glob in order of name. Raises BadReferenceError."""
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
        """The object and its MIME type, '' for no picture. found: as a listing has it. Raises FileNotFoundError."""
        address = f"{bucket.objects.url}/{key}"
        if (known := self._inspected.get(address)) is not None:
            return known
        mime_type = (
            self._object_cache.get(_cache_key(address), found.stamp, found.bytes)[0] if found is not None else ""
        )
        if found is None or not mime_type:
            found, head = bucket.objects.read_head(key, HEAD_BYTES)
            mime_type = picture_type(head) or ""
            if mime_type and not self._object_cache.get(_cache_key(address), found.stamp, found.bytes)[0]:
                self._object_cache.put(_cache_key(address), found.stamp, found.bytes, mime_type)
        self._inspected[address] = found, mime_type
        if len(self._inspected) > _MAX_INSPECTED:
            self._inspected.popitem(last=False)
        return found, mime_type

    def _picture(
        self, bucket: ReferenceBucket, key: str, name: str, found: BlobInfo, mime_type: str
    ) -> ReferencePicture:
        if found.bytes > self._file_max_bytes:
            most = f"{self._file_max_bytes / 1e6:g} MB"
            raise BadReferenceError(f"{name!r} has {found.bytes / 1e6:.1f} MB, a reference at most {most}")
        if not mime_type:
            raise BadReferenceError(f"{name!r} is not a picture (PNG, JPEG, WebP, HEIC, HEIF or GIF) by its content")
        return ReferencePicture(f"{bucket.objects.url}/{key}", mime_type, found.bytes)

    def _bucket(self, url: str) -> ReferenceBucket:
        """Raises SettingsError, BucketUnavailable."""
        bucket = self._buckets.get(url)
        if bucket is None:
            bucket = self._buckets[url] = ReferenceBucket(url)
        if bucket.failures_in_a_row >= MAX_FAILURES_IN_A_ROW and time.monotonic() < bucket.failed_at_s + BACKOFF_S:
            raise BucketUnavailable(bucket.last_failure)
        return bucket

    # --- what is in them

    def digests(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """sha256 in hex by address, several at once. Raises UsageError."""
        with ThreadPoolExecutor(MAX_PARALLEL) as pool:
            return dict(zip(addresses, pool.map(self._digest, addresses), strict=True))

    def _digest(self, address: str) -> str:
        try:
            found = self._blob_info(address)
            if sha256 := self._object_cache.get(_cache_key(address), found.stamp, found.bytes)[1]:
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
        """Fetch it into a new file; its sha256. Raises UsageError when it is gone, BucketUnavailable, OSError."""
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
    """Counts the times in a row that it could not be asked."""
    try:
        yield
    except BucketUnavailable as error:
        bucket.failures_in_a_row, bucket.last_failure, bucket.failed_at_s = (
            bucket.failures_in_a_row + 1,
            str(error),
            time.monotonic(),
        )
        raise
    except (BadReferenceError, FileNotFoundError):
        bucket.failures_in_a_row = 0
        raise
    bucket.failures_in_a_row = 0


def _cache_key(address: str) -> str:
    """An address means another object on another server."""
    return f"{server}/{address}" if (server := storage_server(address, environment())) else address
