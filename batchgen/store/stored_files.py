"""The files of a job under their names, in a folder or a bucket: what is there, and how one makes way for another."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

from batchgen.derivatives.specification import DERIVATIVES
from batchgen.errors import StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.records import SIDECARS
from batchgen.store.blobs import BlobInfo, Blobs, Listing, Properties
from batchgen.store.job_folder import SPOOL, JobFolder
from batchgen.store.local_folder import FileVerdict, LocalFolder
from batchgen.store.sniff import EXTENSION, HEAD_BYTES, Format, sniff
from batchgen.store.spool import NO_FOLLOW, SpoolFile
from batchgen.store.uploads import RECEIPTS, Moved, Uploads

SUPERSEDED = "superseded"
DRAFTS = "drafts"
COPY_PREFIX = "copy-"  # in the spool: of an image in a bucket, while somebody reads it


def sidecar_path(path: str, ending: str) -> str:
    return os.path.splitext(path)[0] + ending


def with_sidecars(path: str) -> tuple[str, ...]:
    """The path of an image and those of all files that may be beside it."""
    return (path, *(sidecar_path(path, ending) for ending in SIDECARS))


class StoredFiles(JobFolder):
    """Nothing is overwritten, and no image deleted. Paths are relative to the job, with `/` between their parts.

    Spool and state are in the job folder; `blobs` says where the images are. Everything that asks a bucket raises
    BucketUnavailable. uploads: images that wait for a bucket count as being there.
    """

    def __init__(self, folder: Path, spool: str = SPOOL, blobs: Blobs | None = None) -> None:
        """spool: the name of its folder. blobs: where the images are, if not in the job folder."""
        super().__init__(folder, spool)
        self.blobs: Blobs = blobs or LocalFolder(self.root, self.spool)
        self.uploads = Uploads(SUPERSEDED)
        self._listing = Listing(self.blobs, STATE_FOLDER, RECEIPTS)
        self._supersede_lock = threading.RLock()  # so that two threads get different names in `superseded/`

    @property
    def url(self) -> str:
        """The address of the bucket with the images; empty for a folder."""
        return self.blobs.url

    @property
    def properties(self) -> Properties:
        return self.blobs.properties

    # --- names

    def file_name(self, stem: str, n: int, kind: Format) -> str:
        """The path of sample n of an item. Sample 1 has the stem itself, so that raising `count` renames nothing."""
        return f"{stem}{'' if n == 1 else f'-{n}'}{EXTENSION[kind]}"

    def draft_name(self, stem: str, n: int, k: int, attempt: int, kind: Format) -> str:
        """The path of an earlier image of an answer, which is paid for and therefore kept."""
        return f"{DRAFTS}/{stem}{'' if n == 1 else f'-{n}'}.{attempt}-{k}{EXTENSION[kind]}"

    def _free_superseded_name(self, path: str) -> str:
        stem, extension = os.path.splitext(os.path.basename(path))
        stem = stem.encode()[:200].decode(errors="ignore")
        number = 1
        while self._is_taken(f"{SUPERSEDED}/{stem}.{number}"):
            number += 1
        return f"{SUPERSEDED}/{stem}.{number}{extension}"

    def _is_taken(self, stem: str) -> bool:
        """Whether an image of any format has the stem, by which the files beside images are named too."""
        return any(self.name_exists(stem + ending) for ending in EXTENSION.values())

    def _free_numbered_name(self, path: str) -> str:
        """A free path in `superseded/`, for what is not one of batchgen's images."""
        number = 1
        while self.name_exists(name := f"{SUPERSEDED}/{path}.{number}"):
            number += 1
        return name

    # --- what is there

    def is_empty(self) -> bool:
        """Whether there is nothing but hidden files."""
        return next(iter(self._listing), None) is None

    def stat(self, path: str) -> BlobInfo | None:
        """The file with a path, as far as is known: in a bucket that was listed it may be another by now."""
        return self._listing[path]

    def name_exists(self, path: str) -> bool:
        """Whether there is, or will be, a file with this path."""
        return path in self.uploads.pending or self._listing[path] is not None

    def has_file(self, path: str, size: int) -> bool:
        """Whether an image is there with this size; `verify` compares the hash."""
        if (spool := self.uploads.pending.get(path)) is not None:
            with contextlib.suppress(OSError):
                return os.path.getsize(self.spooled(spool)) == size
        found = self._listing[path]
        return found is not None and found.bytes == size

    def picture_at(self, stem: str, n: int) -> str | None:
        """The path of an image with the name of sample n of an item, in any format, whoever put it there."""
        for path in (self.file_name(stem, n, kind) for kind in EXTENSION):
            with contextlib.suppress(OSError):
                if self._listing[path] and sniff(b"".join(self.blobs.get(path, HEAD_BYTES))) is not None:
                    return path
        return None

    def stat_lookup(self) -> Callable[[str], BlobInfo | None]:
        """A function that returns the file with a path now, None if there is none. A bucket is listed once for all.
        Raises StoreError."""
        self._listing.refresh()
        return self.stat

    def files(self) -> Iterator[tuple[str, int]]:
        """(path, size) of every file that is neither hidden nor a copy made of an image."""
        for found in self.all_files():
            if found.bytes >= 0 and not found.path.startswith(f"{DERIVATIVES}/"):
                yield found.path, found.bytes

    def all_files(self) -> Iterator[BlobInfo]:
        """Everything that is not hidden, including links."""
        return (found for found in self._listing if not any(part.startswith(".") for part in found.path.split("/")))

    def verify(self, path: str, sha256: str) -> FileVerdict:
        """Verify a file. Every byte is read, and nothing of a bucket's is kept. A link in a file's place counts as a
        change."""
        try:
            return "right" if self._stored_sha256(path) == sha256 else "changed"
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError:
            return "changed"

    def sha256(self, path: str) -> str:
        """The SHA-256 in hex. Raises OSError if there is no such image."""
        with self._open_pending(path) as file:
            return self._stored_sha256(path) if file is None else hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def _stored_sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        for piece in self.blobs.get(path):
            digest.update(piece)
        return digest.hexdigest()

    def open(self, path: str) -> IO[bytes]:
        """The image, at its start. Raises OSError if there is none, or if it is a link out of the folder."""
        with self._open_pending(path) as file:
            return self.blobs.open(path) if file is None else io.BytesIO(file.read())

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """The path of a local file with the image. Raises FileNotFoundError, StoreError."""
        if not self.properties.remote:
            yield os.path.join(self.root, path)
            return
        copy = self.spooled(f"{COPY_PREFIX}{uuid.uuid4().hex}")
        try:
            self.download(path, copy)
            yield copy
        finally:
            Path(copy).unlink(missing_ok=True)

    def download(self, path: str, target: str) -> None:
        """Copy the image into a local file. Raises FileNotFoundError, StoreError."""
        part = SpoolFile(os.path.dirname(target), f"{os.path.basename(target)}.part")
        try:
            with self._open_pending(path) as file:
                for piece in self.blobs.get(path) if file is None else iter(lambda: file.read(1 << 20), b""):
                    part.write(piece)
            part.close()
            os.replace(part.path, target)
        finally:
            part.discard()

    @contextlib.contextmanager
    def _open_pending(self, path: str) -> Iterator[IO[bytes] | None]:
        """The spooled file of an image that waits; None for one that is in its place."""
        spool = self.uploads.pending.get(path)
        try:
            fd = -1 if spool is None else os.open(self.spooled(spool), os.O_RDONLY | NO_FOLLOW)
        except OSError:
            fd = -1  # it has been uploaded in the meantime
        if fd < 0:
            yield None
            return
        with os.fdopen(fd, "rb") as file:
            yield file

    # --- making way

    def supersede(self, path: str) -> Moved | None:
        """Move whatever is called `path` into `superseded/`: paid bytes are never deleted. Returns None if there is
        nothing."""
        if path not in self.uploads.pending:
            return self._supersede(path)
        new = self._free_superseded_name(path)
        self.move(path, new)
        return path, new

    def _supersede(self, path: str) -> Moved | None:
        """Move the file with this path, whatever waits for the name."""
        with self._supersede_lock:
            if self.blobs.stat(path) is None:
                return None
            new = self._free_superseded_name(path)
            self._move_with_sidecars(path, new)
            return path, new

    def supersede_foreign(self, path: str) -> None:
        """Keep somebody else's file below `superseded/`, under its whole path, so that others who move a file at the
        same time take another name. Raises StoreError."""
        with self._supersede_lock:
            self._move(path, self._free_numbered_name(path))

    def put_derivative(self, path: str, file: Path, sha256: str, replaces: str) -> BlobInfo | None:
        """Give a derivative its name. replaces: the sha256 of what this job put there before; anything else there is
        somebody's own, and is kept in `superseded/`. Call `sync` afterwards. Raises StoreError."""
        if self.blobs.put_new(path, file) is None:
            if self._derivative_sha256(path) not in (sha256, replaces):
                self.supersede_foreign(path)
            self.blobs.replace(path, file)
        file.unlink(missing_ok=True)
        found = self.blobs.stat(path)
        self._listing.note(path, found)
        return found

    def _derivative_sha256(self, path: str) -> str | None:
        try:
            return self._stored_sha256(path)
        except IsADirectoryError as error:
            raise StoreError(str(error)) from None
        except OSError:  # a link, which is not one of batchgen's
            return None

    def delete_derivative(self, path: str) -> None:
        """Delete a derivative. Raises StoreError."""
        self._delete(path)

    def _delete(self, path: str) -> None:
        self.blobs.delete(path)
        self._listing.note(path, None)

    def move(self, path: str, new: str) -> None:
        """Rename an image with the files beside it. One that waits in the spool will be uploaded under its new name.
        Raises StoreError."""
        if (spool := self.uploads.pending.pop(path, None)) is not None:
            self.uploads.pending[new] = spool
            return
        self._move_with_sidecars(path, new)

    def _move_with_sidecars(self, path: str, new: str) -> None:
        """Move an image. The files beside it go first and are durable then, so that a move that is repeated separates
        nothing."""
        moved = False
        for ending in SIDECARS:
            old, name = sidecar_path(path, ending), sidecar_path(new, ending)
            if self._listing[old] is None:
                continue
            taken = self._listing[name] is not None
            if taken and self._have_same_bytes(old, name):
                self._delete(old)  # a power cut kept the new name and restored the old one
            else:
                if taken:
                    self._supersede_sidecar(name)
                self._move(old, name)
            moved = True
        if moved:
            self.sync(path, new)
        self._move(path, new)

    def _have_same_bytes(self, path: str, other: str) -> bool:
        with contextlib.suppress(OSError):
            return b"".join(self.blobs.get(path)) == b"".join(self.blobs.get(other))
        return False

    def _supersede_sidecar(self, name: str) -> None:
        with self._supersede_lock:
            self._move(name, self._free_numbered_name(os.path.basename(name)))

    def _move(self, path: str, new: str) -> None:
        was = self._listing[path]
        try:
            self.blobs.move(path, new)
        except FileNotFoundError:
            raise StoreError(f"{self.url}/{path}: it has gone: it was there when the run began") from None
        self._listing.note(new, BlobInfo(new, was.bytes if was else 0, ""))  # the copy has an ETag of its own
        self._listing.note(path, None)

    # --- files beside images

    def write_sidecars(self, path: str, contents: Mapping[str, str]) -> None:
        """Write the files that belong beside the image at `path`, by ending; the same again after a crash. Raises
        StoreError.

        Each file is whole before it has its name; call `sync` for the folder afterwards.
        """
        for ending, text in contents.items():
            data, name = text.encode(errors="replace"), sidecar_path(path, ending)
            if not self.blobs.put_new(name, data) and not self._is_identical(name, data):
                self._supersede_sidecar(name)
                self.blobs.put_new(name, data)
            self._listing.note(name, BlobInfo(name, len(data), ""))

    def _is_identical(self, name: str, data: bytes) -> bool:
        with contextlib.suppress(OSError):
            found = self.blobs.stat(name)
            return found is not None and found.bytes == len(data) and b"".join(self.blobs.get(name)) == data
        return False

    def read_sidecars(self, path: str, listed: Collection[str]) -> dict[str, str]:
        """The contents, by ending, of those files in `listed` that are beside the image at `path`."""
        found = {}
        for ending in SIDECARS:
            if (name := sidecar_path(path, ending)) in listed:
                with contextlib.suppress(OSError):
                    found[ending] = b"".join(self.blobs.get(name)).decode("utf-8", "replace")
        return found

    def lacks_sidecars(self, path: str, contents: Mapping[str, str]) -> bool:
        """Whether the image is at `path` and any of these files is not beside it."""
        there = [self._listing[name] is not None for name in (path, *(sidecar_path(path, e) for e in contents))]
        return there[0] and not all(there)

    def sync(self, *paths: str) -> None:
        self.blobs.sync(*paths)
