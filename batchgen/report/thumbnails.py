"""Thumbnails of images, made once and kept in `.batchgen/thumbnails/` under the hash of the image."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from PIL import Image, ImageOps

from batchgen.ledger.schema import STATE_FOLDER
from batchgen.references.redraw import as_seen
from batchgen.safe_open import make_private_folder, private_opener
from batchgen.store.pillow import MAX_PIXELS

THUMBNAIL_SIDE_PX = 256
QUALITY = 50  # of WebP: 4 to 7 kB for a photograph of this size
LARGE_PIXELS = 20_000_000  # larger images (more than 4K) are decoded one at a time, to limit memory
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP")  # the last three are for references
LOOKAHEAD = 4  # finished thumbnails that may wait for their turn, per thread
FOLDER = "thumbnails"

_large = threading.Lock()


class PictureSource(Protocol):
    """Where images are read from."""

    def open(self, path: str, /) -> IO[bytes]:
        """Open an image. Raises OSError if there is none."""
        ...


class Thumbnails:
    """The thumbnails of one job folder. made: how many did not exist yet."""

    def __init__(self, job_folder: Path, source: PictureSource, threads: int | None = None) -> None:
        self.job_folder = job_folder
        self._source = source
        self._cache = job_folder / STATE_FOLDER / FOLDER
        self._threads = threads or min(4, os.cpu_count() or 1)
        self.made = 0

    def all(self, pictures: Iterable[tuple[str, str]]) -> Iterator[bytes]:
        """A WebP of each (path in the job folder, sha256), in order, a few ahead; empty if the image cannot be
        shown."""
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(self._threads, "thumbnail") as pool:
            for path, sha256 in pictures:
                waiting.append(pool.submit(self.thumbnail, path, sha256))
                if len(waiting) > self._threads * LOOKAHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def thumbnail(self, path: str, sha256: str) -> bytes:
        """One thumbnail. See `all`."""
        cached = self._cache / sha256[:2] / f"{sha256}.webp"
        with contextlib.suppress(OSError):
            return cached.read_bytes()
        small = shrink_stored(self._source, path)
        if small:
            self.made += 1
            with contextlib.suppress(OSError):  # a folder that cannot be written to is shown anyway
                _write_cached(cached, small)
        return small


def shrink_stored(source: PictureSource, path: str, side: int = THUMBNAIL_SIDE_PX) -> bytes:
    """Shrink an image, wherever it is. Raises BucketUnavailable."""
    try:
        with source.open(path) as picture:
            return shrink(picture, side)
    except OSError:
        return b""


def shrink(picture: Path | IO[bytes], side: int = THUMBNAIL_SIDE_PX) -> bytes:
    """A WebP of at most `side` pixels on a side; empty for an image that cannot be decoded."""
    try:
        with Image.open(picture, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                return b""
            with _large if pixels > LARGE_PIXELS else contextlib.nullcontext():
                return _webp(image, side)
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, IndexError and more on hostile bytes
        return b""


def _webp(image: Image.Image, side: int) -> bytes:
    image.draft("RGB", (side, side))  # a JPEG is decoded at an eighth of its size if that is enough
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode not in ("RGB", "RGBA", "L"):
        image = as_seen(image)
    image.thumbnail((side, side), reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=2)
    return out.getvalue()


def _write_cached(path: Path, data: bytes) -> None:
    make_private_folder(path.parent)
    temp_path = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open(temp_path, "wb", opener=private_opener) as file:
        file.write(data)
    os.replace(temp_path, path)
