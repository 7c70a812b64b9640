"""Redraws a reference image in a format that every model accepts: upright, 8-bit RGB, its first frame."""

from __future__ import annotations

import io
import os
from typing import IO, Any, Literal

from PIL import Image, ImageCms, ImageOps

from batchgen.safe_open import private_opener
from batchgen.store.pillow import NOT_READABLE

SMALL_SIDE = 768  # pixels of the longer side; the tiles that models divide an image into
JPEG_QUALITY = 95  # for what was a photograph before


def redraw(source: IO[bytes], path: str, kind: Literal["PNG", "JPEG"]) -> None:
    """Redraw an image. The file has its name when it is whole. Raises OSError."""
    about: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {"quality": JPEG_QUALITY, "subsampling": 0}
    try:
        with Image.open(source) as image:
            drawn = as_seen(ImageOps.exif_transpose(image))
        with open(f"{path}.part", "wb", opener=private_opener) as part:
            drawn.save(part, kind, icc_profile=drawn.info.get("icc_profile"), **about)
    except NOT_READABLE as error:
        raise OSError(str(error)) from error
    os.rename(f"{path}.part", path)


def small_jpeg(path: str) -> bytes:
    """A small copy of the image for uses in which its finest details do not matter, on white where it is transparent.
    Raises OSError."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (SMALL_SIDE, SMALL_SIDE))
            drawn = as_seen(ImageOps.exif_transpose(image))
    except NOT_READABLE as error:
        raise OSError(str(error)) from error
    drawn.thumbnail((SMALL_SIDE, SMALL_SIDE))
    if drawn.mode == "RGBA":
        drawn = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=85, icc_profile=drawn.info.get("icc_profile"))
    return file.getvalue()


def as_seen(image: Image.Image) -> Image.Image:
    """The image in RGB or RGBA. A colour profile stays if it fits the colours."""
    if image.mode[:1] in ("I", "F"):
        image = _eight_bits(image)
    profile = image.info.get("icc_profile")
    if image.mode in ("CMYK", "LAB"):
        return _by_profile(image, profile)
    has_alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    drawn = image.convert("RGBA" if has_alpha else "RGB")
    if image.mode in ("1", "L", "LA", "La"):
        drawn.info.pop("icc_profile", None)
    return drawn


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 or more bits, or of floats, in 8-bit grey by its whole range: a plain conversion makes everything
    above 255 white."""
    highest: Any = image.getextrema()[1]
    if image.mode == "F":
        factor = 255.0 if highest <= 1 else 1.0 if highest <= 255 else 255 / 65535
    else:
        factor = 255 / 65535 if highest <= 65535 else 255 / (2**31 - 1)
    wide = image if image.mode == "F" else image.convert("I")
    return wide.point(lambda value: value * factor + 0.5).convert("L")


def _by_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Printing colours converted by the image's own profile, else by the plain formula."""
    wanted = ImageCms.createProfile("sRGB")
    try:
        if image.mode == "LAB":
            own: Any = ImageCms.createProfile("LAB")
        elif profile:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            raise ImageCms.PyCMSError
        drawn = ImageCms.profileToProfile(image, own, wanted, outputMode="RGB") or image.convert("RGB")
    except (ImageCms.PyCMSError, OSError):
        drawn = image.convert("RGB")
    drawn.info.pop("icc_profile", None)
    return drawn
