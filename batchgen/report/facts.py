"""What a job's ledger and a finished run amount to, as plain data: the one source of the printed and the JSON answers."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.providers.reasons import REMEDIES
from batchgen.records import sample_key
from batchgen.report import formatting
from batchgen.report.billing_check import billing_check
from batchgen.report.formatting import utc_iso, utc_seconds
from batchgen.store.unparsed import unparsed_attempts, unparsed_bytes

if TYPE_CHECKING:
    from batchgen.engine.outcome import DerivativeCounts, Outcome

MAX_REASONS = 3
MAX_UNCERTAIN = 10
MAX_NEWEST = 5
MAX_FAILURES = 5
NO_DISCREPANCIES = {"missing": [], "missing_total": 0, "changed": [], "changed_total": 0}
NOT_MADE_STATES = ("refused", "failed", "uncertain")
Facts = dict[str, Any]


def outcome_facts(outcome: Outcome, reader: Reader, job: str, manifest: str, *, own_folder: bool) -> Facts:
    """The closing object of a run. USD figures of `usd` are this run's; counts of `samples` are the job's as it is now.

    own_folder: whether it is another folder than the manifest's default, so that `--output` has to be typed again.
    """
    forecast = outcome.forecast
    return {
        "job": job,
        "manifest": manifest,
        "run_id": outcome.run_id,
        "exit_code": outcome.exit_code,
        "stopped_by": outcome.stopped_by,
        "message": outcome.message,
        "remedy": REMEDIES.get(outcome.stopped_by, ""),
        "emulated": outcome.emulated,
        "seconds": round(outcome.seconds, 3),
        "exposed_ms": _exposed_facts(outcome.exposed_ms),
        "folder": outcome.folder,
        "own_folder": own_folder,
        "bucket": outcome.bucket,
        "waiting": outcome.waiting,
        "discrepancies": outcome.discrepancies.listed,
        "results": os.path.join(outcome.folder, "results.jsonl"),
        "images": {"made": outcome.made, "kept": outcome.kept, "moved": outcome.moved, "left": outcome.left},
        "samples": dict(outcome.counts),
        "requests": dict(outcome.attempts),
        "usd": money_facts(reader.money(outcome.run_id)),
        "limit": {
            "binding": outcome.stopped_by if outcome.stopped_by in ("budget", "deadline") else forecast.limit.binding,
            "remedy": forecast.limit.remedy,
            "seconds_at_best": round(forecast.seconds, 1),
            "estimate_usd": forecast.usd,
        },
        "parked": {lane_model(lane): utc_iso(until) for lane, until in outcome.parked.items()},
        "outages": outages(reader),
        "stopped_models": {lane_model(lane): reason for lane, reason in outcome.stopped_lanes.items()},
        "batches": {
            "submitted": outcome.submitted,
            "unsubmitted": outcome.unsubmitted,
            "saved_usd": round(outcome.saved_usd, 6),
            "out": batches(reader),
        },
        "cluster": cluster(reader),
        "reasons": reasons(reader),
        "uncertain": uncertain(reader),
        "account": billing_facts(reader),
        "derivatives": derivative_facts(outcome.derived, reader),
        "flagged": [{"path": path, "flags": list(flags)} for path, flags in reader.flagged(outcome.run_id, MAX_UNCERTAIN)],
        "flagged_total": reader.flagged_count(outcome.run_id),
        "newest": reader.newest_paths(outcome.run_id, MAX_NEWEST),
    }  # fmt: skip


def job_facts(reader: Reader, folder: str, now: float, alive: bool | None) -> Facts:
    """How a job stands. alive: whether the process of its last run still runs, None when that cannot be seen from here."""
    return {
        "job": reader.meta("name") or os.path.basename(folder),
        "manifest": reader.meta("manifest") or "",
        "folder": folder,
        "bucket": (bucket := reader.meta("store") or ""),
        "waiting": len(reader.unplaced()) if bucket else 0,
        "discrepancies": reader.last_discrepancies() or NO_DISCREPANCIES,
        "emulated": reader.meta("emulated") == "yes",
        "samples": reader.counts(),
        "by_model": reader.counts_by_model(),
        "requests": reader.attempts(),
        "usd": money_facts(reader.money()),
        "in_flight": _in_flight(reader),
        "batches": batches(reader),
        "cluster": cluster(reader),
        "uncertain": uncertain(reader),
        "account": billing_facts(reader),
        "derivatives": DerivativeReader.from_reader(reader).derivative_counts(),
        "outages": outages(reader),
        "parked": {
            lane_model(lane): {"until": utc_iso(until), "message": message}
            for lane, (until, message) in reader.parked().items()
            if until > now
        },
        "reasons": reasons(reader),
        "unread": {"answers": len(unparsed_attempts(folder)), "bytes": unparsed_bytes(folder)},
        "run": _run(reader.last_run(), alive),
    }


def load_job_facts(folder: Path) -> Facts:
    """How the job in a folder stands now. Raises LedgerError."""
    with Reader.open(folder) as reader:
        alive = is_process_alive(reader.last_run(), socket.gethostname(), read_lock_holder(folder))
        return job_facts(reader, str(folder), time.time(), alive)


def run_facts(reader: Reader, run: RunRow, state: str) -> Facts:
    """One run. state: as `process_state` says it."""
    ends = reader.sample_count_by_outcome(run.id)
    until = run.ended_at if run.ended_at is not None else time.time() if state == "running" else None
    return {
        "run": run.id,
        "state": state,
        "began": utc_iso(run.started_at),
        "ended": utc_iso(run.ended_at),
        "seconds": None if until is None else round(until - run.started_at, 1),
        "made": reader.image_count_of_run(run.id),
        "not_made": {end: ends[end] for end in NOT_MADE_STATES if ends.get(end)},
        "usd": money_facts(reader.money(run.id)),
        "exit_code": run.exit_code,
        "stopped_by": run.stopped_by,
    }  # fmt: skip


def lane_model(lane: str) -> str:
    """The AI model of a lane's key `provider/model`."""
    return lane.partition("/")[2] or lane


def reasons(reader: Reader) -> list[Facts]:
    """The commonest reasons why samples have no image, each with what to do about it."""
    return [
        {"reason": reason, "samples": number, "message": message, "remedy": REMEDIES.get(reason, "")}
        for reason, number, message in reader.failure_reasons(MAX_REASONS)
    ]


def uncertain(reader: Reader) -> list[Facts]:
    return [{"id": key, "maybe_usd": usd} for key, usd in reader.uncertain_samples(MAX_UNCERTAIN)]


def outages(reader: Reader) -> list[Facts]:
    """What was down in the last run. until: null while it lasts, then retry_at says when it is asked next."""
    return [
        {"scope": outage.scope, "name": outage.name, "models": list(outage.models), "since": utc_iso(outage.since),
         "until": None if outage.retry_at is not None else utc_iso(outage.at), "retry_at": utc_iso(outage.retry_at),
         "reason": outage.reason, "message": outage.message}
        for outage in reader.outages()
    ]  # fmt: skip


def batches(reader: Reader) -> list[Facts]:
    """Batches that are out, or about to be. state: the vendor's word; `not created yet` for those that it does not know."""
    return [
        {"batch": chunk.batch, "model": lane_model(chunk.lane), "state": chunk.state or "not created yet",
         "requests": chunk.requests, "succeeded": chunk.succeeded, "failed": chunk.failed,
         "since": utc_iso(chunk.created_at or chunk.made_at), "estimate_usd": chunk.estimate_usd}
        for chunk in reader.open_chunks()
    ]  # fmt: skip


def cluster(reader: Reader) -> Facts | None:
    """What is with the cluster's workers; None for a job that never was."""
    queue_status = reader.queue_status()
    return None if queue_status is None else asdict(queue_status)


def billing_facts(reader: Reader) -> Facts:
    """Requests of all runs that were or may have been billed, and what each was for."""
    return billing_check(reader.billed_request_count(), reader.picture_request_count(), reader.surplus_requests())


def derivative_facts(counts: DerivativeCounts, reader: Reader) -> Facts:
    """What was made of the pictures, and why some could not be."""
    failures = DerivativeReader.from_reader(reader).derivative_failures(MAX_FAILURES)
    return {**asdict(counts), "failures": [{"path": path, "message": message} for path, message in failures]}


def _exposed_facts(exposed_ms: tuple[float, float] | None) -> Facts | None:
    """How long an answer was only in memory or unrecorded."""
    return exposed_ms and {"median": round(exposed_ms[0], 1), "largest": round(exposed_ms[1], 1)}


def money_facts(money: Money) -> Facts:
    """Null is unknown: nothing was spent, or may have been, whose price anybody knows. Else the sum of what is known, and
    beside it how many requests are not in it."""
    spent = formatting.known_amount(money.spent, 0 if money.estimated else money.unknown)
    maybe = formatting.known_amount(money.maybe, money.maybe_unknown)
    return {
        "spent": None if spent is None else round(spent, 6),
        "estimated": round(money.estimated, 6),
        "guessed": round(money.guessed, 6),
        "requests_of_unknown_price": money.unknown,
        "maybe_billed": None if maybe is None else round(maybe, 6),
        "maybe_billed_requests": money.maybe_requests,
        "maybe_billed_of_unknown_price": money.maybe_unknown,
        "searched_requests": money.searched,
    }


def _in_flight(reader: Reader) -> list[Facts]:
    return [
        {"id": sample_key(attempt.item_id, attempt.n), "model": lane_model(attempt.lane), "images": attempt.images,
         "since": utc_iso(attempt.started_at), "estimate_usd": attempt.estimate_usd, "to_fetch": bool(attempt.links)}
        for attempt in reader.open_attempts()
    ]  # fmt: skip


def _run(run: RunRow | None, alive: bool | None) -> Facts | None:
    if run is None:
        return None
    return {
        "id": run.id,
        "state": run_state(run, alive),
        "started_at": utc_iso(run.started_at),
        "ended_at": utc_iso(run.ended_at),
        "pid": run.pid,
        "host": run.host,
        "exit_code": run.exit_code,
        "stopped_by": run.stopped_by,
        "message": run.message,
        "remedy": REMEDIES.get(run.stopped_by, ""),
        "wanted": run.wanted,
        "kept": run.kept,
    }


def run_state(run: RunRow, alive: bool | None) -> str:
    """ended; running; died (its process is gone and no end recorded); unknown (another host's process)."""
    return "ended" if run.ended_at is not None else {True: "running", False: "died", None: "unknown"}[alive]


def process_state(run: RunRow, folder: Path) -> str:
    return run_state(run, is_process_alive(run, socket.gethostname(), read_lock_holder(folder)))


def read_lock_holder(folder: Path) -> Facts:
    """The note that a run keeps beside its lock; empty when there is none."""
    try:
        note = json.loads((folder / STATE_FOLDER / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def is_process_alive(run: RunRow | None, host: str, holder: Mapping[str, Any]) -> bool | None:
    """Whether the process of an unended run still works on the job; None when it ran on another host.

    holder: the note that a run keeps beside its lock and removes when it ends in order.
    """
    if run is None or run.ended_at is not None:
        return False
    if run.host != host:
        return None
    if holder.get("pid") != run.pid:
        return False
    if os.name == "nt":  # signal 0 is Ctrl-C there; the note has to do
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(run.pid)


def _is_zombie(pid: int) -> bool:
    """A process that was killed and not yet reaped still answers signal 0. Source: proc(5), /proc/pid/stat field 3."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[:1] == ["Z"]
    except OSError:
        return False


def seconds_since(iso: str | None) -> float:
    """Seconds from a UTC time as `utc_iso` writes it until now, 0 without one."""
    return 0.0 if iso is None else max(0.0, time.time() - utc_seconds(iso))
