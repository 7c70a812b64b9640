"""Events as records of the standard logging module, one line each, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Literal, TextIO

from batchgen.errors import UsageError
from batchgen.events import AttemptFailed, Event, LaneCooled, LaneParked, LaneStopped, SampleEnded, Stopping
from batchgen.report.clean import clean, json_text, without_secrets
from batchgen.report.figures import utc_iso

LogFormat = Literal["text", "json"]
_WARNINGS = (AttemptFailed, LaneCooled, LaneParked, LaneStopped, SampleEnded, Stopping)


def event_name(event: Event) -> str:
    """`SampleSucceeded` is `sample_succeeded`."""
    name = type(event).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class _Lines(logging.Formatter):
    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line says, time first."""
        facts: dict[str, Any] = getattr(record, "facts", None) or {"event": "log", "message": record.getMessage()}
        at = facts.get("at", record.created)
        found = {"at": utc_iso(at), "level": record.levelname.lower(), **{k: v for k, v in facts.items() if k != "at"}}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return found

    def hidden(self, text: str) -> str:
        return without_secrets(text, self._secrets)


class JsonLines(_Lines):
    """One JSON object to a line."""

    def format(self, record: logging.LogRecord) -> str:
        return self.hidden(json_text(self.fields(record)))


class TextLines(_Lines):
    """`2026-11-21T02:53:51Z warning attempt_failed key=bad reason=safety …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        head = f"{fields.pop('at')} {fields.pop('level'):7} {fields.pop('event')}"
        pairs = [f"{name}={_value(value)}" for name, value in fields.items() if value not in (None, "", [], (), {})]
        return self.hidden(clean(" ".join([head, *pairs])))


def _value(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=False)


class Log:
    """The observer that writes one record for each event to its handler, and takes along what our own modules log."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        self._logger = logging.getLogger("batchgen.run")
        self._parent = logging.getLogger("batchgen")

    def __enter__(self) -> Log:
        self._parent.addHandler(self._handler)
        self._parent.setLevel(logging.INFO)
        self._parent.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.removeHandler(self._handler)
        self._handler.close()

    def __call__(self, event: Event) -> None:
        level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
        self._logger.log(level, event_name(event), extra={"facts": {"event": event_name(event), **asdict(event)}})


def log_to_file(path: str, form: LogFormat, secrets: Iterable[str]) -> Log:
    """Appends to what is there. Raises UsageError."""
    try:
        handler: logging.Handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"--log-file {path}: {error.strerror or error}") from None
    handler.setFormatter(_formatter(form, secrets))
    return Log(handler)


def log_to_stream(stream: TextIO, form: LogFormat, secrets: Iterable[str]) -> Log:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(form, secrets))
    return Log(handler)


def _formatter(form: LogFormat, secrets: Iterable[str]) -> logging.Formatter:
    return JsonLines(secrets) if form == "json" else TextLines(secrets)


class Quietly(logging.Handler):
    """For a run without a log: a fault of ours is one line on stderr, never a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            with suppress(OSError):  # nobody reads any more: that is no reason to end a run half way
                sys.stderr.write(clean(record.getMessage()) + "\n")
