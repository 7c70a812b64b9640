"""Pictures of an exact number of bytes that no compressor can shrink, and the answer that carries one."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from math import isqrt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PAD_NAME = b"beNc"  # ancillary, private, safe to copy
IDAT_BYTES = 65_536  # how encoders cut the pixels


def noise_png(size_bytes: int, rng: random.Random) -> bytes:
    """A valid PNG of exactly `size_bytes` (at least 200): stored RGB noise, filled up with a private chunk.

    Source: PNG 3rd edition, 5.3 (chunks), 5.4 (chunk names), 10.1 (zlib stream).
    """
    side = isqrt(size_bytes // 3)
    while True:
        rows = b"".join(b"\x00" + rng.randbytes(3 * side) for _ in range(side))
        head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = _pixels(zlib.compress(rows, 0))
        pad = size_bytes - len(SIGNATURE) - len(head) - len(body) - 24  # two empty chunks: the pad and IEND
        if pad >= 0:
            return SIGNATURE + head + body + _chunk(PAD_NAME, rng.randbytes(pad)) + _chunk(b"IEND", b"")
        side -= 1


def _pixels(stream: bytes) -> bytes:
    return b"".join(_chunk(b"IDAT", stream[at : at + IDAT_BYTES]) for at in range(0, len(stream), IDAT_BYTES))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def gemini_answer(picture: bytes) -> bytes:
    """A body of generateContent with one picture. Source: ai.google.dev/api/generate-content."""
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(picture).decode()}}
    usage = {
        "promptTokenCount": 14,
        "candidatesTokenCount": 1120,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
        "totalTokenCount": 1134,
    }
    answer = {
        "candidates": [{"content": {"parts": [part], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
        "modelVersion": "gemini-nano-banana-2.1",
        "responseId": "benchmark",
    }
    return json.dumps(answer).encode()
