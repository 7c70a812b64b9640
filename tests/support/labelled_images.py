"""Images drawn by a script of which it is known what a check should say: right and wrong ones for each, as PNG and JPEG, in four
sizes. Nobody's taste is needed to label them; of nudity there are none but right ones."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from batchgen.item import Check
from batchgen.review.check_type import Asked
from tests.support.paths import ROOT

SIZES = ((320, 320), (768, 512), (1024, 1024), (1080, 1920))
FORMATS = ("png", "jpeg")
JPEG_QUALITY = 88
Size = tuple[int, int]
Colour = tuple[int, int, int]
TEXTS = (
    "SALE 50%", "Fresh bread", "Grand Opening", "COFFEE & CAKE", "Summer 2026", "Free shipping over $40",
    "Book your table: 555-0142", "Handmade in Kyoto",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """wrong: whether the check should find something. earlier: another image of the job; reference: one that was sent."""

    name: str
    check: Check
    wrong: bool
    image: Image.Image
    earlier: Image.Image | None = None
    reference: Image.Image | None = None
    asked: Asked = field(default_factory=Asked)


def encode(image: Image.Image, kind: str, quality: int = JPEG_QUALITY) -> bytes:
    out = io.BytesIO()
    if kind == "jpeg":
        image.convert("RGB").save(out, "JPEG", quality=quality)
    else:
        image.save(out, "PNG")
    return out.getvalue()


def labelled(check: str, sizes: Sequence[Size] = SIZES) -> Iterator[tuple[Labelled, Size]]:
    for size in sizes:
        for one in MAKERS[check](size, random.Random(f"{check} {size}")):
            yield one, size


# ------------------------------------------------------------------------------------------------- what is shown


def landscape(size: Size, rng: random.Random) -> Image.Image:
    """Sky, hills, a sun, grain."""
    wide, high = size
    sky = Image.linear_gradient("L").resize(size)
    image = ImageOps.colorize(sky, _colour(rng, 120, 200), _colour(rng, 180, 250))
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0.1, 0.9) * wide, rng.uniform(0.1, 0.4) * high, rng.uniform(0.04, 0.1) * wide
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 240, rng.randrange(150, 230)))
    for layer in range(3):
        top = high * (0.45 + 0.16 * layer)
        ridge = [(wide * step / 8, top + rng.uniform(-0.12, 0.12) * high) for step in range(9)]
        draw.polygon([(0, high), *ridge, (wide, high)], fill=_colour(rng, 20, 130))
    for _ in range(40):
        x, y, r = rng.uniform(0, wide), rng.uniform(0.6, 1) * high, rng.uniform(0.004, 0.03) * wide
        draw.polygon([(x - r, y), (x, y - 3 * r), (x + r, y)], fill=_colour(rng, 10, 110))
    return _grain(image)


def product(
    size: Size, rng: random.Random, glaze: Colour | None = None, backdrop: Colour = (255, 255, 255)
) -> Image.Image:
    """A shaded vessel on a backdrop of one colour, which nothing touches the edges of."""
    image = Image.new("RGB", size, backdrop)
    wide, high = size
    glaze = glaze or _colour(rng, 40, 200)
    body = (int(rng.uniform(0.28, 0.5) * min(size)), int(rng.uniform(0.3, 0.62) * min(size)))
    light = Image.linear_gradient("L").rotate(90).resize(body)
    dark: Colour = tuple(channel // 3 for channel in glaze)  # type: ignore[assignment]
    shaded = ImageOps.colorize(light, dark, glaze)
    mask = Image.new("L", body, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, body[0] - 1, body[1] - 1), body[0] // rng.choice((3, 4, 8)), fill=255)
    at = ((wide - body[0]) // 2, (high - body[1]) // 2)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.6:
        x, y, r = at[0] + body[0], at[1] + body[1] // 2, body[1] // 4
        draw.ellipse((x - r, y - r, x + r, y + r), outline=dark, width=max(2, r // 5))
    image.paste(shaded, at, mask)
    return image


def illustration(size: Size, rng: random.Random) -> Image.Image:
    """Flat shapes on a flat ground."""
    image = Image.new("RGB", size, _colour(rng, 150, 250))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randrange(4, 9)):
        x, y = rng.uniform(0, 0.8) * size[0], rng.uniform(0, 0.8) * size[1]
        box = (x, y, x + rng.uniform(0.1, 0.4) * size[0], y + rng.uniform(0.1, 0.4) * size[1])
        rng.choice((draw.ellipse, draw.rectangle))(box, fill=_colour(rng, 0, 255))
    return image


def drawing(size: Size, rng: random.Random) -> Image.Image:
    """A few dark strokes on white."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randrange(3, 7)):
        points = [(rng.uniform(0.1, 0.9) * size[0], rng.uniform(0.1, 0.9) * size[1]) for _ in range(5)]
        draw.line(points, fill=(40, 40, 40), width=max(2, min(size) // 160), joint="curve")
    return image


def night(size: Size, rng: random.Random) -> Image.Image:
    """A moon and some stars on black."""
    image = Image.new("RGB", size, (4, 6, 14))
    draw = ImageDraw.Draw(image)
    for _ in range(80):
        x, y = rng.uniform(0, 1) * size[0], rng.uniform(0, 1) * size[1]
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(220, 220, 200))
    x, y, r = rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.2, 0.5) * size[1], 0.05 * min(size)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(235, 230, 210))
    return image


def white_on_white(size: Size, rng: random.Random) -> Image.Image:
    return product(size, rng, glaze=(250, 250, 248), backdrop=(255, 255, 255))


def portrait(size: Size, rng: random.Random, faces: int) -> Image.Image:
    """So many faces, side by side."""
    image = Image.new("RGB", size, _colour(rng, 90, 190))
    for number in range(faces):
        side = int(min(size[0] / max(faces, 2), size[1] * 0.7) * rng.uniform(0.8, 0.98))
        x = int((number + 0.5) * size[0] / faces - side / 2)
        image.paste(face(side, rng), (x, int(size[1] * 0.5 - side / 2)))
    return _grain(image)


def face(side: int, rng: random.Random) -> Image.Image:
    skin = rng.choice(((224, 172, 140), (198, 140, 105), (240, 200, 170), (150, 100, 70)))
    hair = rng.choice(((60, 40, 30), (25, 22, 20), (150, 110, 60), (90, 88, 90)))
    image = Image.new("RGB", (400, 400), _colour(rng, 90, 190))
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 30, 310, 330), fill=hair)
    draw.rectangle((160, 300, 240, 400), fill=_darker(skin, 0.8))
    draw.ellipse((105, 70, 295, 350), fill=skin)
    shadow = Image.new("L", image.size, 0)
    soft = ImageDraw.Draw(shadow)
    for x in (155, 245):
        soft.ellipse((x - 34, 160, x + 34, 208), fill=120)
    soft.ellipse((165, 268, 235, 300), fill=100)
    soft.polygon([(200, 190), (182, 250), (218, 250)], fill=40)
    image.paste(_darker(skin, 0.35), mask=shadow.filter(ImageFilter.GaussianBlur(7)))
    for x in (155, 245):
        draw.ellipse((x - 24, 172, x + 24, 200), fill=(245, 245, 245))
        draw.ellipse((x - 12, 174, x + 12, 198), fill=(60, 40, 20))
        draw.ellipse((x - 5, 180, x + 5, 192), fill=(0, 0, 0))
        draw.line([(x - 30, 158), (x, 148), (x + 30, 158)], fill=_darker(hair, 0.8), width=9)
    for x in (185, 203):
        draw.ellipse((x, 236, x + 12, 248), fill=_darker(skin, 0.5))
    draw.ellipse((168, 272, 232, 298), fill=(170, 60, 60))
    draw.line([(170, 285), (230, 285)], fill=(90, 20, 20), width=4)
    return image.filter(ImageFilter.GaussianBlur(1.5)).resize((side, side), Image.Resampling.LANCZOS)


def poster(size: Size, rng: random.Random, text: str) -> Image.Image:
    """A text on one of several grounds, as large as it fits, a little askew."""
    ground = rng.choice((landscape, illustration, product))(size, rng).filter(ImageFilter.GaussianBlur(size[0] / 60))
    layer, share = Image.new("RGBA", size), 0.12
    draw = ImageDraw.Draw(layer)
    while share > 0.03:
        font = ImageFont.load_default(size[0] * share)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        if right - left < 0.82 * size[0]:
            break
        share *= 0.9
    at = ((size[0] - right) / 2, rng.uniform(0.15, 0.7) * size[1])
    light = rng.random() < 0.5
    pad = size[0] * 0.02
    plate = (at[0] + left - pad, at[1] + top - pad, at[0] + right + pad, at[1] + bottom + pad)
    draw.rectangle(plate, fill=(20, 24, 40, 255) if light else (250, 246, 236, 255))
    draw.text(at, text, font=font, fill=(250, 246, 236) if light else (20, 24, 40))
    layer = layer.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC)
    ground.paste(layer, mask=layer)
    return ground


def photographs(size: Size) -> list[Image.Image]:
    """The drawn photographs of `jobs/photos`, cut to this size."""
    return [ImageOps.fit(image, size, Image.Resampling.LANCZOS) for image in _photographs().values()]


@cache
def _photographs() -> dict[str, Image.Image]:
    return {path.name: Image.open(path).convert("RGB") for path in sorted(Path(ROOT, "jobs", "photos").glob("*.jpg"))}


SCENES: tuple[Callable[[Size, random.Random], Image.Image], ...] = (landscape, product, illustration, drawing, night)


# ------------------------------------------------------------------------------------------------- by check


def _blank(size: Size, rng: random.Random) -> Iterator[Labelled]:
    check = Check(name="blank")
    for colour in ("black", "white", (128, 128, 128), _colour(rng, 0, 255)):
        yield Labelled(name=f"all {colour}", check=check, wrong=True, image=Image.new("RGB", size, colour))
        noisy = _grain(Image.new("RGB", size, colour), 0.06)
        yield Labelled(name=f"noisy {colour}", check=check, wrong=True, image=noisy)
    faint = ImageOps.colorize(Image.linear_gradient("L").resize(size), (100, 100, 100), (110, 110, 112))
    yield Labelled(name="faint gradient", check=check, wrong=True, image=faint)
    for scene in (*SCENES, white_on_white):
        yield Labelled(name=scene.__name__, check=check, wrong=False, image=scene(size, rng))
    for image in photographs(size)[::3]:
        yield Labelled(name="photograph", check=check, wrong=False, image=image)


def _twin(size: Size, rng: random.Random) -> Iterator[Labelled]:
    check = Check(name="twin")
    smaller = (size[0] * 2 // 3, size[1] * 2 // 3)
    for scene in (landscape, product, illustration, drawing, white_on_white):
        image, other = scene(size, rng), scene(size, rng)
        same = {
            "smaller": image.resize(smaller, Image.Resampling.LANCZOS),
            "lighter": ImageEnhance.Brightness(image).enhance(1.04),
            "of poor quality": Image.open(io.BytesIO(encode(image, "jpeg", 40))),
            "a little softer": image.filter(ImageFilter.GaussianBlur(1)),
        }
        for how, twin in same.items():
            yield Labelled(name=f"{scene.__name__}, {how}", check=check, wrong=True, image=twin, earlier=image)
        yield Labelled(name=f"another {scene.__name__}", check=check, wrong=False, image=other, earlier=image)
        mirrored = ImageOps.mirror(image)
        if scene in (landscape, illustration, drawing):
            yield Labelled(name=f"mirrored {scene.__name__}", check=check, wrong=False, image=mirrored, earlier=image)
    state = rng.getstate()
    red = product(size, rng, glaze=(190, 60, 50))
    rng.setstate(state)
    green = product(size, rng, glaze=(60, 120, 80))
    yield Labelled(name="in another colour", check=check, wrong=False, image=green, earlier=red)
    every = photographs(size)
    for one, other in pairwise(every):
        yield Labelled(name="another photograph", check=check, wrong=False, image=other, earlier=one)
        smaller_one = one.resize(smaller, Image.Resampling.LANCZOS)
        yield Labelled(name="the same photograph", check=check, wrong=True, image=smaller_one, earlier=one)
        yield Labelled(name="a copy of its reference", check=check, wrong=True, image=smaller_one, reference=one)
        edited = one.copy()
        side = min(size) // 14
        x, y = rng.randrange(size[0] - side), rng.randrange(size[1] - side)
        ImageDraw.Draw(edited).ellipse((x, y, x + side, y + side), fill=_opposite(edited.getpixel((x, y))))
        yield Labelled(name="a spot more than its reference", check=check, wrong=False, image=edited, reference=one)


def _sharp(size: Size, rng: random.Random) -> Iterator[Labelled]:
    check = Check(name="sharp")
    longest = max(size)
    images = [scene(size, rng) for scene in SCENES]
    if longest <= 768:  # larger than they were drawn they are not sharp
        images += [image for image in photographs(size)[::3] if longest <= 640]
    for image in images:
        yield Labelled(name="as drawn", check=check, wrong=False, image=image)
        for radius in (3, 6):
            soft = image.filter(ImageFilter.GaussianBlur(radius * max(1, longest / 1024)))
            yield Labelled(name=f"blurred by {radius}", check=check, wrong=True, image=soft)


def _size(size: Size, rng: random.Random) -> Iterator[Labelled]:
    check, image = Check(name="size"), illustration(size, rng)
    for name, wrong, asked in (
        ("as asked", False, Asked(aspect_ratio="1:1", expected=size)),
        ("nothing asked", False, Asked()),
        ("turned", size[0] != size[1], Asked(expected=(size[1], size[0]))),
        ("half as large", True, Asked(expected=(size[0] * 2, size[1] * 2))),
        ("of another ratio", True, Asked(aspect_ratio="4:1")),
    ):
        yield Labelled(name=name, check=check, wrong=wrong, image=image, asked=asked)


def _background(size: Size, rng: random.Random) -> Iterator[Labelled]:
    plain = Check(name="background", options=(("kind", "plain"),))
    white = Check(name="background", options=(("kind", "plain"), ("colour", "#ffffff")))
    clear = Check(name="background", options=(("kind", "transparent"),))
    yield Labelled(name="landscape", check=plain, wrong=True, image=landscape(size, rng))
    yield Labelled(name="drawing", check=plain, wrong=False, image=drawing(size, rng))
    for backdrop in ((255, 255, 255), (40, 60, 90), (200, 190, 180)):
        image = product(size, rng, backdrop=backdrop)
        yield Labelled(name="product", check=plain, wrong=False, image=image)
        yield Labelled(name="noisy product", check=plain, wrong=False, image=_grain(image))
        yield Labelled(name="on white", check=white, wrong=backdrop != (255, 255, 255), image=image)
        yield Labelled(name="not cut out", check=clear, wrong=True, image=image)


def _cut_out(size: Size, rng: random.Random) -> Iterator[Labelled]:
    """Only as PNG."""
    clear = Check(name="background", options=(("kind", "transparent"),))
    image = product(size, rng, backdrop=(0, 255, 0)).convert("RGBA")
    image.putalpha(image.getchannel("G").point(lambda level: 0 if level == 255 else 255))
    yield Labelled(name="cut out", check=clear, wrong=False, image=image)
    squares = Image.new("RGB", size, "white")
    draw, side = ImageDraw.Draw(squares), max(4, size[0] // 40)
    for x in range(0, size[0], side):
        for y in range((x // side) % 2 * side, size[1], 2 * side):
            draw.rectangle((x, y, x + side - 1, y + side - 1), fill=(204, 204, 204))
    yield Labelled(name="transparency drawn as squares", check=clear, wrong=True, image=squares)


def _text(size: Size, rng: random.Random) -> Iterator[Labelled]:
    for asked in TEXTS:
        check = Check(name="text", options=(("text", asked),))
        yield Labelled(name=asked, check=check, wrong=False, image=poster(size, rng, asked))
        for how in (_without_a_letter, _with_one_twice, _with_two_swapped, _with_another):
            said = how(asked, rng)
            yield Labelled(name=f"{said} for {asked}", check=check, wrong=True, image=poster(size, rng, said))
    nothing = Check(name="text", options=(("only", True),))
    yield Labelled(name="no text", check=nothing, wrong=False, image=landscape(size, rng))
    yield Labelled(name="some text", check=nothing, wrong=True, image=poster(size, rng, TEXTS[0]))


def _faces(size: Size, rng: random.Random) -> Iterator[Labelled]:
    for shown in (1, 2, 3):
        for count in (0, shown, shown + 1):
            check = Check(name="faces", options=(("count", count),))
            image = portrait(size, rng, shown)
            yield Labelled(name=f"{shown} for {count}", check=check, wrong=shown != count, image=image)
    none = Check(name="faces", options=(("count", 0),))
    for scene in (*SCENES, white_on_white):
        yield Labelled(name=scene.__name__, check=none, wrong=False, image=scene(size, rng))


def _unsafe(size: Size, rng: random.Random) -> Iterator[Labelled]:
    check = Check(name="unsafe")
    for image in (*(scene(size, rng) for scene in SCENES), portrait(size, rng, 2), *photographs(size)):
        yield Labelled(name="drawn", check=check, wrong=False, image=image)


MAKERS: dict[str, Callable[[Size, random.Random], Iterator[Labelled]]] = {
    "blank": _blank,
    "twin": _twin,
    "sharp": _sharp,
    "size": _size,
    "background": _background,
    "cut out": _cut_out,
    "text": _text,
    "faces": _faces,
    "unsafe": _unsafe,
}


# ------------------------------------------------------------------------------------------------- small parts


def _colour(rng: random.Random, least: int, most: int) -> Colour:
    return rng.randint(least, most), rng.randint(least, most), rng.randint(least, most)


def _darker(colour: Colour, times: float) -> Colour:
    red, green, blue = (int(channel * times) for channel in colour)
    return red, green, blue


def _opposite(colour: Colour) -> Colour:
    red, green, blue = ((channel + 128) % 256 for channel in colour)
    return red, green, blue


def _grain(image: Image.Image, share: float = 0.08) -> Image.Image:
    return Image.blend(image, Image.effect_noise(image.size, 60).convert("RGB"), share)


def _without_a_letter(text: str, rng: random.Random) -> str:
    at = _letter(text, rng)
    return text[:at] + text[at + 1 :]


def _with_one_twice(text: str, rng: random.Random) -> str:
    at = _letter(text, rng)
    return text[: at + 1] + text[at:]


def _with_two_swapped(text: str, rng: random.Random) -> str:
    places = [
        at for at in range(len(text) - 1) if text[at : at + 2].isalpha() and text[at].lower() != text[at + 1].lower()
    ]
    at = rng.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _with_another(text: str, rng: random.Random) -> str:
    at = _letter(text, rng)
    other = rng.choice([letter for letter in "AEKMRTX" if letter.lower() != text[at].lower()])
    return text[:at] + (other if text[at].isupper() else other.lower()) + text[at + 1 :]


def _letter(text: str, rng: random.Random) -> int:
    return rng.choice([at for at, letter in enumerate(text) if letter.isalpha() and letter not in "lIiOo"])
