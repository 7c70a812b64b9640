"""What the daemon has to know after a restart, of each manifest: from when its schedule counts, and its last night."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from batchgen.errors import StoreError
from batchgen.safe_open import PRIVATE_MODE, private, private_folder
from batchgen.schedule.due import Night
from batchgen.schedule.timetable import unit_name
from batchgen.store.spool import sync_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """schedule: as it stood in the manifest, in JSON; another one counts anew. since: UTC seconds."""

    schedule: str
    since: float
    last: Night | None = None


class Diary:
    """The page of one manifest: a small file that is always whole, and a lock so that one daemon at a time writes it."""

    def __init__(self, folder: Path, manifest: Path) -> None:
        """manifest: absolute."""
        name = f"{unit_name(manifest.stem)}-{hashlib.sha256(os.fsencode(manifest)).hexdigest()[:12]}"
        self._path = folder / f"{name}.json"
        self._manifest = str(manifest)
        self._lock = FileLock(str(self._path.with_suffix(".lock")), mode=PRIVATE_MODE, timeout=0)

    def acquire(self) -> bool:
        """Whether no other daemon has this manifest. Raises StoreError."""
        try:
            private_folder(self._path.parent)
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise _unwritten(error, self._path) from None
        return True

    def release(self) -> None:
        self._lock.release()

    def read(self) -> Entry | None:
        """None when there is nothing, or nothing that can be read: the schedule then counts from now on."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            last = None if found["last"] is None else Night(**found["last"])
            return Entry(schedule=str(found["schedule"]), since=float(found["since"]), last=last)
        return None

    def write(self, entry: Entry) -> None:
        """Durable when it returns. Raises StoreError."""
        beside = self._path.with_suffix(".new")
        try:
            with open(beside, "w", encoding="utf-8", opener=private) as file:
                file.write(json.dumps({"manifest": self._manifest, **asdict(entry)}, indent=1))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            raise _unwritten(error, self._path) from None
        sync_folder(str(self._path.parent))


def _unwritten(error: OSError, path: Path) -> StoreError:
    return StoreError(f"{path}: {error.strerror}: the daemon keeps its diary there; XDG_STATE_HOME puts it elsewhere")
