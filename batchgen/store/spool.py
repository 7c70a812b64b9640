"""Bytes received and not yet settled: one file per picture, named after its attempt, synced before the ledger hears of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from batchgen.errors import StoreError
from batchgen.os_errors import REMEDIES
from batchgen.safe_open import PRIVATE_MODE
from batchgen.store.emergency_spool import EmergencySpool, file_identity

# Mode of files that end up among the pictures: never writable by others, whatever the umask; umask 077 still makes it 0600.
FILE_MODE = 0o644
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)
PIECE_BYTES = 1 << 20


class SpoolFile:
    """One picture being written: exclusive, hashed on the way, durable after `sync`.

    emergency_spool: where the bytes go when the disk refuses; without one, and when no place takes them, StoreError. mode: as
    FILE_MODE for what is to be moved among the pictures. existing: it is there, written by a process that has died.
    """

    __slots__ = ("_emergency_spool", "_fallbacks", "_fd", "_folder", "_hash", "bytes", "name", "path")

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
        """Whether the bytes lie outside the spool, because nothing else would take them."""
        return os.path.dirname(self.path) != self._folder

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more, and its bytes are still there because it is open."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def write(self, data: bytes) -> None:
        """Raises StoreError when no disk takes it."""
        self._hash.update(data)
        self.bytes += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._move_to_fallback(error, view)

    def read(self) -> bytes:
        """What the file holds, before `sync`; for one that is small."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.read(self._fd, self.bytes)

    def rename(self, name: str) -> None:
        """Within the spool, to a name that is free."""
        if name != self.name and not self.is_stranded:
            path = os.path.join(self._folder, name)
            os.rename(self.path, path)
            self.name, self.path = name, path

    def sync(self, *, keep_open: bool = False) -> None:
        """A failed fsync counts as not written: the kernel may have dropped the pages, a second one would lie. So does a file
        that was deleted or moved away while it was written: it has no name by which anybody would find it.

        keep_open: until `close`; another call then brings back what somebody has deleted meanwhile.
        """
        while True:
            try:
                os.fsync(self._fd)
                if file_identity(self.path) != file_identity(self._fd):
                    raise FileNotFoundError(errno.ENOENT, "it has lost its name")
            except OSError as error:
                self._move_to_fallback(error)
            else:
                break
        if not keep_open or os.name == "nt":  # which does not rename what is open
            self.close()

    def _move_to_fallback(self, error: OSError, rest: bytes | memoryview = b"") -> None:
        """Take what was written and the rest to the next place that has not been tried. Raises StoreError after the last."""
        trouble = disk_error(error, self.path)
        if error.errno in (errno.EEXIST, errno.ELOOP):
            raise trouble from error  # the name is taken: never write over what may be a picture
        if self._emergency_spool is not None and self._fallbacks is None:
            self._emergency_spool.report_trouble(trouble)
            self._fallbacks = self._emergency_spool.open_fallbacks(self.name)
            with contextlib.suppress(OSError):
                Path(self.path).unlink(missing_ok=True)  # its bytes are still there for whoever holds it open
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
        """What is in the file and then `rest`, checked against the hash of all that was given to `write`."""
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
    """Make what a file holds durable."""
    try:
        fd = os.open(path, os.O_RDWR | NO_FOLLOW | BINARY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error(error, path) from error


def sync_folder(folder: str) -> None:
    """Make names in a folder durable. Windows has no such call and needs none: its rename is journalled."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, path: str) -> StoreError:
    """An OSError in words that say what to do."""
    return StoreError(f"{path}: {REMEDIES.get(error.errno or 0, error.strerror or str(error))}")
