"""The results of a batch, line by line out of our own copy: memory holds what is read of each line at work, and no more."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from batchgen.errors import Malformed
from batchgen.lift import Lifter, Nowhere, Sink
from batchgen.providers.gemini_batch import Line, read_line
from batchgen.store.spool import NO_FOLLOW

LINE_MOST_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 256 * 1024
_KEY_FIRST = re.compile(rb'\s*\{\s*"key"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){0,200}")')


@dataclass(frozen=True, slots=True)
class RawLine:
    """Where a line is in its file, in bytes. key: None when it names none, or is no JSON."""

    path: str
    start: int
    length: int
    key: str | None = None

    def pieces(self) -> Iterator[bytes]:
        with opened(self.path) as file:
            file.seek(self.start)
            left = self.length
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece


def opened(path: str) -> IO[bytes]:
    """Raises FileNotFoundError."""
    return os.fdopen(os.open(path, os.O_RDONLY | NO_FOLLOW), "rb")


def take(file: IO[bytes], path: str, most: int) -> list[RawLine]:
    """The next lines of a file that is open, at most so many; none at the end. Empty lines are passed over."""
    found: list[RawLine] = []
    while len(found) < most:
        start = file.tell()
        head, length, empty = b"", 0, True
        while length < LINE_MOST_BYTES and (piece := file.readline(PIECE_BYTES)):
            head, length, empty = head or piece, length + len(piece), empty and not piece.strip()
            if piece.endswith(b"\n"):
                break
        if not length:
            break
        if not empty:
            line = RawLine(path, start, length)
            found.append(replace(line, key=_key(head, line)))
    return found


def _key(head: bytes, line: RawLine) -> str | None:
    """Of a line, without decoding its pictures: where it stands first that is quick."""
    first = _KEY_FIRST.match(head, 0, 1000)
    try:
        if first is not None:
            return str(json.loads(first[1]))
        return lifted(line, Nowhere).key
    except (ValueError, Malformed):
        return None


def lifted(line: RawLine, open_sink: Callable[[int], Sink], *, signatures: bool = False) -> Line:
    """A line with its pictures decoded to sinks. Raises Malformed, and what the sinks raise."""
    lifter = Lifter(open_sink, signatures=signatures)
    for piece in line.pieces():
        lifter.feed(piece)
    return read_line(lifter.close())
