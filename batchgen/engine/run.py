"""One run of a job: recover, survey, tidy, drive, and leave ledger and results as they should be."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing, nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from statistics import median

from batchgen import __version__
from batchgen.engine.attempts import Attempts
from batchgen.engine.batch.batches import Batches
from batchgen.engine.batch.context import Means
from batchgen.engine.batch.startup import looking, name_prefix, saved_usd, take_up_chunks
from batchgen.engine.budgets import Purse, counts_all_jobs
from batchgen.engine.delivery import Delivery
from batchgen.engine.dependents import Dependents
from batchgen.engine.derivatives import Derivatives
from batchgen.engine.discrepancies import find_discrepancies
from batchgen.engine.execute import Execution
from batchgen.engine.http_attempt import Exchange
from batchgen.engine.links import fetch_earlier, take_up
from batchgen.engine.online import Engine
from batchgen.engine.outcome import Discrepancies, Ending, Outcome, RunOptions, Tally, exit_code, stalled_message
from batchgen.engine.pacing import Pacing, hearing
from batchgen.engine.reconcile import Surveyor
from batchgen.engine.reconcile_items import RESTORED, Survey, refuse_derivatives, refuse_online_only
from batchgen.engine.recovery.interrupted import apply_survey, finish_placing, settle_open_attempts
from batchgen.engine.recovery.missing_state import refuse_lost_pictures, refuse_lost_results, way_back
from batchgen.engine.recovery.receipts import bind
from batchgen.engine.recovery.replay import forget_settled, read_kept_answers
from batchgen.engine.recovery.unrecorded_files import ended_in_order, find_moved_files
from batchgen.engine.reference_inputs import Enclosures
from batchgen.engine.remote_engine import Distributed, Handover
from batchgen.engine.routes import Route, link_routes, open_routes
from batchgen.engine.signals import stop_on_signals
from batchgen.errors import LedgerError, LedgerGone, StoreError, UsageError
from batchgen.events import Event, Noted, Observer, RunEnded, RunStarted, Stopping
from batchgen.http.transport import Transport
from batchgen.http.uploads import Uploads
from batchgen.ledger import postgresql
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.chunks import Chunks
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import Server, address, has_ledger, kept_by, known_as, ledger_url, pointer, server_url
from batchgen.ledger.missing_state import has_lines
from batchgen.ledger.quota_store import SharedBook, open_shared
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import ResultsFile
from batchgen.ledger.schema import ledger_path, unreadable
from batchgen.ledger.server_lock import ServerLock
from batchgen.ledger.server_wait import until_reachable
from batchgen.ledger.work_queue import submitting_run
from batchgen.manifest import Manifest
from batchgen.os_errors import allow_open_files, started_threads
from batchgen.planning.batchable import RESULT_MOST_BYTES, is_batch
from batchgen.planning.plan import BUDGET_REMEDIES, Forecast, forecast, no_room, too_dear
from batchgen.scheduling.dispatcher import Dispatch
from batchgen.settings import Settings, state_folder, state_folders
from batchgen.store.lock import JobLock
from batchgen.store.open_store import open_store
from batchgen.store.store import Store

log = logging.getLogger("batchgen")
MOVES_TOLD = 10
LEFT_AT_ONCE = 500  # samples recorded in one transaction


async def run_job(
    manifest: Manifest,
    folder: Path,
    settings: Settings,
    options: RunOptions,
    engine: Engine | Distributed,
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
        raise unreadable(error, ledger_path(folder)) from error


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
        self.first_survey: Survey | None = None
        self.stop_message = ""
        self.left = False  # whether there are samples that the run did not come to
        self.derived = Tally()
        self.waiting = 0  # pictures that the bucket did not take
        self.manifest_path = os.path.abspath(manifest.path)

    # --- telling

    def emit(self, event: Event) -> None:
        """To every observer; one that raises is logged and dropped, the run goes on."""
        if isinstance(event, Stopping) and not event.reason.startswith("SIG"):  # its words are over by the end
            self.stop_message = event.message
        for observer in list(self.observers):
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed and is dropped")
                self.observers.remove(observer)

    def note(self, message: str) -> None:
        self.emit(Noted(at=time.time(), message=message))

    # --- the run

    async def run(self, engine: Engine | Distributed) -> Outcome:
        try:
            if isinstance(engine, Distributed) and self._server() is None:
                raise UsageError(
                    "this engine needs a ledger that its workers reach: --ledger postgresql://user@host/database, or"
                    " BATCHGEN_LEDGER"
                )
            if url := address(self.store.folder, self._server()):
                await until_reachable(url, self.note, postgresql.PATIENCE_S)
            has_lines(self.store.folder)  # a user's own results.jsonl is never written over
            if not has_ledger(self.store.folder):
                known = self._known_to_server()
                if not known:
                    refuse_lost_results(self.manifest, self.store)
                # Read to its end, and its keys found, before a folder is made: a bad manifest leaves nothing behind.
                self.first_survey = self._survey(None)
                refuse_derivatives(self.manifest, self.store)
                if not known:
                    refuse_lost_pictures(self.manifest, self.store, self.first_survey, None)
                if not isinstance(engine, Distributed):
                    open_routes(self.first_survey.profiles.values(), self.settings, self.options.emulator_url)
            self.store.prepare()
            lock = self.lock = JobLock(self.store.folder)
            lock.acquire()
            try:
                return await self._behind_lock(engine)
            except LedgerGone as gone:
                raise LedgerGone(f"{gone}. {way_back(self.manifest, self.store)}") from gone
            finally:
                self.store.rescue.release_ballast()
                lock.release()
        finally:
            self.backlog.close()

    def _known_to_server(self) -> bool:
        """Whether a server has a ledger of this job although the folder does not say so: the pointer may be lost."""
        server = self._server()
        kept = None if server is None else kept_by(server)
        if kept is None:
            return False
        with closing(Reader(kept)) as reader:
            return reader.last_run() is not None

    async def _behind_lock(self, engine: Engine | Distributed) -> Outcome:
        self.store.lay_ballast()
        known = has_ledger(self.store.folder)
        ledger = Ledger(self.store.folder, self._server())
        try:
            self.server_lock = ServerLock(ledger)
            self.server_lock.acquire()
            if self.first_survey is not None and (known or ledger.reader.last_run() is not None):
                self.first_survey = None  # another process ran this job, or another host: look again at what is left
                self.backlog.close()
                self.backlog = Backlog()
            return await self._locked(ledger, engine)
        finally:
            ledger.close()

    def _server(self) -> Server | None:
        """Where a new ledger goes, when not into the job folder."""
        url = server_url(self.options.ledger) if self.options.ledger else ledger_url(self.settings)
        return None if url is None else Server(url, self.manifest.name, known_as(self.store.url or self.store.root))

    def _after_workers(self) -> None:
        """With a ledger that workers write: what those of them left that died."""
        if (there := pointer(self.store.folder)) is not None:
            from batchgen.engine.cluster.orphan_recovery import after_workers

            url = address(self.store.folder, self._server()) or ""
            after_workers(self.store, url, there.schema, self.manifest.catalogue, self.note)

    async def _locked(self, ledger: Ledger, engine: Engine | Distributed) -> Outcome:
        emulated = self.options.emulator_url is not None
        self._check_owner(ledger, emulated)
        if ledger.reader.last_run() is None:
            refuse_lost_results(self.manifest, self.store)
        bind(ledger, self.store)
        repairs = await self._recovered(ledger)
        survey = self.first_survey or self._survey(ledger)
        refuse_online_only(survey)
        refuse_derivatives(self.manifest, self.store)
        refuse_lost_pictures(self.manifest, self.store, survey, ledger.reader)
        self._check_price(survey)
        self._check_room(survey, emulated)
        routes, warnings = dict[str, Route](), list[str]()
        if not isinstance(engine, Distributed):  # else it is workers who need the keys
            routes, warnings = open_routes(survey.profiles.values(), self.settings, self.options.emulator_url)
        for warning in (*self.settings.warnings, *self.manifest.warnings, *warnings):
            self.note(warning)
        if isinstance(engine, Distributed):
            return await self._carried_out(ledger, engine, survey, routes, None, repairs)
        with closing(self._open_shared(routes, emulated=emulated)) as shared:
            return await self._carried_out(ledger, engine, survey, routes, shared, repairs)

    async def _recovered(self, ledger: Ledger) -> bool:
        """What earlier runs left is put in order. Whether lines of results.jsonl may be of before."""
        self._after_workers()
        repairs = bool(ledger.reader.open_attempts())
        finish_placing(ledger, self.store, self.note)
        repairs = read_kept_answers(ledger, self.store, self.manifest.catalogue, self.note) > 0 or repairs
        take_up(ledger, self.store, self.manifest.catalogue, ledger.reader.open_attempts())
        settle_open_attempts(ledger, self.store, self.note)
        ledger.catch_up()  # placing is not waited for
        take_up_chunks(ledger, self.store, self.options.batches.by, self.note)
        if not ended_in_order(ledger):
            find_moved_files(ledger, self.store, self.note)
        await self._fetch_earlier(ledger)
        ledger.catch_up()
        return repairs

    def _open_shared(self, routes: Mapping[str, Route], *, emulated: bool) -> SharedBook:
        """One ledger's server counts for all machines; the state folder counts for this host. Raises LedgerError."""
        place = address(self.store.folder, self._server()) or state_folder(self.settings)
        usual = next(state_folders(self.settings), None)
        if place is None and self.settings.of_process:
            self.note(
                "quota and spend are not shared with other runs: no home folder is set (HOME) or known to the system"
            )
        elif isinstance(place, Path) and place != usual:
            self.note(f"quota and spend are counted in {place}: {usual} cannot be written")
        providers = {route.profile.provider for route in routes.values()}
        money = counts_all_jobs(self.manifest.limits, providers, emulated=emulated)
        return open_shared(place, self.note, counts_money=money)

    async def _carried_out(
        self,
        ledger: Ledger,
        engine: Engine | Distributed,
        survey: Survey,
        routes: Mapping[str, Route],
        shared: SharedBook | None,
        repairs: bool,
    ) -> Outcome:
        """shared: None when workers elsewhere ask for themselves."""
        going = submitting_run(ledger.database) if isinstance(engine, Distributed) and not survey.wanted else None
        if going is not None:
            ledger.run_id = going  # nothing is new: its own run goes on
        else:
            ledger.run_started(os.getpid(), socket.gethostname(), __version__, survey.wanted, survey.kept)
        self._note_other_manifest(ledger.reader.meta("manifest"))
        results = ResultsFile(self.store.folder, ledger.reader)
        tidy = ledger.reader.meta("results_tidy") == "yes"
        ledger.set_meta(
            results_tidy="no",
            manifest=self.manifest_path,
            emulated="yes" if self.options.emulator_url is not None else "no",
            name=self.manifest.name,
        )
        results.open(tidy=tidy)
        apply_survey(ledger, self.store, survey, self.backlog)
        self._note_moves(survey)
        if isinstance(engine, Distributed):
            outcome = await self._hand_over(ledger, engine, survey)
        elif shared is not None:
            outcome = await self._drive(ledger, engine, survey, routes, results, shared)
        forget_settled(ledger.reader, self.store)
        try:
            results.tidy(
                rebuild=bool(
                    isinstance(engine, Distributed)
                    or survey.removed
                    or survey.moves
                    or survey.blocked
                    or repairs
                    or self.left
                    or self.derived.changed
                )
            )
            ledger.set_meta(results_tidy="yes")
        except (StoreError, LedgerError):
            if outcome.stopped_by != "disk":  # else it has been said, and the next run writes the file anew
                raise
        return outcome

    def _note_moves(self, survey: Survey) -> None:
        if survey.adopted:
            self.note(f"{survey.adopted:,} image(s) {RESTORED}")
        found = [move for move in survey.moves if move.found]
        for move in found[:MOVES_TOLD]:
            self.note(f"{move.old} is the missing {move.new} under another name: moved back, and nothing is bought")
        if len(found) > MOVES_TOLD:
            self.note(f"… and {len(found) - MOVES_TOLD:,} more that had been renamed")

    def _check_owner(self, ledger: Ledger, emulated: bool) -> None:
        was = ledger.reader.meta("emulated")
        if was is not None and (was == "yes") != emulated:
            kinds = ("emulated", "real") if was == "yes" else ("real", "emulated")
            raise UsageError(
                f"{self.store.root} holds {kinds[0]} pictures and this run would add {kinds[1]} ones: choose another --output"
            )

    def _note_other_manifest(self, was: str | None) -> None:
        """Two manifests of one folder would each move the other's pictures away, run after run."""
        if was is not None and was != self.manifest_path and os.path.exists(was):
            self.note(
                f"this folder's last run was of {was}: pictures that only it asks for move to superseded/."
                " If both are to stay, give each its own output:"
            )

    def _check_price(self, survey: Survey) -> None:
        loads, limits = list(survey.loads.values()), self.manifest.limits
        if (never := too_dear(loads)) is not None:
            raise UsageError(never)
        unknown = ", ".join(dict.fromkeys(load.model for load in loads if load.price_unknown))
        if unknown and (self.options.max_usd is not None or limits.has_budget):
            raise UsageError(
                f"a budget is set and the price of {unknown} is unknown: give it under models: …: prices, or drop the budget"
            )

    def _check_room(self, survey: Survey, emulated: bool) -> None:
        """Nothing is bought that cannot be stored. An emulator's pictures cost nothing and may be tiny."""
        results = RESULT_MOST_BYTES if any(load.batch and load.images for load in survey.loads.values()) else 0
        loads = [] if self.store.url else list(survey.loads.values())  # a bucket's pictures only pass through
        missing = None if emulated else no_room(loads, self.store.free_bytes() - results)
        if missing is not None:
            raise StoreError(f"{self.store.root}: {missing}. Nothing was sent")

    def _survey(self, ledger: Ledger | None) -> Survey:
        return Surveyor(
            self.manifest,
            ledger.reader if ledger else None,
            self.store,
            self.options.wishes,
            only=self.options.only,
            limit=self.options.limit,
            backlog=self.backlog,
            on_step=None,
            by=self.options.batches.by,
        ).walk()

    async def _fetch_earlier(self, ledger: Ledger) -> None:
        """Before anything is planned: pictures that an earlier run paid for and could not fetch from their links."""
        models = {attempt.lane.split("/", 1)[1] for attempt in ledger.reader.open_attempts() if attempt.links}
        if models:
            profiles = map(self.manifest.catalogue.resolve, models)
            routes = link_routes(profiles, self.settings, self.options.emulator_url)
            with ThreadPoolExecutor(1) as executor:
                async with Transport(1, executor) as transport:
                    await fetch_earlier(ledger, self.store, transport, routes, self.note)

    async def _drive(
        self,
        ledger: Ledger,
        engine: Engine,
        survey: Survey,
        routes: Mapping[str, Route],
        results: ResultsFile,
        shared: SharedBook,
    ) -> Outcome:
        started, limits, options = time.time(), self.manifest.limits, self.options
        pacing = Pacing(ledger, survey.loads, routes, limits, options, self.emit, shared.far)
        purse = Purse(self.store.root, ledger.reader, shared, limits, routes, options.emulator_url is not None)
        logs = await purse.logs(survey.loads)
        budget, budget_of = await purse.tightest(options.max_usd)
        prospect = forecast(list(survey.loads.values()), pacing.concurrency, budget, budget_of, chain_s=survey.chain_s)
        parked = pacing.still_parked()
        allow_open_files(pacing.concurrency)
        with started_threads(8, "store") as executor:
            async with Transport(pacing.concurrency, executor) as transport, AsyncExitStack() as held:
                dispatch = pacing.dispatch(self.backlog, logs, parked)

                def supplied(lane: str) -> None:
                    (batches.supplied if is_batch(lane) else dispatch.supplied)(lane)

                dependents = Dependents(self.backlog, ledger, self.store, self.manifest.references, supplied)
                uploads = Uploads(state_folder(self.settings), transport, self.note)
                enclosures = await held.enter_async_context(
                    Enclosures(dependents, self.store, transport, uploads, self.note)
                )
                attempts = Attempts(
                    ledger=ledger,
                    store=self.store,
                    results=results,
                    dependents=dependents,
                    executor=executor,
                    emit=self.emit,
                )
                delivery = await held.enter_async_context(Delivery(ledger, self.store, executor, self.note))
                derivatives = await held.enter_async_context(self._derivatives(ledger))
                self.observers.append(derivatives)
                execution = Execution(
                    dispatch=dispatch,
                    routes=routes,
                    ledger=ledger,
                    store=self.store,
                    attempts=attempts,
                    exchange=Exchange(transport, self.store),
                    enclosures=enclosures,
                    executor=executor,
                    emit=self.emit,
                    hold_uncertain=options.hold_uncertain,
                )
                dispatch.price(execution.reserve_usd)
                batches = Batches(
                    Means(
                        options=looking(options, any(route.loopback for route in routes.values())),
                        tier=limits.tier,
                        prefix=name_prefix(ledger),
                        ledger=ledger,
                        chunks=Chunks(ledger),
                        store=self.store,
                        backlog=self.backlog,
                        dispatch=dispatch,
                        execution=execution,
                        attempts=attempts,
                        enclosures=enclosures,
                        uploads=uploads,
                        transport=transport,
                        routes={lane: route for lane, route in routes.items() if lane in survey.loads},
                        logs=logs,
                        executor=executor,
                        policy=pacing.policy,
                        emit=self.emit,
                        note=self.note,
                    )
                )
                self._say_started(ledger, survey, prospect, started)
                with (
                    stop_on_signals(dispatch, execution, self.emit)
                    if options.install_signal_handlers
                    else nullcontext()
                ):
                    async with batches, hearing(dispatch) if shared.far else nullcontext():
                        await engine.drive(dispatch, execution.execute)
                    if dispatch.fault is not None:
                        execution.refused(dispatch.fault)
                    self.derived = await derivatives.finish(lambda: self._stopping(dispatch))
                    self.waiting = await delivery.finish()
        self._say_why_it_stopped(dispatch)
        if execution.fault is not None:
            with suppress(LedgerError):
                ledger.catch_up()  # whether it can still be written
        if (broken := ledger.writer.broken) is not None:  # nothing more can be recorded, nor be told of as recorded
            raise type(broken)(execution.trouble or str(broken)) from broken
        self._record_left(ledger, dispatch)
        exposed = execution.exposed_ms
        ending = Ending(
            stopping=dispatch.stopping,
            message=execution.trouble,
            left=dispatch.left() + batches.left + self.backlog.held,
            waits=any(lane.parked and lane.waiting for lane in dispatch.lanes.values()),
            stopped_lanes={
                **{lane.key: lane.stopped for lane in dispatch.lanes.values() if lane.stopped},
                **batches.stopped,
            },
            unsubmitted=batches.unsubmitted,
            out=_with_workers(ledger),
            exposed_ms=(median(exposed), max(exposed)) if exposed else None,
        )
        return await self._end(ledger, survey, ending, prospect, started, parked)

    async def _hand_over(self, ledger: Ledger, engine: Distributed, survey: Survey) -> Outcome:
        """To workers elsewhere. What is in the queue already belongs to the run that put it there, which goes on."""
        started, limits, options = time.time(), self.manifest.limits, self.options
        concurrency = options.concurrency or limits.concurrency
        prospect = forecast(list(survey.loads.values()), concurrency, options.max_usd, "run", chain_s=survey.chain_s)
        self._say_started(ledger, survey, prospect, started)
        ending = await engine.hand_over(
            Handover(
                manifest=self.manifest,
                survey=survey,
                backlog=self.backlog,
                ledger=ledger,
                store=self.store,
                options=options,
                url=address(self.store.folder, self._server()) or "",
                emit=self.emit,
                release=self._release,
            )
        )
        self.derived = ending.derived
        return await self._end(ledger, survey, ending, prospect, started, {})

    def _release(self) -> None:
        self.server_lock.release()
        self.lock.release()

    def _derivatives(self, ledger: Ledger) -> Derivatives:
        emulated = self.options.emulator_url is not None
        return Derivatives(self.manifest, ledger, self.store, self.note, emulated=emulated, only=self.options.only)

    def _stopping(self, dispatch: Dispatch) -> str:
        """Why the run is to end. Its deadline is one for derivatives too, when no request is left to notice it."""
        if self.options.deadline is not None and time.time() >= self.options.deadline:
            dispatch.stop("deadline")
        return dispatch.stopping

    def _say_started(self, ledger: Ledger, survey: Survey, prospect: Forecast, started: float) -> None:
        self.emit(
            RunStarted(
                at=started,
                run_id=ledger.run_id,
                job=self.manifest.name,
                kept=survey.kept,
                usd=prospect.usd,
                known_usd=prospect.known_usd,
                unpriced=prospect.unpriced,
                eta_s=None if any(load.batch and load.images for load in survey.loads.values()) else prospect.seconds,
                samples=_wanted_by_model(survey),
                emulated=self.options.emulator_url is not None,
            )
        )

    def _say_why_it_stopped(self, dispatch: Dispatch) -> None:
        if dispatch.stopping == "stalled":
            self.stop_message = stalled_message(self.options.patience_s or 0.0)
        elif span := dispatch.budget_span:
            self.stop_message = f"the {span}'s budget is used up, all jobs counted; {BUDGET_REMEDIES[span]}"

    def _record_left(self, ledger: Ledger, dispatch: Dispatch) -> None:
        """Of what the run did not come to, so that each item has a line in the results."""
        left = chain(dispatch.waiting(), (sample for _, sample, _ in self.backlog.everything()))
        while samples := list(islice(left, LEFT_AT_ONCE)):
            ledger.not_tried(samples, self.stop_message or "the run ended before its turn came")
            self.left = True

    # --- the end

    async def _discrepancies(self, ledger: Ledger, ending: Ending) -> Discrepancies:
        """Skipped for a run that was stopped, which does not end with 0, and while workers are still placing pictures."""
        if ending.stopping or ending.out or self.waiting:
            return Discrepancies()
        return await find_discrepancies(ledger, self.store, self.note)

    async def _end(
        self,
        ledger: Ledger,
        survey: Survey,
        ending: Ending,
        prospect: Forecast,
        started: float,
        parked: Mapping[str, float],
    ) -> Outcome:
        discrepancies = await self._discrepancies(ledger, ending)
        reader = ledger.reader
        money = reader.money(ledger.run_id)
        attempts = reader.attempts(ledger.run_id)
        counts = reader.counts()
        made = reader.made_in(ledger.run_id)
        all_parked = {**parked, **{lane: until for lane, (until, _) in reader.parked().items()}}
        missing = (
            survey.wanted
            + survey.submitted
            - made
            + (0 if self.options.wishes.explicit else survey.skipped - survey.beyond)
        )
        code = exit_code(
            ending.stopping,
            max(0, missing) + len(discrepancies.missing),
            made,
            sum(attempts.values()),
            bool(ending.stopped_lanes),
            ending.waits,
            counts.get("submitted", 0) + ending.unsubmitted + ending.out + ending.derived.queued > 0,
            self.derived.failed > 0 or not self.derived.finished,
            self.waiting > 0,
            bool(discrepancies.changed or discrepancies.unread),
        )
        outcome = Outcome(
            run_id=ledger.run_id,
            exit_code=code,
            stopped_by=ending.stopping,
            message=ending.message or self.stop_message or discrepancies.unread,
            seconds=time.time() - started,
            kept=survey.kept,
            moved=len(survey.moves),
            counts=counts,
            attempts=attempts,
            made=made,
            left=ending.left,
            usd=money.spent,
            estimated_usd=money.estimated,
            maybe_usd=money.maybe,
            maybe_requests=money.maybe_requests,
            unpriced=money.unknown,
            folder=self.store.root,
            emulated=self.options.emulator_url is not None,
            forecast=prospect,
            parked=all_parked,
            stopped_lanes=ending.stopped_lanes,
            submitted=counts.get("submitted", 0),
            unsubmitted=ending.unsubmitted,
            saved_usd=saved_usd(ledger, self.manifest.catalogue),
            derived=self.derived,
            bucket=self.store.url,
            waiting=self.waiting,
            discrepancies=discrepancies,
            exposed_ms=ending.exposed_ms,
        )
        summary = {"made": made, "usd": money.spent, "estimated_usd": money.estimated, "message": outcome.message}
        found = {"discrepancies": discrepancies.listed} if discrepancies.looked else {}
        ledger.run_ended(code, ending.stopping, {**summary, **found})
        self._say_ended(outcome)
        return outcome

    def _say_ended(self, outcome: Outcome) -> None:
        self.emit(
            RunEnded(
                at=time.time(),
                run_id=outcome.run_id,
                exit_code=outcome.exit_code,
                seconds=outcome.seconds,
                counts=dict(outcome.counts),
                derived=outcome.derived.counts,
                discrepancies=outcome.discrepancies.counts,
            )
        )


def _with_workers(ledger: Ledger) -> int:
    queue = ledger.reader.queue()
    return 0 if queue is None else queue.samples


def _wanted_by_model(survey: Survey) -> dict[str, int]:
    wanted = Counter[str]()
    for load in survey.loads.values():
        wanted[load.model] += load.images
    return {model: number for model, number in wanted.items() if number}
