"""Checks whether bytes are one whole image: the type by content, a reasonable size, and a complete structure."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from batchgen.errors import BatchgenError
from batchgen.store.sniff import HEAD_BYTES, MAX_PIXELS, Format, sniff

PIECE_BYTES = 256 * 1024


class ImageError(BatchgenError):
    """Bytes that are not a whole image. `reason` is a stable slug: not_an_image, truncated, too_large, damaged."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageInfo:
    format: Format
    width: int
    height: int


def check_file(path: str) -> ImageInfo:
    """Check a file like `check_image`, in memory that does not grow with it."""
    with open(path, "rb", buffering=PIECE_BYTES) as file:
        return check_image(file)


def check_bytes(data: bytes) -> ImageInfo:
    return check_image(io.BytesIO(data))


def check_image(file: BinaryIO) -> ImageInfo:
    """Raises ImageError(not_an_image | truncated | damaged | too_large) unless the bytes are one whole image.

    Every format says where it ends: PNG's IEND, JPEG's end marker, the size in WebP's header, GIF's trailer. An image
    that ends before is truncated; one with something after its end is decoded to be sure. So are all WebP and GIF
    images, whose structure says little. For PNG every chunk's CRC is checked. Decoding everything would cost 20 ms a
    megabyte.
    """
    head = file.read(HEAD_BYTES)
    kind = sniff(head)
    if kind is None:
        raise ImageError("not_an_image", f"the bytes are not an image (they begin with {head[:8]!r})")
    size_bytes = file.seek(0, os.SEEK_END)
    if kind == "png":
        size = _walk_png(file)
        if file.tell() < size_bytes:
            size = _size_by_pillow(file, kind, decoded=True)
    elif kind == "jpeg":
        size = _size_by_pillow(file, kind, decoded=not _ends_with_end_marker(file))
    else:
        end = _webp_end(file) if kind == "webp" else _gif_end(file)
        if end > size_bytes:
            raise ImageError("truncated", f"the {kind} ends before its end: {size_bytes} of {end} bytes are there")
        size = _size_by_pillow(file, kind, decoded=True)
    return ImageInfo(kind, *size)


def _walk_png(file: BinaryIO) -> tuple[int, int]:
    """The width and height of a PNG. Leaves the position after IEND.

    Chunks are length, type, data, CRC of type and data. Source: PNG (W3C, 3rd edition) sections 5.3 to 5.6.
    """
    file.seek(8)
    size: tuple[int, int] | None = None
    pixels = False
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ImageError("truncated", "the PNG ends before its end chunk")
        length, kind = struct.unpack(">I4s", head)
        first, crc = _checksum_chunk(file, length, zlib.crc32(kind))
        expected = file.read(4)
        if len(expected) < 4:
            raise ImageError("truncated", "the PNG ends inside a chunk")
        if crc != int.from_bytes(expected, "big"):
            raise ImageError("damaged", f"the PNG's {kind!r} chunk does not have the checksum that it names")
        if size is None:
            size = _png_size(kind, first)
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            if not pixels:
                raise ImageError("damaged", "the PNG holds no pixels")
            return size


def _checksum_chunk(file: BinaryIO, length: int, crc: int) -> tuple[bytes, int]:
    """The chunk's first bytes and the checksum of all of it, read in pieces."""
    first = b""
    while length:
        piece = file.read(min(length, PIECE_BYTES))
        if not piece:
            raise ImageError("truncated", "the PNG ends inside a chunk")
        first = first or piece
        crc = zlib.crc32(piece, crc)
        length -= len(piece)
    return first, crc


def _png_size(kind: bytes, data: bytes) -> tuple[int, int]:
    if kind != b"IHDR" or len(data) != 13:
        raise ImageError("damaged", "the PNG does not begin with its header")
    width, height = struct.unpack(">II", data[:8])
    if not width or not height:
        raise ImageError("damaged", "the PNG declares no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"the image declares {width} x {height} pixels")
    return width, height


def _size_by_pillow(file: BinaryIO, kind: Format, *, decoded: bool) -> tuple[int, int]:
    from batchgen.store.pillow import TOO_MANY_PIXELS, image_size  # Pillow, which most images, being PNG, do not need

    try:
        return image_size(file, kind, decoded=decoded)
    except TOO_MANY_PIXELS as error:
        raise ImageError("too_large", f"the image declares too many pixels: {error}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, IndexError and more on hostile bytes
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise ImageError(reason, f"the {kind} is not whole: {error}") from None


def _ends_with_end_marker(file: BinaryIO) -> bool:
    """Whether a JPEG ends with EOI, ITU T.81 B.1.1.3."""
    file.seek(-2, os.SEEK_END)
    return file.read(2) == b"\xff\xd9"


def _webp_end(file: BinaryIO) -> int:
    """Where a WebP ends, in bytes, by its RIFF header. RFC 9649, 2.4."""
    file.seek(4)
    return 8 + int.from_bytes(file.read(4), "little")


def _gif_end(file: BinaryIO) -> int:
    """Where a GIF ends, in bytes, after its trailer. Raises ImageError(truncated) if there is none. GIF89a, sections 15
    to 27."""
    file.seek(10)
    flags = file.read(1)
    file.seek(13 + _colours_bytes(flags))
    while (block := file.read(1)) != b";":
        if block == b"!":  # an extension: its label
            file.seek(1, os.SEEK_CUR)
        elif block == b",":  # an image: position and size, flags, colours, the code size of its data
            file.seek(8, os.SEEK_CUR)
            file.seek(_colours_bytes(file.read(1)) + 1, os.SEEK_CUR)
        elif not block:
            raise ImageError("truncated", "the gif ends before its trailer")
        else:
            continue  # decoders skip unknown bytes between blocks
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    return file.tell()


def _colours_bytes(flags: bytes) -> int:
    """The size of the following colour table, from the flags before it."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def mismatch_flags(checked: ImageInfo, ratio: str | None, expected: tuple[int, int] | None) -> tuple[str, ...]:
    """What is not as requested: `ratio` if it is more than 5 % off, else `size` if the longer side is.

    expected: the pixels that the vendor documents for this ratio, which need not match it exactly; None if
    undocumented.
    """
    if expected is None and ratio is None:
        return ()
    wide, high = expected or (int(part) for part in (ratio or "1:1").split(":"))
    if abs(checked.width * high / (checked.height * wide) - 1) > 0.05:
        return ("ratio",)
    # For 1:8, the documents and measurements differ by 5 %.
    longest, wanted = max(checked.width, checked.height), max(wide, high)
    return ("size",) if expected and abs(longest / wanted - 1) > 0.05 else ()


def is_truncated(path: str) -> bool:
    """Whether an image ends too early; other faults are not looked for."""
    try:
        check_file(path)
    except ImageError as error:
        return error.reason == "truncated"
    return False
