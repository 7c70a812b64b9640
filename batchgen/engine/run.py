"""Runs a job: opens, recovers, surveys and drives it, and leaves ledger and results as they should be."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from batchgen.engine.ending import end_run, tidy_up
from batchgen.engine.engines import Engine, RemoteEngine, RemoteRun
from batchgen.engine.job import Job
from batchgen.engine.job_state import RunRequest, run_request
from batchgen.engine.online_run import run_online
from batchgen.engine.opening import OpenedRun, begin_run, open_run
from batchgen.engine.outcome import Outcome, RunEnding, RunOptions
from batchgen.events import Observer
from batchgen.ledger.schema import ledger_path, unreadable_error
from batchgen.planning.plan import Forecast


async def run_job(
    job: Job, options: RunOptions, engine: Engine | RemoteEngine, observers: Sequence[Observer] = ()
) -> Outcome:
    """Run a job. Raises ManifestError, SettingsError, StoreError, LedgerError, JobLocked before anything is sent."""
    request = run_request(job, options, observers)
    remote = isinstance(engine, RemoteEngine)
    try:
        async with open_run(request, remote=remote) as opened:
            begin_run(request, opened, remote=remote)
            state, survey, started = opened.state, opened.survey, time.time()
            if isinstance(engine, RemoteEngine):
                ending, run_forecast = await _run_remotely(request, opened, engine)
            else:
                ending, run_forecast = await run_online(request, state, survey, opened.routes, engine)
            outcome = await end_run(request, state, survey.reconciliation, ending, run_forecast, started)
            tidy_up(request, state, outcome, rebuild=opened.outdated)
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
