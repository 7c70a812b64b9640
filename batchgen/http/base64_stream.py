"""Takes long base64 strings out of a JSON body as it arrives and decodes them to files, so that memory does not grow
with the image.

A push parser without I/O of its own: bytes go in; the body comes out with each long string replaced by
`"\\u0000lifted:N"`, and string N has been written, decoded, to the sink that the caller opened for it. What is left is
limited, too: in bytes, and in the number of objects that a JSON parser would make of it.
"""

from __future__ import annotations

import binascii
import io
import json
import re
from collections.abc import Callable
from typing import Protocol

import pybase64

from batchgen.errors import Malformed
from batchgen.records import DECODED_PREFIX

THRESHOLD_BYTES = 64 * 1024
ENVELOPE_MAX_BYTES = 8 * 1024 * 1024  # of all that is not decoded; thoughts, sources and error pages are far smaller
SIGNATURES_MAX_BYTES = 16 * 1024 * 1024  # in addition, if they are kept: one for each image, of 1 to 3 MB
MAX_TOKENS = 100_000  # strings, commas and opening brackets: a parser makes up to 1 KB of each
SIGNATURE_KEYS = frozenset({b"thoughtSignature", b"thought_signature"})  # megabytes that only conversations need again
_BASE64_START = re.compile(rb"(data:[\w.+;=/\\-]{0,100};base64,)?(?:[A-Za-z0-9+/]|\\/){256}")
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
NO_DECODING_BYTES = 1 << 62  # a threshold for bodies that are only to be limited
_OUTSIDE, _INSIDE, _DECODING, _COPYING = range(4)


class Sink(Protocol):
    def write(self, data: bytes) -> None: ...


class NullSink:
    """A sink for what is not wanted."""

    def __init__(self, number: int = 0) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass


class BodyDecoder(Protocol):
    """Receives the body of an answer as it arrives. `close` returns what a codec reads of it."""

    @property
    def has_input(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...

    def close(self) -> bytes: ...


class ImageBodyDecoder:
    """A body that is itself an image: all of it goes to file number 0, and nothing is left to read."""

    has_input = True

    def __init__(self, open_sink: Callable[[int], Sink]) -> None:
        self._sink = open_sink(0)

    def feed(self, data: bytes) -> None:
        self._sink.write(data)

    def close(self) -> bytes:
        return b""


class StreamingBase64Decoder:
    """Feed chunks, then call `close()` for the envelope. Not thread-safe; one call at a time. Both raise
    Malformed(too_large).

    open_sink: called with the number of each long string, in order of appearance. A long string that is not base64 is
    marked `lifted:bad` in the envelope, which a codec reads as a broken answer. signatures: keep them in the envelope
    unchanged, for the next turn of a conversation; they are dropped otherwise.
    """

    def __init__(
        self,
        open_sink: Callable[[int], Sink] = NullSink,
        threshold_bytes: int = THRESHOLD_BYTES,
        *,
        signatures: bool = False,
    ) -> None:
        self._open_sink = open_sink
        self._kept_keys = SIGNATURE_KEYS if signatures else frozenset[bytes]()
        self._threshold = threshold_bytes
        self._envelope = io.BytesIO()  # returns its contents, up to 24 MB, without a copy
        self._signature_bytes = 0
        self._tokens = 0
        self._buffer = b""
        self._state = _OUTSIDE
        self._key = b""  # the last short string outside: the key of what follows
        self._sink: Sink | None = None
        self._carry = b""
        self._is_invalid = False
        self._count = 0

    @property
    def has_input(self) -> bool:
        """Whether anything was fed yet."""
        return bool(self._envelope.tell() or self._buffer)

    def feed(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, wait = 0, False
        while position < len(buffer) and not wait:
            if self._state == _OUTSIDE:
                position = self._feed_outside(buffer, position)
            elif self._state == _INSIDE:
                position, wait = self._feed_inside(buffer, position)
            elif self._state == _COPYING:
                position, wait = self._feed_copying(buffer, position)
            else:
                position = self._feed_decoding(buffer, position)
        self._buffer = buffer[position:]

    def close(self) -> bytes:
        """The envelope. An unfinished string stays unfinished in it, so that reading it fails as it should."""
        self._emit(b'"' if self._state == _DECODING else self._buffer)
        self._buffer = b""
        return self._envelope.getvalue()

    def _emit(self, data: bytes, *, signature: bool = False) -> None:
        self._envelope.write(data)
        self._signature_bytes += len(data) if signature else 0
        rest_bytes = self._envelope.tell() - self._signature_bytes
        if rest_bytes > ENVELOPE_MAX_BYTES or self._signature_bytes > SIGNATURES_MAX_BYTES:
            most = ENVELOPE_MAX_BYTES if rest_bytes > ENVELOPE_MAX_BYTES else SIGNATURES_MAX_BYTES
            what = "text" if most == ENVELOPE_MAX_BYTES else "thought signatures"
            raise Malformed(f"the answer holds more than {most >> 20} MB of {what}", reason="too_large")

    def _feed_outside(self, buffer: bytes, position: int) -> int:
        quote = buffer.find(b'"', position)
        end = len(buffer) if quote < 0 else quote + 1
        self._emit(buffer[position:end])
        self._tokens += sum(buffer.count(mark, position, end) for mark in (b'"', b",", b"[", b"{"))
        if self._tokens > MAX_TOKENS:
            raise Malformed(f"the answer holds more than {MAX_TOKENS:,} JSON values", reason="too_large")
        if quote >= 0:
            self._state = _INSIDE
        return end

    def _feed_inside(self, buffer: bytes, start: int) -> tuple[int, bool]:
        """Handle a string that began at `start`: pass it on if it ends soon, otherwise decode it, or pass it on in
        pieces."""
        end = _string_end(buffer, start)
        length = (len(buffer) if end < 0 else end) - start
        if length >= self._threshold:
            base64 = None if self._key in self._kept_keys else _BASE64_START.match(buffer, start)
            if base64 is None:
                self._state = _COPYING
                return start, False
            self._begin_decoding()
            return start if base64[1] is None else base64.end(1), False
        if end < 0:
            return start, True
        if end - start <= 64:
            self._key = buffer[start:end]
        self._emit(buffer[start : end + 1])
        self._state = _OUTSIDE
        return end + 1, False

    def _feed_copying(self, buffer: bytes, position: int) -> tuple[int, bool]:
        """Pass on more of a long string that is not decoded. A backslash at the end waits for the character it
        escapes."""
        signature = self._key in self._kept_keys
        end = _string_end(buffer, position)
        if end < 0:
            end = len(buffer) - _is_escaped(buffer, position)
            self._emit(buffer[position:end], signature=signature)
            return end, True
        self._emit(buffer[position : end + 1], signature=signature)
        self._state = _OUTSIDE
        return end + 1, False

    def _begin_decoding(self) -> None:
        self._state = _DECODING
        self._carry, self._is_invalid = b"", False
        if self._key in SIGNATURE_KEYS:
            self._sink = None
            return
        self._sink = self._open_sink(self._count)

    def _feed_decoding(self, buffer: bytes, position: int) -> int:
        quote = buffer.find(b'"', position)
        end = len(buffer) if quote < 0 else quote
        self._decode(buffer, position, end, last=quote >= 0)
        if quote < 0:
            return end
        self._emit(json.dumps(DECODED_PREFIX + self._label())[1:].encode())
        self._state = _OUTSIDE
        return quote + 1

    def _label(self) -> str:
        if self._sink is None:
            return "dropped"
        self._count += 1
        return "bad" if self._is_invalid else str(self._count - 1)

    def _decode(self, buffer: bytes, start: int, end: int, *, last: bool) -> None:
        """Decode a piece of a string, from where it lies if it is plain and starts with a whole group: it may be
        megabytes."""
        if self._sink is None or self._is_invalid:
            return
        text: bytes | memoryview = memoryview(buffer)[start:end]
        if self._carry:
            text = self._carry + text
        if buffer.find(b"\\", start, end) >= 0 or b"\\" in self._carry:
            text = bytes(text).replace(b"\\/", b"/")
        keep = 0 if last else len(text) % 4 or (4 if bytes(text[-1:]) in (b"=", b"\\") else 0)
        self._carry = bytes(text[len(text) - keep :])
        try:
            self._sink.write(pybase64.b64decode(text[: len(text) - keep], validate=True))
        except binascii.Error:
            self._is_invalid = True


def _string_end(buffer: bytes, start: int) -> int:
    """The index of the quote that ends the string, -1 if it is not in the buffer yet. RFC 8259 section 7."""
    quote = buffer.find(b'"', start)
    if quote < 0 or buffer.find(b"\\", start, quote) < 0:
        return quote
    rest = _REST_OF_STRING.match(buffer, start)
    return -1 if rest is None else rest.end() - 1


def _is_escaped(buffer: bytes, start: int) -> bool:
    """Whether the last byte is a backslash that escapes what comes next. start: of the string, or of its rest."""
    return (len(buffer) - max(start, len(buffer.rstrip(b"\\")))) % 2 == 1
