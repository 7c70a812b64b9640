"""An image's bytes to pixels as they are to be looked at."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from batchgen.store.pillow import MAX_PIXELS  # noqa: F401 - importing it sets the bound that Pillow keeps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class UprightImage(NamedTuple):
    """Pixels of eight bits in RGB, RGBA or L, as they are to be looked at; the profile of their colours; Exif that says so."""

    image: Image.Image
    icc: bytes | None
    exif: bytes


def decode(data: bytes, *, draft_px: int | None = None) -> UprightImage:
    """Raises what Pillow raises. draft_px: a JPEG comes as small as its format gives it cheaply, each side at least that long."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if draft_px is not None:
        image.draft(None, (draft_px, draft_px))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    about = dict(image.info)
    if image.mode == "CMYK":
        image, about["icc_profile"] = _cmyk_to_rgb(image, about.get("icc_profile")), None
    elif image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if "transparency" in about or "A" in image.mode else "RGB")
    elif "transparency" in about:
        image = image.convert("RGBA")
    image.info = {}  # Pillow would write some of it unasked
    return UprightImage(image, about.get("icc_profile"), about.get("exif", b""))


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """To sRGB through its profile, where it has one that can be read."""
    if icc:
        from PIL import ImageCms  # 10 ms, for these alone

        try:
            found = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")
