"""The end of a run: whether the pictures that its ledger names are the files that stand there, what it comes to in figures, and
what ledger and results keep of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from batchgen.engine.job_state import JobState, RunRequest
from batchgen.engine.outcome import Discrepancies, Outcome, RunEnding, read_outcome
from batchgen.engine.reconciliation import Reconciliation
from batchgen.engine.recovery.replay import forget_settled_answers
from batchgen.errors import LedgerError, StoreError
from batchgen.ledger.pictures import CurrentPicture
from batchgen.planning.batchable import is_batch
from batchgen.planning.plan import Forecast
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.local_folder import FileVerdict

READERS = 8
STAMP_BATCH_FILES = 500  # files
NOTE_FROM_FILES = 100  # files to read: below, it takes no time worth a word


async def end_run(
    request: RunRequest,
    state: JobState,
    reconciliation: Reconciliation,
    ending: RunEnding,
    run_forecast: Forecast,
    started: float,
) -> Outcome:
    """Looks for discrepancies between the ledger and the store, records the end and tells of it. started: UTC seconds."""
    ledger, store = state.ledger, state.store
    ending = await _count(request, state, reconciliation, ending)
    seconds = time.time() - started
    outcome = replace(
        read_outcome(ledger.reader, ledger.run_id, ending, seconds, folder=store.root, bucket=store.url),
        kept=reconciliation.kept,
        moved=len(reconciliation.moves),
        left_out=reconciliation.left_out + reconciliation.over_limit,
        emulated=request.emulated,
        forecast=run_forecast,
        saved_usd=_saved_usd(request, state),
    )
    ledger.run_ended(outcome.exit_code, outcome.stopped_by, outcome.recorded)
    request.emit(outcome.event)
    return outcome


async def _count(request: RunRequest, state: JobState, reconciliation: Reconciliation, ending: RunEnding) -> RunEnding:
    """With what only the ledger knows. It is not compared with the store after a run that was stopped, which does not end
    with 0, nor while workers are still placing pictures."""
    discrepancies = Discrepancies()
    if not (ending.stop_reason or ending.with_workers or ending.waiting_uploads):
        discrepancies = await _find_discrepancies(request, state)
    reader, run_id = state.ledger.reader, state.ledger.run_id
    made = reader.image_count_of_run(run_id)
    explicit = request.options.retry_selection.explicit
    skipped = 0 if explicit else reconciliation.skipped - reconciliation.over_limit
    return replace(
        ending,
        made=made,
        tried=sum(reader.attempts(run_id).values()),
        missing=reconciliation.wanted + reconciliation.submitted - made + skipped,
        submitted=reader.counts().get("submitted", 0),
        rejected=reader.counts().get("rejected", 0),
        discrepancies=discrepancies,
    )


def _saved_usd(request: RunRequest, state: JobState) -> float:
    """What this run's batches have cost less than the same requests one by one."""
    saved, catalogue = 0.0, request.job.manifest.catalogue
    for lane, usd in state.ledger.reader.usd_by_lane(state.ledger.run_id).items():
        factor = catalogue.resolve(lane.partition("/")[2]).prices.batch_factor if is_batch(lane) else None
        saved += usd / factor - usd if factor else 0.0
    return saved


def tidy_up(request: RunRequest, state: JobState, outcome: Outcome, *, rebuild: bool) -> None:
    """Kept answers that served go, and results.jsonl has one line an item, in the manifest's order. Raises StoreError, LedgerError."""
    forget_settled_answers(state.ledger.reader, state.store)
    try:
        rebuild = rebuild or outcome.left > 0 or outcome.derived.changed
        rebuild = rebuild or state.ledger.reader.meta("results_order") != "manifest"
        state.results.compact(request.job.manifest.item_ids, rebuild=rebuild)
        state.ledger.set_meta(results_tidy="yes", results_order="manifest")
    except (StoreError, LedgerError):
        if outcome.stopped_by != "disk":  # else it has been said, and the next run writes the file anew
            raise


async def _find_discrepancies(request: RunRequest, state: JobState) -> Discrepancies:
    """Once everything is in its place. A file with the size and the stamp that the ledger knows is taken for what it was; one
    with another stamp is read, and its stamp remembered when it is the same all the same."""
    state.ledger.flush()  # placing is not waited for
    try:
        missing, changed, doubtful = await asyncio.to_thread(_compare_stamps, state)
        if len(doubtful) >= NOTE_FROM_FILES:
            request.note(
                f"{len(doubtful):,} images have a different time or ETag than recorded: reading each of them once"
            )
        if doubtful:
            interrupted = threading.Event()
            try:
                read = await asyncio.to_thread(_verify_contents, state, doubtful, interrupted)
            finally:
                interrupted.set()
            missing += read["missing"]
            changed += read["changed"]
    except BucketUnavailable as error:
        return Discrepancies(check_failed=f"could not check whether the images are there: {error}")
    return Discrepancies(tuple(missing), tuple(changed), checked=True)


def _compare_stamps(state: JobState) -> tuple[list[str], list[str], list[tuple[CurrentPicture, str]]]:
    """Paths of pictures that are missing and that have another size; and pictures with another stamp, each with that."""
    missing, changed, doubtful = list[str](), list[str](), list[tuple[CurrentPicture, str]]()
    stat_lookup, pending_uploads = state.store.stat_lookup(), state.store.pending_uploads
    for picture in state.ledger.reader.current_pictures():
        if (found := stat_lookup(picture.path)) is None:
            if picture.path not in pending_uploads:
                missing.append(picture.path)
        elif found.bytes != picture.bytes:
            changed.append(picture.path)
        elif found.stamp != picture.stamp:
            doubtful.append((picture, found.stamp))
    return missing, changed, doubtful


def _verify_contents(
    state: JobState, doubtful: Sequence[tuple[CurrentPicture, str]], interrupted: threading.Event
) -> dict[FileVerdict, list[str]]:
    """Paths by what was found, as far as it came before it was interrupted."""

    def judge(each: tuple[CurrentPicture, str]) -> FileVerdict | None:
        picture, _ = each
        return None if interrupted.is_set() else state.store.verify(picture.path, picture.sha256)

    found: dict[FileVerdict, list[str]] = {"right": [], "changed": [], "missing": []}
    with ThreadPoolExecutor(READERS, "verify") as pool:
        judged = zip(doubtful, pool.map(judge, doubtful), strict=True)
        while some := list(islice(judged, STAMP_BATCH_FILES)):
            for (picture, _), judgement in some:
                if judgement is not None:
                    found[judgement].append(picture.path)
            state.ledger.record_stamps(
                [(stamp, each.attempt, each.k) for (each, stamp), judgement in some if judgement == "right"]
            )
    return found
