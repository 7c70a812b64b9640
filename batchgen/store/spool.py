"""Bytes received and not yet settled: one file per picture, named after its attempt, synced before the ledger hears of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from batchgen.errors import StoreError

FILE_MODE = 0o644  # never writable by others, whatever the umask; umask 077 still makes it 0600
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)


class SpoolFile:
    """One picture being written: exclusive, hashed on the way, durable after `sync`."""

    __slots__ = ("_fd", "_hash", "bytes", "name", "path")

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, name)
        self.bytes = 0
        self._hash = hashlib.sha256()
        try:
            self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW | BINARY, FILE_MODE)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def write(self, data: bytes) -> None:
        """Raises StoreError when the disk does not take it."""
        self._hash.update(data)
        self.bytes += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.discard()
            raise disk_error(error, self.path) from error

    def sync(self) -> None:
        """A failed fsync counts as not written: the kernel may have dropped the pages, a second one would lie."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            self.discard()
            raise disk_error(error, self.path) from error
        self.close()

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


def sync_folder(folder: str) -> None:
    """Make names in a folder durable. Windows has no such call and needs none: its rename is journalled."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        os.close(fd)


def disk_error(error: OSError, path: str) -> StoreError:
    """An OSError in words that say what to do."""
    import errno

    remedy = {
        errno.ENOSPC: "the disk is full: make room, then run the same command again",
        errno.EDQUOT: "your disk quota is used up: make room, then run the same command again",
        errno.EROFS: "the file system is read-only: choose another --output",
        errno.EACCES: "permission denied: check the folder's owner and mode",
        errno.EPERM: "not permitted: check the folder's owner and mode",
        errno.EMFILE: "too many open files: raise `ulimit -n`",
        errno.ENFILE: "too many open files on this system",
        errno.ENOENT: "the folder has gone: it was there when the run began",
        errno.ELOOP: "a symbolic link stands where a file should be: remove it",
    }.get(error.errno or 0, error.strerror or str(error))
    return StoreError(f"{path}: {remedy}")
