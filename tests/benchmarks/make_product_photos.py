"""Draws the product photographs in jobs/photos: shaded stoneware on a soft background. Run it from the project's root.

python tests/benchmarks/make_product_photos.py [FOLDER]
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE = 640
SCALE = 2  # drawn at twice the size, for smooth edges
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Product:
    sku: str
    glaze: Colour
    backdrop: Colour
    radius: Callable[[float], float]  # of the body at a height from 0 (foot) to 1 (rim), in pixels
    height: int
    handle: tuple[float, float] | None = None  # centre height and size, as parts of the body's height
    spout: bool = False


def mug(t: float) -> float:
    return 108 + 10 * math.sin(t * math.pi)


def bowl(t: float) -> float:
    return 70 + 145 * math.sqrt(t)


def vase(t: float) -> float:
    return 52 + 78 * math.sin(math.pi * (0.12 + 0.78 * t)) ** 2 + 14 * max(0.0, t - 0.85) / 0.15


def plate(t: float) -> float:
    return 110 + 120 * t


def jug(t: float) -> float:
    return 118 - 42 * t**2 + 24 * math.sin(t * math.pi)


def bottle(t: float) -> float:
    return 100 if t < 0.5 else 34 + 66 * (0.5 + 0.5 * math.cos(min(1.0, (t - 0.5) / 0.28) * math.pi))


PRODUCTS = (
    Product("NL-101", (196, 178, 150), (226, 219, 208), mug, 230, handle=(0.52, 0.62)),
    Product("NL-102", (92, 112, 96), (221, 222, 212), mug, 230, handle=(0.52, 0.62)),
    Product("NL-201", (78, 92, 108), (224, 221, 216), bowl, 165),
    Product("NL-301", (176, 108, 82), (229, 218, 206), vase, 350),
    Product("NL-401", (206, 200, 188), (208, 204, 198), plate, 46),
    Product("NL-501", (120, 132, 140), (228, 224, 216), jug, 300, handle=(0.6, 0.6), spout=True),
    Product("NL-601", (62, 66, 72), (218, 212, 204), bottle, 370),
    Product("NL-202", (214, 196, 168), (214, 208, 200), bowl, 120),
)


def background(colour: Colour) -> Image.Image:
    """A paper roll: light from the upper left, the table a little darker than the wall."""
    side = SIDE * SCALE
    glow = (
        Image.radial_gradient("L").resize((int(side * 1.9), int(side * 1.9))).crop((420, 520, 420 + side, 520 + side))
    )
    dark = Image.new("RGB", (side, side), tuple(int(channel * 0.78) for channel in colour))
    image = Image.composite(dark, Image.new("RGB", (side, side), colour), glow)
    table = Image.new("L", (side, side), 0)
    ImageDraw.Draw(table).rectangle((0, int(side * 0.66), side, side), fill=46)
    image.paste(tuple(int(channel * 0.7) for channel in colour), mask=table.filter(ImageFilter.GaussianBlur(70)))
    return image


def rows_of(product: Product) -> list[tuple[int, float]]:
    """(y, radius) of every line of the body, rim first, in drawn pixels."""
    foot = int(SIDE * 0.8) * SCALE
    height = product.height * SCALE
    return [(foot - height + y, product.radius(1 - y / height) * SCALE) for y in range(height)]


def shade(colour: Colour, across: float, rng: random.Random) -> Colour:
    """Light on a turned body: brightest left of the middle, a soft edge of reflected light at the right."""
    light = 0.42 + 0.72 * math.exp(-(((across + 0.38) / 0.55) ** 2)) + 0.16 * max(0.0, across - 0.72)
    grain = rng.uniform(-0.02, 0.02)
    red, green, blue = (max(0, min(255, int(channel * (light + grain)))) for channel in colour)
    return red, green, blue


def draw_body(image: Image.Image, product: Product) -> None:
    rng = random.Random(product.sku)
    middle = image.width // 2
    strip = Image.new("RGB", (256, 64))
    strip.putdata([shade(product.glaze, (x - 128) / 128, rng) for _ in range(64) for x in range(256)])
    rows = rows_of(product)
    for index, (y, radius) in enumerate(rows):
        line = strip.crop((0, index % 64, 256, index % 64 + 1)).resize((int(2 * radius), 4))  # 4: the sag leaves gaps
        sag = int(0.16 * radius)  # the camera looks a little from above
        image.paste(line, (middle - int(radius), y + sag))
    foot_y, foot_radius = rows[-1]
    ellipse(image, middle, foot_y + int(0.16 * foot_radius), foot_radius, 0.16, product, strip)
    draw_mouth(image, product, *rows[0])


def ellipse(
    image: Image.Image, x: int, y: int, radius: float, flat: float, product: Product, strip: Image.Image
) -> None:
    mask = Image.new("L", image.size, 0)
    box = (x - radius, y - radius * flat, x + radius, y + radius * flat)
    ImageDraw.Draw(mask).pieslice(box, 0, 180, fill=255)
    wide = strip.resize((int(2 * radius), int(2 * radius * flat) + 2))
    layer = Image.new("RGB", image.size, product.glaze)
    layer.paste(wide, (x - int(radius), int(y - radius * flat)))
    image.paste(layer, mask=mask)


def draw_mouth(image: Image.Image, product: Product, top: int, radius: float) -> None:
    """The rim as a bright ring, the inside darker towards the light."""
    middle, flat = image.width // 2, 0.16
    y = top + int(flat * radius)
    draw = ImageDraw.Draw(image)
    rim = tuple(min(255, int(channel * 1.12)) for channel in product.glaze)
    draw.ellipse((middle - radius, y - radius * flat, middle + radius, y + radius * flat), fill=rim)
    inner = radius - 7 * SCALE
    inside = Image.linear_gradient("L").rotate(-90).resize((int(2 * inner), max(2, int(2 * inner * flat))))
    dark = Image.new("RGB", inside.size, tuple(int(channel * 0.34) for channel in product.glaze))
    bright = Image.new("RGB", inside.size, tuple(int(channel * 0.86) for channel in product.glaze))
    mask = Image.new("L", inside.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, inside.width - 1, inside.height - 1), fill=255)
    image.paste(Image.composite(bright, dark, inside), (middle - int(inner), int(y - inner * flat)), mask)


def draw_handle(image: Image.Image, product: Product) -> None:
    if product.handle is None:
        return
    centre, size = product.handle
    foot, height = int(SIDE * 0.8) * SCALE, product.height * SCALE
    radius = min(product.radius(centre - size / 2), product.radius(centre + size / 2)) * SCALE
    x, y = image.width / 2 + radius * 0.94, foot - height * centre + 0.16 * radius
    high, wide, thick = height * size / 2, height * size / 2.6, 20 * SCALE
    box = (x - wide, y - high, x + wide, y + high)
    draw = ImageDraw.Draw(image)
    for inset in range(thick):
        light = 0.4 + 0.5 * math.sin(math.pi * (inset / thick) ** 0.8)
        tint = tuple(int(channel * light) for channel in product.glaze)
        part = (box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset)
        draw.arc(part, -96, 96, fill=tint, width=3)


def draw_spout(image: Image.Image, product: Product) -> None:
    if not product.spout:
        return
    top, radius = rows_of(product)[0]
    middle, y = image.width // 2, top + int(0.16 * radius)
    left = middle - radius
    tint = tuple(int(channel * 0.98) for channel in product.glaze)
    points = [(left + 16, y - 14), (left - 30, y - 14), (left - 26, y - 2), (left - 8, y + 60), (left + 40, y + 20)]
    ImageDraw.Draw(image).polygon(points, fill=tint)


def draw_shadow(image: Image.Image, product: Product) -> None:
    foot, radius = int(SIDE * 0.8) * SCALE, product.radius(0) * SCALE
    mask = Image.new("L", image.size, 0)
    middle = image.width // 2
    reach = max(radius, product.radius(0.6) * SCALE)
    ImageDraw.Draw(mask).ellipse((middle - radius, foot - 10, middle + reach * 2.1, foot + radius * 0.42), fill=120)
    soft = mask.filter(ImageFilter.GaussianBlur(34))
    ImageDraw.Draw(mask).ellipse((middle - radius, foot, middle + radius, foot + radius * 0.36), fill=190)
    near = mask.filter(ImageFilter.GaussianBlur(12))
    image.paste((58, 50, 44), mask=ImageChops.lighter(soft, near).point(lambda level: int(level * 0.62)))


def photograph(product: Product) -> Image.Image:
    image = background(product.backdrop)
    draw_shadow(image, product)
    draw_handle(image, product)
    draw_body(image, product)
    draw_spout(image, product)
    smooth = image.filter(ImageFilter.GaussianBlur(1.2))
    return smooth.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "jobs/photos")
    folder.mkdir(parents=True, exist_ok=True)
    for product in PRODUCTS:
        path = folder / f"{product.sku}.jpg"
        photograph(product).save(path, quality=86, optimize=True)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
