"""Reads the answer to a request within bounds, so that a hostile server cannot fill the memory. Long strings in it may
be on disk already. Also says what it means if no answer comes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

import aiohttp
import pybase64

from batchgen.errors import ConnectFailed, Malformed, Unanswered
from batchgen.http.base64_stream import NO_DECODING_BYTES, THRESHOLD_BYTES, BodyDecoder, StreamingBase64Decoder
from batchgen.http.proxies import Proxy
from batchgen.settings import SECRET_MIN_CHARS

STEP_BYTES = 256 * 1024
ERROR_MAX_BYTES = 1024 * 1024
HEAD_BYTES = 20_000  # of a body that is too large, read for its message
_GZIP_OR_DEFLATE = 32 + zlib.MAX_WBITS  # zlib tells from the header whether it is gzip or deflate
NETWORK_ERRORS = (aiohttp.ClientError, OSError, UnicodeError)  # UnicodeError: a malformed host name


class HttpAnswer:
    """A whole HTTP answer whose long strings were decoded to disk. Call `envelope()` in a thread: it decodes and
    writes.

    received_s: when the last byte came, in seconds of `time.monotonic()`.
    """

    __slots__ = ("_decoder", "_rest", "_secrets", "headers", "received_s", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        rest: bytes,
        decoder: BodyDecoder | None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.received_s = time.monotonic()
        self.status = status
        self.headers = headers
        self._rest = rest
        self._decoder = decoder
        self._secrets = secrets

    def envelope(self) -> bytes:
        """The body without its long strings, and without the key if the server echoed it. Always the same.

        Raises Malformed(too_large) if too much is left of it, and what the sinks raise.
        """
        if self._decoder is not None and (len(self._rest) >= THRESHOLD_BYTES or self._decoder.has_input):
            with with_http_status(self.status):
                self._decoder.feed(self._rest)
                self._rest = self._decoder.close()
        self._decoder = None  # what is left contains no long string
        return redact_keys(self._rest, self._secrets)

    @property
    def is_decoded(self) -> bool:
        """Whether `envelope` has run."""
        return self._decoder is None

    def redacted_headers(self) -> dict[str, str]:
        """The headers, without the key if the server echoed it."""
        return {
            name: redact_keys(value.encode(errors="replace"), self._secrets).decode(errors="replace")
            for name, value in self.headers.items()
        }


def redact_keys(body: bytes, keys: Sequence[str]) -> bytes:
    """`body` without the keys, whether plain, in base64, in hex or percent-encoded.

    Vendors do echo keys: Google's 403 "Consumer 'api_key:…' has been suspended" does, and messages are kept.
    """
    for key in keys:
        if len(key) < SECRET_MIN_CHARS:  # a placeholder for a local server; no vendor's key is that short
            continue
        plain = key.encode()
        for form in (plain, pybase64.b64encode(plain).rstrip(b"="), plain.hex().encode(), quote(key, safe="").encode()):
            if form in body:
                body = body.replace(form, b"[key]")
    return body


class Decompressor:
    """Undoes an unrequested Content-Encoding step by step. Source: RFC 9110, 8.4.1."""

    def __init__(self, encoding: str, http_status: int) -> None:
        """encoding: the header's value, '' without one. Raises Malformed for anything other than gzip or deflate."""
        self._status = http_status
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            words = f"the answer is compressed as {name[:40]!r}, although batchgen asks for it uncompressed"
            raise Malformed(words, reason="compressed", http_status=http_status)
        self._inflate = None if name in ("", "identity") else zlib.decompressobj(_GZIP_OR_DEFLATE)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpack data into pieces of at most STEP_BYTES. Raises Malformed."""
        if self._inflate is None:
            yield data
            return
        piece = b""
        while data or len(piece) == STEP_BYTES:  # there may be more to unpack than came out
            try:
                piece = self._inflate.decompress(data, STEP_BYTES)
            except zlib.error as error:
                words = f"the answer cannot be decompressed: {error}"
                raise Malformed(words, reason="compressed", http_status=self._status) from None
            data = self._inflate.unconsumed_tail
            if piece:
                yield piece


def decompressor_for(response: aiohttp.ClientResponse) -> Decompressor:
    return Decompressor(response.headers.get("Content-Encoding", ""), response.status)


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a whole body. Raises Malformed. For an answer other than 2xx, the beginning is enough."""
    if not 200 <= response.status < 300:
        return await read_error_body(response)
    decoder, total = StreamingBase64Decoder(threshold_bytes=NO_DECODING_BYTES), 0
    decompressor = decompressor_for(response)
    with with_http_status(response.status):
        async for chunk in response.content.iter_any():
            for piece in decompressor.feed(chunk):
                total += len(piece)
                if total > max_bytes:
                    raise too_large_error(response, max_bytes)
                decoder.feed(piece)
        return decoder.close()


async def read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of an answer other than 2xx, or only its beginning if it is too large: the status decides."""
    decoder, body = StreamingBase64Decoder(threshold_bytes=NO_DECODING_BYTES), b""
    try:
        decompressor = decompressor_for(response)
        async for chunk in response.content.iter_any():
            for piece in decompressor.feed(chunk):
                body += piece
                decoder.feed(piece)
                if len(body) > ERROR_MAX_BYTES:
                    return body[:HEAD_BYTES]
        return body
    except Malformed:
        return body[:HEAD_BYTES]


def too_large_error(response: aiohttp.ClientResponse, max_bytes: int) -> Malformed:
    return Malformed(f"the answer is larger than {max_bytes} bytes", reason="too_large", http_status=response.status)


@contextmanager
def with_http_status(http_status: int) -> Iterator[None]:
    """Add this status to errors raised inside."""
    try:
        yield
    except Malformed as error:
        error.http_status = http_status
        raise


def no_answer_error(
    error: Exception, proxy: Proxy | None, timeout_s: float, *, sent: bool
) -> ConnectFailed | Unanswered:
    """The error for a request without a whole answer: one that was never sent can be repeated for free, one that was
    sent may have been billed."""
    if not sent:
        return ConnectFailed(f"no connection: {describe_network_error(error, proxy)}")
    if isinstance(error, TimeoutError):
        return Unanswered(f"no answer within {timeout_s:.0f} s", reason="timeout")
    return Unanswered(f"the connection broke before the answer: {short_text(error)}")


def describe_network_error(error: Exception, proxy: Proxy | None) -> str:
    if proxy is None:
        return short_text(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            return (
                f"the proxy {proxy} wants a user name and a password, or other ones (HTTP 407): correct {proxy.source}"
            )
        return f"the proxy {proxy} did not connect to the server (HTTP {error.status} {short_text(error.message)})"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} cannot be reached: {short_text(error)}"
    return f"{short_text(error)}, through the proxy {proxy}"


def short_text(error: Exception | str) -> str:
    """A network error in a few words. None of them contains credentials."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text)[:200]
