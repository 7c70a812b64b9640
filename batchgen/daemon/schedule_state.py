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
from batchgen.safe_open import PRIVATE_MODE, make_private_folder, private_opener
from batchgen.schedule.due import ScheduledRun
from batchgen.schedule.timer_spec import unit_name
from batchgen.store.spool import sync_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """schedule: as it stood in the manifest, in JSON; another one counts anew. since: UTC seconds."""

    schedule: str
    since: float
    last: ScheduledRun | None = None


class ScheduleStateFile:
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
            make_private_folder(self._path.parent)
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise _write_error(error, self._path) from None
        return True

    def release(self) -> None:
        self._lock.release()

    def read(self) -> ScheduleState | None:
        """None when there is nothing, or nothing that can be read: the schedule then counts from now on."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            last = None if found["last"] is None else ScheduledRun(**found["last"])
            return ScheduleState(schedule=str(found["schedule"]), since=float(found["since"]), last=last)
        return None

    def write(self, state: ScheduleState) -> None:
        """Durable when it returns. Raises StoreError."""
        temp_path = self._path.with_suffix(".new")
        try:
            with open(temp_path, "w", encoding="utf-8", opener=private_opener) as file:
                file.write(json.dumps({"manifest": self._manifest, **asdict(state)}, indent=1))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp_path, self._path)
        except OSError as error:
            raise _write_error(error, self._path) from None
        sync_folder(str(self._path.parent))


def _write_error(error: OSError, path: Path) -> StoreError:
    return StoreError(
        f"{path}: {error.strerror}: the daemon keeps its state there: set XDG_STATE_HOME to another folder"
    )
