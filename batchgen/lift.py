"""Takes long base64 strings out of a JSON body while it arrives and decodes them to files: memory stays flat whatever the picture's size.

A push parser without I/O of its own: bytes go in, the body with each long string replaced by `"\\u0000lifted:N"` comes
out, and string N has been written, decoded, to the sink that the caller opened for it.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from typing import Protocol

import pybase64

from batchgen.records import LIFTED

THRESHOLD_BYTES = 64 * 1024
SIGNATURE_KEYS = frozenset({b"thoughtSignature", b"thought_signature"})  # megabytes that only conversations need again
_BASE64_START = re.compile(rb"(?:[A-Za-z0-9+/]|\\/){256}")
_OUTSIDE, _INSIDE, _LIFTING = range(3)


class Sink(Protocol):
    def write(self, data: bytes) -> None: ...


class Lifter:
    """Feed chunks, then `close()` for the envelope. Not thread-safe; one call at a time.

    open_sink: called with the number of each long string, in order of appearance. A long string that is not base64
    is marked `lifted:bad` in the envelope, which a codec reads as a broken answer. signatures: keep them in the envelope,
    as they are, for the next turn of a conversation; they are dropped otherwise.
    """

    def __init__(
        self, open_sink: Callable[[int], Sink], threshold_bytes: int = THRESHOLD_BYTES, *, signatures: bool = False
    ) -> None:
        self._open_sink = open_sink
        self._whole = SIGNATURE_KEYS if signatures else frozenset[bytes]()
        self._threshold = threshold_bytes
        self._envelope: list[bytes] = []
        self._buffer = b""
        self._state = _OUTSIDE
        self._key = b""  # the last short string outside: the key of what follows
        self._sink: Sink | None = None
        self._carry = b""
        self._bad = False
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether anything was fed yet."""
        return bool(self._envelope or self._buffer)

    def feed(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position = 0
        while position < len(buffer):
            if self._state == _OUTSIDE:
                position, wait = self._outside(buffer, position), False
            elif self._state == _INSIDE:
                position, wait = self._inside(buffer, position)
            else:
                position, wait = self._lifting(buffer, position), False
            if wait:
                break
        self._buffer = buffer[position:]

    def close(self) -> bytes:
        """The envelope. An unfinished string stays unfinished in it, so that reading it fails as it should."""
        if self._state == _LIFTING:
            self._envelope.append(b'"')
        else:
            self._envelope.append(self._buffer)
        self._buffer = b""
        return b"".join(self._envelope)

    def _outside(self, buffer: bytes, position: int) -> int:
        quote = buffer.find(b'"', position)
        end = len(buffer) if quote < 0 else quote + 1
        self._envelope.append(buffer[position:end])
        if quote >= 0:
            self._state = _INSIDE
        return end

    def _inside(self, buffer: bytes, start: int) -> tuple[int, bool]:
        """A string that began at `start`: pass it on when it ends soon, begin to lift it when it is long."""
        end = _string_end(buffer, start)
        length = (len(buffer) if end < 0 else end) - start
        if length >= self._threshold and self._key not in self._whole and _BASE64_START.match(buffer, start):
            self._begin_lifting()
            return start, False
        if end < 0:
            return start, True
        if end - start <= 64:
            self._key = buffer[start:end]
        self._envelope.append(buffer[start : end + 1])
        self._state = _OUTSIDE
        return end + 1, False

    def _begin_lifting(self) -> None:
        self._state = _LIFTING
        self._carry, self._bad = b"", False
        if self._key in SIGNATURE_KEYS:
            self._sink = None
            return
        self._sink = self._open_sink(self._count)

    def _lifting(self, buffer: bytes, position: int) -> int:
        quote = buffer.find(b'"', position)
        end = len(buffer) if quote < 0 else quote
        self._decode(buffer[position:end], last=quote >= 0)
        if quote < 0:
            return end
        self._envelope.append(json.dumps(LIFTED + self._label())[1:].encode())
        self._state = _OUTSIDE
        return quote + 1

    def _label(self) -> str:
        if self._sink is None:
            return "dropped"
        self._count += 1
        return "bad" if self._bad else str(self._count - 1)

    def _decode(self, text: bytes, *, last: bool) -> None:
        if self._sink is None or self._bad:
            return
        text = self._carry + text if self._carry else text
        if b"\\" in text:
            text = text.replace(b"\\/", b"/")
        keep = 0 if last else len(text) % 4 or (4 if text.endswith((b"=", b"\\")) else 0)
        self._carry = text[len(text) - keep :]
        try:
            self._sink.write(pybase64.b64decode(text[: len(text) - keep], validate=True))
        except binascii.Error:
            self._bad = True


def _string_end(buffer: bytes, start: int) -> int:
    """Index of the quote that ends the string, -1 if it is not in the buffer yet. RFC 8259 section 7."""
    quote = buffer.find(b'"', start)
    if quote < 0 or buffer.find(b"\\", start, quote) < 0:
        return quote
    position = start
    while True:
        quote = buffer.find(b'"', position)
        if quote < 0:
            return -1
        backslashes = 0
        while quote - backslashes > start and buffer[quote - backslashes - 1] == 0x5C:
            backslashes += 1
        if backslashes % 2 == 0:
            return quote
        position = quote + 1
