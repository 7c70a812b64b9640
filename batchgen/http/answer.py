"""The answer to a request as it came: status, headers and body, whose long strings may be on disk already."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import quote

import pybase64

from batchgen.http.base64_stream import THRESHOLD_BYTES, StreamingBase64Decoder
from batchgen.http.response_body import (
    with_http_status,
)
from batchgen.settings import SECRET_MIN_CHARS


class HttpAnswer:
    """A whole HTTP answer whose long strings are lifted to disk. `envelope()` belongs in a thread: it decodes and writes.

    received_s: when the last byte was in, seconds of `time.monotonic()`.
    """

    __slots__ = ("_decoder", "_rest", "_secret", "headers", "received_s", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        rest: bytes,
        decoder: StreamingBase64Decoder | None,
        secret: str = "",
    ) -> None:
        self.received_s = time.monotonic()
        self.status = status
        self.headers = headers
        self._rest = rest
        self._decoder = decoder
        self._secret = secret

    def envelope(self) -> bytes:
        """The body without its long strings, and without our key should the server have echoed it; the same every time.

        Raises Malformed(too_large) when too much is left of it, and what the sinks raise.
        """
        if self._decoder is not None and (len(self._rest) >= THRESHOLD_BYTES or self._decoder.has_input):
            with with_http_status(self.status):
                self._decoder.feed(self._rest)
                self._rest = self._decoder.close()
        self._decoder = None  # what is left holds no long string
        return redact_key(self._rest, self._secret)

    @property
    def is_decoded(self) -> bool:
        """Whether `envelope` has gone through."""
        return self._decoder is None

    def redacted_headers(self) -> dict[str, str]:
        """Without our key, should the server have echoed it."""
        return {
            name: redact_key(value.encode(errors="replace"), self._secret).decode(errors="replace")
            for name, value in self.headers.items()
        }


def redact_key(body: bytes, key: str) -> bytes:
    """`body` with the key taken out as it is, in base64, in hex and percent-encoded.

    Vendors do echo keys: Google's 403 "Consumer 'api_key:…' has been suspended" does, and messages are kept.
    """
    if len(key) < SECRET_MIN_CHARS:  # a placeholder for a server on this machine; no vendor's key is that short
        return body
    plain = key.encode()
    for form in (plain, pybase64.b64encode(plain).rstrip(b"="), plain.hex().encode(), quote(key, safe="").encode()):
        if form in body:
            body = body.replace(form, b"[key]")
    return body
