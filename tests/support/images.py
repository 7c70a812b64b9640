"""Image files for tests: whole, damaged behind a sound structure, or incompressible."""

from __future__ import annotations

import io
import random
import struct
import zlib

from PIL import Image


def encoded(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HEADER = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 400, 300, 8, 2, 0, 0, 0))
UNSOUND = {  # whole by its structure
    "PNG": png_of(HEADER, png_chunk(b"IDAT", zlib.compress(bytes(100))), png_chunk(b"IEND", b"")),
    "JPEG": WHOLE["JPEG"].replace(b"\xff\xdb", b"\xff\xfe"),  # its quantization tables have become comments
}


def noise(size_bytes: int, seed: int = 0, kind: str = "PNG") -> bytes:
    """A picture of at least about so many bytes that does not compress."""
    side = max(8, int((size_bytes / 3) ** 0.5) + 1)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3)).save(buffer, kind)
    return buffer.getvalue()
