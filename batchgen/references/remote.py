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
from batchgen.manifest.diagnostics import shown
from batchgen.manifest.storage_url import fixed_part, matching, object_address
from batchgen.references.known_objects import KnownObjects
from batchgen.references.listings import LISTED_MOST, Listings, TooManyError
from batchgen.references.local import FILE_MAX_BYTES, GLOB_MAX_FILES, BadReferenceError, Picture, picture_type
from batchgen.safe_open import private
from batchgen.settings import environment
from batchgen.store.objects import BucketAway, Found, Objects, server_of

AT_ONCE = 16
HEAD_BYTES = 16
FAULTS_MOST = 3  # in a row; then it is left alone, so that ten thousand items do not wait for it one after the other
LEFT_ALONE_S = 60.0
_KNOWN_MAX = 65_536


class Bucket:
    """One bucket. fault: why it could not be asked, the last `faults` times, and when that was."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError."""
        self.objects = Objects(url)
        self.listings = Listings(self.objects)
        self.fault = ""
        self.faults = 0
        self.fault_s = 0.0


class PicturesAfar:
    """Safe to use from several threads; pictures are found by one at a time."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None], file_max_bytes: int = FILE_MAX_BYTES) -> None:
        """folder: of the user's state, where what was learned of an object is remembered for other runs."""
        self._memory = KnownObjects(folder, warn)
        self._file_max_bytes = file_max_bytes
        self._buckets: dict[str, Bucket] = {}
        self._looked: OrderedDict[str, tuple[Found, str]] = OrderedDict()  # by address, with the MIME type
        self._lock = threading.RLock()

    # --- while the manifest is read

    def find(self, name: str) -> list[Picture]:
        """The picture of this address, or those of a glob in order of name. Raises BadReferenceError."""
        try:
            url, key = object_address(name)
        except ValueError as error:
            raise BadReferenceError(f"{'its address' if '@' in name else shown(name)}: {error}") from None
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

    def _find_one(self, bucket: Bucket, key: str, name: str) -> Picture:
        if (known := self._looked.get(f"{bucket.objects.url}/{key}")) is not None:
            return self._picture(bucket, key, name, *known)
        with _asking(bucket):
            listing = bucket.listings.wider(key)
            found = None
            if listing is not None:
                found = next(listing.beginning(key), None)
                if found is None or found.path != key:
                    raise FileNotFoundError
            return self._picture(bucket, key, name, *self._look(bucket, key, found))

    def _find_all(self, bucket: Bucket, pattern: str, name: str) -> list[Picture]:
        with _asking(bucket):
            fixed = fixed_part(pattern)
            try:
                below = {found.path: found for found in bucket.listings.of(fixed)}
            except TooManyError:
                begin = f"{bucket.objects.url}/{fixed}"
                raise BadReferenceError(
                    f"{name!r}: more than {LISTED_MOST:,} objects begin with {begin}: write more of the name before the"
                    " first of * ? ["
                ) from None
            keys = [pattern] if pattern in below else list(matching(pattern, below))
            if not keys:
                raise BadReferenceError(f"{name!r} matches no object")
            if len(keys) > GLOB_MAX_FILES:
                raise BadReferenceError(f"{name!r} matches more than {GLOB_MAX_FILES} objects")
            with ThreadPoolExecutor(AT_ONCE) as pool:
                looked = pool.map(lambda key: self._look(bucket, key, below[key]), keys)
                return [
                    self._picture(bucket, key, f"{bucket.objects.url}/{key}", *seen)
                    for key, seen in zip(keys, looked, strict=True)
                ]

    def _look(self, bucket: Bucket, key: str, found: Found | None) -> tuple[Found, str]:
        """The object and its MIME type, '' for no picture. found: as a listing has it. Raises FileNotFoundError."""
        address = f"{bucket.objects.url}/{key}"
        if (known := self._looked.get(address)) is not None:
            return known
        mime_type = self._memory.about(_place(address), found.etag, found.bytes)[0] if found is not None else ""
        if found is None or not mime_type:
            found, head = bucket.objects.start(key, HEAD_BYTES)
            mime_type = picture_type(head) or ""
            if mime_type and not self._memory.about(_place(address), found.etag, found.bytes)[0]:
                self._memory.learn(_place(address), found.etag, found.bytes, mime_type)
        self._looked[address] = found, mime_type
        if len(self._looked) > _KNOWN_MAX:
            self._looked.popitem(last=False)
        return found, mime_type

    def _picture(self, bucket: Bucket, key: str, name: str, found: Found, mime_type: str) -> Picture:
        if found.bytes > self._file_max_bytes:
            most = f"{self._file_max_bytes / 1e6:g} MB"
            raise BadReferenceError(f"{name!r} has {found.bytes / 1e6:.1f} MB, a reference at most {most}")
        if not mime_type:
            raise BadReferenceError(f"{name!r} is not a picture (PNG, JPEG, WebP, HEIC, HEIF or GIF) by its content")
        return Picture(f"{bucket.objects.url}/{key}", mime_type, found.bytes)

    def _bucket(self, url: str) -> Bucket:
        """Raises SettingsError, BucketAway."""
        bucket = self._buckets.get(url)
        if bucket is None:
            bucket = self._buckets[url] = Bucket(url)
        if bucket.faults >= FAULTS_MOST and time.monotonic() < bucket.fault_s + LEFT_ALONE_S:
            raise BucketAway(bucket.fault)
        return bucket

    # --- what is in them

    def digests(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """sha256 in hex by address, several at once. Raises UsageError."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(addresses, pool.map(self._digest, addresses), strict=True))

    def _digest(self, address: str) -> str:
        try:
            found = self._known(address)
            if sha256 := self._memory.about(_place(address), found.etag, found.bytes)[1]:
                return sha256
            digest, head = hashlib.sha256(), b""
            found, pieces = self._whole(address)
            for piece in pieces:
                digest.update(piece)
                head = head or piece[:HEAD_BYTES]
        except (FileNotFoundError, StoreError, SettingsError) as error:
            raise UsageError(
                _gone(address) if isinstance(error, FileNotFoundError) else f"{address}: {error}"
            ) from None
        mime_type, sha256 = picture_type(head) or "", digest.hexdigest()
        self._memory.learn(_place(address), found.etag, found.bytes, mime_type, sha256)
        return sha256

    def bring(self, address: str, path: str) -> str:
        """Fetch it into a new file; its sha256. Raises UsageError when it is gone, BucketAway, OSError."""
        try:
            _, pieces = self._whole(address)
        except FileNotFoundError:
            raise UsageError(_gone(address)) from None
        digest = hashlib.sha256()
        with open(path, "wb", opener=private) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

    def _known(self, address: str) -> Found:
        if (known := self._looked.get(address)) is None:
            bucket, key = self._at(address)
            known = self._look(bucket, key, None)
        return known[0]

    def _whole(self, address: str) -> tuple[Found, Iterator[bytes]]:
        bucket, key = self._at(address)
        found, pieces = bucket.objects.whole(key)
        if found.bytes > self._file_max_bytes:
            raise UsageError(f"{address}: the reference has grown beyond {self._file_max_bytes / 1e6:g} MB")
        return found, pieces

    def _at(self, address: str) -> tuple[Bucket, str]:
        url, key = object_address(address)
        with self._lock:
            return self._bucket(url), key


def _gone(address: str) -> str:
    return f"{address}: the reference is no longer in its bucket"


@contextmanager
def _asking(bucket: Bucket) -> Iterator[None]:
    """Counts the times in a row that it could not be asked."""
    try:
        yield
    except BucketAway as error:
        bucket.faults, bucket.fault, bucket.fault_s = bucket.faults + 1, str(error), time.monotonic()
        raise
    except (BadReferenceError, FileNotFoundError):
        bucket.faults = 0
        raise
    bucket.faults = 0


def _place(address: str) -> str:
    """An address means another object on another server."""
    return f"{server}/{address}" if (server := server_of(address, environment())) else address
