"""Recognises the kind of an image by its first bytes alone, and whether a reference image has to be redrawn to look the
same to a model as to people."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import IO, Literal

Format = Literal["png", "jpeg", "webp", "gif"]
EXTENSION: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "gif": ".gif"}
HEAD_BYTES = 16  # enough for `sniff` and `picture_type`
MAX_PIXELS = 150_000_000  # eight times a 4K image; more is a bomb or a mistake
_SCANNED_BYTES = 65_536
_HEIF_BRANDS = {b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif"}
_AVIF_BRANDS = dict.fromkeys((b"avif", b"avis"), "image/avif")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's SOF markers, ITU T.81 table B.1


def sniff(head: bytes) -> Format | None:
    """The format by the first HEAD_BYTES; None if it is not an accepted image (SVG never is).

    Sources: PNG 3rd edition 5.2; ITU T.81 B.1.1.3 (SOI, then a marker); RFC 9649 (WebP in RIFF); GIF89a section 17.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def is_picture(path: str | Path) -> bool:
    """Whether a readable file is an image. A link is not, whatever it leads to."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # without waiting for a pipe
    with contextlib.suppress(OSError):
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(fd, "rb") as file:
            return sniff(file.read(HEAD_BYTES)) is not None
    return False


def picture_type(head: bytes) -> str | None:
    """The MIME type of a reference image by its first HEAD_BYTES, None for anything else (SVG is text, and never
    accepted).

    Recognises HEIF, AVIF, TIFF and BMP in addition to `sniff`. Sources: ISO/IEC 23008-12 10; AV1 Image File Format 1.1,
    6; TIFF 6.0 section 2; BITMAPFILEHEADER, whose reserved words are zero.
    """
    if (kind := sniff(head)) is not None:
        return f"image/{kind}"
    if head[:4] in _TIFF:
        return "image/tiff"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and len(head) >= 14:
        return "image/bmp"
    return (_HEIF_BRANDS | _AVIF_BRANDS).get(head[8:12]) if head[4:8] == b"ftyp" else None


def must_be_redrawn(file: IO[bytes], mime_type: str) -> bool:
    """Whether an image is rotated by its EXIF or has CMYK colours, neither of which a model is sure to apply.

    For PNG and WebP, where EXIF is rare: whether they have any. Reads a few hundred bytes. Leaves the position
    anywhere.
    """
    file.seek(0)
    if mime_type == "image/jpeg":
        return _jpeg_must_be_redrawn(file)
    head = file.read(_SCANNED_BYTES if mime_type == "image/png" else 32)
    if mime_type == "image/png":
        return b"eXIf" in head.partition(b"IDAT")[0]
    return mime_type == "image/webp" and head[12:16] == b"VP8X" and bool(head[20] & 0x08)  # RFC 9649, 2.7.1


def _jpeg_must_be_redrawn(file: IO[bytes]) -> bool:
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        marker, length = head[1], int.from_bytes(head[2:], "big") - 2
        if marker == 0xE1 and _orientation(file.read(length)) not in (0, 1):
            return True
        if marker in _FRAMES:
            return file.read(6)[5:] == b"\4"  # precision, height, width, then the number of colours
        if marker == 0xDA or length < 0:
            return False
        if marker != 0xE1:
            file.seek(length, os.SEEK_CUR)
    return False


def _orientation(segment: bytes) -> int:
    """The orientation, from 1 to 8; 0 if the segment does not say. Source: EXIF 2.32, 4.6.4."""
    tiff = segment.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or tiff is segment:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 0
