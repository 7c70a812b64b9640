"""Pillow with a limit on what it decodes. Import this module wherever images from others are opened."""

from __future__ import annotations

import warnings
from typing import BinaryIO

from PIL import Image

from batchgen.store.sniff import MAX_PIXELS as MAX_PIXELS
from batchgen.store.sniff import Format

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
TOO_MANY_PIXELS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
NOT_READABLE = (SyntaxError, ValueError, *TOO_MANY_PIXELS)  # besides OSError


def image_size(file: BinaryIO, kind: Format, *, decoded: bool) -> tuple[int, int]:
    """Width and height. decoded: look at the whole image, not only its head. Raises what Pillow raises."""
    file.seek(0)
    with Image.open(file, formats=[kind.upper()]) as image:
        size = image.size
        if decoded:
            image.load()
        return size
