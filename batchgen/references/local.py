"""The reference images of a job: found beside the manifest or in a bucket, checked by content, hashed and encoded
once."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Literal, Protocol

import aiofiles
import pybase64

from batchgen.endpoint import split_url
from batchgen.errors import UsageError
from batchgen.manifest.addresses import is_object_url
from batchgen.records import ReferenceImage
from batchgen.references.folders import is_below
from batchgen.references.nearest import as_spelled, missing_folder, nearest_name
from batchgen.safe_open import MissingFileError, UnsafePathError, open_regular, resolve_inside
from batchgen.settings import is_loopback
from batchgen.single_flight import SingleFlight
from batchgen.store.sniff import HEAD_BYTES, must_be_redrawn, picture_type

FILE_MAX_BYTES = 100_000_000  # a file too large for a request is uploaded if the model's API has a store
LINK_MAX_CHARS = 2000
PIECE_BYTES = 1 << 20
CACHE_MAX_BYTES = 64_000_000
GLOB_MAX_FILES = 100
_CACHE_MAX_ENTRIES = 65_536
_KINDS = "PNG, JPEG, WebP, GIF, HEIC, HEIF, AVIF, TIFF or BMP"


class BadReferenceError(ValueError):
    """Why a reference cannot be sent."""


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A file that is an image by its first bytes. redraw: it is never sent unchanged, whatever the model accepts."""

    path: str
    mime_type: str
    bytes: int
    redraw: bool = False


def is_link(name: str) -> bool:
    """Whether a reference is a link; files are named by absolute paths."""
    return name[:8].lower().startswith(("https://", "http://"))


def link_problem(name: str) -> str | None:
    """Why this cannot be a reference's link; None if it can. Where it leads is checked when it is downloaded."""
    scheme = name.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        return f"{scheme}:// is not fetched: give an https:// link, or save the image beside the manifest"
    if not name.isprintable() or " " in name:
        return "holds a space or a control character: write %20 for a space"
    if len(name) > LINK_MAX_CHARS:
        return f"is longer than {LINK_MAX_CHARS:,} characters"
    try:
        parts = split_url(name)
    except ValueError as error:
        return str(error)
    if scheme == "http" and not is_loopback(parts.hostname or ""):
        return "http:// is not fetched: give an https:// link, or save the image beside the manifest"
    if parts.username is not None:
        return "carries a user name or password: a link in a manifest must work without"
    return None


class RemoteReferenceSource(Protocol):
    """Images in object storage, by their addresses. Several threads may use it."""

    def find(self, name: str) -> list[ReferencePicture]:
        """The image with this address, or those of a glob in order of name. Raises BadReferenceError."""
        ...

    def digests(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """The sha256 in hex by address. Raises UsageError."""
        ...

    def fetch(self, address: str, path: str) -> str:
        """Download it into a new file, and return its sha256. Raises UsageError if it is gone, StoreError if the bucket
        is away."""
        ...


class DisabledRemoteReferences:
    """Replaces `RemoteReferenceSource` if images in buckets must not be sent. why: follows the name of a reference."""

    def __init__(self, why: str) -> None:
        self._why = why

    def find(self, name: str) -> list[ReferencePicture]:
        raise BadReferenceError(f"{name!r} {self._why}")

    def digests(self, addresses: Sequence[str]) -> Mapping[str, str]:
        raise UsageError(f"{addresses[0]} {self._why}")

    def fetch(self, address: str, path: str) -> str:
        raise UsageError(f"{address} {self._why}")


class References:
    """References in one folder, and those in buckets. Several threads may use it.

    further_folders: real paths, searched in this order for what is not in the first. remote_references: finds
    references in buckets; without it, nothing is known about them, as about links.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        further_folders: Sequence[str] = (),
        remote_references: RemoteReferenceSource | None = None,
        file_max_bytes: int = FILE_MAX_BYTES,
        cache_max_bytes: int = CACHE_MAX_BYTES,
    ) -> None:
        self.folder = os.path.realpath(folder)
        self._folders = (self.folder, *further_folders)
        self.remote_references = remote_references
        self._file_max_bytes = file_max_bytes
        self._cache_max_bytes = cache_max_bytes
        self._cached_bytes = 0
        self._pictures: OrderedDict[str, ReferencePicture] = OrderedDict()  # by name as written
        self._digests: OrderedDict[str, str] = OrderedDict()  # by real path
        self._encoded: OrderedDict[str, ReferenceImage] = OrderedDict()
        self._identified: OrderedDict[str, ReferencePicture] = OrderedDict()  # by real path
        self._loading = SingleFlight()
        self._lock = threading.Lock()

    def find(self, name: str) -> list[ReferencePicture]:
        """The image with this name, or those of a glob in order of name. Raises BadReferenceError."""
        if is_object_url(name):
            return (
                [ReferencePicture(name, "image/png", 0)]
                if self.remote_references is None
                else self.remote_references.find(name)
            )
        if glob.has_magic(name) and not any(os.path.lexists(os.path.join(folder, name)) for folder in self._folders):
            return self._find_glob(name)
        return [self._check(name)]

    def digest(self, path: str) -> str:
        """The sha256 of the file in hex; for a link that of its text. path: from `find`. Raises UsageError."""
        if is_link(path):
            return path
        if (known := self._digests.get(path)) is not None:
            return known
        if is_object_url(path):
            return self._remember_digest(path, self._require_remote().digests([path])[path])
        with self.open(path) as file:
            return self._remember_digest(path, _sha256(file))

    def prefetch_digests(self, paths: Iterable[str]) -> None:
        """Prepare for `digest` of all these: hash what is in buckets now, several at once. Raises UsageError."""
        if self.remote_references is None:
            return
        wanted = dict.fromkeys(path for path in paths if is_object_url(path) and path not in self._digests)
        for path, digest in self.remote_references.digests(list(wanted)).items() if wanted else ():
            self._remember_digest(path, digest)

    def fetch(self, address: str, path: str) -> str:
        """Download an object from a bucket into a new file, and return its sha256.

        Raises UsageError if it is gone or has changed since it was hashed, StoreError if the bucket is away.
        """
        digest = self._require_remote().fetch(address, path)
        if self._digests.get(address) not in (None, digest):
            os.unlink(path)
            raise UsageError(f"{address}: the reference changed while the run was going; run again")
        return digest

    def _require_remote(self) -> RemoteReferenceSource:
        if self.remote_references is None:
            raise UsageError("references in buckets are not read here")
        return self.remote_references

    def expect_digest(self, path: str, digest: str) -> None:
        """Set what the file must be when it is loaded: sha256 in hex."""
        self._digests[path] = digest

    def load(self, path: str) -> ReferenceImage:
        """The image ready to send. Raises UsageError, also if it has changed since it was hashed for the plan."""
        if (ready := self._cached(path)) is not None:
            return ready
        with self.open(path) as file:
            return self._encode(path, file.read(self._file_max_bytes + 1))

    async def load_async(self, path: str) -> ReferenceImage:
        """`load` without blocking the event loop; read and encoded once for all concurrent callers."""
        if (ready := self._cached(path)) is not None:
            return ready
        return await self._loading.do(path, lambda: self._read_and_encode(path))

    def _cached(self, path: str) -> ReferenceImage | None:
        with self._lock:
            if path in self._encoded:
                self._encoded.move_to_end(path)
            return self._encoded.get(path)

    async def _read_and_encode(self, path: str) -> ReferenceImage:
        with self.open(path) as file:
            async with aiofiles.open(file.fileno(), "rb", closefd=False) as reading:
                data = await reading.read(self._file_max_bytes + 1)
        return await asyncio.to_thread(self._encode, path, data)

    def identify(self, path: str) -> ReferencePicture:
        """What the file is, by its first bytes. path: real, inside the folder. Raises UsageError."""
        if (known := self._identified.get(path)) is not None:
            return known
        with self.open(path) as file:
            picture = _inspect(file, path)
        if picture is None:
            raise UsageError(f"{path}: is not an image ({_KINDS}) by its content")
        return self._remember(picture)

    def open_unchanged(self, path: str) -> IO[bytes]:
        """The file at its start, hashed again. Raises UsageError if it has changed since it was hashed before."""
        file = self.open(path)
        try:
            before = self._digests.get(path)
            if before not in (None, self._remember_digest(path, _sha256(file))):
                raise UsageError(f"{path}: the reference changed while the run was going; run again")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def redraw(self, path: str, target: str, kind: Literal["PNG", "JPEG"]) -> None:
        """Redraw the image into a new file, in a form that every model accepts. Raises OSError, and UsageError like
        `open_unchanged`."""
        from batchgen.references.redraw import redraw  # Pillow, which few references need

        with self.open_unchanged(path) as file:
            redraw(file, target, kind)

    def _remember(self, picture: ReferencePicture) -> ReferencePicture:
        self._identified[picture.path] = picture
        if len(self._identified) > _CACHE_MAX_ENTRIES:
            self._identified.popitem(last=False)
        return picture

    def _encode(self, path: str, data: bytes) -> ReferenceImage:
        if len(data) > self._file_max_bytes:
            raise UsageError(f"{path}: the reference has grown beyond {self._file_max_bytes / 1e6:g} MB")
        before = self._digests.get(path)
        if before not in (None, self._remember_digest(path, hashlib.sha256(data).hexdigest())):
            raise UsageError(f"{path}: the reference changed while the run was going; run again")
        mime_type = picture_type(data[:HEAD_BYTES])
        if mime_type is None:
            raise UsageError(f"{path}: is no longer an image")
        image = ReferenceImage(mime_type, pybase64.b64encode(data).decode("ascii"))
        self._cache(path, image)
        return image

    def _find_glob(self, pattern: str) -> list[ReferencePicture]:
        if os.path.isabs(pattern) or ".." in pattern.replace("\\", "/").split("/"):
            raise BadReferenceError(f"{pattern!r} must stay inside the manifest's folder")
        names: list[str] = []
        for folder in self._folders:
            matches = glob.iglob(pattern, root_dir=folder, recursive=True)
            if names := sorted(itertools.islice(matches, GLOB_MAX_FILES + 1)):
                break
        else:
            raise BadReferenceError(f"{pattern!r} matches no file")
        if len(names) > GLOB_MAX_FILES:
            raise BadReferenceError(f"{pattern!r} matches more than {GLOB_MAX_FILES} files")
        return [self._check(name) for name in names]

    def _check(self, name: str) -> ReferencePicture:
        if (known := self._pictures.get(name)) is not None:
            return known
        try:
            real = self._resolve(name)
            with open_regular(real) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                picture = _inspect(file, real)
        except MissingFileError as problem:
            raise BadReferenceError(self._what_is_missing(name, str(problem))) from None
        except UnsafePathError as problem:
            remedy = "; for others name theirs in `reference_folders` at the head" if os.path.isabs(name) else ""
            raise BadReferenceError(f"{name!r} {problem}{remedy}") from None
        if size_bytes > self._file_max_bytes:
            max_size = f"{self._file_max_bytes / 1e6:g} MB"
            raise BadReferenceError(f"{name!r} has {size_bytes / 1e6:.1f} MB, a reference at most {max_size}")
        if picture is None:
            raise BadReferenceError(f"{name!r} is not an image ({_KINDS}) by its content")
        self._pictures[name] = self._remember(picture)
        if len(self._pictures) > _CACHE_MAX_ENTRIES:
            self._pictures.popitem(last=False)
        return picture

    def _resolve(self, name: str) -> str:
        """The real path of a file in the first folder that has one of this name. Raises UnsafePathError."""
        if os.path.isabs(name) and "\x00" not in name:
            real = os.path.realpath(name)
            for folder in self._folders[1:]:
                if is_below(real, folder):
                    return resolve_inside(folder, os.path.relpath(real, folder), folder)
        for n, folder in enumerate(self._folders):
            with suppress(MissingFileError):
                return resolve_inside(folder, as_spelled(folder, name), folder if n else "the manifest's folder")
        raise MissingFileError("there is no such file")

    def _what_is_missing(self, name: str, problem: str) -> str:
        if not name.isprintable():
            remedy = "; in double quotes \\ begins an escape: write / in a path, or use single quotes"
            return f"{name!r}: {problem}{remedy}"
        no_folder = [missing_folder(folder, name) for folder in self._folders]
        if all(no_folder):
            return no_folder[0]
        return f"{name!r}: {problem}" + next(
            (meant for folder in self._folders if (meant := nearest_name(folder, name))), ""
        )

    def open(self, path: str) -> IO[bytes]:
        """Open the file, resolved again: what was inside the folder when it was checked may be a link out of it now."""
        folder = next((each for each in self._folders if is_below(path, each)), self.folder)
        try:
            return open_regular(resolve_inside(folder, os.path.relpath(path, folder)))
        except UnsafePathError as problem:
            raise UsageError(f"{path}: the reference {problem}") from None

    def _remember_digest(self, path: str, digest: str) -> str:
        with self._lock:
            self._digests[path] = digest
            if len(self._digests) > _CACHE_MAX_ENTRIES:
                self._digests.popitem(last=False)
        return digest

    def _cache(self, path: str, image: ReferenceImage) -> None:
        with self._lock:
            if path in self._encoded or len(image.base64) > self._cache_max_bytes:
                return
            self._encoded[path] = image
            self._cached_bytes += len(image.base64)
            while self._cached_bytes > self._cache_max_bytes:
                self._cached_bytes -= len(self._encoded.popitem(last=False)[1].base64)


def _inspect(file: IO[bytes], path: str) -> ReferencePicture | None:
    mime_type = picture_type(file.read(HEAD_BYTES))
    if mime_type is None:
        return None
    return ReferencePicture(path, mime_type, os.fstat(file.fileno()).st_size, must_be_redrawn(file, mime_type))


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
