"""Cuts a subject out of a plain background, with real transparency: by colour, or from the same image on white and on
black. Pure.

Pillow's arithmetic is exact enough: alpha is within 0.01 of the truth if the backgrounds are what they should be.
Source: A. R. Smith and J. F. Blinn, Blue Screen Matting, SIGGRAPH 1996 (theorem 4, triangulation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, ImageColor, ImageFilter, ImageMath, ImageStat

STRIP_PX = 256  # rows that are computed at once, in 32-bit numbers
KEY_DISTANCE = 24  # of 441 between black and white: anything nearer to the background's colour belongs to it
NEAR_KEY = 120  # how far around its own colour is looked for: a model's #00ff00 is not exact
MIN_BORDER = 0.5  # share of the border that must have one colour for it to be the background's
MIN_KEY = 0.01  # share of the image that must be background
WHITE_LEAST, BLACK_MOST = 200, 55
DISAGREEMENT = 64  # of 255: channels that differ, or a difference that no background explains
MAX_DISAGREEMENT = 0.05  # share of the pixels that are not background
NOISE = 0.015  # of alpha, at either end
SPREAD_SCALE = 4  # nearby colours are looked for at a quarter of the size
MIN_SPREAD_ALPHA = 64  # of 255: the mean colour of fainter pixels is not exact enough
MIXTURE_COSINE = 0.96  # of the angle between two directions
OWN_COLOUR_OPAQUE = 0.8  # of the distance to the subject's mean colour: its other colours are opaque from here
Colour = tuple[int, int, int]
Numbers = Any  # an operand of Pillow's: an image of 32-bit numbers, which supports + - * / and comparisons


def cut_by_key(image: Image.Image, background: str) -> Image.Image:
    """The RGBA of an RGB image with everything removed that has the background's colour, inside the subject too. Edges
    stay as soft as they were and keep none of that colour. background: `#rrggbb`, or empty for the border's own colour.
    Raises ValueError."""
    key = _own_shade(image, background) if background else _border_colour(image)
    distance = _distance(image, key)
    radius = max(2, max(image.size) // 40)  # the widest soft edge
    around = distance.point(lambda value: 255 * (value < KEY_DISTANCE)).filter(ImageFilter.BoxBlur(radius))
    background_mask = around.point(lambda value: 255 * (value == 255))
    subject_mask = around.point(lambda value: 255 * (value == 0))
    if ImageStat.Stat(background_mask).mean[0] < 255 * MIN_KEY:
        raise ValueError(f"less than {MIN_KEY:.0%} of the image is a background of {_hex(key)}")
    behind = _spread(image, background_mask, radius)
    subject = _spread(image, subject_mask, radius)
    noise = _percentile(distance.histogram(background_mask), 0.95)
    bands = {"c": image, "f": subject, "b": behind, "in": subject_mask, "out": background_mask}
    return _in_strips(bands, lambda a: _uncover(a, float(noise), key))


def _uncover(a: Mapping[str, Any], noise: float, key: Colour) -> list[Numbers]:
    """The alpha and colours of pixels. A colour between those of the background and the subject here is a mixture of
    the two: its position is its alpha, and the background's share is replaced by the subject's colour. Any other
    colour, such as that of an outline, is one of the subject's own, and becomes as grey as necessary to lose the key's
    hue."""
    value, most = a["float"], a["max"]
    colour, subject, behind = ([value(a[f"{name}{i}"]) for i in range(3)] for name in "cfb")
    apart, way = [colour[i] - behind[i] for i in range(3)], [subject[i] - behind[i] for i in range(3)]
    distance, whole = (most(sum(each * each for each in vector), 1.0) ** 0.5 for vector in (apart, way))
    is_mixture = value(sum(apart[i] * way[i] for i in range(3)) > distance * whole * MIXTURE_COSINE)
    whole = whole * (is_mixture + (1 - is_mixture) * OWN_COLOUR_OPAQUE)
    edge = (distance - noise) / most(whole - noise, 1.0) * 255
    alpha = a["convert"](most(edge, value(a["in0"])) * (a["out0"] == 0) + 0.5, "L")
    hue = [each - sum(key) / 3 for each in key]
    spill = most(sum(colour[i] * hue[i] for i in range(3)) / (sum(each * each for each in hue) or 1.0), 0.0)
    is_edge = value(a["in0"] == 0)
    mixed, own = is_mixture * (1 - value(alpha) / 255), (1 - is_mixture) * is_edge * spill
    return [*((colour[i] + mixed * way[i] - own * hue[i] + 0.5) * (alpha > 0) for i in range(3)), alpha]


def cut_by_difference(on_white: Image.Image, on_black: Image.Image) -> Image.Image:
    """The RGBA of two RGB images that show the same on white and on black. Raises ValueError if they do not."""
    if on_white.size != on_black.size:
        black_size, white_size = (f"{image.width} x {image.height}" for image in (on_black, on_white))
        raise ValueError(f"the image on black is {black_size} and the one on white is {white_size}")
    white, black = (_median(image, _border(image)) for image in (on_white, on_black))
    if min(white) < WHITE_LEAST or max(black) > BLACK_MOST:
        raise ValueError(
            f"the borders of the images on white and on black are {_hex(white)} and {_hex(black)}: their channels have to be at"
            f" least {WHITE_LEAST} on white, and at most {BLACK_MOST} on black"
        )
    bands = {"w": on_white, "b": on_black}
    found = _in_strips(bands, lambda a: _disagreement(a, white, black))
    apart, subject, _, _ = (mean / 255 for mean in ImageStat.Stat(found).mean)
    if apart > MAX_DISAGREEMENT * subject:
        raise ValueError(
            f"the images on white and on black do not show the same: {apart / subject:.0%} of the subject differs by"
            f" more than {DISAGREEMENT} of 255 in a way that no background explains, and {MAX_DISAGREEMENT:.0%} is the most"
        )
    return _in_strips(bands, lambda a: _triangulate(a, white, black))


def _disagreement(a: Mapping[str, Any], white: Colour, black: Colour) -> list[Numbers]:
    """Two masks of 255: where the images cannot be of one subject, and where there is one."""
    value, most, least = a["float"], a["max"], a["min"]
    shown = [(value(a[f"w{i}"]) - value(a[f"b{i}"])) / ((white[i] - black[i]) / 255) for i in range(3)]
    high, low = most(most(shown[0], shown[1]), shown[2]), least(least(shown[0], shown[1]), shown[2])
    apart = ((high - low) > DISAGREEMENT) + (low < -DISAGREEMENT) + (high > 255 + DISAGREEMENT) > 0
    off_white, off_black = (
        sum(abs(value(a[f"{name}{i}"]) - level[i]) for i in range(3)) > KEY_DISTANCE
        for name, level in (("w", white), ("b", black))
    )
    subject = (off_white + off_black) > 0
    return [apart * 255, subject * 255, subject * 0, subject * 0]


def _triangulate(a: Mapping[str, Any], white: Colour, black: Colour) -> list[Numbers]:
    value, convert = a["float"], a["convert"]
    span = [float(w - b) for w, b in zip(white, black, strict=True)]
    weight = 255 / sum(each * each for each in span)
    shown = sum((value(a[f"w{i}"]) - value(a[f"b{i}"])) * span[i] for i in range(3)) * weight
    alpha = convert((255 - shown - 255 * NOISE) / (1 - 2 * NOISE) + 0.5, "L")
    share = (value(alpha) + (alpha == 0)) / 255
    colours = [(value(a[f"b{i}"]) - (1 - share) * black[i]) / share for i in range(3)]
    return [*((colour + 0.5) * (alpha > 0) for colour in colours), alpha]


def _in_strips(images: Mapping[str, Image.Image], compute: Callable[[Mapping[str, Any]], list[Numbers]]) -> Image.Image:
    """The RGBA image of four bands, computed from the bands of these images, by name and number."""
    width, height = next(iter(images.values())).size
    made = Image.new("RGBA", (width, height))
    for top in range(0, height, STRIP_PX):
        box = (0, top, width, min(height, top + STRIP_PX))
        strips = {
            f"{name}{i}": band for name, image in images.items() for i, band in enumerate(image.crop(box).split())
        }
        bands = [band.im.convert("L") for band in ImageMath.lambda_eval(compute, **strips)]
        made.paste(Image.merge("RGBA", bands), box)
    return made


# --- what is measured


def _border(image: Image.Image) -> Image.Image:
    """A mask of its outermost pixels, one in a hundred."""
    deep = max(1, min(image.size) // 100)
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (deep, deep, max(deep, image.width - deep), max(deep, image.height - deep)))
    return mask


def _border_colour(image: Image.Image) -> Colour:
    border = _border(image)
    colour = _median(image, border)
    of_it = _distance(image, colour).histogram(border)
    if sum(of_it[:KEY_DISTANCE]) < MIN_BORDER * sum(of_it):
        raise ValueError(
            f"less than {MIN_BORDER:.0%} of the border is of one colour: ask for a plain background, and name its colour as"
            " `background` where the subject touches the border"
        )
    return colour


def _own_shade(image: Image.Image, background: str) -> Colour:
    """The image's own shade of this colour."""
    near = _distance(image, _rgb(background)).point(lambda value: 255 * (value < NEAR_KEY))
    if ImageStat.Stat(near).mean[0] < 255 * MIN_KEY:
        raise ValueError(f"less than {MIN_KEY:.0%} of the image is a background of {background}")
    return _median(image, near)


def _distance(image: Image.Image, colour: Colour) -> Image.Image:
    """A mask of how far each pixel is from a colour, at most 255."""

    def compute(a: Mapping[str, Any]) -> list[Numbers]:
        apart = [a["float"](a[f"c{i}"]) - colour[i] for i in range(3)]
        return [(sum(each * each for each in apart) ** 0.5) + 0.5] * 4

    return _in_strips({"c": image}, compute).getchannel(0)


def _spread(image: Image.Image, mask: Image.Image, radius: int) -> Image.Image:
    """An RGB image of the mean colour of the masked pixels near each pixel, or of the nearest there are."""
    marked = image.copy()
    marked.putalpha(mask)
    small = marked.convert("RGBa").reduce(SPREAD_SCALE)
    mean = ImageStat.Stat(image, mask).median if mask.getbbox() else (0, 0, 0)
    made = Image.new("RGB", small.size, tuple(map(int, mean)))
    widest = math.ceil(math.log2(max(2, max(image.size) / radius)))
    for wide in (radius / SPREAD_SCALE * 2**step for step in range(widest, 0, -1)):
        near = small.filter(ImageFilter.BoxBlur(wide)).convert("RGBA")
        made.paste(near, mask=near.getchannel("A").point(lambda value: 255 * (value >= MIN_SPREAD_ALPHA)))
    return made.resize(image.size, Image.Resampling.BILINEAR)


def _median(image: Image.Image, mask: Image.Image) -> Colour:
    red, green, blue = (int(each) for each in ImageStat.Stat(image, mask).median)
    return red, green, blue


def _percentile(histogram: list[int], share: float) -> int:
    wanted, seen = share * sum(histogram), 0
    for value, count in enumerate(histogram):
        seen += count
        if seen >= wanted:
            return value
    return len(histogram)


def _rgb(colour: str) -> Colour:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{each:02x}" for each in colour)
