"""What a log's lines say: the stable name of every event, its fields with their units, and the JSON Schema of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from batchgen.errors import BREAKER_SCOPES
from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    BatchCollected,
    BatchSubmitted,
    BatchUpdated,
    Event,
    LaneCooled,
    LaneParked,
    LaneStopped,
    Notice,
    Outage,
    OutageEnded,
    OutageProbeFailed,
    OutageStarted,
    RunEnded,
    RunStarted,
    SampleEnded,
    SampleSucceeded,
    ScheduledRunEnded,
    ScheduledRunOutput,
    ScheduledRunPlanned,
    ScheduledRunSkipped,
    ScheduledRunStarted,
    Stopping,
)
from batchgen.report import formatting

Facts = dict[str, Any]
LEVELS = ("info", "warning", "error")


class LogEvent(NamedTuple):
    """meaning: for people. always: fields of every such line; sometimes: of some, or once they are known."""

    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_OUTAGE_FIELDS = ("scope", "name", "models", "since", "retry_at", "reason", "message")
# Programs of others read these names: one is never changed or given another meaning, only added.
LOG_EVENTS: Mapping[str, LogEvent] = {
    "run.started": LogEvent("What this run wants to make.", ("emulated", "wanted", "kept", "estimate_usd", "unpriced", "eta_s")),
    "run.notice": LogEvent("Something worth a line: a repair at start, a warning, a message that was not sent.", ("message",)),
    "run.stopping": LogEvent("Nothing new starts.", ("reason", "message", "in_flight")),
    "run.ended": LogEvent("The run is over.", ("exit_code", "duration_s", "counts"), ("derivatives", "discrepancies")),
    "run.failed": LogEvent(
        "An error ended it, most often before anything was sent.", ("error", "exit_code", "message"), ("problems", "total")
    ),
    "attempt.started": LogEvent(
        "A request is about to leave.", ("attempt", "item", "sample", "model", "number", "sent_as")
    ),
    "attempt.failed": LogEvent(
        "A request ended without a picture.",
        ("attempt", "item", "sample", "model", "outcome", "reason", "message", "retry_in_s", "maybe_billed"),
    ),
    "sample.ended": LogEvent(
        "A picture is durable, or this run gives it up.",
        ("item", "sample", "model", "state"),
        ("attempt", "files", "usd", "duration_s", "exposed_ms", "notes", "reason", "message"),
    ),
    "lane.cooled": LogEvent("A model waits for its quota.", ("model", "wait_s", "reason", "rpm")),
    "lane.parked": LogEvent("A model's daily quota is used up.", ("model", "until", "message")),
    "lane.stopped": LogEvent("No more of a model in this run.", ("model", "reason", "message", "left")),
    "outage.started": LogEvent("A model, account or host is down: only a probe is sent now and then.", _OUTAGE_FIELDS),
    "outage.probe_failed": LogEvent("A probe has failed.", _OUTAGE_FIELDS),
    "outage.ended": LogEvent("It answers again.", _OUTAGE_FIELDS),
    "batch.submitted": LogEvent("A batch exists at the vendor's.", ("model", "batch", "requests", "estimate_usd")),
    "batch.updated": LogEvent(
        "How a batch stands there, when that has changed.", ("model", "batch", "state", "requests", "succeeded", "failed")
    ),
    "batch.collected": LogEvent(
        "What a batch has brought is settled.", ("model", "batch", "made", "again", "ended", "usd", "unpriced")
    ),
    "scheduled_run.planned": LogEvent("`daemon`, `worker`: when a job's next night begins.", ("job", "manifest", "due")),
    "scheduled_run.started": LogEvent("`daemon`, `worker`: a run of the job begins.", ("job", "manifest", "due", "reason")),
    "scheduled_run.output": LogEvent("`daemon`, `worker`: what that run says and is no line of a log.", ("job", "message")),
    "scheduled_run.ended": LogEvent(
        "`daemon`, `worker`: that run is over.", ("job", "manifest", "exit_code", "duration_s", "message", "next")
    ),
    "scheduled_run.skipped": LogEvent("`daemon`, `worker`: it is too long ago to be made up for.", ("job", "manifest", "due")),
    "log.message": LogEvent("A warning of batchgen or of a library it uses.", ("logger", "message"), ("exception",)),
}  # fmt: skip


def _sample(key: str) -> Facts:
    item, _, n = key.partition("#")
    return {"item": item, "sample": int(n or 1)}


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _run_started(event: RunStarted) -> Facts:
    facts: Facts = {"emulated": event.emulated, "wanted": event.samples, "kept": event.kept}
    return {**facts, "estimate_usd": _rounded(event.usd, 6), "unpriced": event.unpriced, "eta_s": _rounded(event.eta_s)}


def _attempt_started(event: AttemptStarted) -> Facts:
    facts: Facts = {"attempt": event.attempt, **_sample(event.key), "model": event.model}
    return {**facts, "number": event.number, "sent_as": event.sent_as}


def _attempt_failed(event: AttemptFailed) -> Facts:
    return {
        "attempt": event.attempt, **_sample(event.key), "model": event.model, "outcome": event.outcome, "reason": event.reason,
        "message": event.message, "retry_in_s": _rounded(event.retry_in_s), "maybe_billed": event.maybe_billed,
    }  # fmt: skip


def _sample_succeeded(event: SampleSucceeded) -> Facts:
    files = [
        {"path": file.path, "sha256": file.sha256, "size_bytes": file.bytes, "width_px": file.width, "height_px": file.height,
         "format": file.format, "role": file.role, "flags": list(file.flags)}
        for file in event.files
    ]  # fmt: skip
    return {
        **_sample(event.key), "model": event.model, "state": "succeeded", "attempt": event.attempt, "files": files,
        "notes": list(event.notes), "usd": _rounded(event.usd, 6), "duration_s": _rounded(event.seconds),
        "exposed_ms": _rounded(event.exposed_ms),
    }  # fmt: skip


def _sample_ended(event: SampleEnded) -> Facts:
    return {**_sample(event.key), "model": event.model, "state": event.state, "reason": event.reason, "message": event.message}  # fmt: skip


def _lane_cooled(event: LaneCooled) -> Facts:
    return {"model": event.model, "wait_s": _rounded(event.seconds), "reason": event.reason, "rpm": event.rpm}


def _lane_parked(event: LaneParked) -> Facts:
    return {"model": event.model, "until": utc_iso_ms(event.until), "message": event.message}


def _lane_stopped(event: LaneStopped) -> Facts:
    return {"model": event.model, "reason": event.reason, "message": event.message, "left": event.left}


def _outage(event: Outage) -> Facts:
    retry_at = None if event.retry_at is None else utc_iso_ms(event.retry_at)
    return {
        "scope": event.scope, "name": event.name, "models": list(event.models), "since": utc_iso_ms(event.since),
        "retry_at": retry_at, "reason": event.reason, "message": event.message,
    }  # fmt: skip


def _stopping(event: Stopping) -> Facts:
    return {"reason": event.reason, "message": event.message, "in_flight": event.in_flight}


def _run_ended(event: RunEnded) -> Facts:
    more = {"derivatives": event.derived, "discrepancies": event.discrepancies}
    facts: Facts = {"exit_code": event.exit_code, "duration_s": _rounded(event.seconds), "counts": event.counts}
    return {**facts, **{name: counts for name, counts in more.items() if counts}}


def _notice(event: Notice) -> Facts:
    return {"message": event.message}


def _batch_submitted(event: BatchSubmitted) -> Facts:
    facts: Facts = {"model": event.model, "batch": event.batch, "requests": event.requests}
    return {**facts, "estimate_usd": _rounded(event.usd, 6)}


def _batch_updated(event: BatchUpdated) -> Facts:
    return {
        "model": event.model, "batch": event.batch, "state": event.state, "requests": event.requests,
        "succeeded": event.succeeded, "failed": event.failed,
    }  # fmt: skip


def _batch_collected(event: BatchCollected) -> Facts:
    return {
        "model": event.model, "batch": event.batch, "made": event.made, "again": event.again, "ended": event.ended,
        "usd": _rounded(formatting.known_amount(event.usd, event.unpriced), 6), "unpriced": event.unpriced,
    }  # fmt: skip


def _scheduled_run(event: ScheduledRunPlanned | ScheduledRunSkipped) -> Facts:
    return {"job": event.job, "manifest": event.manifest, "due": event.due}


def _scheduled_run_started(event: ScheduledRunStarted) -> Facts:
    return {"job": event.job, "manifest": event.manifest, "due": event.due, "reason": event.why}


def _scheduled_run_output(event: ScheduledRunOutput) -> Facts:
    return {"job": event.job, "message": event.message}


def _scheduled_run_ended(event: ScheduledRunEnded) -> Facts:
    facts: Facts = {"job": event.job, "manifest": event.manifest, "exit_code": event.exit_code}
    return {**facts, "duration_s": _rounded(event.seconds), "message": event.meaning, "next": event.again}


SERIALIZERS: Mapping[type[Event], tuple[str, Callable[[Any], Facts]]] = {
    RunStarted: ("run.started", _run_started),
    AttemptStarted: ("attempt.started", _attempt_started),
    AttemptFailed: ("attempt.failed", _attempt_failed),
    SampleSucceeded: ("sample.ended", _sample_succeeded),
    SampleEnded: ("sample.ended", _sample_ended),
    LaneCooled: ("lane.cooled", _lane_cooled),
    LaneParked: ("lane.parked", _lane_parked),
    LaneStopped: ("lane.stopped", _lane_stopped),
    OutageStarted: ("outage.started", _outage),
    OutageProbeFailed: ("outage.probe_failed", _outage),
    OutageEnded: ("outage.ended", _outage),
    Stopping: ("run.stopping", _stopping),
    Notice: ("run.notice", _notice),
    RunEnded: ("run.ended", _run_ended),
    BatchSubmitted: ("batch.submitted", _batch_submitted),
    BatchUpdated: ("batch.updated", _batch_updated),
    BatchCollected: ("batch.collected", _batch_collected),
    ScheduledRunPlanned: ("scheduled_run.planned", _scheduled_run),
    ScheduledRunStarted: ("scheduled_run.started", _scheduled_run_started),
    ScheduledRunOutput: ("scheduled_run.output", _scheduled_run_output),
    ScheduledRunEnded: ("scheduled_run.ended", _scheduled_run_ended),
    ScheduledRunSkipped: ("scheduled_run.skipped", _scheduled_run),
}
_WARNINGS = (
    AttemptFailed, LaneCooled, LaneParked, LaneStopped, OutageStarted, OutageProbeFailed, SampleEnded, Stopping,
)  # fmt: skip


def log_line(event: Event) -> tuple[str, str, Facts]:
    """(level, name, fields) of an event's line."""
    name, fields = SERIALIZERS[type(event)]
    is_warning = isinstance(event, _WARNINGS) or (
        isinstance(event, RunEnded | ScheduledRunEnded) and event.exit_code != 0
    )
    return "warning" if is_warning else "info", name, {"at": event.at, **fields(event)}


def utc_iso_ms(at: float) -> str:
    """UTC with milliseconds: `2026-11-21T02:53:51.120Z`."""
    whole, ms = divmod(round(at * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{ms:03d}Z"


def _field(kind: str | list[str], description: str, **more: Any) -> Facts:
    return {"type": kind, "description": description, **more}


def _number(description: str) -> Facts:
    return _field(["number", "null"], description, minimum=0)


_COUNT = {"type": "integer", "minimum": 0}
_TIME = {"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_FILE = {
    "path": _field("string", "In the job's folder."),
    "sha256": _field("string", "Of the file.", pattern="^[0-9a-f]{64}$"),
    "size_bytes": _COUNT, "width_px": _COUNT, "height_px": _COUNT,
    "format": {"enum": ["png", "jpeg", "webp", "gif"]},
    "role": {"enum": ["image", "draft", "thought"]},
    "flags": _field("array", "What is other than asked for: size, ratio.", items={"type": "string"}),
}  # fmt: skip
_PROBLEM: Facts = {name: {} for name in ("file", "line", "column", "field", "message")}
FIELDS: Mapping[str, Facts] = {
    "at": _field("string", "UTC.", **_TIME),
    "level": {"enum": list(LEVELS)},
    "worker": _field("string", "Name of the worker; lines of `batchgen worker` alone have it."),
    "run": _field("integer", "Number of the run in this job."),
    "job": _field("string", "The job's name, once its manifest was read."),
    "item": _field("string", "Id of the item."),
    "sample": _field("integer", "Which of the item's `count` pictures, from 1.", minimum=1),
    "attempt": _field("integer", "Number of the request in this job's ledger."),
    "number": _field("integer", "Which request for this sample it is, from 1.", minimum=1),
    "sent_as": _field("string", "How the request departs from its item, in words; most often empty."),
    "model": _field("string", "Id of the AI model."),
    "emulated": _field("boolean", "A local emulator answers: no picture is real."),
    "wanted": _field("object", "Pictures to make, by model.", additionalProperties=_COUNT),
    "kept": _field("integer", "Pictures that were there already.", minimum=0),
    "counts": _field("object", "Wanted samples by state.", additionalProperties=_COUNT),
    "derivatives": _field("object", "Files of `post:`: made, left out, removed; failed are all that stand so now.",
                          additionalProperties=_COUNT),
    "discrepancies": _field("object", "Images that are missing, and that are not what the ledger recorded.",
                            additionalProperties=_COUNT),
    "in_flight": _field("integer", "Requests without an answer yet.", minimum=0),
    "left": _field("integer", "Samples that were not tried.", minimum=0),
    "state": {
        "enum": ["succeeded", "refused", "failed", "uncertain", "blocked", "pending", "running", "cancelled", "expired"],
        "description": "Of a sample that ended, or of a batch in the vendor's words.",
    },
    "outcome": {"enum": ["refused", "failed", "uncertain"]},
    "reason": _field("string", "One word, such as safety or rate_limited."),
    "message": _field("string", "In words, the vendor's where it gave any."),
    "usd": _number("What the picture cost, or a batch as far as prices are known; null is unknown."),
    "unpriced": _field("integer", "Requests of unknown price.", minimum=0),
    "estimate_usd": _number("Of the whole run; null is unknown."),
    "eta_s": _number("How long the run takes at best; null is unknown."),
    "retry_in_s": _number("null: this ended the sample."),
    "wait_s": _number("How long the model waits."),
    "duration_s": _number("From beginning to end."),
    "exposed_ms": _number("From the answer's last byte to its durable record; null for a picture that a link gave."),
    "rpm": _number("Requests a minute from now on; null: none declared."),
    "until": _field("string", "UTC.", **_TIME),
    "scope": {"enum": [*BREAKER_SCOPES], "description": "How far an outage reaches; lane: one model."},
    "name": _field("string", "Of the model, or of the host of the API."),
    "models": _field("array", "AI models that wait for it.", items={"type": "string"}),
    "since": _field("string", "When its first request failed; UTC.", **_TIME),
    "retry_at": _field(["string", "null"], "When the next probe is sent, UTC; null: it answers again.", **_TIME),
    "maybe_billed": _field("boolean", "The vendor may charge for it all the same."),
    "notes": _field("array", "What was unexpected in the answer.", items={"type": "string"}),
    "files": _field("array", "The picture, and drafts of the same answer.",
                    items={"type": "object", "properties": _FILE, "required": list(_FILE), "additionalProperties": False}),
    "exit_code": _field("integer", "As the README lists them."),
    "batch": _field("string", "Its name at the vendor's."),
    "requests": _field("integer", "How many it holds.", minimum=0),
    "succeeded": _field("integer", "By the vendor's count.", minimum=0),
    "failed": _field("integer", "By the vendor's count.", minimum=0),
    "made": _field("integer", "Pictures.", minimum=0),
    "again": _field("integer", "Requests that are asked for once more.", minimum=0),
    "ended": _field("integer", "Requests that this run gives up.", minimum=0),
    "manifest": _field("string", "Its path."),
    "due": _field(["string", "null"], "When the night begins, or should have begun; UTC."),
    "next": _field(["string", "null"], "When the job runs next, UTC; null: the daemon ends."),
    "error": _field("string", "The kind of error, such as ManifestError or JobLocked."),
    "problems": _field("array", "Of a manifest, the first twenty.",
                       items={"type": "object", "properties": _PROBLEM, "additionalProperties": False}),
    "total": _field("integer", "How many problems the manifest has."),
    "logger": _field("string", "Who says it."),
    "exception": _field("string", "Where a bug is, for those who mend it."),
}  # fmt: skip
_COMMON_FIELDS = ("at", "level", "event")
CONTEXT_FIELDS = ("worker", "run", "job")


def log_schema() -> Facts:
    """JSON Schema of one line. A line has no field that its event does not name."""

    def event_schema(name: str, kind: LogEvent) -> Facts:
        fields = (*CONTEXT_FIELDS, *kind.required, *kind.optional)
        properties = {field: {"$ref": f"#/$defs/{field}"} for field in ("at", "level", *fields)}
        return {
            "description": kind.description,
            "properties": {"event": {"const": name}, **properties},
            "required": [*_COMMON_FIELDS, *kind.required],
            "additionalProperties": False,
        }

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of `batchgen run --log-format json`",
        "type": "object",
        "oneOf": [event_schema(name, kind) for name, kind in LOG_EVENTS.items()],
        "$defs": dict(FIELDS),
    }
