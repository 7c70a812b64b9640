"""Cleans up what earlier runs and workers left behind, before a run plans anything."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from batchgen.engine.job_state import JobState, RunRequest
from batchgen.engine.jobs import LostJobs
from batchgen.engine.links import fetch_pending_links, settle_downloaded
from batchgen.engine.recovery.open_attempts import move_unplaced, resume_unsent_chunks, settle_open_attempts
from batchgen.engine.recovery.replay import read_kept_answers
from batchgen.engine.recovery.unrecorded_files import find_moved_files, last_run_ended
from batchgen.engine.routes import link_routes, open_routes
from batchgen.http.transport import Transport
from batchgen.ledger.location import read_pointer
from batchgen.ledger.requests import JOB_INPUT
from batchgen.records import lane_model


async def recover(request: RunRequest, state: JobState) -> bool:
    """Clean up. Returns whether lines of results.jsonl may be out of date."""
    ledger, store, note, catalogue = state.ledger, state.store, request.note, request.job.manifest.catalogue
    if (pointer := read_pointer(store.folder)) is not None:  # workers write this ledger, and may have died
        from batchgen.engine.cluster.orphan_recovery import recover_after_workers  # needs psycopg, an extra

        recovery = (store, request.server_url, pointer.schema, catalogue, note)
        await asyncio.to_thread(recover_after_workers, *recovery)  # may have to wait for others
    repairs = bool(ledger.reader.open_attempts())
    move_unplaced(ledger, store, ledger.reader.unplaced(), note)
    repairs = read_kept_answers(ledger, store, catalogue, note) > 0 or repairs
    settle_downloaded(ledger, store, catalogue, ledger.reader.open_attempts())
    await _find_lost_jobs(request, state)
    settle_open_attempts(ledger, store, note)
    ledger.flush()  # images may still be on their way to their places
    resume_unsent_chunks(ledger, store.root, request.options.batches.batch_mode, note)
    if not last_run_ended(ledger):
        find_moved_files(ledger, store, note)
    await _fetch_links(request, state)
    ledger.flush()
    return repairs


async def _find_lost_jobs(request: RunRequest, state: JobState) -> None:
    """Find jobs that an earlier run requested without recording the answers. Raises SettingsError without a key."""
    lost = [
        attempt for attempt in state.ledger.reader.open_attempts() if JOB_INPUT in attempt.facts and not attempt.job
    ]
    if lost:
        catalogue, options = request.job.manifest.catalogue, request.options
        models = {lane_model(attempt.lane) for attempt in lost}
        routes, _ = open_routes(map(catalogue.resolve, models), request.job.settings, options.emulator_url)
        with ThreadPoolExecutor(1) as executor:
            async with Transport(1, executor) as transport:
                for lane, route in routes.items():
                    of_lane = [attempt for attempt in lost if attempt.lane == lane]
                    found = await LostJobs(state.ledger, transport).find(route, of_lane)
                    for attempt in (each for each in of_lane if each.id in found):
                        request.note(f"{attempt.item_id}: its vendor has the job that an interrupted run asked for")


async def _fetch_links(request: RunRequest, state: JobState) -> None:
    """Download images that an earlier run paid for and could not get from their links."""
    models = {attempt.lane.split("/", 1)[1] for attempt in state.ledger.reader.open_attempts() if attempt.links}
    if models:
        profiles = map(request.job.manifest.catalogue.resolve, models)
        routes = link_routes(profiles, request.job.settings, request.options.emulator_url)
        with ThreadPoolExecutor(1) as executor:
            async with Transport(1, executor) as transport:
                await fetch_pending_links(state.ledger, state.store, transport, routes, request.note)
