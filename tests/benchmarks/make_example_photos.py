"""Draws the pictures that the examples in jobs/ start from: people, a landscape, a room, a sketch, a logo. Run it from the project's root.

python tests/benchmarks/make_example_photos.py [FOLDER]
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SCALE = 2  # drawn at twice the size, for smooth edges
Colour = tuple[int, int, int]
PEOPLE: tuple[tuple[Colour, Colour, Colour, Colour], ...] = (  # skin, hair, clothes, wall
    ((226, 184, 156), (92, 60, 40), (52, 86, 120), (222, 226, 228)),
    ((150, 104, 74), (34, 28, 26), (196, 142, 58), (230, 222, 210)),
    ((240, 206, 184), (188, 92, 44), (74, 112, 84), (224, 216, 220)),
    ((198, 148, 110), (60, 44, 40), (150, 62, 70), (214, 224, 220)),
    ((104, 72, 54), (120, 116, 112), (110, 98, 150), (232, 228, 214)),
)


def canvas(width: int, height: int, top: Colour, bottom: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width * SCALE, height * SCALE), top)
    shade = Image.linear_gradient("L").resize(image.size)
    image.paste(bottom, mask=shade)
    return image, ImageDraw.Draw(image)


def oval(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
    draw.ellipse([SCALE * side for side in (x - rx, y - ry, x + rx, y + ry)], fill=fill)


def person(number: int) -> Image.Image:
    """Head and shoulders, drawn, so that no real person is shown."""
    skin, hair, clothes, wall = PEOPLE[number]
    image, draw = canvas(384, 480, wall, tuple(channel - 34 for channel in wall))  # type: ignore[arg-type]
    long = number % 2 == 1
    oval(draw, 192, 200 + 26 * long, 106, 128 + 36 * long, hair)
    oval(draw, 192, 500, 168, 138, clothes)
    oval(draw, 192, 352, 44, 58, tuple(channel - 18 for channel in skin))  # type: ignore[arg-type]
    oval(draw, 192, 222, 84, 106, skin)
    draw.pieslice([SCALE * side for side in (100, 84, 284, 250)], 180, 360, fill=hair)
    for side in (-1, 1):
        oval(draw, 192 + 32 * side, 216, 11, 8, (250, 250, 248))
        oval(draw, 192 + 32 * side, 216, 6, 7, (46, 40, 38))
        draw.arc([SCALE * at for at in (172 + 34 * side, 188, 212 + 34 * side, 212)], 200, 340, hair, 5 * SCALE)
    draw.arc([SCALE * at for at in (158, 240, 226, 286)], 20, 160, (156, 74, 70), 5 * SCALE)
    draw.line([SCALE * at for at in (192, 222, 186, 252, 198, 254)], tuple(c - 36 for c in skin), 3 * SCALE)
    if number in (2, 4):
        for side in (-1, 1):
            box = [SCALE * at for at in (172 + 32 * side - 4, 196, 212 + 32 * side + 4, 236)]
            draw.ellipse(box, outline=(40, 40, 44), width=3 * SCALE)
    return image.resize((384, 480), Image.Resampling.LANCZOS)


def landscape() -> Image.Image:
    """A lake below hills, a jetty, an empty sky to put things into."""
    image, draw = canvas(640, 400, (128, 176, 214), (236, 226, 204))
    rng = random.Random(3)
    for layer, colour in enumerate([(140, 160, 172), (98, 128, 120), (62, 94, 76)]):
        phases = [rng.uniform(0, 6.28) for _ in range(4)]
        ridge = [
            (x, 210 + 26 * layer - sum(math.sin(x / 90 * (k + 1) + phases[k]) * 22 / (k + 1) for k in range(4)))
            for x in range(0, 641, 4)
        ]
        draw.polygon([(x * SCALE, y * SCALE) for x, y in [*ridge, (640, 400), (0, 400)]], fill=colour)
    draw.rectangle([0, 292 * SCALE, 640 * SCALE, 400 * SCALE], fill=(104, 142, 164))
    for _ in range(90):
        x, y = rng.uniform(0, 640), rng.uniform(296, 398)
        draw.line([x * SCALE, y * SCALE, (x + (y - 280) / 3) * SCALE, y * SCALE], (150, 180, 196), SCALE)
    draw.polygon([SCALE * at for at in (300, 400, 392, 400, 362, 306, 350, 306)], fill=(120, 92, 68))
    return image.resize((640, 400), Image.Resampling.LANCZOS)


def room() -> Image.Image:
    """A living room: a sofa, a lamp, a picture and a plant, things to take away or change."""
    image, draw = canvas(640, 400, (232, 224, 212), (214, 202, 186))
    box = lambda *sides: [SCALE * side for side in sides]  # noqa: E731
    draw.rectangle(box(0, 300, 640, 400), fill=(164, 128, 94))
    draw.rectangle(box(430, 40, 600, 210), fill=(250, 250, 246))
    draw.rectangle(box(440, 50, 590, 200), fill=(172, 206, 226))
    draw.line(box(515, 50, 515, 200), (250, 250, 246), 6 * SCALE)
    draw.rectangle(box(150, 60, 290, 150), fill=(70, 60, 54))
    draw.rectangle(box(158, 68, 282, 142), fill=(206, 176, 120))
    for sides, colour in (((90, 190, 390, 290), (96, 118, 136)), ((70, 230, 410, 320), (112, 136, 154))):
        draw.rounded_rectangle(box(*sides), 18 * SCALE, fill=colour)
    draw.line(box(560, 330, 560, 170), (60, 56, 52), 5 * SCALE)
    draw.polygon(box(530, 190, 590, 190, 576, 140, 544, 140), fill=(244, 226, 170))
    draw.polygon(box(28, 330, 64, 330, 58, 290, 34, 290), fill=(186, 108, 78))
    for angle in range(-60, 61, 20):
        x, y = 46 + 60 * math.sin(math.radians(angle)), 290 - 90 * math.cos(math.radians(angle))
        draw.line(box(46, 292, x, y), (66, 112, 70), 7 * SCALE)
    return image.resize((640, 400), Image.Resampling.LANCZOS)


def sketch() -> Image.Image:
    """A pencil sketch of a chair."""
    image, draw = canvas(480, 480, (252, 251, 247), (246, 244, 238))
    rng = random.Random(5)
    lines = [
        (150, 60, 160, 260), (310, 70, 305, 262), (150, 60, 310, 70), (160, 260, 305, 262), (160, 260, 120, 330),
        (305, 262, 350, 326), (120, 330, 350, 326), (122, 330, 112, 440), (348, 326, 356, 438), (162, 330, 164, 410),
        (306, 328, 308, 408), (152, 120, 309, 128), (154, 180, 307, 190),
    ]  # fmt: skip
    for line in lines:
        for _ in range(3):
            draw.line([SCALE * (at + rng.uniform(-2, 2)) for at in line], (70, 70, 74), SCALE)
    return image.filter(ImageFilter.GaussianBlur(0.8)).resize((480, 480), Image.Resampling.LANCZOS)


def logo() -> Image.Image:
    """A mark of three hills under a star, black on white."""
    image, draw = canvas(480, 480, (255, 255, 255), (255, 255, 255))
    for x, height in ((150, 150), (330, 170), (240, 230)):
        draw.polygon([SCALE * at for at in (x - 120, 370, x, 370 - height, x + 120, 370)], fill=(20, 24, 28))
        draw.line([SCALE * at for at in (x, 370 - height, x + 120, 370)], (255, 255, 255), 5 * SCALE)
    star = [
        (240 + r * math.sin(k * math.pi / 4), 84 - r * math.cos(k * math.pi / 4)) for k, r in enumerate([44, 13] * 4)
    ]
    draw.polygon([(x * SCALE, y * SCALE) for x, y in star], fill=(20, 24, 28))
    return image.resize((480, 480), Image.Resampling.LANCZOS)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "jobs/photos")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {f"person-{number + 1}": person(number) for number in range(len(PEOPLE))}
    pictures |= {"lake": landscape(), "room": room(), "chair-sketch": sketch()}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.jpg", quality=84, optimize=True)
    logo().convert("L").quantize(8).save(folder / "hills-logo.png", optimize=True)
    for path in sorted(folder.iterdir()):
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
