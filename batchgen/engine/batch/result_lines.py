"""Reads the results of a batch line by line from the local copy. Only what is read of the current lines is in
memory."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from batchgen.errors import DownloadFailed, Malformed
from batchgen.http.base64_stream import NullSink, Sink, StreamingBase64Decoder
from batchgen.providers import batch_results
from batchgen.providers.batch_results import ResultLine, read_result_line
from batchgen.store.spool import NO_FOLLOW

MAX_LINE_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 256 * 1024
_LEADING_KEY = re.compile(rb'\s*\{\s*"key"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){0,200}")')


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line's position in its file, in bytes. key: None if it names none, or is not JSON."""

    path: str
    start: int
    length: int
    key: str | None = None

    def pieces(self) -> Iterator[bytes]:
        with open_results(self.path) as file:
            file.seek(self.start)
            left = self.length
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece


def open_results(path: str) -> IO[bytes]:
    """Open a file of results. Raises FileNotFoundError."""
    return os.fdopen(os.open(path, os.O_RDONLY | NO_FOLLOW), "rb")


@dataclass(frozen=True, slots=True)
class ResultsCheck:
    """What a copy of results contains. answers: the number of requests answered. malformed: lines that cannot be read.
    truncated: whether the copy ends inside a line; complete_bytes: where the line before that ends. sha256: of all its
    bytes."""

    answers: int
    malformed: int
    truncated: bool
    complete_bytes: int
    sha256: bytes


def check_results(file: IO[bytes]) -> ResultsCheck:
    """Check a whole file from its start, in memory that does not grow with it."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    keys, keyless, malformed, start = set[str](), 0, 0, 0
    key: str | None = ""
    file.seek(0)
    while piece := file.readline(PIECE_BYTES):
        if piece.strip():
            start, key = file.tell() - len(piece), answered_key(_rest_of_line(file, piece))
            keyless, malformed = keyless + (key == ""), malformed + (key is None)
            keys.add(key or "")
    end = file.tell()
    file.seek(max(0, end - 1))
    truncated = key is None and file.read(1) != b"\n"  # for the last line
    return ResultsCheck(len(keys - {""}) + keyless, malformed, truncated, start if truncated else end, digest)


def _rest_of_line(file: IO[bytes], piece: bytes) -> Iterator[bytes]:
    """The rest of the line that begins with `piece`."""
    yield piece
    while not piece.endswith(b"\n") and (piece := file.readline(PIECE_BYTES)):
        yield piece


def describe_defect(found: ResultsCheck, expected: int) -> str:
    """Why a copy does not have all of a batch's results, in words; empty if it does. expected: the number of answers by
    the batch's own count.

    Pure.
    """
    if found.malformed and not found.answers:
        return "the download is not a results file"
    if found.truncated:
        return "the file ends in the middle of a line"
    if found.malformed:
        return f"{found.malformed} of the lines are broken"
    if found.answers < expected:
        return f"only {found.answers} of {expected} answers are in it"
    return ""


def answered_key(pieces: Iterable[bytes]) -> str | None:
    """The key of the request that a line answers, empty if it names none; None if the line answers nothing (cut off, or
    a web page)."""
    decoder, first, last = StreamingBase64Decoder(), None, b""
    for piece in pieces:
        first = first if last else _LEADING_KEY.match(piece, 0, 1000)
        last = piece if piece.strip() else last
        if first is None:
            decoder.feed(piece)
    try:
        if first is not None:
            return str(json.loads(first[1])) if last.rstrip().endswith(b"}") else None
        line = read_result_line(decoder.close())
    except (ValueError, Malformed):
        return None
    return line.key if line.key is not None else "" if line.status == 200 and line.body != b"null" else None


def extract_answers(operation: IO[bytes], file: IO[bytes]) -> None:
    """Write the answers in an operation to `file`, as lines. Raises DownloadFailed if they break off."""
    try:
        json.loads(without_answers(operation))
    except ValueError:
        raise DownloadFailed("the answer that holds them breaks off", http_status=200) from None
    file.seek(0)
    file.truncate()
    with mmap.mmap(operation.fileno(), 0, access=mmap.ACCESS_READ) as body:
        file.writelines(batch_results.answer_lines(body))


def without_answers(operation: IO[bytes]) -> bytes:
    """An operation without the answers in it."""
    operation.flush()
    if not operation.seek(0, os.SEEK_END):
        return b""
    with mmap.mmap(operation.fileno(), 0, access=mmap.ACCESS_READ) as body:
        return batch_results.without_answers(body)


def read_lines(file: IO[bytes], path: str, max_lines: int) -> list[RawLine]:
    """The next lines of an open file, at most `max_lines`; none at the end. Empty lines are skipped."""
    found: list[RawLine] = []
    while len(found) < max_lines:
        start = file.tell()
        head, length, empty = b"", 0, True
        while length < MAX_LINE_BYTES and (piece := file.readline(PIECE_BYTES)):
            head, length, empty = head or piece, length + len(piece), empty and not piece.strip()
            if piece.endswith(b"\n"):
                break
        if not length:
            break
        if not empty:
            line = RawLine(path, start, length)
            found.append(replace(line, key=_read_key(head, line)))
    return found


def _read_key(head: bytes, line: RawLine) -> str | None:
    """The key of a line, without decoding its images; quick if the key comes first."""
    first = _LEADING_KEY.match(head, 0, 1000)
    try:
        if first is not None:
            return str(json.loads(first[1]))
        return decode_line(line, NullSink).key
    except (ValueError, Malformed):
        return None


def decode_line(line: RawLine, open_sink: Callable[[int], Sink], *, signatures: bool = False) -> ResultLine:
    """Decode a line, with its images going to sinks. Raises Malformed, and what the sinks raise."""
    decoder = StreamingBase64Decoder(open_sink, signatures=signatures)
    for piece in line.pieces():
        decoder.feed(piece)
    return read_result_line(decoder.close())
