"""A submission as one worker sees it: what its samples and its derivatives have in common, whichever of them it makes."""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from batchgen.engine.cluster.queue import Requeue
from batchgen.errors import StoreError
from batchgen.events import Event
from batchgen.ledger.location import read_pointer
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger
from batchgen.safe_open import PRIVATE_MODE
from batchgen.scheduling.stop_reason import StopReason
from batchgen.settings import Settings, state_folder
from batchgen.store.spool import disk_error
from batchgen.store.store import Store, open_store

LOCK_SUFFIX = ".lock"
RETRY_DELAY_S = 30.0  # before work is taken up again whose worker cannot do it


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where a worker is and what it has. name: unlike any other worker's."""

    url: str
    name: str
    concurrency: int | None
    settings: Settings
    note: Callable[[str], None]
    emit: Callable[[Event], None]

    @property
    def state_folder(self) -> Path | None:
        return state_folder(self.settings)


def open_submitted_store(worker: WorkerContext, facts: Submission, schema: str, spool: str) -> Store:
    """spool: the name of the worker's own; for pictures in a bucket it is in the user's state folder.

    Raises StoreError when this machine does not see the job's folder or has no place for one, SettingsError.
    """
    if facts.bucket:
        if worker.state_folder is None:
            raise StoreError("there is no home folder for what a worker stores: set HOME or XDG_STATE_HOME")
        return open_store(worker.state_folder / "worker" / schema, facts.bucket, spool)
    location = read_pointer(Path(facts.folder))
    if location is None or location.schema != schema:
        raise StoreError(
            f"{facts.folder} is not here as the submitter sees it: mount it under the same path, or use a bucket as output"
        )
    return open_store(Path(facts.folder), spool=spool)


def take_spool(store: Store) -> FileLock:
    """Make a worker's own spool and hold it. Raises StoreError, also when another worker has it.

    Adoption deletes spools that nobody holds, so it may not come between making one and locking it.
    """
    try:
        Path(store.root, STATE_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = adoption_lock(store)
        lock.acquire()
    except OSError as error:
        raise disk_error(error, store.root) from None
    try:
        store.prepare()
        return lock_spool(store)
    finally:
        lock.release()


def adoption_lock(store: Store) -> FileLock:
    """One process at a time adopts."""
    return FileLock(os.path.join(store.root, STATE_FOLDER, f"heirs{LOCK_SUFFIX}"), mode=PRIVATE_MODE)


def lock_spool(store: Store) -> FileLock:
    """Hold a worker's spool until the end of its process, however it ends. Raises StoreError when another has it."""
    lock = FileLock(f"{store.spool}{LOCK_SUFFIX}", mode=PRIVATE_MODE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{store.spool} is another worker's: give each worker a --name of its own") from None
    except OSError as error:
        raise disk_error(error, store.spool) from None
    return lock


def unlock_spool(store: Store, lock: FileLock) -> None:
    """Leave nothing behind that nobody needs."""
    with contextlib.suppress(OSError):
        os.rmdir(store.spool)
        os.unlink(lock.lock_file)
    lock.release()


class Session(ABC):
    """`process` for each piece of work that the queue hands out, `poll` now and then, `close` at the end."""

    def __init__(self, ledger: FencedLedger) -> None:
        self.ledger = ledger
        self.last_used_s = time.monotonic()
        self._keys: set[str] = set()  # of the work that this worker is at, from claim to end

    async def process(self, key: str) -> None:
        """Returns when the work needs nobody any more. Raises Requeue when it has to go back into the queue."""
        if self.closing:
            raise Requeue(time.time() + 1.0)
        if key in self._keys:
            raise Requeue(time.time() + RETRY_DELAY_S)  # given out twice: what is under way decides
        self._keys.add(key)
        try:
            await self._process(key)
        except Requeue:
            await self.ledger.release(key)
            raise
        finally:
            self._keys.discard(key)
            self.last_used_s = time.monotonic()

    @abstractmethod
    async def _process(self, key: str) -> None: ...

    def is_processing(self, key: str) -> bool:
        return key in self._keys

    @property
    def idle(self) -> bool:
        return not self._keys

    @property
    def closing(self) -> bool:
        """Whether it can make nothing more: what it is given goes to a new one."""
        return False

    async def poll(self) -> None:
        """Look for what others have found out."""
        return

    def stop(self, reason: StopReason) -> None:
        """Start nothing more, and give back what is not under way."""
        return

    def abandon_in_flight(self) -> None:
        """Wait no longer for what is under way."""
        return

    @abstractmethod
    async def close(self) -> None: ...
