"""Images in a folder of this machine: a spooled file gets its name by a rename, and no planted link is followed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from batchgen.errors import StoreError
from batchgen.safe_open import UnsafePathError, open_regular, resolve_inside
from batchgen.store.blobs import BlobInfo, Properties
from batchgen.store.spool import BINARY, FILE_MODE, NO_FOLLOW, PIECE_BYTES, SpoolFile, disk_error, sync_folder

FileVerdict = Literal["right", "missing", "changed"]


class LocalFolder:
    """The `Blobs` of a folder. spool: where bytes are written before they have their name."""

    url = ""
    properties = Properties(remote=False, atomic_rename=True, keeps_receipts=False, parallel_reads=1)

    def __init__(self, root: str, spool: str) -> None:
        self.root = root
        self._spool = spool

    def prepare(self) -> None:
        """Nothing to do: the spool, which is in this folder, has proved it."""

    def put_new(self, path: str, data: bytes | Path) -> BlobInfo | None:
        self._make_folders(path)
        if os.path.lexists(self._full(path)):
            return None
        self.replace(path, self._write_spooled(data) if isinstance(data, bytes) else data)
        return self.stat(path)

    def replace(self, path: str, file: Path) -> None:
        try:
            os.replace(file, self._full(path))
        except OSError as error:
            raise disk_error(error, path) from error

    def _write_spooled(self, data: bytes) -> Path:
        name = f"beside-{threading.get_ident()}"  # a thread places one image at a time
        Path(self._spool, name).unlink(missing_ok=True)
        file = SpoolFile(self._spool, name, mode=FILE_MODE)
        file.write(data)
        file.sync()
        return Path(file.path)

    def get(self, path: str, max_bytes: int | None = None) -> Iterator[bytes]:
        """The contents of a file. A link or a pipe in a file's place is an OSError: what it leads to is not what was
        stored."""
        flags = os.O_RDONLY | NO_FOLLOW | BINARY | getattr(os, "O_NONBLOCK", 0)  # without waiting for a pipe
        full = self._full(path)
        if os.path.islink(full):  # for systems without O_NOFOLLOW
            raise OSError(f"{full} is a link")
        if os.path.isdir(full):
            raise IsADirectoryError(f"{full} is a folder")
        with os.fdopen(os.open(full, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{full} is not a regular file")
            if max_bytes is not None:
                yield file.read(max_bytes)
                return
            while piece := file.read(PIECE_BYTES):
                yield piece

    def open(self, path: str) -> IO[bytes]:
        try:
            if not os.path.islink(self._full(path)):
                return open_regular(resolve_inside(os.path.realpath(self.root), path))
        except UnsafePathError as error:
            raise FileNotFoundError(f"{path}: {error}") from None
        raise FileNotFoundError(f"{path}: is a link")

    def move(self, path: str, new: str) -> None:
        self._make_folders(new)
        try:
            os.rename(self._full(path), self._full(new))
        except OSError as error:
            raise disk_error(error, path) from error

    def delete(self, path: str) -> None:
        """Delete a file, and its folder if it was the last in it."""
        try:
            os.unlink(self._full(path))
        except OSError as error:
            raise disk_error(error, path) from error
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self._full(path)))

    def list(self, folder: str = "") -> Iterator[BlobInfo]:
        """The files, as they are read: the names of a million files are never in memory together. A link to a folder is
        not followed."""
        prefix, folders = f"{folder}/" if folder else "", []
        try:
            with os.scandir(self._full(folder) if folder else self.root) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders += [] if entry.is_symlink() else [prefix + entry.name]
                    elif (found := self.stat(prefix + entry.name)) is not None:
                        yield found
        except OSError:  # it is gone, or belongs to another user
            return
        for below in sorted(folders):
            yield from self.list(below)

    def stat(self, path: str) -> BlobInfo | None:
        try:
            found = os.lstat(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return BlobInfo(path, -1, "")
        size = found.st_size if stat.S_ISREG(found.st_mode) else -1
        return BlobInfo(path, size, str(found.st_mtime_ns), found.st_mtime_ns)

    def sync(self, *paths: str) -> None:
        for folder in {os.path.dirname(path) for path in paths}:
            sync_folder(os.path.join(self.root, folder))

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _make_folders(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for number in range(1, len(parts) + 1):
            plain_folder(self.root, "/".join(parts[:number]))


def plain_folder(root: str, part: str, mode: int = 0o755) -> str:
    """Create a folder inside another, durably, if necessary. A symbolic link in its place is refused."""
    path = os.path.join(root, part)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
        sync_folder(os.path.dirname(path))  # the contents of a folder are lost with its name
    if os.path.islink(path) or not os.path.isdir(path):
        raise StoreError(f"{path}: a link or file stands where batchgen keeps a folder; remove it")
    return path


def verify_file(path: str, sha256: str, size: int) -> FileVerdict:
    """Verify any file of this machine like `Store.verify`."""
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return "changed"
        with open(path, "rb") as file:
            return "right" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "changed"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "changed"
