"""Recovers what dead workers left behind, and never touches what belongs to a living one.

Before a sample is requested again, it also finds out what became of another worker's requests for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from filelock import FileLock

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.session import adoption_lock, lock_spool, spools_of_all, take_spool, unlock_spool
from batchgen.engine.links import fetch_attempt_links, settle_downloaded
from batchgen.engine.receive import Receiver
from batchgen.engine.recovery.open_attempts import adopt_spooled, is_in_place, move_unplaced, settle_by_receipt
from batchgen.engine.recovery.receipts import bind_store
from batchgen.engine.recovery.unrecorded_files import find_moved_files
from batchgen.engine.routes import Route
from batchgen.engine.settle import place_recorded
from batchgen.errors import DownloadFailed, StoreError
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.worker_ledger import ClaimedSample, FencedLedger
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.store import Store

Note = Callable[[str], None]
_ADOPTING = threading.Lock()  # a worker uses one more connection while it adopts, however many jobs it has


def take_and_adopt_spool(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note) -> FileLock:
    """Create a worker's own spool and lock it. A worker of the same name may have been here before and died.

    Raises JobLocked, LedgerError, StoreError.
    """
    died = os.path.isdir(store.spool)
    lock = take_spool(store, note)
    try:
        bind_store(ledger, store, remote_workers=True)
        adopt_spool(ledger, store, catalogue, note)
        adopt_orphans(ledger, store, catalogue, note, died=died)
    except BaseException:
        unlock_spool(store, lock)
        raise
    return lock


def adopt_orphans(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note, *, died: bool = False) -> None:
    """Place what was recorded and record what is whole in the spools of all workers that have died. One process at a
    time. died: whether a worker has died that is no longer listed, such as this worker's predecessor. Raises JobLocked,
    LedgerError, StoreError."""
    with _ADOPTING, contextlib.closing(ledger.without_waiting()) as ledger, adoption_lock(store, note):
        spools = spools_of_all(store)
        for orphan in spools:
            with contextlib.suppress(StoreError):  # its worker is alive
                lock, died = lock_spool(orphan), True
                try:
                    adopt_spool(ledger, orphan, catalogue, note)
                finally:
                    unlock_spool(orphan, lock)
        with contextlib.suppress(BucketUnavailable):  # then another time
            _settle_placed(ledger, store, spools)
            ledger.flush()
            if died:
                find_moved_files(ledger, store, note)


def adopt_spool(ledger: FencedLedger, orphan: Store, catalogue: Catalogue, note: Note) -> None:
    """Settle what is in a dead worker's spool. orphan: that spool, which this process now holds."""
    names = (entry.partition(".")[0] for entry in os.listdir(orphan.spool))
    numbers = {int(name) for name in names if name.isdigit()}
    move_unplaced(
        ledger, orphan, [image for image in ledger.reader.unplaced_by_workers() if image.attempt in numbers], note
    )
    settle_downloaded(ledger, orphan, catalogue, ledger.attempts_behind_links(sorted(numbers)))
    for attempt in ledger.unanswered_attempts(sorted(numbers)):
        if settle_by_receipt(ledger, orphan, attempt, note):
            continue
        adopt_spooled(ledger, orphan, attempt, note, "spool of a worker that has died")
    ledger.flush()
    waits = ledger.reader.unplaced_by_workers() if orphan.url else ()  # an unreachable bucket has not accepted these
    orphan.clean_spool({image.spool for image in waits})


def _settle_placed(ledger: FencedLedger, store: Store, spools: Sequence[Store]) -> None:
    """Record as placed the images that dead workers moved into place without recording it."""
    for attempt, found in groupby(ledger.reader.unplaced_by_workers(), key=lambda image: image.attempt):
        images = list(found)
        waits = any(os.path.exists(each.spooled(image.spool)) for each in spools for image in images)
        if not waits and all(is_in_place(store, image) for image in images):
            place_recorded(ledger, store, attempt, (), images)


def recover_after_workers(store: Store, url: str, schema: str, catalogue: Catalogue, note: Note) -> None:
    """Recover from dead workers before a run surveys its job. Requests that no queue knows any more are treated as a
    run's own."""
    with contextlib.closing(FencedLedger(url, schema, 0, f"run {os.getpid()}")) as ledger:
        if not ledger.reader.has_work_table():
            return
        queue.migrate(url)
        settle_after_workers(ledger, store, catalogue, note)


def settle_after_workers(ledger: FencedLedger, store: Store, catalogue: Catalogue, note: Note) -> None:
    """Recover from dead workers with an open ledger, for a job that has a queue."""
    adopt_orphans(ledger, store, catalogue, note)
    ledger.writer.submit(queue.stop_expired).result()
    ledger.unassign_open_attempts()


@dataclass(frozen=True, slots=True)
class PreviousAttempts:
    """Settles the earlier requests for a sample, which another worker had before."""

    ledger: FencedLedger
    store: Store
    catalogue: Catalogue
    receiver: Receiver
    routes: Mapping[str, Route]
    note: Note
    hold_uncertain: bool

    async def resolve(self, claimed: ClaimedSample) -> tuple[str, str] | OpenAttempt | None:
        """(state, reason) if the sample has ended; its request if the API accepted that as a job, which has to be asked
        about; None if it has to be requested.

        A request that was never sent costs nothing. One that was sent and has no end is looked for behind the link of
        its answer, in the spools that no worker holds any more, and in its vendor's list of jobs. If it is found
        nowhere it is uncertain: the sample is requested once more, or held.
        """
        end, uncertain_count = claimed.unreported_end, claimed.uncertain_count
        for attempt in claimed.open_attempts:
            if (found := await self._find_result(attempt)) is not None:
                end = found
            elif (taken := await self._find_job(attempt)) is not None:
                return taken
            elif await self.ledger.give_up(attempt):
                end = ("uncertain", "interrupted")
                uncertain_count += 1
        if end is not None and end[0] == "uncertain" and uncertain_count == 1 and not self.hold_uncertain:
            return None  # a sample that kills its workers is not requested endlessly
        return end

    async def _find_result(self, attempt: OpenAttempt) -> tuple[str, str] | None:
        """How a request ended, if its image exists. If a link cannot be downloaded now, the next run does it."""
        if attempt.links:
            try:
                await fetch_attempt_links(
                    self.ledger, self.store, self.receiver.exchange, self.routes.get(attempt.lane), attempt
                )
            except DownloadFailed as error:
                self.note(f"{attempt.item_id}: its image exists at the vendor but could not be fetched: {error}")
                return "failed", error.reason
            return "succeeded", ""
        return ("succeeded", "") if await asyncio.to_thread(self._recover_stored, attempt) else None

    async def _find_job(self, attempt: OpenAttempt) -> OpenAttempt | None:
        if attempt.job is None and (route := self.routes.get(attempt.lane)) is not None:
            job = (await self.receiver.lost_jobs.find(route, [attempt])).get(attempt.id)
            attempt = replace(attempt, job=job)
        return attempt if attempt.job is not None else None

    def _recover_stored(self, attempt: OpenAttempt) -> bool:
        """Settle what the bucket and the disk hold of a request. What a living worker has not recorded yet, it will."""
        if settle_by_receipt(self.ledger, self.store, attempt, self.note):
            return True
        adopt_orphans(self.ledger, self.store, self.catalogue, self.note)
        return self.ledger.has_succeeded(attempt.id)
