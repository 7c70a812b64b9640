"""A stream that people read: what it can show, and the one way to write a line to it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from batchgen.sanitize import ascii_only, display_width, printable_json, redact_secrets, sanitize, truncate, wrapped
from batchgen.settings import environment

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
Row = Sequence[str]
MIN_COLUMN = 20  # a text that is cut to fewer columns is useless


class Console:
    """Every line is sanitized, its secrets are removed, and it is converted to the stream's encoding.

    tty: a person watches. live: lines may be redrawn. secrets: values never to be shown, wherever they come from.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str] | None = None, secrets: Iterable[str] = ()) -> None:
        environ = environment() if environ is None else environ
        self.stream = stream
        self.secrets = tuple(sorted(secrets, key=len, reverse=True))
        self.tty = _is_tty(stream)
        dumb = environ.get("TERM", "").lower() in ("dumb", "unknown")
        self.colour = self.tty and not dumb and not environ.get("NO_COLOR")
        self.live = self.tty and not dumb and not environ.get("CI")
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        self.unicode = encoding in ("utf8", "utf8sig") and not (self.tty and _plain_locale(environ))

    @property
    def columns(self) -> int:
        """The width in columns; without a terminal there is no limit."""
        if not self.tty:
            return 1000
        with contextlib.suppress(OSError, ValueError):
            if not environment().get("COLUMNS"):
                return os.get_terminal_size(self.stream.fileno()).columns or 80
        return shutil.get_terminal_size().columns

    @property
    def rows(self) -> int:
        """The height in lines of the terminal."""
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self.stream.fileno()).lines or 24
        return 24

    def fit(self, text: str) -> str:
        """`text` in a form that this stream can show, on one line, without styles."""
        text = sanitize(redact_secrets(text, self.secrets))
        return text if self.unicode else ascii_only(text)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line, whatever the text contains; on a terminal it is wrapped. style: words of bold, dim, red,
        green, yellow."""
        self.print_labelled("", text, style)

    def print_labelled(self, label: str, text: str, style: str = "") -> None:
        """Write a line after a dim label; wrapped lines are indented like the text."""
        for number, part in enumerate(self.wrapped(self.fit(text), len(label))):
            head = label if number == 0 else " " * len(label)
            self.stream.write(self.styled(head, "dim") + self.styled(part, style) + "\n")
        self.stream.flush()

    def wrapped(self, text: str, indent: int = 0) -> list[str]:
        """`text` in parts that fit beside an indent; whole if no terminal sets a width. It keeps its own indent."""
        width = self.columns - indent - 1
        if not self.tty or display_width(text) <= width:
            return [text]
        own = " " * (len(text) - len(text.lstrip()))
        return wrapped(text, max(20, width), own)

    def styled(self, text: str, style: str) -> str:
        if not (style and self.colour and text):
            return text
        return f"\x1b[{';'.join(_CODES[word] for word in style.split())}m{text}\x1b[0m"

    def json(self, value: Any) -> None:
        """Write one object, the only thing on this stream."""
        text = printable_json(value, indent=2, plain=not self.unicode)
        self.stream.write(redact_secrets(text, self.secrets) + "\n")
        self.stream.flush()

    def table(self, head: Row, rows: Sequence[Row], *, right: Iterable[int] = (), flexible: int | None = 0) -> None:
        """Write columns under a bold head. right: columns of figures; flexible: the column to cut if space is short,
        None if none may be.

        If the terminal is too narrow for that, each row becomes a block: its first cell, and the others with their
        names below.
        """
        fitted = [[self.fit(cell) for cell in row] for row in (head, *rows)]
        widths = [max(display_width(row[column]) for row in fitted) for column in range(len(head))]
        spare = self.columns - sum(widths) - 2 * (len(head) - 1)
        if spare < 0:
            if flexible is None or widths[flexible] + spare < min(widths[flexible], MIN_COLUMN):
                self._blocks(fitted)
                return
            widths[flexible] += spare
        figures = set(right)
        for number, row in enumerate(fitted):
            parts = []
            for column, cell in enumerate(row):
                cell = truncate(cell, widths[column]) if self.tty else cell
                cell = cell if self.unicode else cell.replace("…", "~")
                space = " " * (widths[column] - display_width(cell))
                parts.append(space + cell if column in figures else cell + space)
            self.stream.write(self.styled("  ".join(parts).rstrip(), "bold" if number == 0 else "") + "\n")
        self.stream.flush()

    def _blocks(self, fitted: Sequence[Row]) -> None:
        """Write the rows of a table, starting with its head, each on as many lines as it needs."""
        head, *rows = fitted
        for row in rows:
            self.line(row[0], "bold")
            line = " "
            for name, cell in zip(head[1:], row[1:], strict=True):
                part = f" {name}: {cell}"
                if cell in ("", "-"):
                    continue
                if line.strip() and display_width(line + part) > self.columns - 4:
                    self.line(line)
                    line = " "
                line += part if not line.strip() else f" ·{part}"
            self.line(line)


def _plain_locale(environ: Mapping[str, str]) -> bool:
    """Whether a person chose the C locale. Python then writes UTF-8 anyway, and sets LC_CTYPE to say so (PEP 538)."""
    if environ.get("PYTHONIOENCODING") or environ.get("PYTHONUTF8"):
        return False
    chosen = [environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    return next((name for name in chosen if name and name != "C.UTF-8"), "") in ("C", "POSIX")


def _is_tty(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False
