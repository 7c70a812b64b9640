"""Decodes an image's bytes to pixels in the orientation in which they should be seen."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from batchgen.store.pillow import MAX_PIXELS  # noqa: F401 - importing it sets the bound that Pillow keeps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class UprightImage(NamedTuple):
    """Upright 8-bit pixels in RGB, RGBA or L, their colour profile, and Exif that says so."""

    image: Image.Image
    icc: bytes | None
    exif: bytes


def decode(data: bytes, *, draft_px: int | None = None) -> UprightImage:
    """Decode an image. Raises what Pillow raises. draft_px: decode a JPEG only as large as its format allows cheaply,
    with each side at least this long."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if draft_px is not None:
        image.draft(None, (draft_px, draft_px))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    about = dict(image.info)
    if image.mode == "CMYK":
        image, about["icc_profile"] = _cmyk_to_rgb(image, about.get("icc_profile")), None
    elif image.mode.startswith("I"):  # 16-bit grey
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if "transparency" in about or "A" in image.mode else "RGB")
    elif "transparency" in about:
        image = image.convert("RGBA")
    image.info = {}  # Pillow would write some of it without being asked
    return UprightImage(image, about.get("icc_profile"), about.get("exif", b""))


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK pixels as sRGB, by the image's profile if it has a readable one."""
    if icc:
        from PIL import ImageCms  # 10 ms, only needed here

        try:
            found = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")
