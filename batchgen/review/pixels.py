"""The checks that need nothing but Pillow. Each is a pure function of an image, its options and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from batchgen.review.checks import Asked, Finding
from batchgen.review.image import CheckImage, print_of
from batchgen.review.perceptual_hash import perceptual_hash

BLANK_RANGE = 16  # of 255: levels between the darkest and the lightest field of a blank image, in any colour
BLANK_FIELDS = 48  # fields a side
COPY_TOLERANCE = 12  # of 255, in any of 32 x 32 fields


def blank(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Whether no field of it differs from another. score: by how many levels of 255 they differ at most."""
    levels = _levels(image)
    if levels > BLANK_RANGE:
        return Finding(score=levels)
    if image.thumbnail.mode == "RGBA" and _extremes(image.thumbnail.getchannel("A"))[0][1] <= BLANK_RANGE:
        return Finding(reason="blank", message="the whole image is transparent", score=levels)
    red, green, blue = image.opaque_thumbnail.resize((1, 1), Image.Resampling.BOX).tobytes()
    return Finding(
        reason="blank", message=f"the whole image is of one colour, #{red:02x}{green:02x}{blue:02x}", score=levels
    )


def twin(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Its hash and mean colours, for the comparison with other images (`review/twins.py`); and whether it is a copy of a reference.
    A blank image has neither. score: of a copy, by how many levels of 255 a field differs at most."""
    if _levels(image) <= BLANK_RANGE:
        return Finding()
    seen = image.opaque_thumbnail
    details: dict[str, Any] = {
        "hash": f"{perceptual_hash(seen):016x}",
        "colours": seen.resize((3, 3), Image.Resampling.BOX).tobytes().hex(),
    }
    fields = print_of(seen)
    for path, reference in image.reference_prints():
        away = max(map(abs, map(int.__sub__, fields, reference)))
        if away <= COPY_TOLERANCE:
            details["reference"] = path
            return Finding(
                reason="copy_of_reference", message=f"is its reference {path}, unchanged", score=away, details=details
            )
    return Finding(details=details)


def _levels(image: CheckImage) -> int:
    """The largest difference between two fields in any colour or in opacity."""
    extremes = _extremes(image.opaque_thumbnail)
    if image.thumbnail.mode == "RGBA":
        extremes += _extremes(image.thumbnail.getchannel("A"))
    return max(high - low for low, high in extremes)


def _extremes(thumbnail: Image.Image) -> list[tuple[int, int]]:
    """The darkest and the lightest field of each channel."""
    fields = thumbnail.resize((BLANK_FIELDS, BLANK_FIELDS), Image.Resampling.BOX)
    return [band.getextrema() for band in fields.split()]  # type: ignore[misc]
