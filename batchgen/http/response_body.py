"""Reads the body of an answer within bounds: nothing of it is in memory that a hostile server could make large."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchgen.errors import Malformed
from batchgen.http.base64_stream import NO_DECODING_BYTES, StreamingBase64Decoder

if TYPE_CHECKING:
    import aiohttp

STEP_BYTES = 256 * 1024
ERROR_MAX_BYTES = 1024 * 1024
HEAD_BYTES = 20_000  # of a body that is too large, for its words
_GZIP_OR_DEFLATE = 32 + zlib.MAX_WBITS  # zlib finds out by the header whether it is gzip or deflate


class Decompressor:
    """Undoes a Content-Encoding that nobody asked for, step by step. Source: RFC 9110, 8.4.1."""

    def __init__(self, encoding: str, http_status: int) -> None:
        """encoding: the header's value, '' without one. Raises Malformed for one that is not gzip or deflate."""
        self._status = http_status
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            words = f"the answer is compressed as {name[:40]!r}, although batchgen asks for it uncompressed"
            raise Malformed(words, reason="compressed", http_status=http_status)
        self._inflate = None if name in ("", "identity") else zlib.decompressobj(_GZIP_OR_DEFLATE)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most STEP_BYTES when they are unpacked. Raises Malformed."""
        if self._inflate is None:
            yield data
            return
        piece = b""
        while data or len(piece) == STEP_BYTES:  # what it has read may still hold more than it gave
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
    """A body that is read whole. Raises Malformed; of an answer other than 2xx the beginning will do."""
    if not 200 <= response.status < 300:
        return await read_error_body(response)
    decoder, decompressor, total = (
        StreamingBase64Decoder(threshold_bytes=NO_DECODING_BYTES),
        decompressor_for(response),
        0,
    )
    with with_http_status(response.status):
        async for chunk in response.content.iter_any():
            for piece in decompressor.feed(chunk):
                total += len(piece)
                if total > max_bytes:
                    raise too_large_error(response, max_bytes)
                decoder.feed(piece)
        return decoder.close()


async def read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """What an answer other than 2xx says of itself; of one that is too large its beginning, for the status decides."""
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
    """What is raised in here belongs to an answer of this status."""
    try:
        yield
    except Malformed as error:
        error.http_status = http_status
        raise
