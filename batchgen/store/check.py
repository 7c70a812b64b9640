"""Whether bytes are one whole picture: type by content, declared size within reason, structure complete."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from batchgen.errors import ImageError
from batchgen.store.sniff import HEAD_BYTES, Format, sniff

MAX_PIXELS = 150_000_000  # eight times a 4K picture; more is a bomb or a mistake
PIECE_BYTES = 256 * 1024
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Checked:
    format: Format
    width: int
    height: int


def check_file(path: str) -> Checked:
    """`check_image` of a file, in memory that does not grow with it."""
    with open(path, "rb", buffering=PIECE_BYTES) as file:
        return check_image(file)


def check_bytes(data: bytes) -> Checked:
    return check_image(io.BytesIO(data))


def check_image(file: BinaryIO) -> Checked:
    """Raises ImageError(not_an_image | truncated | damaged | too_large) unless the bytes are one whole picture.

    PNG: every chunk's CRC, up to IEND. JPEG: the headers, and the end marker where the bytes end; with something behind
    it, decoded to be sure. WebP and GIF: decoded. Pixels are otherwise not decoded: that would cost 20 ms a megabyte.
    """
    head = file.read(HEAD_BYTES)
    kind = sniff(head)
    if kind is None:
        raise ImageError("not_an_image", f"the bytes are no picture (they begin with {head[:8]!r})")
    file.seek(0)
    width, height = _check_png(file) if kind == "png" else _check_with_pillow(file, kind)
    return Checked(kind, width, height)


def _check_png(file: BinaryIO) -> tuple[int, int]:
    """Walk the chunks: length, type, data, CRC of type and data. Source: PNG (W3C, 3rd edition) sections 5.3 to 5.6."""
    file.seek(8)
    size: tuple[int, int] | None = None
    pixels = False
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ImageError("truncated", "the PNG ends before its end chunk")
        length, kind = struct.unpack(">I4s", head)
        first, crc = _sum_chunk(file, length, zlib.crc32(kind))
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


def _sum_chunk(file: BinaryIO, length: int, crc: int) -> tuple[bytes, int]:
    """The chunk's first bytes and the checksum over all of it, read in pieces."""
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
        raise ImageError("too_large", f"the picture declares {width} x {height} pixels")
    return width, height


def _check_with_pillow(file: BinaryIO, kind: Format) -> tuple[int, int]:
    try:
        with Image.open(file, formats=[kind.upper()]) as image:
            size = image.size
            if kind != "jpeg" or not _ends_with_end_marker(file):
                image.load()
            return size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", f"the picture declares too many pixels: {error}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, IndexError and more on hostile bytes
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise ImageError(reason, f"the {kind} is not whole: {error}") from None


def _ends_with_end_marker(file: BinaryIO) -> bool:
    """JPEG's EOI, ITU T.81 B.1.1.3. Leaves the position where it was."""
    position = file.tell()
    file.seek(-2, os.SEEK_END)
    tail = file.read(2)
    file.seek(position)
    return tail == b"\xff\xd9"


def mismatch(checked: Checked, ratio: str | None, expected: tuple[int, int] | None) -> tuple[str, ...]:
    """What is other than was asked for: `ratio` when it is more than 5 % off, else `size` when the longer side is.

    expected: the pixels the vendor documents for this ratio, which need not be exactly in it; None where it does not.
    """
    if expected is None and ratio is None:
        return ()
    wide, high = expected or (int(part) for part in (ratio or "1:1").split(":"))
    if abs(checked.width * high / (checked.height * wide) - 1) > 0.05:
        return ("ratio",)
    longest, wanted = max(checked.width, checked.height), max(wide, high)  # of 1:8, page and measurement differ by 5 %
    return ("size",) if expected and abs(longest / wanted - 1) > 0.05 else ()
