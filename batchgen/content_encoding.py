"""Undoes a Content-Encoding that nobody asked for, step by step: what unpacks to gigabytes never stands in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from batchgen.errors import Malformed

STEP_BYTES = 256 * 1024
_EITHER = 32 + zlib.MAX_WBITS  # zlib finds out by the header whether it is gzip or deflate


class Unpacker:
    """Of one answer. Source: RFC 9110, 8.4.1."""

    def __init__(self, encoding: str, http_status: int) -> None:
        """encoding: the header's value, '' without one. Raises Malformed for one that is not gzip or deflate."""
        self._status = http_status
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            words = f"the answer is compressed as {name[:40]!r}, although batchgen asks for it uncompressed"
            raise Malformed(words, reason="compressed", http_status=http_status)
        self._inflate = None if name in ("", "identity") else zlib.decompressobj(_EITHER)

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
