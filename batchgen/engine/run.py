"""Runs a job: opens it, drives it and ends it. The end compares the images in the ledger with the files, adds up the
run's figures, and records them in ledger and results."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from batchgen.engine.engines import Engine, RemoteEngine, RemoteRun
from batchgen.engine.job import Job
from batchgen.engine.job_state import JobState, RunRequest, run_request
from batchgen.engine.online_run import run_online
from batchgen.engine.opening import OpenedRun, begin_run, open_run
from batchgen.engine.outcome import Discrepancies, Outcome, RunEnding, RunOptions, read_outcome
from batchgen.engine.recovery.replay import forget_settled_answers
from batchgen.engine.stopping import hold_stop_signals
from batchgen.errors import LedgerError, StoreError
from batchgen.events import Observer
from batchgen.ledger.pictures import CurrentPicture
from batchgen.ledger.schema import ledger_path, unreadable_error
from batchgen.planning.batchable import is_batch
from batchgen.planning.plan import Forecast
from batchgen.store.blobs import BucketUnavailable

READERS = 8
STAMP_BATCH_FILES = 500  # files
NOTE_FROM_FILES = 100  # files to read; fewer take no time worth mentioning


async def run_job(
    job: Job, options: RunOptions, engine: Engine | RemoteEngine, observers: Sequence[Observer] = ()
) -> Outcome:
    """Run a job. Raises ManifestError, SettingsError, StoreError, LedgerError, JobLocked before anything is sent."""
    request = run_request(job, options, observers)
    remote = isinstance(engine, RemoteEngine)
    try:
        async with open_run(request, remote=remote) as opened:
            with hold_stop_signals(watching=options.install_signal_handlers and not remote) as signals:
                begin_run(request, opened, remote=remote)
                started = time.time()
                if isinstance(engine, RemoteEngine):
                    ending, run_forecast = await _run_remotely(request, opened, engine)
                else:
                    ending, run_forecast = await run_online(request, opened, engine, signals)
                outcome = await _end_run(request, opened, ending, run_forecast, started)
                _tidy_up(request, opened, outcome)
            return outcome
    except sqlite3.Error as error:
        raise unreadable_error(error, ledger_path(job.folder)) from error


async def _run_remotely(request: RunRequest, opened: OpenedRun, engine: RemoteEngine) -> tuple[RunEnding, Forecast]:
    """Hand a run to workers elsewhere. What is in the queue already belongs to the run that put it there, which
    continues."""
    manifest, options, state, survey = request.job.manifest, request.options, opened.state, opened.survey
    concurrency = options.concurrency or manifest.limits.concurrency
    run_forecast = survey.reconciliation.forecast(concurrency, options.max_usd, "run")
    run_id = state.ledger.run_id
    request.emit(survey.reconciliation.started_event(run_id, manifest.name, run_forecast, emulated=request.emulated))
    ending = await engine.run_remotely(
        RemoteRun(
            manifest=manifest,
            reconciliation=survey.reconciliation,
            backlog=survey.backlog,
            ledger=state.ledger,
            store=state.store,
            options=options,
            url=request.server_url,
            emit=request.emit,
            release_lock=state.release_locks,
        )
    )
    return ending, run_forecast


async def _end_run(
    request: RunRequest, opened: OpenedRun, ending: RunEnding, run_forecast: Forecast, started: float
) -> Outcome:
    """Look for discrepancies between ledger and store, record the end of the run and report it. started: UTC
    seconds."""
    state, reconciliation = opened.state, opened.survey.reconciliation
    ledger, store = state.ledger, state.store
    ending = await _count(request, opened, ending)
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


async def _count(request: RunRequest, opened: OpenedRun, ending: RunEnding) -> RunEnding:
    """Complete a run's ending with what only the ledger knows. It is not compared with the store after a run that was
    stopped, which does not end with 0, nor while workers are still moving images into place."""
    state, reconciliation, discrepancies = opened.state, opened.survey.reconciliation, Discrepancies()
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
    """How much less this run's batches cost than the same requests one by one."""
    saved, catalogue = 0.0, request.job.manifest.catalogue
    for lane, usd in state.ledger.reader.usd_by_lane(state.ledger.run_id).items():
        factor = catalogue.resolve(lane.partition("/")[2]).prices.batch_factor if is_batch(lane) else None
        saved += usd / factor - usd if factor else 0.0
    return saved


def _tidy_up(request: RunRequest, opened: OpenedRun, outcome: Outcome) -> None:
    """Delete kept answers that are no longer needed, and write results.jsonl with one line per item, in the manifest's
    order. Raises StoreError, LedgerError."""
    state = opened.state
    forget_settled_answers(state.ledger.reader, state.store)
    try:
        rebuild = opened.outdated or outcome.left > 0 or outcome.derived.changed
        rebuild = rebuild or state.ledger.reader.meta("results_order") != "manifest"
        state.results.compact(request.job.manifest.item_ids, rebuild=rebuild)
        state.ledger.set_meta(results_tidy="yes", results_order="manifest")
    except (StoreError, LedgerError):
        if outcome.stopped_by != "disk":  # then it was reported, and the next run writes the file again
            raise


async def _find_discrepancies(request: RunRequest, state: JobState) -> Discrepancies:
    """Compare the ledger with the store, once everything is in its place. A file with the size and the stamp in the
    ledger is taken to be unchanged. One with another stamp is read, and its stamp recorded if the contents are the
    same."""
    state.ledger.flush()  # images may still be on their way to their places
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
    """The paths of images that are missing and of those with another size, and the images with another stamp, each with
    that stamp."""
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
) -> dict[str, list[str]]:
    """Paths by what was found, up to the point where the check was interrupted."""

    def judge(each: tuple[CurrentPicture, str]) -> str | None:
        picture, _ = each
        return None if interrupted.is_set() else state.store.verify(picture.path, picture.sha256)

    found: dict[str, list[str]] = {"right": [], "changed": [], "missing": []}
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
