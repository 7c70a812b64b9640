"""The queries of a ledger that fill the views. Each answer is a snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batchgen.ledger.acceptance import Acceptance, AcceptanceReader
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.reviews import Reader, reviewed
from batchgen.ledger.runs import RunRow
from batchgen.providers.reasons import REMEDIES
from batchgen.records import lane_model, sample_key
from batchgen.report import view
from batchgen.report.acceptance import acceptance_fields, reviewed_samples
from batchgen.report.billing import read_billing
from batchgen.report.run_state import is_process_alive, run_state
from batchgen.report.totals import read_totals
from batchgen.report.view import UtcTime, utc_time, view_of
from batchgen.store.unparsed import unparsed_attempts, unparsed_bytes

if TYPE_CHECKING:
    from batchgen.engine.job import Job
    from batchgen.engine.outcome import DerivativeCounts, Outcome

MAX_REASONS = 3
MAX_UNCERTAIN = 10
MAX_BLOCKED = 10
MAX_NEWEST = 5
MAX_FAILURES = 5
NOT_MADE_STATES = ("refused", "failed", "uncertain")
R = TypeVar("R", bound=view.RunView)


def load_status(folder: Path) -> view.JobStatus:
    """The current state of the job in a folder. Raises LedgerError."""
    with reviewed(Reader.open(folder), folder) as reader:
        return read_status(reader, str(folder), time.time(), is_process_alive(reader.last_run(), folder))


def read_status(reader: Reader, folder: str, now: float, alive: bool | None) -> view.JobStatus:
    """The current state of a job. alive: whether the process of the last run is still running, None if that cannot be
    seen from here."""
    bucket, found = reader.meta("store") or "", reader.last_discrepancies()
    samples, run, manifest = reader.counts(), reader.last_run(), reader.meta("manifest") or ""
    totals = read_totals(reader, samples, manifest)
    return view.JobStatus(
        **_common(reader, samples, totals, run.id if run else None),
        **_acceptance(reader, AcceptanceReader.from_reader(reader).job_acceptance(now if alive else 0.0)),
        job=reader.meta("name") or os.path.basename(folder),
        manifest=manifest,
        folder=folder,
        bucket=bucket,
        waiting=len(reader.unplaced()) if bucket else 0,
        discrepancies=view.DiscrepancyView() if found is None else view.DiscrepancyView(**found),
        emulated=reader.meta("emulated") == "yes",
        requests=reader.attempts(),
        usd=view.MoneyView.of(reader.money()),
        by_model=reader.counts_by_model(),
        in_flight=_open_requests(each for each in reader.open_attempts() if not each.is_with_vendor),
        jobs=_open_requests(reader.open_jobs()),
        batches=_batches(reader),
        derivatives=DerivativeReader.from_reader(reader).derivative_counts(),
        parked={
            lane_model(lane): view.Parked(UtcTime(until), message)
            for lane, (until, message) in reader.parked().items()
            if until > now
        },
        unread=view.UnreadAnswers(len(unparsed_attempts(folder)), unparsed_bytes(folder)),
        run=_last_run(run, alive) if run else None,
        total=totals.images,
    )


def read_summary(outcome: Outcome, job: Job, engine: str, retried: Sequence[str] = ()) -> view.RunSummary:
    """The summary of a run. retried: see the summary."""
    manifest = job.manifest
    default_folder = manifest.output.with_name(manifest.output.name + (".emulated" if job.emulated else ""))
    names = {"job": manifest.name, "engine": engine, "own_folder": job.folder != default_folder}
    with Reader.open(job.folder) as reader:
        return _summary(outcome, reader, os.path.abspath(manifest.path), retried=sorted(retried), **names)


def read_summary_of_submission(outcome: Outcome, reader: Reader, name: str) -> view.RunSummary:
    """The summary of a submission that workers have ended. name: the job's."""
    more = {"job": name, "engine": "cluster", "own_folder": False, "retried": []}
    return _summary(outcome, reader, reader.meta("manifest") or "", **more)


def _summary(outcome: Outcome, reader: Reader, manifest: str, **more: Any) -> view.RunSummary:
    """A summary. more: fields of the summary."""
    samples = dict(outcome.counts)
    limit, stopped_by = outcome.forecast.limit, outcome.stopped_by
    return view_of(
        view.RunSummary,
        outcome,
        **_common(reader, samples, read_totals(reader, samples, manifest), outcome.run_id),
        **_acceptance(reader, outcome.acceptance, outcome.run_id),
        manifest=manifest,
        discrepancies=view.DiscrepancyView(**outcome.discrepancies.listed),
        requests=dict(outcome.attempts),
        usd=view.MoneyView.of(reader.money(outcome.run_id)),
        remedy=REMEDIES.get(stopped_by, ""),
        seconds=round(outcome.seconds, 3),
        exposed_ms=outcome.exposed_ms and view.ExposedView(*(round(ms, 1) for ms in outcome.exposed_ms)),
        results=os.path.join(outcome.folder, "results.jsonl"),
        images=view_of(view.ImageCounts, outcome),
        limit=view.LimitView(
            stopped_by if stopped_by in ("budget", "deadline") else limit.binding,
            limit.remedy,
            round(outcome.forecast.seconds, 1),
            outcome.forecast.usd,
        ),
        parked={lane_model(lane): UtcTime(until) for lane, until in outcome.parked.items()},
        stopped_models={lane_model(lane): reason for lane, reason in outcome.stopped_lanes.items()},
        batches=view.BatchTotals(outcome.submitted, outcome.unsubmitted, outcome.saved_usd, _batches(reader)),
        derivatives=read_derivatives(outcome.derived, reader),
        flagged=[view.FlaggedImage(path, flags) for path, flags in reader.flagged(outcome.run_id, MAX_UNCERTAIN)],
        flagged_total=reader.flagged_count(outcome.run_id),
        newest=reader.newest_paths(outcome.run_id, MAX_NEWEST),
        **more,
    )


def read_run(kind: type[R], reader: Reader, run: RunRow, state: str, **more: Any) -> R:
    """One run in figures. state: from `process_state`; more: further fields of this kind of view."""
    ends = reader.sample_count_by_outcome(run.id)
    until = run.ended_at if run.ended_at is not None else time.time() if state == "running" else None
    return view_of(
        kind,
        run,
        run=run.id,
        state=state,
        began=UtcTime(run.started_at),
        ended=utc_time(run.ended_at),
        seconds=None if until is None else round(until - run.started_at, 1),
        made=reader.image_count_of_run(run.id),
        not_made={end: ends[end] for end in NOT_MADE_STATES if ends.get(end)},
        usd=view.MoneyView.of(reader.money(run.id)),
        **more,
    )


def read_lanes(
    reader: Reader, by_model: Mapping[str, Mapping[str, int]], in_flight: Mapping[str, int], running: bool, now: float
) -> list[view.LaneView]:
    """Every AI model of the job, by name. by_model, in_flight: samples by state, and requests. now: UTC seconds."""
    cooling = {lane_model(lane): until for lane, until in reader.cooling_lanes().items()}
    parked = {lane_model(lane): (until, why) for lane, (until, why) in reader.parked().items()}
    down = {model: outage for outage in reader.outages() if outage.retry_at is not None for model in outage.models}
    found = []
    for name in sorted({*by_model, *in_flight, *cooling, *parked, *down}):
        until, why = parked.get(name, (0, ""))
        outage = down.get(name) if running else None
        found.append(
            view.LaneView(
                model=name,
                samples=by_model.get(name, {}),
                in_flight=in_flight.get(name, 0),
                cooling_until=at if running and (at := cooling.get(name, 0)) > now else 0,
                parked_until=until if until > now else 0,
                retry_at=outage.retry_at or 0 if outage else 0,
                message=outage.message if outage else why if until > now else "",
            )
        )
    return found


def read_derivatives(counts: DerivativeCounts, reader: Reader) -> view.DerivativeView:
    failures = DerivativeReader.from_reader(reader).derivative_failures(MAX_FAILURES)
    return view_of(view.DerivativeView, counts, failures=[view.FailedDerivative(*failure) for failure in failures])


def _common(reader: Reader, samples: Mapping[str, int], totals: view.TotalsView, run_id: int | None) -> dict[str, Any]:
    """The fields of a JobView that a status and a summary share. run_id: the last run."""
    return {
        "samples": samples,
        "totals": totals,
        "cluster": reader.queue_status(),
        "uncertain": [view.UncertainSample(key, usd) for key, usd in reader.uncertain_samples(MAX_UNCERTAIN)],
        "blocked": [view.BlockedSample(*found) for found in reader.blocked_samples(MAX_BLOCKED)],
        "account": read_billing(reader),
        "account_of_run": read_billing(reader, run_id or 0),
        "outages": _outages(reader),
        "reasons": [
            view.ReasonView(reason, number, message, REMEDIES.get(reason, ""))
            for reason, number, message in reader.failure_reasons(MAX_REASONS)
        ],
    }


def _acceptance(reader: Reader, found: Acceptance, run_id: int | None = None) -> dict[str, Any]:
    """The acceptance of a job. run_id: of one run instead."""
    asked = AcceptanceReader.from_reader(reader)
    rejections, warnings = asked.rejections(run_id) if found.rejected else [], asked.check_warnings(run_id)
    return {
        **acceptance_fields(found, rejections, warnings),
        "rejected_samples": reviewed_samples(rejections),
        "warned_samples": reviewed_samples(warnings),
    }


def _outages(reader: Reader) -> list[view.OutageView]:
    return [
        view_of(
            view.OutageView,
            outage,
            since=UtcTime(outage.since),
            until=None if outage.retry_at is not None else UtcTime(outage.at),
            retry_at=utc_time(outage.retry_at),
        )
        for outage in reader.outages()
    ]


def _batches(reader: Reader) -> list[view.BatchView]:
    return [
        view_of(
            view.BatchView,
            chunk,
            model=lane_model(chunk.lane),
            state=chunk.state or "not created yet",
            since=UtcTime(chunk.created_at or chunk.made_at),
        )
        for chunk in reader.open_chunks()
    ]


def _open_requests(attempts: Iterable[OpenAttempt]) -> list[view.OpenRequest]:
    return [
        view_of(
            view.OpenRequest,
            attempt,
            id=sample_key(attempt.item_id, attempt.n),
            model=lane_model(attempt.lane),
            since=UtcTime(attempt.started_at),
            to_fetch=bool(attempt.links),
        )
        for attempt in attempts
    ]


def _last_run(run: RunRow, alive: bool | None) -> view.LastRun:
    return view_of(
        view.LastRun,
        run,
        state=run_state(run, alive),
        started_at=UtcTime(run.started_at),
        ended_at=utc_time(run.ended_at),
        remedy=REMEDIES.get(run.stopped_by, ""),
    )
