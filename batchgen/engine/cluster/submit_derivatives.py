"""Hands derivatives alone to workers: `batchgen post JOB --engine cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from batchgen import __version__
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.engine.cluster.submit import NO_RUN, plan_derivatives, submit_derivatives
from batchgen.engine.outcome import DerivativeCounts
from batchgen.errors import UsageError
from batchgen.events import Event, Notice
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerPointer, read_pointer, server_address
from batchgen.ledger.results import ResultsFile, has_result_lines
from batchgen.ledger.server_access import ServerLock
from batchgen.ledger.work_queue import Submission
from batchgen.manifest import Manifest
from batchgen.store.lock import JobLock
from batchgen.store.store import last_location, open_store


async def submit_and_wait(
    manifest: Manifest, folder: Path, only: Sequence[str], note: Callable[[str], None]
) -> DerivativeCounts:
    """Let workers make all missing derivatives of the existing images, and wait until none are left in the queue.

    Raises ManifestError, JobLocked, StoreError, LedgerError, SettingsError, UsageError.
    """
    location = read_pointer(folder)
    if location is None:
        raise UsageError(f"{folder} has its ledger in a file, which workers cannot reach: leave out --engine cluster")
    for _ in manifest.items():  # to the end, so that half a manifest removes nothing
        pass
    has_result_lines(folder)  # never overwrite a user's own results.jsonl
    url = server_address(folder, None) or ""
    await asyncio.to_thread(queue.migrate, url)
    await asyncio.to_thread(_submit, manifest, folder, only, url, location)
    ledger = Ledger(folder)

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            note(event.message)

    try:
        monitor = ClusterMonitor(url, location.schema, ledger.reader, on_event)
        try:
            await monitor.wait_until_derived()
            tally = monitor.tally(NO_RUN)
        finally:
            monitor.close()
        if tally.changed:
            ResultsFile(folder, ledger.reader).rebuild(manifest.item_ids)
        return tally
    finally:
        ledger.close()


def _submit(manifest: Manifest, folder: Path, only: Sequence[str], url: str, location: LedgerPointer) -> None:
    # Workers are not in this working directory.
    store, lock = open_store(folder.absolute(), last_location(folder)), JobLock(folder)
    store.prepare()
    lock.acquire()
    try:
        ledger = Ledger(folder)
        try:
            ServerLock(ledger).acquire()
            emulated = ledger.reader.meta("emulated") == "yes"
            plan = plan_derivatives(manifest, ledger, store, only, emulated=emulated)
            facts = Submission(
                name=manifest.name,
                folder=store.root,
                bucket=store.url,
                hold_uncertain=True,
                emulator_url=None,
                version=__version__,
            )
            submit_derivatives(url, location.schema, plan, facts)
        finally:
            ledger.close()
    finally:
        lock.release()
