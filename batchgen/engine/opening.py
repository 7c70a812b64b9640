"""Begins a run: opens its job, cleans up after a process that died, surveys and checks the job, and records the run."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass

from batchgen import __version__
from batchgen.engine.job_state import JobState, RunRequest, locked_job, open_job_state
from batchgen.engine.preflight import (
    check_owner,
    check_reconciled,
    note_other_manifest,
    recovery_advice,
    refuse_lost_pictures,
    refuse_lost_results,
    refuse_remote_review,
)
from batchgen.engine.reconcile import Survey, apply_survey, move_notes, survey
from batchgen.engine.recovery.receipts import bind_store
from batchgen.engine.recovery.recover import recover
from batchgen.engine.routes import Route, open_routes
from batchgen.errors import LedgerGone, UsageError
from batchgen.ledger import postgresql
from batchgen.ledger.location import has_ledger, open_registered
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import has_result_lines
from batchgen.ledger.reviews import absorb_reviews
from batchgen.ledger.runs import last_submitting_run
from batchgen.ledger.server_access import wait_until_reachable


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run that was opened. routes: empty if workers elsewhere send the requests. outdated: whether lines of
    results.jsonl may be."""

    state: JobState
    survey: Survey
    routes: Mapping[str, Route]
    outdated: bool


@asynccontextmanager
async def open_run(request: RunRequest, *, remote: bool) -> AsyncIterator[OpenedRun]:
    """Open a run. remote: workers elsewhere make the images. Raises ManifestError, SettingsError, StoreError,
    LedgerError, JobLocked before anything is sent."""
    store = request.store
    if remote and request.server is None:
        raise UsageError(
            "this engine needs a ledger that its workers reach: --ledger postgresql://user@host/database, or"
            " BATCHGEN_LEDGER"
        )
    if url := request.server_url:
        await wait_until_reachable(url, request.note, postgresql.RECONNECT_TIMEOUT_S)
    has_result_lines(store.folder)  # never overwrite a user's own results.jsonl
    with ExitStack() as stack:
        first = None if has_ledger(store.folder) else _survey_new_job(request, stack, remote=remote)
        lock = stack.enter_context(locked_job(store))
        try:
            store.reserve_space()
            with open_job_state(store, lock, request.server) as state:
                if state.was_there or state.ledger.reader.last_run() is not None:
                    first = None  # another process or host ran this job: look again
                yield await _recover_and_survey(request, state, first, stack, remote=remote)
        except LedgerGone as gone:
            raise LedgerGone(f"{gone}. {recovery_advice(request.job.manifest, store)}") from gone


def _survey_new_job(request: RunRequest, stack: ExitStack, *, remote: bool) -> Survey:
    """Read a new job's manifest to the end and find its keys before a folder is created: a bad manifest leaves nothing
    behind."""
    manifest, store, known = request.job.manifest, request.store, _is_known_to_server(request)
    if not known:
        refuse_lost_results(manifest, store)
    first = survey(request, None, stack)
    if remote:
        refuse_remote_review(first.reconciliation)
    if not known:
        refuse_lost_pictures(manifest, store, first.reconciliation, None)
    if not remote:
        open_routes(first.reconciliation.profiles.values(), request.job.settings, request.options.emulator_url)
    return first


def _is_known_to_server(request: RunRequest) -> bool:
    """Whether a server has a ledger of this job although the folder does not say so: the pointer may be lost."""
    kept = None if request.server is None else open_registered(request.server)
    if kept is None:
        return False
    with closing(Reader(kept)) as reader:
        return reader.last_run() is not None


async def _recover_and_survey(
    request: RunRequest, state: JobState, first: Survey | None, stack: ExitStack, *, remote: bool
) -> OpenedRun:
    reader, job = state.ledger.reader, request.job
    check_owner(request, reader)
    bind_store(state.ledger, state.store)
    repairs = await recover(request, state)
    absorb_reviews(state.store.folder, state.ledger)
    found = first or survey(request, reader, stack)
    if remote:
        refuse_remote_review(found.reconciliation)
    check_reconciled(request, reader, found.reconciliation)
    routes, warnings = dict[str, Route](), list[str]()
    if not remote:  # otherwise it is the workers who need the keys
        profiles = found.reconciliation.profiles.values()
        routes, warnings = open_routes(profiles, job.settings, request.options.emulator_url)
    for warning in (*job.settings.warnings, *job.manifest.warnings, *warnings):
        request.note(warning)
    changes = found.reconciliation.removed or found.reconciliation.moves or found.reconciliation.blocked
    return OpenedRun(state, found, routes, outdated=bool(remote or repairs or changes))


def begin_run(request: RunRequest, opened: OpenedRun, *, remote: bool) -> None:
    """Record that the run began, and bring the folder in line with the manifest."""
    state, ledger, reconciliation = opened.state, opened.state.ledger, opened.survey.reconciliation
    ongoing = None
    if remote and not reconciliation.wanted:
        ongoing = last_submitting_run(ledger.database, ended_too=reconciliation.submitted > 0)
    if ongoing is not None:
        ledger.run_id = ongoing  # nothing is new: its own run goes on
    else:
        wanted, kept = reconciliation.wanted, reconciliation.kept
        ledger.run_started(os.getpid(), socket.gethostname(), __version__, wanted, kept)
    ledger.manifest_read(reconciliation.totals(request.job.manifest.path, request.options.limit))
    note_other_manifest(request, ledger.reader.meta("manifest"))
    compacted = ledger.reader.meta("results_tidy") == "yes"
    ledger.set_meta(
        results_tidy="no",
        manifest=request.manifest_path,
        emulated="yes" if request.emulated else "no",
        name=request.job.manifest.name,
    )
    state.results.open(compacted=compacted)
    apply_survey(state, opened.survey)
    for words in move_notes(reconciliation):
        request.note(words)
    if opened.survey.ways is not None and opened.survey.ways.choices:
        request.note(f"the cheapest in time: {opened.survey.ways.text}")
