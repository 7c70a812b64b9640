"""Makes derivatives during a run, in worker processes: what is missing at its start, each new image's, and the rest at
its end."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

from batchgen.derivatives.diff import CHUNK, DerivativeDiffer, RenderTask
from batchgen.derivatives.render_process import RenderProcess, in_thread, render_derivatives
from batchgen.derivatives.specification import UNFINISHED_PREFIX
from batchgen.engine.job_state import JobState, open_finished_job
from batchgen.engine.outcome import DerivativeCounts
from batchgen.errors import BatchgenError
from batchgen.events import Event, ImageReviewed, SampleSucceeded
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.manifest import Manifest
from batchgen.os_errors import machine_refusal
from batchgen.planning.plan import is_selected
from batchgen.records import Item, Post, split_key
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.store.stored_files import COPY_PREFIX

log = logging.getLogger("batchgen")
MAX_WORKERS = 8  # each may hold a decoded 4K image and its files: 200 MB, or 600 MB for a cutout
MIN_FREE_BYTES = 256_000_000  # of disk space are kept for the images themselves
# The next run makes the rest.
STOP_WITHOUT_WAITING = {StopKind.SIGNAL, StopKind.DISK, StopKind.BUG, StopKind.DEADLINE, StopKind.CANCELLED}
POLL_INTERVAL_S = 0.2


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    counts = getattr(os, "process_cpu_count", None)  # since 3.13; before it, what the scheduler grants
    if counts is not None:
        return counts() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    return max(1, min(MAX_WORKERS, available_cpus() - 1))


class DerivativeRunner:
    """Makes derivatives: an observer of the run with a few tasks on its loop, which take no place in flight and only
    pass lines to processes.

    A context manager: leaving it ends the processes, and what they had not finished is made by the next run.
    """

    def __init__(
        self,
        manifest: Manifest,
        state: JobState,
        note: Callable[[str], None],
        *,
        emulated: bool,
        only: Sequence[str] = (),
        workers: int | None = None,
        awaits_review: Callable[[str], bool] = lambda item_id: False,
    ) -> None:
        """awaits_review: whether an image of this item only counts once it has been reviewed."""
        self._awaits_review = awaits_review
        self._manifest = manifest
        self._ledger = state.ledger
        self._store = state.store
        self._note = note
        self._only = tuple(only)
        self._view = DerivativeReader.from_reader(state.ledger.reader)
        self._differ = DerivativeDiffer(self._view, state.store, manifest.name, emulated=emulated)
        self._workers = workers or default_workers()
        self._post_overrides: dict[str, Post | None] = {}  # of items that differ from the manifest's default
        self._new_keys: asyncio.Queue[str | None] = asyncio.Queue()
        self._tasks: asyncio.Queue[RenderTask] = asyncio.Queue(self._workers)
        self._in_progress: set[tuple[str, int]] = set()
        self._asyncio_tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._made = self._skipped = self._removed = 0

    async def __aenter__(self) -> Self:
        for name in os.listdir(self._store.spool):
            if name.startswith((UNFINISHED_PREFIX, COPY_PREFIX)):  # left by a run that was killed
                self._store.remove_spooled(name)
        if self._manifest.has_derivatives or self._view.derivative_counts():
            feed = asyncio.create_task(self._produce())
            self._asyncio_tasks = [feed, *(asyncio.create_task(self._consume()) for _ in range(self._workers))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._asyncio_tasks:
            task.cancel()
        await asyncio.gather(*self._asyncio_tasks, return_exceptions=True)

    def __call__(self, event: Event) -> None:
        """Note each new image that counts."""
        match event:
            case SampleSucceeded(key=key) if not self._awaits_review(split_key(key)[0]):
                new = key
            case ImageReviewed(key=key, is_accepted=True) if self._awaits_review(split_key(key)[0]):
                new = key
            case _:
                return
        if self._asyncio_tasks:
            self._new_keys.put_nowait(new)

    async def finish(self, stop_reason: Callable[[], StopReason | None] = lambda: None) -> DerivativeCounts:
        """Make what is left, unless the run stops for a reason that leaves it to the next one."""
        self._new_keys.put_nowait(None)
        feed, waited = self._asyncio_tasks[0] if self._asyncio_tasks else None, 0
        while feed is not None and not feed.done():
            if (reason := stop_reason()) is not None and reason.kind in STOP_WITHOUT_WAITING:
                break
            await asyncio.wait({feed}, timeout=POLL_INTERVAL_S)
            waited += 1
            if waited == 10:
                self._note("derivatives are still being made")
        counts = self._view.derivative_counts() if self._asyncio_tasks else {}
        failed = sum(states.get("failed", 0) for states in counts.values())
        finished = not self._stopped and (feed is None or (feed.done() and not feed.cancelled()))
        return DerivativeCounts(self._made, self._skipped, self._removed, failed, finished)

    # --- what has to be made

    async def _produce(self) -> None:
        try:
            await self._scan_manifest()
            while (keys := await self._take_new_keys()) is not None:
                by_item = {split_key(key)[0]: key for key in keys}
                await self._enqueue_missing(
                    [(item_id, self._post_overrides.get(item_id, self._manifest.post)) for item_id in by_item]
                )
            await self._tasks.join()
        except Exception as error:
            self._leave_to_next_run(error)

    def _leave_to_next_run(self, error: Exception) -> None:
        """Leave what is missing to the next run: an error with derivatives never costs an image."""
        self._stopped = True
        note_left(self._note, "derivatives are left to the next run", error)

    async def _scan_manifest(self) -> None:
        """Find everything that the manifest wants, once; in threads, so that the loop is free for answers."""
        items = self._manifest.items()
        while chunk := await in_thread(lambda: list(islice(items, CHUNK))):
            await self._enqueue_missing([(item.id, self._note_override(item)) for item in chunk if self._selects(item)])
        if not self._only:
            await self._remove_stale(await in_thread(self._view.unwanted_derivatives))

    def _selects(self, item: Item) -> bool:
        return not self._only or is_selected(item, self._only)

    def _note_override(self, item: Item) -> Post | None:
        if item.post is not self._manifest.post:
            self._post_overrides[item.id] = item.post
        return item.post

    async def _take_new_keys(self) -> list[str] | None:
        """The keys of new images; None once there will be no more."""
        keys = [await self._new_keys.get()]
        while not self._new_keys.empty() and len(keys) < CHUNK and keys[-1] is not None:
            keys.append(self._new_keys.get_nowait())
        if keys[-1] is None and len(keys) > 1:
            self._new_keys.put_nowait(keys.pop())
        return None if keys[0] is None else [key for key in keys if key is not None]

    async def _enqueue_missing(self, items: Sequence[tuple[str, Post | None]]) -> None:
        ids = {item_id for item_id, _ in items}
        if any(item_id in ids for item_id, _ in self._in_progress):  # with an earlier image, or with this one
            await self._tasks.join()
        found = await in_thread(lambda: self._differ.diff(items))
        if found.touched:
            await self._ledger.writer.write(upsert_derivatives(found.touched))
        await self._remove_stale(found.stale)
        for due in found.due:
            self._in_progress.add(due.key)
            await self._tasks.put(due)

    async def _remove_stale(self, rows: Sequence[DerivativeRow]) -> None:
        self._removed += await in_thread(lambda: self._differ.remove(rows))
        if rows:
            await self._ledger.writer.write(delete_derivatives(rows))

    # --- making it

    async def _consume(self) -> None:
        process = RenderProcess()
        try:
            while True:
                due = await self._tasks.get()
                try:
                    if not self._disk_is_full():
                        await self._render(process, due)
                except Exception as error:
                    self._leave_to_next_run(error)
                finally:
                    self._in_progress.discard(due.key)
                    self._tasks.task_done()
        finally:
            await process.close()

    def _disk_is_full(self) -> bool:
        if not self._stopped and self._store.free_bytes() < MIN_FREE_BYTES:
            self._stopped = True
            self._note("the disk is nearly full: derivatives are left to a run that finds room")
        return self._stopped

    async def _render(self, process: RenderProcess, due: RenderTask) -> None:
        rows = await render_derivatives(process, due, self._store)
        await self._ledger.writer.write(upsert_derivatives(rows))
        self._made += sum(row.state == "made" for row in rows)
        self._skipped += sum(row.state == "skipped" for row in rows)


def note_left(note: Callable[[str], None], what: str, error: Exception) -> None:
    """Report what is left because of an error, and keep the traceback of a bug for the log."""
    why = machine_refusal(error)
    note(f"{what}: {why or error}")
    if not why and not isinstance(error, (BatchgenError, OSError, sqlite3.Error)):
        log.error("a bug of batchgen", exc_info=error)


async def make_derivatives(
    manifest: Manifest, folder: Path, only: Sequence[str], note: Callable[[str], None]
) -> DerivativeCounts:
    """Make everything that is missing of the existing images, without a run. Raises ManifestError, JobLocked,
    StoreError, LedgerError."""
    for _ in manifest.items():  # to the end, so that half a manifest removes nothing
        pass
    with open_finished_job(folder) as state:
        emulated = state.ledger.reader.meta("emulated") == "yes"
        async with DerivativeRunner(manifest, state, note, emulated=emulated, only=only) as derivatives:
            tally = await derivatives.finish()
        state.ledger.flush()  # unless it is gone by now
        if tally.changed:
            state.results.rebuild(manifest.item_ids)
        return tally
