"""Whether a file is one whole picture: type by content, declared size within reason, structure complete."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

from PIL import Image

from batchgen.errors import ImageError
from batchgen.store.sniff import HEAD_BYTES, Format, sniff

MAX_PIXELS = 150_000_000  # eight times a 4K picture; more is a bomb or a mistake
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Checked:
    format: Format
    width: int
    height: int


def check_image(path: str) -> Checked:
    """Raises ImageError(not_an_image | truncated | damaged | too_large) unless the file is one whole picture.

    PNG: every chunk's CRC up to IEND. JPEG: headers, and the end marker where the file ends; a file with something
    behind it is decoded to be sure. WebP and GIF: decoded. Pixels are otherwise not decoded: 2 ms a megabyte.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        kind = sniff(head)
        if kind is None:
            raise ImageError("not_an_image", f"the bytes are no picture (they begin with {head[:8]!r})")
        try:
            with Image.open(file, formats=[kind.upper()]) as image:
                width, height = image.size
                if kind == "png":
                    image.verify()
                elif kind != "jpeg" or not _ends_with_marker(path):
                    image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError("too_large", f"the picture declares too many pixels: {error}") from None
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more on hostile bytes
            reason = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise ImageError(reason, f"the {kind} is not whole: {error}") from None
    if kind == "png" and not _ends_with_iend(path):
        raise ImageError("truncated", "the PNG has no end")
    return Checked(kind, width, height)


def _tail(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read()


def _ends_with_marker(path: str) -> bool:
    return _tail(path, 2) == b"\xff\xd9"


def _ends_with_iend(path: str) -> bool:
    return b"IEND\xaeB`\x82" in _tail(path, 4096)


def mismatch(checked: Checked, ratio: str | None, expected: tuple[int, int] | None) -> tuple[str, ...]:
    """What is other than asked for: `ratio` beyond 5 %, else `size` when the pixels are known and differ by more than 5 %."""
    flags: list[str] = []
    if ratio is not None:
        wide, high = (int(part) for part in ratio.split(":"))
        if abs(checked.width * high / (checked.height * wide) - 1) > 0.05:
            flags.append("ratio")
    if expected is not None and "ratio" not in flags and abs(checked.width / expected[0] - 1) > 0.05:
        flags.append("size")
    return tuple(flags)
