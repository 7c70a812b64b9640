"""Hands derivatives alone to workers: `batchgen post JOB --engine cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from batchgen import __version__
from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.engine.cluster.submit import NO_RUN, plan_derivatives, submit_derivatives
from batchgen.engine.job_state import locked_job, open_job_state
from batchgen.engine.outcome import DerivativeCounts
from batchgen.errors import UsageError
from batchgen.events import Event, Notice
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerPointer, read_pointer, server_address
from batchgen.ledger.results import ResultsFile, has_result_lines
from batchgen.ledger.work_queue import Submission
from batchgen.manifest import Manifest
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

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            note(event.message)

    with closing(Ledger(folder)) as ledger:
        with closing(ClusterMonitor(url, location.schema, ledger.reader, on_event)) as monitor:
            await monitor.wait_until_derived()
            tally = monitor.tally(NO_RUN)
        if tally.changed:
            ResultsFile(folder, ledger.reader).rebuild(manifest.item_ids)
        return tally


def _submit(manifest: Manifest, folder: Path, only: Sequence[str], url: str, location: LedgerPointer) -> None:
    store = open_store(folder.absolute(), last_location(folder))  # workers are not in this working directory
    with locked_job(store) as lock, open_job_state(store, lock) as state:
        emulated = state.ledger.reader.meta("emulated") == "yes"
        plan = plan_derivatives(manifest, state.ledger, store, only, emulated=emulated)
        facts = Submission(
            name=manifest.name,
            folder=store.root,
            bucket=store.url,
            hold_uncertain=True,
            emulator_url=None,
            version=__version__,
        )
        submit_derivatives(url, location.schema, plan, facts)
