"""Which version of a manifest's file was read, so that a later look can tell whether it is still the same."""

from __future__ import annotations

import hashlib
from enum import StrEnum, auto
from pathlib import Path
from typing import NamedTuple, Self


class FileState(StrEnum):
    """How a file stands against the version that was read."""

    SAME = auto()
    CHANGED = auto()
    GONE = auto()
    UNKNOWN = auto()  # nobody noted which version it was


class FileVersion(NamedTuple):
    """The stamp spares reading the file again: only one with another stamp is compared by its hash."""

    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """None when there is no such file, or it cannot be read."""
        try:
            stat = path.stat()
            with open(path, "rb") as file:
                return cls(stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError:
            return None

    def state_of(self, path: Path) -> FileState:
        try:
            stat = path.stat()
        except OSError:
            return FileState.GONE
        if (stat.st_size, stat.st_mtime_ns) == self[:2]:
            return FileState.SAME
        if stat.st_size != self.bytes:
            return FileState.CHANGED
        now = FileVersion.of(path)
        return FileState.SAME if now is not None and now.sha256 == self.sha256 else FileState.CHANGED
