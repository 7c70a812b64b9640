"""A submission as one worker sees it: what making its samples and making its derivatives have in common."""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from filelock import FileLock, Timeout

from batchgen.engine.cluster.queue import Requeue
from batchgen.errors import JobLocked, StoreError
from batchgen.events import Event
from batchgen.ledger.location import read_pointer
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.ledger.work_queue import Submission
from batchgen.ledger.worker_ledger import FencedLedger, WorkerConnections
from batchgen.safe_open import PRIVATE_MODE
from batchgen.scheduling.stop_reason import StopReason
from batchgen.settings import Settings, state_folder
from batchgen.store.job_folder import SPOOL
from batchgen.store.lock import describe_holder, note_holder
from batchgen.store.spool import disk_error
from batchgen.store.store import Store, open_store

LOCK_SUFFIX = ".lock"
ADOPTION_WAIT_S = 60.0  # a worker that adopts loses its connection earlier if its server is away: KEEPALIVE_OPTIONS
ADOPTION_NOTE_S = 3.0  # then people are shown what is being waited for
RETRY_DELAY_S = 30.0  # before work is taken again that its worker could not do
CLOSING_DELAY_S = 1.0  # before work is taken again that a session got as it ended


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Where a worker runs and what it has. name: different from any other worker's. connections: shared by all its
    jobs."""

    url: str
    connections: WorkerConnections
    name: str
    concurrency: int | None
    settings: Settings
    note: Callable[[str], None]
    emit: Callable[[Event], None]

    def ledger(self, schema: str, run_id: int) -> FencedLedger:
        """The ledger of one job."""
        return FencedLedger(self.url, schema, run_id, self.name, connections=self.connections)

    @property
    def state_folder(self) -> Path | None:
        return state_folder(self.settings)


def open_submitted_store(worker: WorkerContext, facts: Submission, schema: str, spool: str) -> Store:
    """Open the store of a submission. spool: the name of the worker's own; for images in a bucket it is in the user's
    state folder.

    Raises StoreError if this machine cannot see the job's folder or has no room for one, SettingsError.
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


def take_spool(store: Store, note: Callable[[str], None]) -> FileLock:
    """Create a worker's own spool and lock it. Raises JobLocked, and StoreError, also if another worker has it.

    Adoption deletes spools that nobody holds, so it must not happen between creating and locking one.
    """
    try:
        Path(store.root, STATE_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, store.root) from None
    with adoption_lock(store, note):
        store.prepare()
        return lock_spool(store)


@contextlib.contextmanager
def adoption_lock(store: Store, note: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time adopt, which waits for no server meanwhile. Call it in a thread: it waits for others.

    Raises JobLocked, naming the holder, if that takes longer than ADOPTION_WAIT_S, and StoreError.
    """
    path = Path(store.root, STATE_FOLDER, f"heirs{LOCK_SUFFIX}")
    lock, holder = FileLock(path, mode=PRIVATE_MODE), path.with_suffix(".json")
    try:
        _acquire_or_say_who_has_it(lock, holder, note)
    except OSError as error:
        raise disk_error(error, store.root) from None
    try:
        note_holder(holder)
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _acquire_or_say_who_has_it(lock: FileLock, holder: Path, note: Callable[[str], None]) -> None:
    try:
        lock.acquire(timeout=ADOPTION_NOTE_S)
        return
    except Timeout:
        who = f"another process{describe_holder(holder)}"
        note(f"{who} is taking up what workers that died have left in {holder.parent}: waiting for it")
    try:
        lock.acquire(timeout=ADOPTION_WAIT_S - ADOPTION_NOTE_S)
    except Timeout:
        said = f"another process{describe_holder(holder)} has been at {holder.parent} for {ADOPTION_WAIT_S:.0f} s, taking up"
        raise JobLocked(f"{said} what workers that died have left: wait for it, or stop it") from None


def lock_spool(store: Store) -> FileLock:
    """Lock a worker's spool until its process ends, however that happens. Raises StoreError if another worker has
    it."""
    lock = FileLock(f"{store.spool}{LOCK_SUFFIX}", mode=PRIVATE_MODE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{store.spool} is another worker's: give each worker a --name of its own") from None
    except OSError as error:
        raise disk_error(error, store.spool) from None
    return lock


def spools_of_all(store: Store) -> list[Store]:
    """The spools of all workers in the job's folder."""
    return [
        store.with_spool(entry.name)
        for entry in os.scandir(os.path.join(store.root, STATE_FOLDER))
        if entry.name.startswith(f"{SPOOL}-") and entry.is_dir(follow_symlinks=False)
    ]


def unlock_spool(store: Store, lock: FileLock) -> None:
    """Unlock a spool and delete what is not needed any more."""
    with contextlib.suppress(OSError):
        os.rmdir(store.spool)
        os.unlink(lock.lock_file)
    lock.release()


class Work(Protocol):
    @property
    def key(self) -> str: ...


W = TypeVar("W", bound=Work)


class Session(ABC, Generic[W]):
    """Call `claim` when there is room, `process` for each piece of work that it returns, `poll` now and then, and
    `close` at the end."""

    def __init__(self, ledger: FencedLedger) -> None:
        self.ledger = ledger
        self.last_used_s = time.monotonic()
        self.keys: set[str] = set()  # of the work this worker is doing, from claim to end

    async def claim(self, lane: str, max_count: int) -> Sequence[W]:
        """Claim work of this submission for this worker; each piece has to be processed. Raises LedgerError."""
        claimed = await self._claim(lane, max_count)
        self.keys.update(work.key for work in claimed)
        return claimed

    @abstractmethod
    async def _claim(self, lane: str, max_count: int) -> Sequence[W]: ...

    async def process(self, work: W) -> None:
        """Do a piece of work. Returns once it is done or back in the queue, where it also goes if anything is
        raised."""
        try:
            if self.closing:
                raise Requeue(CLOSING_DELAY_S)
            await self._process(work)
        except Requeue as again:
            await self.ledger.release(work.key, again.delay_s)
        except Exception:
            await self.ledger.release(work.key, RETRY_DELAY_S)
            raise
        finally:
            self.keys.discard(work.key)
            self.last_used_s = time.monotonic()

    @abstractmethod
    async def _process(self, work: W) -> None: ...

    @property
    def idle(self) -> bool:
        return not self.keys

    @property
    def closing(self) -> bool:
        """Whether this session cannot make anything more, so that a new one gets the work."""
        return self.ledger.writer.broken is not None

    async def poll(self) -> None:
        """React to what others found out."""
        return

    def stop(self, reason: StopReason) -> None:
        """Start nothing more, and give back what is not in progress."""
        return

    def abandon_in_flight(self) -> None:
        """Stop waiting for what is in progress."""
        return

    @abstractmethod
    async def close(self) -> None: ...
