"""The checks that need only Pillow. Each is a pure function of an image, its options and what was requested."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from operator import mul
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageStat

from batchgen.review.check_type import Asked, Finding
from batchgen.review.image import CheckImage, opaque, print_of
from batchgen.store.check import ImageInfo, mismatch_flags

BLANK_RANGE = 16  # of 255: levels between the darkest and the lightest field of a blank image, in any channel
BLANK_FIELDS = 48  # fields on a side
COPY_TOLERANCE = 12  # of 255, in any of 32 x 32 fields
SHARP_PX = 1024  # the longer side at which sharpness is measured
BLUR_RADIUS = 4
EDGE_SHARE = 0.02  # of the shorter side: the width of the frame that counts as background
PLAIN_TOLERANCE = 24  # of 255, in any channel
CLEAR = 8  # of 255: opacity that nobody can see
HASH_SIDE_PX = 32
HASH_FREQUENCIES = 8
HASH_NOISE = 50.0  # of a frequency, as caused by scaling and compression
_COSINES = [
    [math.cos(math.pi * k * (2 * x + 1) / (2 * HASH_SIDE_PX)) for x in range(HASH_SIDE_PX)]
    for k in range(HASH_FREQUENCIES)
]


def blank(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Check whether an image is blank: no field differs from another. score: the largest difference, of 255 levels."""
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
    """Compute an image's hash and fields for the comparison with other images (`review/twins.py`), and check whether it
    is a copy of a reference. A blank image has neither. score: for a copy, the largest difference of a field, of 255
    levels."""
    if _levels(image) <= BLANK_RANGE:
        return Finding()
    seen = image.opaque_thumbnail
    details: dict[str, Any] = {"hash": f"{perceptual_hash(seen):016x}", "fields": _fields(seen).hex()}
    fields = print_of(seen)
    for path, reference in image.reference_prints():
        away = max(map(abs, map(int.__sub__, fields, reference)))
        if away <= COPY_TOLERANCE:
            details["reference"] = path
            return Finding(
                reason="copy_of_reference", message=f"is its reference {path}, unchanged", score=away, details=details
            )
    return Finding(details=details)


def sharp(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Check whether an image is sharp: it loses much when blurred, as only sharp images do. score: 0 to 100; None for a
    blank image.

    Source: Crete, Dolmiere, Ladret, Nicolas, The blur effect: perception and estimation with a new no-reference
    perceptual blur metric (SPIE 2007); the score is 100 (1 - blur).
    """
    if _levels(image) <= BLANK_RANGE:
        return Finding()
    grey = opaque(image.pixels).convert("L")
    grey.thumbnail((SHARP_PX, SHARP_PX), Image.Resampling.BOX)
    score = round(100 * min(_lost(grey, 1, 0), _lost(grey, 0, 1)), 1)
    if score >= options["least"]:
        return Finding(score=score)
    return Finding(
        reason="blurred", message=f"is blurred: {score:g} of 100, at least {options['least']:g} asked for", score=score
    )


def size(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Check whether an image has the requested ratio and size, by the same rule as the flags of every file."""
    wide, high = image.size
    flags = mismatch_flags(ImageInfo("png", wide, high), asked.aspect_ratio, asked.expected)
    if not flags:
        return Finding()
    wanted = f"{asked.expected[0]} x {asked.expected[1]}" if asked.expected else str(asked.aspect_ratio)
    return Finding(reason=flags[0], message=f"has {wide} x {high} pixels where {wanted} was asked for")


def background(image: CheckImage, options: Mapping[str, Any], asked: Asked) -> Finding:
    """Check whether the edges have one colour, or are transparent. score: their share, from 0 to 1."""
    edges = _edges(image.thumbnail.convert("RGBA"))
    clear = [alpha <= CLEAR for _, _, _, alpha in edges]
    if options["kind"] == "transparent":
        share = round(sum(clear) / len(edges), 3)
        if share >= options["share"]:
            return Finding(score=share)
        missing = "nothing is" if not any(clear) else f"only {share:.0%} of its edges are"
        return Finding(reason="background", message=f"{missing} transparent along its edges", score=share)
    wanted = options["colour"]
    colour = (
        tuple(sorted(channel)[len(channel) // 2] for channel in list(zip(*edges, strict=True))[:3])
        if wanted is None
        else tuple(bytes.fromhex(wanted[1:]))
    )
    same = [
        not gone and max(abs(a - b) for a, b in zip(pixel[:3], colour, strict=True)) <= PLAIN_TOLERANCE
        for pixel, gone in zip(edges, clear, strict=True)
    ]
    share = round(sum(same) / len(edges), 3)
    if share >= options["share"]:
        return Finding(score=share)
    named = wanted or "one colour"
    return Finding(reason="background", message=f"{share:.0%} of its edges are of {named}", score=share)


def _lost(grey: Image.Image, across: int, down: int) -> float:
    """The share of the differences between neighbours that a blur removes, along one axis."""
    blurred = grey.filter(ImageFilter.BoxBlur((BLUR_RADIUS * across, BLUR_RADIUS * down)))
    sharp_differences = _differences(grey, across, down)
    lost = ImageChops.subtract(sharp_differences, _differences(blurred, across, down))
    return ImageStat.Stat(lost).sum[0] / max(1.0, ImageStat.Stat(sharp_differences).sum[0])


def _differences(grey: Image.Image, across: int, down: int) -> Image.Image:
    wide, high = grey.size
    return ImageChops.difference(grey.crop((across, down, wide, high)), grey.crop((0, 0, wide - across, high - down)))


def _edges(thumbnail: Image.Image) -> list[tuple[int, int, int, int]]:
    """The pixels of a frame along all four edges. thumbnail: in RGBA."""
    wide, high = thumbnail.size
    frame = max(1, round(min(wide, high) * EDGE_SHARE))
    boxes = (
        (0, 0, wide, frame),
        (0, high - frame, wide, high),
        (0, frame, frame, high - frame),
        (wide - frame, frame, wide, high - frame),
    )
    pixels = b"".join(thumbnail.crop(box).tobytes() for box in boxes)
    return list(struct.iter_unpack("4B", pixels))


def _fields(image: Image.Image) -> bytes:
    """The mean brightness of 8 x 8 fields, then the mean colours of 3 x 3. image: in RGB."""
    grey = image.convert("L").resize((8, 8), Image.Resampling.HAMMING).tobytes()
    return grey + image.resize((3, 3), Image.Resampling.HAMMING).tobytes()


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


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that stay (almost) the same if an image is scaled, compressed or lightened a little: which of the lowest
    8 x 8 frequencies of the image, at 32 x 32 in grey, are high.

    Source: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), 3.2.1. There each
    frequency is compared with the median, which for symmetric images, such as a product on white, lies among
    frequencies that are noise, so that the same image, scaled, differs in 20 bits. Here it is compared with more than
    noise. The package imagehash needs numpy and scipy, which a run does not otherwise need.
    """
    grey = image.convert("L").resize((HASH_SIDE_PX, HASH_SIDE_PX), Image.Resampling.HAMMING).tobytes()
    rows = [grey[at : at + HASH_SIDE_PX] for at in range(0, HASH_SIDE_PX * HASH_SIDE_PX, HASH_SIDE_PX)]
    across = [[sum(map(mul, row, cosines)) for row in rows] for cosines in _COSINES]  # by frequency, then by row
    found = [sum(map(mul, column, cosines)) for cosines in _COSINES for column in across]
    return sum(1 << bit for bit, value in enumerate(found) if value > HASH_NOISE)
