"""A log on disk: whole lines at the end of a file that may be rotated, and that never stops the run it tells of."""

from __future__ import annotations

import os
from io import FileIO

from batchgen.errors import UsageError


class LogFile:
    """Unbuffered: a line is in the file when `write` returns. lost: lines that could not be written; why: the last reason."""

    def __init__(self, path: str) -> None:
        """Raises UsageError when it cannot be written to."""
        self._path = os.path.abspath(path)
        self.lost_lines = 0
        self.loss_reason = ""
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"--log-file {path}: {error.strerror or error}") from None

    def _open(self) -> None:
        file = FileIO(self._path, "a")
        stat = os.fstat(file.fileno())
        self._file, self._id = file, (stat.st_dev, stat.st_ino)
        self._partial_line = stat.st_size > 0 and not _ends_a_line(self._path)

    def write(self, line: str) -> None:
        """line: with its newline."""
        data = line.encode("utf-8", "backslashreplace")
        try:
            self._reopen_if_rotated()
            data = b"\n" + data if self._partial_line else data
            written = self._file.write(data) or 0
            self._partial_line = written < len(data)  # a disk that fills up may take a part
            if self._partial_line:
                raise OSError(0, "the disk took only a part of a line")
        except (OSError, ValueError) as error:
            self.lost_lines += 1
            self.loss_reason = getattr(error, "strerror", None) or str(error)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._file.close()

    def _reopen_if_rotated(self) -> None:
        """Whoever rotates logs renames ours; then there is a new one by the old name."""
        try:
            stat = os.stat(self._path)
            if (stat.st_dev, stat.st_ino) == self._id:
                return
        except FileNotFoundError:
            pass
        old = self._file
        self._open()
        old.close()


def _ends_a_line(path: str) -> bool:
    """Whether what an earlier run left ends with a newline; its process may have been killed in the middle of one."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:  # no plain file, or not ours to read
        return True
