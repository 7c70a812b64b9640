"""The results of a batch, line by line out of our own copy: memory holds the lines at work and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from batchgen.errors import Malformed
from batchgen.lift import Lifter, Sink
from batchgen.providers.gemini_batch import Line, read_line

LINE_MOST_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 256 * 1024
_KEY_FIRST = re.compile(rb'\s*\{\s*"key"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){0,200}")')


@dataclass(frozen=True, slots=True)
class RawLine:
    """key: None when it names none, or is no JSON."""

    key: str | None
    text: bytes


def take(file: IO[bytes], most: int, most_bytes: int) -> list[RawLine]:
    """The next lines, until they are `most` or have `most_bytes`; none at the end. Empty lines are passed over."""
    found: list[RawLine] = []
    total = 0
    while len(found) < most and total < most_bytes and (text := file.readline(LINE_MOST_BYTES)):
        if text.strip():
            found.append(RawLine(key_of(text), text))
            total += len(text)
    return found


def key_of(text: bytes) -> str | None:
    """Of a line, without decoding its pictures: where it stands first that is quick."""
    first = _KEY_FIRST.match(text, 0, 1000)
    try:
        if first is not None:
            return str(json.loads(first[1]))
        return lifted(text, lambda _: _Nowhere()).key
    except (ValueError, Malformed):
        return None


def lifted(text: bytes, open_sink: Callable[[int], Sink], *, signatures: bool = False) -> Line:
    """A line with its pictures decoded to sinks. Raises Malformed, and what the sinks raise."""
    lifter = Lifter(open_sink, signatures=signatures)
    for start in range(0, len(text), PIECE_BYTES):
        lifter.feed(text[start : start + PIECE_BYTES])
    return read_line(lifter.close())


class _Nowhere:
    def write(self, data: bytes) -> None:
        pass
