"""Ensures one run per job: a lock that ends with its process, and a note of who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from batchgen.errors import JobLocked
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.safe_open import PRIVATE_MODE, private_opener
from batchgen.store.spool import disk_error

DEAD_HOLDER_S = 5.0  # how long to wait for a lock whose holder has ended


class JobLock:
    """The lock of a job, held from `acquire` until `release` or the end of the process, however it ends."""

    def __init__(self, job_folder: Path) -> None:
        self._folder = job_folder / STATE_FOLDER
        self._lock = FileLock(str(self._folder / "lock"), mode=PRIVATE_MODE, timeout=0)

    def acquire(self) -> None:
        """Take the lock. Raises JobLocked, naming the holder's process and host if known, and StoreError."""
        note = self._folder / "holder.json"
        try:
            try:
                self._lock.acquire()
            except Timeout:
                if not _is_dead(note):
                    raise
                self._lock.acquire(timeout=DEAD_HOLDER_S, poll_interval=0.02)
        except Timeout:
            raise JobLocked(f"another run holds this job{describe_holder(note)}: wait for it, or stop it") from None
        except OSError as error:
            raise disk_error(error, str(self._folder)) from None
        note_holder(note)

    def release(self) -> None:
        (self._folder / "holder.json").unlink(missing_ok=True)
        self._lock.release()


def _is_dead(note: Path) -> bool:
    """Whether the process that noted itself as the holder is known to have ended. A child that it was just starting may
    have the lock for a moment longer, until it has become another program."""
    try:
        holder = json.loads(note.read_text())
        if os.name == "posix" and holder["host"] == socket.gethostname():
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return False


def note_holder(path: Path) -> None:
    """Note that this process holds a lock. Only for people: the lock itself is what counts."""
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))


def describe_holder(path: Path) -> str:
    """The holder of the lock beside this note; empty if unknown."""
    try:
        holder = json.loads(path.read_text())
        return f" (process {holder['pid']} on {holder['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
