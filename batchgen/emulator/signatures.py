"""Thought signatures: opaque bytes that a client has to send back unchanged."""

from __future__ import annotations

import base64
import functools
import hashlib

_MARK = b"batchgen emulator thought signature "


@functools.lru_cache(maxsize=4)
def _raw(length_bytes: int) -> bytes:
    """Our mark, then bytes that do not compress; the same for every part, so that it is made once."""
    blocks = (hashlib.sha512(number.to_bytes(8, "big")).digest() for number in range(length_bytes // 64 + 1))
    return (_MARK + b"".join(blocks))[: max(length_bytes, len(_MARK) + 8)]


@functools.lru_cache(maxsize=4)
def signature(length_bytes: int) -> str:
    return base64.b64encode(_raw(length_bytes)).decode("ascii")


def is_ours_and_broken(value: bytes, length_bytes: int) -> bool:
    """A signature of this emulator that was cut or changed on its way; foreign ones cannot be judged."""
    return value.startswith(_MARK) and value != _raw(length_bytes)
