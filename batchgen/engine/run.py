"""One run of a job: recover, survey, tidy, drive, and leave ledger and results as they should be."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from batchgen import __version__
from batchgen.engine.budgets import counts_all_jobs
from batchgen.engine.ending import end_run
from batchgen.engine.online import Engine
from batchgen.engine.online_run import OnlineRun
from batchgen.engine.outcome import (
    Outcome,
    RunEnding,
    RunOptions,
)
from batchgen.engine.preflight import check_disk_space, check_owner, check_price, note_other_manifest
from batchgen.engine.reconcile import Reconciler
from batchgen.engine.reconciliation import Reconciliation, move_notes, refuse_online_only
from batchgen.engine.recovery.missing_state import recovery_advice, refuse_lost_pictures, refuse_lost_results
from batchgen.engine.recovery.open_attempts import apply_reconciliation
from batchgen.engine.recovery.receipts import bind_store
from batchgen.engine.recovery.recover import recover
from batchgen.engine.recovery.replay import forget_settled_answers
from batchgen.engine.remote_engine import RemoteEngine, RemoteRun
from batchgen.engine.routes import Route, open_routes
from batchgen.engine.run_events import run_ended, run_started
from batchgen.errors import LedgerError, LedgerGone, StoreError, UsageError
from batchgen.events import Event, Notice, Observer
from batchgen.ledger import postgresql
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import (
    LedgerServer,
    has_ledger,
    job_identity,
    ledger_url,
    open_registered,
    server_address,
    validated_url,
)
from batchgen.ledger.quota_store import QuotaStore, open_quota_store
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import ResultsFile, has_result_lines
from batchgen.ledger.schema import ledger_path, unreadable_error
from batchgen.ledger.server_lock import ServerLock
from batchgen.ledger.server_wait import wait_until_reachable
from batchgen.ledger.work_queue import last_submitting_run
from batchgen.manifest import Manifest
from batchgen.planning.plan import Forecast, forecast
from batchgen.settings import Settings, state_folder, state_folders
from batchgen.store.lock import JobLock
from batchgen.store.store import Store, open_store

log = logging.getLogger("batchgen")
NOT_TRIED_BATCH = 500  # samples recorded in one transaction


async def run_job(
    manifest: Manifest,
    folder: Path,
    settings: Settings,
    options: RunOptions,
    engine: Engine | RemoteEngine,
    observers: Sequence[Observer] = (),
    *,
    bucket: str = "",
) -> Outcome:
    """bucket: where the pictures go, when not into the folder.

    Raises ManifestError, SettingsError, StoreError, LedgerError, JobLocked before anything is sent.
    """
    run = _Run(manifest, open_store(folder, bucket), settings, options, observers)
    try:
        return await run.run(engine)
    except sqlite3.Error as error:
        raise unreadable_error(error, ledger_path(folder)) from error


class _Run:
    def __init__(
        self, manifest: Manifest, store: Store, settings: Settings, options: RunOptions, observers: Sequence[Observer]
    ) -> None:
        self.manifest = manifest
        self.store = store
        self.settings = settings
        self.options = options
        self.observers = list(observers)
        self.backlog = Backlog()
        self.first_reconciliation: Reconciliation | None = None
        self.left = False  # whether there are samples that the run did not come to
        self.manifest_path = os.path.abspath(manifest.path)

    # --- telling

    def emit(self, event: Event) -> None:
        """To every observer; one that raises is logged and dropped, the run goes on."""
        for observer in list(self.observers):
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed and is dropped")
                self.observers.remove(observer)

    def note(self, message: str) -> None:
        self.emit(Notice(at=time.time(), message=message))

    # --- the run

    async def run(self, engine: Engine | RemoteEngine) -> Outcome:
        try:
            if isinstance(engine, RemoteEngine) and self._server() is None:
                raise UsageError(
                    "this engine needs a ledger that its workers reach: --ledger postgresql://user@host/database, or"
                    " BATCHGEN_LEDGER"
                )
            if url := server_address(self.store.folder, self._server()):
                await wait_until_reachable(url, self.note, postgresql.RECONNECT_TIMEOUT_S)
            has_result_lines(self.store.folder)  # a user's own results.jsonl is never written over
            if not has_ledger(self.store.folder):
                known = self._known_to_server()
                if not known:
                    refuse_lost_results(self.manifest, self.store)
                # Read to its end, and its keys found, before a folder is made: a bad manifest leaves nothing behind.
                self.first_reconciliation = self._reconcile(None)
                if not known:
                    refuse_lost_pictures(self.manifest, self.store, self.first_reconciliation, None)
                if not isinstance(engine, RemoteEngine):
                    open_routes(self.first_reconciliation.profiles.values(), self.settings, self.options.emulator_url)
            self.store.prepare()
            lock = self.lock = JobLock(self.store.folder)
            lock.acquire()
            try:
                return await self._run_locked(engine)
            except LedgerGone as gone:
                raise LedgerGone(f"{gone}. {recovery_advice(self.manifest, self.store)}") from gone
            finally:
                self.store.emergency_spool.release_space()
                lock.release()
        finally:
            self.backlog.close()

    def _known_to_server(self) -> bool:
        """Whether a server has a ledger of this job although the folder does not say so: the pointer may be lost."""
        server = self._server()
        kept = None if server is None else open_registered(server)
        if kept is None:
            return False
        with closing(Reader(kept)) as reader:
            return reader.last_run() is not None

    async def _run_locked(self, engine: Engine | RemoteEngine) -> Outcome:
        self.store.reserve_space()
        known = has_ledger(self.store.folder)
        ledger = Ledger(self.store.folder, self._server())
        try:
            self.server_lock = ServerLock(ledger)
            self.server_lock.acquire()
            if self.first_reconciliation is not None and (known or ledger.reader.last_run() is not None):
                self.first_reconciliation = (
                    None  # another process ran this job, or another host: look again at what is left
                )
                self.backlog.close()
                self.backlog = Backlog()
            return await self._recover_and_run(ledger, engine)
        finally:
            ledger.close()

    def _server(self) -> LedgerServer | None:
        """Where a new ledger goes, when not into the job folder."""
        url = validated_url(self.options.ledger) if self.options.ledger else ledger_url(self.settings)
        return (
            None
            if url is None
            else LedgerServer(url, self.manifest.name, job_identity(self.store.url or self.store.root))
        )

    async def _recover_and_run(self, ledger: Ledger, engine: Engine | RemoteEngine) -> Outcome:
        emulated = self.options.emulator_url is not None
        check_owner(ledger, self.store, emulated=emulated)
        if ledger.reader.last_run() is None:
            refuse_lost_results(self.manifest, self.store)
        bind_store(ledger, self.store)
        repairs = await recover(
            ledger,
            self.store,
            self.manifest.catalogue,
            self.settings,
            self.options,
            server_url=server_address(self.store.folder, self._server()) or "",
            note=self.note,
        )
        reconciliation = self.first_reconciliation or self._reconcile(ledger)
        refuse_online_only(reconciliation)
        refuse_lost_pictures(self.manifest, self.store, reconciliation, ledger.reader)
        check_price(reconciliation, self.manifest.limits, self.options.max_usd)
        check_disk_space(reconciliation, self.store, emulated=emulated)
        routes, warnings = dict[str, Route](), list[str]()
        if not isinstance(engine, RemoteEngine):  # else it is workers who need the keys
            routes, warnings = open_routes(reconciliation.profiles.values(), self.settings, self.options.emulator_url)
        for warning in (*self.settings.warnings, *self.manifest.warnings, *warnings):
            self.note(warning)
        if isinstance(engine, RemoteEngine):
            return await self._run_reconciled(ledger, engine, reconciliation, routes, None, repairs)
        with closing(self._open_shared(routes, emulated=emulated)) as shared:
            return await self._run_reconciled(ledger, engine, reconciliation, routes, shared, repairs)

    def _open_shared(self, routes: Mapping[str, Route], *, emulated: bool) -> QuotaStore:
        """One ledger's server counts for all machines; the state folder counts for this host. Raises LedgerError."""
        location = server_address(self.store.folder, self._server()) or state_folder(self.settings)
        usual = next(state_folders(self.settings), None)
        if location is None and self.settings.from_process:
            self.note(
                "quota and spend are not shared with other runs: no home folder is set (HOME) or known to the system"
            )
        elif isinstance(location, Path) and location != usual:
            self.note(f"quota and spend are counted in {location}: {usual} cannot be written")
        providers = {route.profile.provider for route in routes.values()}
        money = counts_all_jobs(self.manifest.limits, providers, emulated=emulated)
        return open_quota_store(location, self.note, counts_money=money)

    async def _run_reconciled(
        self,
        ledger: Ledger,
        engine: Engine | RemoteEngine,
        reconciliation: Reconciliation,
        routes: Mapping[str, Route],
        shared: QuotaStore | None,
        repairs: bool,
    ) -> Outcome:
        """shared: None when workers elsewhere ask for themselves."""
        ongoing_run_id = (
            last_submitting_run(ledger.database)
            if isinstance(engine, RemoteEngine) and not reconciliation.wanted
            else None
        )
        if ongoing_run_id is not None:
            ledger.run_id = ongoing_run_id  # nothing is new: its own run goes on
        else:
            ledger.run_started(
                os.getpid(), socket.gethostname(), __version__, reconciliation.wanted, reconciliation.kept
            )
        note_other_manifest(ledger.reader.meta("manifest"), self.manifest_path, self.note)
        results = ResultsFile(self.store.folder, ledger.reader)
        compacted = ledger.reader.meta("results_tidy") == "yes"
        ledger.set_meta(
            results_tidy="no",
            manifest=self.manifest_path,
            emulated="yes" if self.options.emulator_url is not None else "no",
            name=self.manifest.name,
        )
        results.open(compacted=compacted)
        apply_reconciliation(ledger, self.store, reconciliation, self.backlog)
        for words in move_notes(reconciliation):
            self.note(words)
        if isinstance(engine, RemoteEngine):
            outcome = await self._run_remotely(ledger, engine, reconciliation)
        elif shared is not None:
            outcome = await self._drive(ledger, engine, reconciliation, routes, results, shared)
        forget_settled_answers(ledger.reader, self.store)
        try:
            results.compact(
                rebuild=bool(
                    isinstance(engine, RemoteEngine)
                    or reconciliation.removed
                    or reconciliation.moves
                    or reconciliation.blocked
                    or repairs
                    or self.left
                    or outcome.derived.changed
                )
            )
            ledger.set_meta(results_tidy="yes")
        except (StoreError, LedgerError):
            if outcome.stopped_by != "disk":  # else it has been said, and the next run writes the file anew
                raise
        return outcome

    def _reconcile(self, ledger: Ledger | None) -> Reconciliation:
        return Reconciler(
            self.manifest,
            ledger.reader if ledger else None,
            self.store,
            self.options.retry_selection,
            only=self.options.only,
            limit=self.options.limit,
            backlog=self.backlog,
            on_step=None,
            batch_mode=self.options.batches.batch_mode,
        ).reconcile()

    async def _drive(
        self,
        ledger: Ledger,
        engine: Engine,
        reconciliation: Reconciliation,
        routes: Mapping[str, Route],
        results: ResultsFile,
        shared: QuotaStore,
    ) -> Outcome:
        started = time.time()
        online = OnlineRun(
            manifest=self.manifest,
            store=self.store,
            settings=self.settings,
            options=self.options,
            backlog=self.backlog,
            ledger=ledger,
            observers=self.observers,
            emit=self.emit,
            note=self.note,
        )
        ending, run_forecast, self.left = await online.drive(engine, reconciliation, routes, results, shared)
        return await self._end(ledger, reconciliation, ending, run_forecast, started)

    async def _run_remotely(self, ledger: Ledger, engine: RemoteEngine, reconciliation: Reconciliation) -> Outcome:
        """To workers elsewhere. What is in the queue already belongs to the run that put it there, which goes on."""
        started, limits, options = time.time(), self.manifest.limits, self.options
        concurrency = options.concurrency or limits.concurrency
        run_forecast = forecast(
            list(reconciliation.loads.values()), concurrency, options.max_usd, "run", chain_s=reconciliation.chain_s
        )
        self.emit(run_started(ledger.run_id, self.manifest.name, reconciliation, run_forecast, options))
        ending = await engine.run_remotely(
            RemoteRun(
                manifest=self.manifest,
                reconciliation=reconciliation,
                backlog=self.backlog,
                ledger=ledger,
                store=self.store,
                options=options,
                url=server_address(self.store.folder, self._server()) or "",
                emit=self.emit,
                release_lock=self._release,
            )
        )
        return await self._end(ledger, reconciliation, ending, run_forecast, started)

    def _release(self) -> None:
        self.server_lock.release()
        self.lock.release()

    async def _end(
        self,
        ledger: Ledger,
        reconciliation: Reconciliation,
        ending: RunEnding,
        run_forecast: Forecast,
        started: float,
    ) -> Outcome:
        outcome = await end_run(
            ledger,
            self.store,
            self.options,
            self.manifest.catalogue,
            reconciliation,
            ending,
            run_forecast=run_forecast,
            started=started,
            note=self.note,
        )
        self.emit(run_ended(outcome))
        return outcome
