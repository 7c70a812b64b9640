"""Bytes that were received and not settled yet: one file per image, named after its attempt and synced before the
ledger records it. If the spool refuses them, they go there again without its reserved space, then into the system's
temporary folder."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from pathlib import Path

from batchgen.errors import StoreError
from batchgen.os_errors import REMEDIES
from batchgen.safe_open import PRIVATE_MODE

# The mode of files that end up among the images: never writable by others, whatever the umask; umask 077 still makes it
# 0600.
FILE_MODE = 0o644
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)
PIECE_BYTES = 1 << 20
RESERVED_BYTES = 16_000_000  # room for some answers in flight when a disk has just become full
PREFIX = "batchgen-rescue"


class EmergencySpool:
    """The places of last resort of one job. first_trouble: done as soon as a disk refuses something, in any thread."""

    def __init__(self, job_folder: str, state_folder: str, spool: str) -> None:
        self.first_trouble: Future[StoreError] = Future()
        self._job_folder = job_folder
        self._job_folder_identity: tuple[int, int] | None = None
        self._spool = spool
        self._reserve_path = os.path.join(state_folder, "ballast")
        path = os.path.abspath(job_folder)
        name = re.sub(r"[^\w.-]", "_", os.path.basename(path))[:50]
        self._file_prefix = f"{PREFIX}-{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"

    def report_trouble(self, error: StoreError) -> None:
        """Report why something could not be done as it should, by a caller that goes on."""
        with contextlib.suppress(InvalidStateError):  # it is not the first
            self.first_trouble.set_result(error)

    def note_folder_identity(self) -> None:
        """Remember the job folder's identity, so that its absence can be told from a disk that refuses."""
        self._job_folder_identity = file_identity(self._job_folder)

    def reserve_space(self) -> None:
        """Reserve space that is given up at the first failed write. Raises OSError, leaving nothing behind."""
        fd = os.open(self._reserve_path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, RESERVED_BYTES)
            else:
                for _ in range(RESERVED_BYTES // 1_000_000):
                    os.write(fd, bytes(1_000_000))
        except OSError:
            os.close(fd)
            self.release_space()
            raise
        os.close(fd)

    def release_space(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._reserve_path)

    def is_same_folder(self) -> bool:
        """Whether the job folder is the one in which the run began: not moved away, and not the empty folder below a
        disk that is no longer mounted."""
        return self._job_folder_identity is not None and file_identity(self._job_folder) == self._job_folder_identity

    def open_fallbacks(self, name: str) -> Iterator[tuple[int, str]]:
        """A new file in one place after another, as (descriptor, path), for the spool file `name`."""
        self.release_space()
        with contextlib.suppress(OSError):
            if self.is_same_folder():
                os.makedirs(self._spool, 0o700, exist_ok=True)
            path = os.path.join(self._spool, name)
            yield os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o600), path
        with contextlib.suppress(OSError):
            yield tempfile.mkstemp(prefix=f"{self._file_prefix}-{name}-")

    def stranded_files(self, attempt: int, since: float) -> Iterator[tuple[str, str]]:
        """(spool name, path) of files that an attempt begun at `since` left in the temporary folder."""
        try:
            folder = tempfile.gettempdir()
        except OSError:  # no folder can be written to, so nothing is there
            return
        pattern = os.path.join(glob.escape(folder), f"{glob.escape(self._file_prefix)}-{attempt}.*-*")
        for path in sorted(glob.glob(pattern)):
            found = os.lstat(path)
            # Everybody may write there: a link or another user's file is not one, and an older file belongs to a ledger
            # that is gone.
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if stat.S_ISREG(found.st_mode) and mine and found.st_mtime >= since - 1:
                yield os.path.basename(path).removeprefix(f"{self._file_prefix}-").split("-")[0], path


def file_identity(path: str | os.PathLike[str] | int) -> tuple[int, int] | None:
    """The device and inode of a path or an open file, to tell later whether it is still the same; None if there is
    none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class SpoolFile:
    """An image being written: exclusive, hashed on the way, durable after `sync`.

    emergency_spool: where the bytes go if the disk refuses. Without one, or if no place accepts them, StoreError is
    raised. mode: FILE_MODE for what is to be moved among the images. existing: it was written by a process that has
    died.
    """

    __slots__ = ("_emergency_spool", "_fallbacks", "_fd", "_folder", "_hash", "_only_piece", "bytes", "name", "path")

    def __init__(
        self,
        folder: str,
        name: str,
        emergency_spool: EmergencySpool | None = None,
        *,
        mode: int = PRIVATE_MODE,
        existing: bool = False,
    ) -> None:
        self.name = name
        self.path = os.path.join(folder, name)
        self.bytes = 0
        self._folder = folder
        self._hash = hashlib.sha256()
        self._only_piece = b""  # everything written, if it was one piece: no need to read it back
        self._emergency_spool = emergency_spool
        self._fallbacks: Iterator[tuple[int, str]] | None = None
        self._fd = -1
        new = 0 if existing else os.O_CREAT | os.O_EXCL
        try:
            self._fd = os.open(self.path, new | os.O_RDWR | NO_FOLLOW | BINARY, mode)
        except OSError as error:
            self._move_to_fallback(error)
        while existing and (piece := os.read(self._fd, PIECE_BYTES)):
            self._hash.update(piece)
            self.bytes += len(piece)

    @property
    def is_stranded(self) -> bool:
        """Whether the bytes are outside the spool, because nothing else accepted them."""
        return os.path.dirname(self.path) != self._folder

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more, and its bytes only exist because it is open."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def write(self, data: bytes) -> None:
        """Write data. Raises StoreError if no disk accepts it."""
        self._only_piece = b"" if self.bytes else data
        self._hash.update(data)
        self.bytes += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._move_to_fallback(error, view)

    @property
    def is_in_memory(self) -> bool:
        """Whether `read` costs nothing."""
        return bool(self._only_piece)

    def read(self) -> bytes:
        """The contents of a small file, before `sync`."""
        if self._only_piece:
            return self._only_piece
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.read(self._fd, self.bytes)

    def rename(self, name: str) -> None:
        """Rename the file within the spool, to a free name."""
        if name != self.name and not self.is_stranded:
            path = os.path.join(self._folder, name)
            os.rename(self.path, path)
            self.name, self.path = name, path

    def sync(self, *, keep_open: bool = False) -> None:
        """Make the file durable. A failed fsync counts as not written: the kernel may have dropped the pages, and a
        second fsync would lie. The same goes for a file that was deleted or moved away while it was written: nobody
        would find it.

        keep_open: until `close`; another call then restores what somebody has deleted in the meantime.
        """
        while True:
            try:
                self._only_piece = b""
                os.fsync(self._fd)
                if file_identity(self.path) != file_identity(self._fd):
                    raise FileNotFoundError(errno.ENOENT, "it has lost its name")
            except OSError as error:
                self._move_to_fallback(error)
            else:
                break
        if not keep_open or os.name == "nt":  # Windows does not rename what is open
            self.close()

    def _move_to_fallback(self, error: OSError, rest: bytes | memoryview = b"") -> None:
        """Move what was written, and the rest, to the next place that was not tried. Raises StoreError after the
        last."""
        trouble = disk_error(error, self.path)
        if error.errno in (errno.EEXIST, errno.ELOOP):
            raise trouble from error  # the name is taken: never overwrite what may be an image
        if self._emergency_spool is not None and self._fallbacks is None:
            self._emergency_spool.report_trouble(trouble)
            self._fallbacks = self._emergency_spool.open_fallbacks(self.name)
            with contextlib.suppress(OSError):
                Path(self.path).unlink(missing_ok=True)  # whoever holds it open still has its bytes
        for fd, path in self._fallbacks or ():
            try:
                self._copy(fd, rest)
            except OSError:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(path)
                continue
            self.close()
            self._fd, self.path = fd, path
            return
        self.close()
        with contextlib.suppress(OSError):
            self.discard()
        raise trouble from error

    def _copy(self, fd: int, rest: bytes | memoryview) -> None:
        """Copy the contents of the file and then `rest`, checked against the hash of everything given to `write`."""
        digest = hashlib.sha256(rest)
        if self._fd >= 0:
            digest = hashlib.sha256()
            os.lseek(self._fd, 0, os.SEEK_SET)
            while piece := os.read(self._fd, PIECE_BYTES):
                digest.update(piece)
                _write_all(fd, piece)
            digest.update(rest)
        _write_all(fd, rest)
        if digest.digest() != self._hash.digest():
            raise OSError(errno.EIO, "what was written cannot be read back")

    def close(self) -> None:
        self._only_piece = b""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        Path(self.path).unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_file(path: str) -> None:
    """Make the contents of a file durable."""
    _sync(path, os.O_RDWR | NO_FOLLOW | BINARY)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable. Windows has no such call and needs none: its renames are journalled."""
    if os.name != "nt":
        _sync(folder, os.O_RDONLY)


def _sync(path: str, flags: int) -> None:
    try:
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: str) -> StoreError:
    """An OSError in words that say what to do."""
    return StoreError(f"{path}: {REMEDIES.get(error.errno or 0, error.strerror or str(error))}")


def discard_files(files: Iterable[SpoolFile]) -> None:
    for file in files:
        if os.path.exists(file.path):
            file.discard()
