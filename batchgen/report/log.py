"""A run's log, one line for each event, as text or as JSON: a chain of structlog's processors, the last of which
removes keys."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, MutableMapping
from io import FileIO
from typing import Any, Literal, TextIO

import structlog

from batchgen.errors import UsageError
from batchgen.events import Event, RunStarted
from batchgen.report.log_events import CONTEXT_FIELDS, log_line, utc_iso_ms
from batchgen.sanitize import ascii_only, printable_json, redact_secrets, sanitize

LogFormat = Literal["text", "json"]
Secrets = Callable[[], Iterable[str]]  # called for each line: some are known only once the manifest has been read
EventDict = MutableMapping[str, Any]


class Log(logging.Handler):
    """An observer of a run, and a handler for what batchgen and its libraries log through the logging module.

    Use it as a context manager. quiet: only warnings and errors.
    """

    def __init__(self, sink: LogFile | Stream, log_format: LogFormat, secrets: Secrets, *, quiet: bool = False) -> None:
        super().__init__(logging.INFO)
        self._sink, self._format, self._secrets = sink, log_format, secrets
        self._plain = isinstance(sink, Stream) and sink.plain
        self._logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(sink),  # type: ignore[arg-type]
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                _order_fields,
                self._render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
            context_class=dict,
            cache_logger_on_first_use=False,
        )

    def __enter__(self) -> Log:
        logging.getLogger().addHandler(self)
        logging.getLogger("batchgen").setLevel(logging.INFO)
        logging.captureWarnings(True)
        return self

    def __exit__(self, *_: object) -> None:
        logging.captureWarnings(False)
        logging.getLogger("batchgen").setLevel(logging.NOTSET)
        logging.getLogger().removeHandler(self)
        self.close()
        self._sink.close()

    @property
    def loss_message(self) -> str:
        """What could not be written and why, in words; empty if nothing was lost."""
        lost, why = self._sink.lost_lines, self._sink.loss_reason
        return f"{lost:,} line(s) of the log could not be written: {why}" if lost else ""

    def bind(self, **context: Any) -> None:
        """Add these fields to each line from now on."""
        self._logger = self._logger.bind(**context)

    def __call__(self, event: Event, **context: Any) -> None:
        """Log an event. context: further fields of this line."""
        if isinstance(event, RunStarted):
            self.bind(run=event.run_id, job=event.job)
        level, name, fields = log_line(event)
        self.write_event(level, name, **{**context, **fields})

    def write_event(self, level: str, name: str, /, **fields: Any) -> None:
        """Log an event by name. level: info, warning or error. name: one that log_events lists; an outage also has a
        field of that name."""
        getattr(self._logger, level)(name, **{"at": time.time(), **fields})

    def _render(self, _: Any, __: str, event_dict: EventDict) -> str:
        """The line. Its keys are removed last, also as JSON writes them, so that nothing before can let one through."""
        fields = dict(event_dict)
        line = printable_json(fields, plain=self._plain) if self._format == "json" else _text(fields, plain=self._plain)
        known = sorted(self._secrets(), key=len, reverse=True)
        return redact_secrets(line, (form for key in known for form in _encodings(key)))

    def emit(self, record: logging.LogRecord) -> None:
        number = record.levelno
        level = "error" if number >= logging.ERROR else "warning" if number >= logging.WARNING else "info"
        fields = {"at": record.created, "logger": record.name, "message": record.getMessage()}
        fields |= {"exc_info": record.exc_info} if record.exc_info else {}
        self.write_event(level, "log.message", **fields)


class Stream:
    """stderr, which loses lines silently. plain: it only takes ASCII."""

    lost_lines, loss_reason = 0, ""

    def __init__(self, stream: TextIO, *, plain: bool) -> None:
        self._stream = stream
        self.plain = plain

    def write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()

    def flush(self) -> None:
        """Nothing to do: each line was flushed."""

    def close(self) -> None:
        """Nothing to do: it is not the log's own."""


class LogFile:
    """Writes whole lines to the end of a file that may be rotated. Unbuffered: a line is in the file when `write`
    returns, and one that cannot be written is counted and stops nothing."""

    def __init__(self, path: str) -> None:
        """Raises UsageError if it cannot be written to."""
        self._path = os.path.abspath(path)
        self.lost_lines = 0
        self.loss_reason = ""
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"--log-file {path}: {error.strerror or error}") from None

    def _open(self) -> None:
        file = FileIO(self._path, "a")
        stat = os.fstat(file.fileno())
        self._file, self._id = file, (stat.st_dev, stat.st_ino)
        self._partial_line = stat.st_size > 0 and not _ends_a_line(self._path)

    def write(self, line: str) -> None:
        """Write a line, including its newline."""
        data = line.encode("utf-8", "backslashreplace")
        try:
            self._reopen_if_rotated()
            data = b"\n" + data if self._partial_line else data
            written = self._file.write(data) or 0
            self._partial_line = written < len(data)  # a disk that fills up may accept a part
            if self._partial_line:
                raise OSError(0, "the disk took only a part of a line")
        except (OSError, ValueError) as error:
            self.lost_lines += 1
            self.loss_reason = getattr(error, "strerror", None) or str(error)

    def flush(self) -> None:
        """Nothing to do: nothing is buffered."""

    def close(self) -> None:
        self._file.close()

    def _reopen_if_rotated(self) -> None:
        """Open a new file if somebody rotated, that is renamed, the old one."""
        try:
            stat = os.stat(self._path)
            if (stat.st_dev, stat.st_ino) == self._id:
                return
        except FileNotFoundError:
            pass
        old = self._file
        self._open()
        old.close()


def _ends_a_line(path: str) -> bool:
    """Whether what an earlier run left ends with a newline; its process may have been killed in the middle of a
    line."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:  # not a regular file, or not readable
        return True


def _order_fields(_: Any, __: str, event_dict: EventDict) -> EventDict:
    """Put time, level, event and run first, and leave the rest in order."""
    first = {"at": utc_iso_ms(event_dict.pop("at")), "level": event_dict.pop("level"), "event": event_dict.pop("event")}
    context = {name: event_dict.pop(name) for name in CONTEXT_FIELDS if name in event_dict}
    return {**first, **context, **event_dict}


def _text(fields: dict[str, Any], *, plain: bool) -> str:
    """Text such as `2026-11-21T02:53:51.120Z warning sample.ended run=1 item=bad reason=safety …`; empty fields are
    left out."""
    head = f"{fields.pop('at')} {fields.pop('level'):7} {fields.pop('event')}"
    pairs = [f"{name}={_value(value)}" for name, value in fields.items() if value not in (None, "", [], (), {})]
    line = sanitize(" ".join([head, *pairs]))
    return ascii_only(line) if plain else line


def _value(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=False)


def _encodings(key: str) -> tuple[str, ...]:
    return key, json.dumps(key, ensure_ascii=False)[1:-1], json.dumps(key)[1:-1]
