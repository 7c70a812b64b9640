"""Where an answer goes when the spool does not take it: the spool again without its reserved space, then the system's temporary folder."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError

from batchgen.errors import StoreError

RESERVED_BYTES = 16_000_000  # what some answers in the air need when a disk has just become full
PREFIX = "batchgen-rescue"


class EmergencySpool:
    """The places of last resort of one job. first_trouble: done as soon as a disk refuses something, in whichever thread."""

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
        """Whoever goes on all the same says why it could not do as it should."""
        with contextlib.suppress(InvalidStateError):  # it is not the first
            self.first_trouble.set_result(error)

    def note_folder_identity(self) -> None:
        """Know the job folder again, so that its absence can be told from a disk that refuses."""
        self._job_folder_identity = file_identity(self._job_folder)

    def reserve_space(self) -> None:
        """Space that is given up at the first failed write. Raises OSError, leaving nothing behind."""
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
        """Whether the job folder is the one in which the run began, not moved away, nor the empty folder below a disk that
        is no longer mounted."""
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
        """(spool name, path) of files of ours in the temporary folder that an attempt begun at `since` left there."""
        try:
            folder = tempfile.gettempdir()
        except OSError:  # there is none that can be written to, so nothing is in it
            return
        pattern = os.path.join(glob.escape(folder), f"{glob.escape(self._file_prefix)}-{attempt}.*-*")
        for path in sorted(glob.glob(pattern)):
            found = os.lstat(path)
            # Everyone may write there: a link or another's file is not ours; an older one is of a ledger that is gone.
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if stat.S_ISREG(found.st_mode) and mine and found.st_mtime >= since - 1:
                yield os.path.basename(path).removeprefix(f"{self._file_prefix}-").split("-")[0], path


def file_identity(path: str | os.PathLike[str] | int) -> tuple[int, int] | None:
    """Device and inode of a path or an open file, to tell later whether it is still the same; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
