"""The lines of the log and their JSON Schema, from the fields that the events declare."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from batchgen import events
from batchgen.log_fields import Logged
from batchgen.records import ImageFile

JsonObject = dict[str, Any]
LEVELS = ("info", "warning", "error")
CONTEXT_FIELDS = ("worker", "run", "job")
_COMMON_FIELDS = ("at", "level", "event")
_COUNT = {"type": "integer", "minimum": 0}
_UTC = {"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_DIGITS = {"usd": 6, "s": 3, "ms": 3}  # of figures by their unit
_JSON_TYPES = {str: "string", int: "integer", bool: "boolean", float: "number", dict: "object", NoneType: "null"}


class LogField(NamedTuple):
    """A field of an event in its line. attribute: its name in the event."""

    attribute: str
    name: str
    logged: Logged
    schema: JsonObject

    def write(self, value: Any) -> Any:
        """The value in the form of a line."""
        if value is None:
            return None
        if self.logged.unit in _DIGITS:
            return round(value, _DIGITS[self.logged.unit])
        if self.logged.unit == "utc":
            return utc_iso_ms(value)
        if self.logged.unit == "files":
            return [_write_file(file) for file in value]
        return value if isinstance(value, str | Mapping) or not isinstance(value, Sequence) else list(value)


class LogEvent(NamedTuple):
    """A kind of line. description: for people. required: fields of every such line; optional: of some, or once they are
    known."""

    description: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


def log_line(event: events.Event) -> tuple[str, str, JsonObject]:
    """(level, name, fields) of an event's line."""
    fields: JsonObject = {"at": event.at}
    for field in FIELDS_BY_EVENT[type(event)]:
        value = getattr(event, field.attribute)
        if field.logged.unit == "key":
            item, _, n = value.partition("#")
            fields |= {"item": item, "sample": int(n or 1)}
        elif value or not field.logged.left_out:
            fields[field.name] = field.write(value)
    failed = isinstance(event, events.RunEnded | events.ScheduledRunEnded) and event.exit_code != 0
    return "warning" if failed else event.level, event.log_name, fields


def _fields_of(event: type[events.Event]) -> tuple[LogField, ...]:
    return tuple(
        LogField(attribute, logged.name or attribute, logged, _schema(get_args(hint)[0], logged))
        for attribute, hint in get_type_hints(event, include_extras=True).items()
        for logged in getattr(hint, "__metadata__", ())
    )


def utc_iso_ms(at: float) -> str:
    """UTC with milliseconds: `2026-11-21T02:53:51.120Z`."""
    whole, ms = divmod(round(at * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{ms:03d}Z"


def _schema(kind: Any, logged: Logged) -> JsonObject:
    """The JSON Schema of a field, from its type and its declaration."""
    schema: JsonObject = {"description": logged.description} if logged.description else {}
    schema |= {name: list(value) if isinstance(value, tuple) else value for name, value in logged.schema.items()}
    if "enum" in schema:
        return schema
    if logged.unit in (*_DIGITS, "rate"):
        return {"type": ["number", "null"], "minimum": 0, **schema}
    kinds = [each for each in get_args(kind) if get_origin(kind) not in (dict, tuple, Sequence)] or [kind]
    if logged.unit == "utc":
        kinds, schema = [str if each is float else each for each in kinds], {**schema, **_UTC}
    if get_origin(kind) in (tuple, Sequence):
        return {"type": "array", "items": _FILE if logged.unit == "files" else {"type": "string"}, **schema}
    names = [_JSON_TYPES[get_origin(each) or each] for each in kinds]
    return {"type": names[0] if len(names) == 1 else names, **schema}


_FLAGS_MEANING = "What differs from what was asked for: size, ratio."
# Name in the line -> name in ImageFile, JSON Schema.
_FILE_FIELDS: Mapping[str, tuple[str, JsonObject]] = {
    "path": ("path", {"type": "string", "description": "Path in the job's folder."}),
    "sha256": ("sha256", {"type": "string", "description": "Checksum of the file.", "pattern": "^[0-9a-f]{64}$"}),
    "size_bytes": ("bytes", _COUNT),
    "width_px": ("width", _COUNT),
    "height_px": ("height", _COUNT),
    "format": ("format", {"enum": ["png", "jpeg", "webp", "gif"]}),
    "role": ("role", {"enum": ["image", "draft", "thought"]}),
    "flags": ("flags", {"type": "array", "description": _FLAGS_MEANING, "items": {"type": "string"}}),
}
_FILE: JsonObject = {
    "type": "object",
    "properties": {name: schema for name, (_, schema) in _FILE_FIELDS.items()},
    "required": list(_FILE_FIELDS),
    "additionalProperties": False,
}


def _write_file(file: ImageFile) -> JsonObject:
    values = {name: getattr(file, attribute) for name, (attribute, _) in _FILE_FIELDS.items()}
    return {**values, "flags": list(file.flags)}


EVENTS: list[type[events.Event]] = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, events.Event) and kind.log_name
]
FIELDS_BY_EVENT: Mapping[type[events.Event], tuple[LogField, ...]] = {kind: _fields_of(kind) for kind in EVENTS}


def _names(kind: type[events.Event], left_out: bool) -> list[str]:
    of_key = {"key": ["item", "sample"]}
    fields = [field for field in FIELDS_BY_EVENT[kind] if field.logged.left_out == left_out]
    return [name for field in fields for name in of_key.get(field.logged.unit, [field.name])]


def _log_events() -> dict[str, LogEvent]:
    """The kinds of lines by name. If several events share a name, their common fields are required."""
    found: dict[str, LogEvent] = {}
    for kind in EVENTS:
        required, optional = _names(kind, False), _names(kind, True)
        if (known := found.get(kind.log_name)) is not None:
            optional = [*dict.fromkeys([*known.required, *known.optional, *required, *optional])]
            required = [name for name in known.required if name in required]
            optional = [name for name in optional if name not in required]
        owner = next(base for base in reversed(kind.__mro__) if getattr(base, "log_name", "") == kind.log_name)
        meaning = (owner.__doc__ or "").partition("\n")[0]
        found[kind.log_name] = LogEvent(meaning, tuple(required), tuple(optional))
    # Two lines that do not come from events of a run.
    found["run.failed"] = LogEvent(
        "An error ended it, most often before anything was sent.",
        ("error", "exit_code", "message"),
        ("problems", "total"),
    )
    found["log.message"] = LogEvent(
        "A warning of batchgen or of a library it uses.", ("logger", "message"), ("exception",)
    )
    return found


LOG_EVENTS: Mapping[str, LogEvent] = _log_events()
_PROBLEM: JsonObject = {
    "type": "object",
    "properties": {name: {} for name in ("file", "line", "column", "field", "message")},
    "additionalProperties": False,
}
FIELDS: Mapping[str, JsonObject] = {
    "at": {"type": "string", "description": "UTC.", **_UTC},
    "level": {"enum": list(LEVELS)},
    "worker": {"type": "string", "description": "Name of the worker; lines of `batchgen worker` alone have it."},
    "run": {"type": "integer", "description": "Number of the run in this job."},
    "item": {"type": "string", "description": "Id of the item."},
    "sample": {"type": "integer", "description": "Which of the item's `count` images, from 1.", "minimum": 1},
    **{field.name: field.schema for kind in EVENTS for field in FIELDS_BY_EVENT[kind] if field.logged.unit != "key"},
    "error": {"type": "string", "description": "The kind of error, such as ManifestError or JobLocked."},
    "problems": {"type": "array", "description": "The first twenty problems of a manifest.", "items": _PROBLEM},
    "total": {"type": "integer", "description": "How many problems the manifest has."},
    "logger": {"type": "string", "description": "Name of the logger."},
    "exception": {"type": "string", "description": "Traceback of a bug, for those who fix it."},
}


def log_schema() -> JsonObject:
    """The JSON Schema of one line. A line has no fields that its event does not name."""

    def event_schema(name: str, kind: LogEvent) -> JsonObject:
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
