"""An image as checks see it, decoded on demand and once for all of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from batchgen.derivatives.decode import FORMATS, decode
from batchgen.store.sniff import sniff

THUMBNAIL_PX = 256  # its longer side, at most
GREY = (128, 128, 128)  # behind transparent parts
PRINT_PX = 32


class CheckImage:
    """An image to check. Pixels are upright, 8-bit, in RGB, or in RGBA if something may be transparent."""

    def __init__(self, path: str, sha256: str, references: Sequence[str] = ()) -> None:
        """Raises OSError, and ValueError if these are not the bytes that the ledger knows."""
        self.data = Path(path).read_bytes()
        if hashlib.sha256(self.data).hexdigest() != sha256:
            raise ValueError("the file is not as the ledger has it: batchgen verify")
        self.references = references

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height from the file, before it is turned upright. Raises what Pillow raises."""
        with Image.open(io.BytesIO(self.data), formats=FORMATS) as image:
            return image.size

    @cached_property
    def pixels(self) -> Image.Image:
        """All pixels. Raises what Pillow raises."""
        return _colour(decode(self.data).image)

    @cached_property
    def thumbnail(self) -> Image.Image:
        """A copy of at most THUMBNAIL_PX in width and height. Raises what Pillow raises."""
        if sniff(self.data) == "jpeg" and "pixels" not in self.__dict__:
            return _thumbnail(_colour(decode(self.data, draft_px=THUMBNAIL_PX).image))
        return _thumbnail(self.pixels)

    @cached_property
    def opaque_thumbnail(self) -> Image.Image:
        """The thumbnail in RGB, on grey."""
        return opaque(self.thumbnail)

    def reference_prints(self) -> Iterator[tuple[str, bytes]]:
        """Each reference that can be read, with its `print_of`."""
        for path in self.references:
            try:
                found = os.stat(path)
                yield path, _reference_print(path, found.st_mtime_ns, found.st_size)
            except Exception:  # noqa: S112 - it was sent, so it is an image; one that Pillow cannot read is not compared
                continue


def opaque(image: Image.Image) -> Image.Image:
    """An image in RGB, on grey."""
    if image.mode != "RGBA":
        return image
    under = Image.new("RGB", image.size, GREY)
    under.paste(image, mask=image.getchannel("A"))
    return under


def print_of(image: Image.Image) -> bytes:
    """The mean colours of PRINT_PX times PRINT_PX fields. image: in RGB."""
    return image.resize((PRINT_PX, PRINT_PX), Image.Resampling.HAMMING).tobytes()


@lru_cache(maxsize=256)
def _reference_print(path: str, mtime_ns: int, size_bytes: int) -> bytes:
    data = Path(path).read_bytes()
    return print_of(opaque(_thumbnail(_colour(decode(data, draft_px=THUMBNAIL_PX).image))))


def _colour(image: Image.Image) -> Image.Image:
    return image.convert("RGB") if image.mode == "L" else image


def _thumbnail(image: Image.Image) -> Image.Image:
    image = (
        image.copy() if max(image.size) <= THUMBNAIL_PX else image.reduce(max(1, max(image.size) // (2 * THUMBNAIL_PX)))
    )
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return image
