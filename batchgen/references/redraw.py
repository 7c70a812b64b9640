"""A reference picture drawn anew in a format that every model takes: upright, in RGB of eight bits, its first frame."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import IO, Any, Literal

from PIL import Image, ImageCms, ImageOps

from batchgen.errors import UsageError
from batchgen.manifest.capability import CONVERTIBLE, accepts_mime_type
from batchgen.profiles.profile import Profile
from batchgen.references.local import ReferencePicture
from batchgen.safe_open import private_opener

SMALL_SIDE = 768  # pixels of the longer side; what models tile an image into
JPEG_QUALITY = 95  # of a photograph that was one before
Redrawn = Literal["PNG", "JPEG"]


@dataclass(frozen=True, slots=True)
class Redrawing:
    """What is sent in place of a picture. why: for people."""

    kind: Redrawn
    why: str


def redrawing(picture: ReferencePicture, profile: Profile) -> Redrawing | None:
    """What a model gets in place of a picture; None: the picture as it is. Raises UsageError where nothing can be made of it."""
    accepted = accepts_mime_type(profile, picture.mime_type)
    if accepted and not picture.redraw:
        return None
    was = picture.mime_type.removeprefix("image/")
    if picture.mime_type not in CONVERTIBLE:
        raise UsageError(f"is {picture.mime_type}, which {profile.id} does not take: save it as PNG or JPEG")
    if accepted:
        kind: Redrawn = "JPEG" if was == "jpeg" else "PNG"
        return Redrawing(kind, f"sent as {kind}, upright and in RGB, since models ignore EXIF rotation and CMYK")
    frame = " (of several frames the first)" if was == "gif" else ""
    return Redrawing("PNG", f"sent as PNG{frame}, for {profile.id} does not take {was}")


def redraw(source: IO[bytes], path: str, kind: Redrawn) -> None:
    """Under its name when it is whole. Raises what Pillow raises."""
    with Image.open(source) as image:
        drawn = as_seen(ImageOps.exif_transpose(image))
    about: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {"quality": JPEG_QUALITY, "subsampling": 0}
    with open(f"{path}.part", "wb", opener=private_opener) as part:
        drawn.save(part, kind, icc_profile=drawn.info.get("icc_profile"), **about)
    os.rename(f"{path}.part", path)


def small_jpeg(path: str, side: int = SMALL_SIDE) -> bytes:
    """The image as it is looked at where its finest details do not count, on white where it is transparent. Raises OSError."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))
            drawn = as_seen(ImageOps.exif_transpose(image))
    except (SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OSError(str(error)) from error
    drawn.thumbnail((side, side))
    if drawn.mode == "RGBA":
        drawn = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=85, icc_profile=drawn.info.get("icc_profile"))
    return file.getvalue()


def as_seen(image: Image.Image) -> Image.Image:
    """In RGB or RGBA. A profile of colours stays with colours that it describes."""
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
    """Grey of 16 or more bits, or of floats, by its whole range: a plain conversion makes all above 255 white."""
    highest: Any = image.getextrema()[1]
    if image.mode == "F":
        factor = 255.0 if highest <= 1 else 1.0 if highest <= 255 else 255 / 65535
    else:
        factor = 255 / 65535 if highest <= 65535 else 255 / (2**31 - 1)
    wide = image if image.mode == "F" else image.convert("I")
    return wide.point(lambda value: value * factor + 0.5).convert("L")


def _by_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Printing colours as the picture's own profile says, else by the plain formula."""
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
