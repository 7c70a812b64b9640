"""Where a job is, and whether anything there has changed since it was last looked at."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import BatchgenError
from batchgen.ledger.location import server_snapshot_id
from batchgen.ledger.schema import ledger_path

CLOCK_RESOLUTION_S = 0.1  # no file system's clock is coarser that SQLite's WAL is safe on
ChangeMarker = tuple[tuple[int, int, int], ...] | str


@dataclass(frozen=True, slots=True)
class JobLocation:
    """folder: of a job, absolute; it need not be there yet. manifest: as it was named, empty when only the folder is known."""

    folder: Path
    manifest: str = ""

    @property
    def id(self) -> str:
        """The same in every address and after every start."""
        return hashlib.sha256(str(self.folder).encode("utf-8", "surrogateescape")).hexdigest()[:10]


def change_marker(folder: Path) -> ChangeMarker | None:
    """Changes with every commit: the ledger and its WAL, by inode, size and time. No connection is opened for it.

    None when the last write is so fresh that another may bear the same time. Of a ledger on a server it is what can be
    seen there at all, or why nothing can.
    """
    try:
        if (seen := server_snapshot_id(folder)) is not None:
            return seen
    except BatchgenError as error:
        return str(error)
    path, marks, newest = ledger_path(folder), [], 0
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            found = os.stat(file)
        except OSError:
            continue
        marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
        newest = max(newest, found.st_mtime_ns)
    return None if os.name == "nt" or time.time_ns() - newest < CLOCK_RESOLUTION_S * 1e9 else tuple(marks)
