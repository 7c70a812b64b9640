"""Thought signatures: opaque bytes that a client has to send back unchanged, each with the part it came on."""

from __future__ import annotations

import base64
import functools
import hashlib

_MARK = b"batchgen emulator thought signature "
_DIGEST_BYTES = 30  # mark and digest together are a multiple of 3, so that their base64 has no padding inside
# ai.google.dev/gemini-api/docs/thought-signatures, for turns that another model wrote.
_WAIVERS = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
_WAIVED = frozenset(
    raw
    for word in _WAIVERS
    for raw in (word.encode(), base64.b64decode(word.replace("_", "/") + "=" * (-len(word) % 4)))
)


@functools.lru_cache(maxsize=4)
def _filler(length_bytes: int) -> str:
    """Base64 of bytes that do not compress; the same for every part, so that it is made once."""
    blocks = (hashlib.sha512(number.to_bytes(8, "big")).digest() for number in range(length_bytes // 64 + 1))
    return base64.b64encode(b"".join(blocks)[:length_bytes]).decode("ascii")


def make_signature(content: bytes, length_bytes: int) -> str:
    """Sign one part: its text, or the sha256 of its picture. At least 66 bytes long before base64."""
    head = _MARK + hashlib.sha256(content).digest()[:_DIGEST_BYTES]
    return base64.b64encode(head).decode("ascii") + _filler(max(0, length_bytes - len(head)))


def is_served(value: bytes, content: bytes, length_bytes: int) -> bool:
    """Whether the signature came on this very part, or is one of the two documented words that waive the check."""
    return value in _WAIVED or base64.b64encode(value).decode("ascii") == make_signature(content, length_bytes)
