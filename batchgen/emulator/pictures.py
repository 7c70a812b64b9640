"""The pictures served: a soft gradient, the prompt in readable type, a mark that says EMULATED.

Where a prompt asks for a plain background, the picture shows one and the same subject on exactly that colour. Also the
pictures behind links.
"""

from __future__ import annotations

import base64
import binascii
import colorsys
import contextlib
import functools
import hashlib
import io
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from PIL import Image, ImageDraw, ImageFilter, ImageFont, PngImagePlugin, UnidentifiedImageError

_MESH = 4  # the gradient is a mesh of so many colours a side, resized: cheap at every size
_LINES = 9
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)
_DESCRIPTION = 0x010E  # ImageDescription of Exif
_COMMENT_CHARACTERS = 15_000  # a JPEG comment holds 65,533 bytes, and a character takes up to four
_MAX_REFERENCE_PIXELS = 64_000_000
_KEPT_BYTES = 256 * 1024 * 1024
LINKS_PATH = "/cdn/generations"
_MOST_FETCHED_BYTES = 20 * 1024 * 1024
# The background that is asked for, in exactly these words, when an image is to be cut out.
_BACKDROP = re.compile(r"\bpure \w+ background \((#[0-9a-f]{6})\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything a picture is made of; equal pictures have equal bytes.

    caption: AI model, ratio and size as readable text. n: the request's number, for tests to match files with requests;
    it is in the comment and does not change the pixels. history: what was asked for in the turns before, on which the
    picture draws. nonce: the attempt, so that asking again paints another image. flaw: as of `faults.drawing_of`.
    """

    prompt: str
    title: str
    model: str
    caption: str
    mime: str
    pixels: tuple[int, int]
    n: int
    index: int = 0
    seed: int | None = None
    references: Sequence[str] = ()
    history: Sequence[str] = ()
    nonce: int = 1
    flaw: str = ""


@functools.lru_cache(maxsize=64)
def _font(size_px: int, letters: frozenset[str] = frozenset()) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which has little beyond ASCII, or the system's font that has most of these letters."""
    fonts: list[ImageFont.FreeTypeFont | ImageFont.ImageFont] = [ImageFont.load_default(size=size_px)]
    for name in _SYSTEM_FONTS if letters else ():
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size_px))
    return max(fonts, key=lambda font: sum(_has_glyph(font, letter) for letter in letters))


def _has_glyph(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bool:
    """Whether the font draws something else than for U+FFFF, which is not a letter of any language."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


@functools.lru_cache(maxsize=64)
def _without_glyph(letters: frozenset[str]) -> frozenset[str]:
    """The letters that the best font for them lacks."""
    font = _font(20, letters)
    return frozenset(letter for letter in letters if not _has_glyph(font, letter))


def _drawable(title: str) -> str:
    """The title in letters that can be drawn, with the number of the others in place of boxes."""
    missing = _without_glyph(frozenset(letter for letter in title if not letter.isascii()))
    kept = "".join(letter for letter in title if letter not in missing)
    if len(kept) == len(title):
        return title or "(no prompt)"
    return f"(no font here for {len(title) - len(kept)} of {len(title)} characters) {' '.join(kept.split())}".rstrip()


def _digest(picture: Picture) -> bytes:
    facts = [picture.prompt, picture.model, picture.index, picture.seed, list(picture.references), picture.nonce]
    facts += [list(picture.history)] if picture.history else []
    return hashlib.sha256(json.dumps(facts).encode()).digest()


def _gradient(digest: bytes, pixels: tuple[int, int]) -> Image.Image:
    """Draw two neighbouring hues, dark enough for white type, in an uneven mesh."""
    hue, step = digest[0] / 256, 0.08 + digest[1] / 1500
    mesh = Image.new("RGB", (_MESH, _MESH))
    for y in range(_MESH):
        for x in range(_MESH):
            wobble = digest[2 + y * _MESH + x] / 255
            red, green, blue = colorsys.hsv_to_rgb(
                (hue + step * (x + y) / _MESH + 0.06 * wobble) % 1, 0.45 + 0.3 * wobble, 0.72 - 0.1 * y + 0.1 * wobble
            )
            mesh.putpixel((x, y), (int(red * 255), int(green * 255), int(blue * 255)))
    return mesh.resize(pixels, Image.Resampling.BICUBIC)


def _fit(text: str, width_px: int, height_px: int) -> tuple[str, int]:
    """Break the text into lines, with a type size at which it fills the box without leaving it."""
    size_px = max(8, min(width_px, height_px) // 7)
    while True:
        columns = max(4, int(width_px / (size_px * 0.55)))
        lines = textwrap.wrap(text, columns, max_lines=_LINES, placeholder=" …")
        if len(lines) * size_px * 1.3 <= height_px or size_px <= 8:
            return "\n".join(lines), size_px
        size_px = max(8, int(size_px * 0.85))


def _drawn(picture: Picture) -> Image.Image:
    """Draw a picture, with the flaw that its prompt asks for."""
    flaw, count = picture.flaw.partition("=")[0], int(picture.flaw.partition("=")[2] or 0)
    if flaw == "blank":
        return Image.new("RGB", picture.pixels)
    if found := _BACKDROP.search(picture.prompt):
        return _subject_on(found[1], picture.pixels)
    if flaw == "twin":
        same = replace(picture, prompt="", index=0, seed=None, references=(), history=(), nonce=1)
        picture = replace(same, title="The same for every prompt")
    if flaw == "misspelt":
        picture = replace(picture, title=_misspelt(picture.title))
    image = _gradient(_digest(picture), picture.pixels)
    _letter(image, replace(picture, title=" ") if count else picture)
    draw, (width, height) = ImageDraw.Draw(image), picture.pixels
    radius = min(width, height) / 12
    for n in range(count):  # in rows of three
        x, y = width * (1 + n % 3) / 4, height * (1 + n // 3) / 5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(240, 240, 235))
    if flaw == "half":
        draw.rectangle((0, height // 2, width, height), fill=(128, 128, 128))
    return image


def _misspelt(title: str) -> str:
    """The title without the middle letter of its longest word."""
    word = max(title.split() or [""], key=len)
    return title.replace(word, word[: len(word) // 2] + word[len(word) // 2 + 1 :], 1)


def _letter(image: Image.Image, picture: Picture) -> None:
    width, height = image.size
    margin = max(4, min(width, height) // 16)
    draw = ImageDraw.Draw(image)
    bar = max(10, min(width, height) // 11)
    draw.rectangle((0, height - bar, width, height), fill=(22, 24, 30))
    small = min(bar * 0.42, width / 30)
    if small >= 7:
        font = _font(int(small))
        draw.text((margin, height - bar / 2), picture.caption, font=font, fill=(205, 208, 216), anchor="lm")
        draw.text((width - margin, height - bar / 2), "EMULATED", font=font, fill=(255, 196, 61), anchor="rm")
    else:
        draw.rectangle((0, height - bar, width // 3, height), fill=(255, 196, 61))
    if min(width, height) >= 160:
        text, size_px = _fit(_drawable(picture.title), width - 2 * margin, height - bar - 2 * margin)
        font = _font(size_px, frozenset(letter for letter in text if not letter.isascii()))
        shadow = max(1, size_px // 24)
        for offset, fill in ((shadow, (0, 0, 0)), (0, (255, 255, 255))):
            place = (margin + offset, margin + offset)
            draw.multiline_text(place, text, font=font, fill=fill, spacing=size_px * 0.2)


def _subject_on(backdrop: str, pixels: tuple[int, int]) -> Image.Image:
    """Draw a disc with soft edges and a translucent half, the same to the pixel on every background."""
    width, height = pixels
    side = min(pixels)
    box = ((width - side * 0.7) / 2, (height - side * 0.7) / 2, (width + side * 0.7) / 2, (height + side * 0.7) / 2)
    covered = Image.new("L", pixels, 0)
    ImageDraw.Draw(covered).pieslice(box, 0, 180, fill=140)
    ImageDraw.Draw(covered).pieslice(box, 180, 360, fill=255)
    subject = Image.new("RGB", pixels, (208, 96, 40))
    draw = ImageDraw.Draw(subject)
    draw.rectangle((0, height / 2, width, height), fill=(60, 110, 190))
    draw.text((width / 2, height * 0.4), "EMULATED", font=_font(max(8, side // 10)), fill=(255, 255, 255), anchor="mm")
    covered = covered.filter(ImageFilter.GaussianBlur(side / 200))
    return Image.composite(subject, Image.new("RGB", pixels, backdrop), covered)


def _comment(picture: Picture) -> str:
    facts = {"emulated": True, "n": picture.n, "index": picture.index, "model": picture.model}
    facts["prompt"] = picture.prompt[:_COMMENT_CHARACTERS]
    if picture.history:
        facts["turn"] = len(picture.history) + 1
    if picture.references:
        facts["references"] = list(picture.references)
    return json.dumps(facts, ensure_ascii=False)


def draw(
    prompt: str, *, model: str, pixels: tuple[int, int], mime: str = "image/png", seed: int | None = None
) -> bytes:
    """Draw and encode a picture for emulators of others: with the prompt and a mark that says EMULATED."""
    caption = f"{model} · {pixels[0]}x{pixels[1]}"
    drawn = Picture(prompt=prompt, title=prompt, model=model, caption=caption, mime=mime, pixels=pixels, n=0, seed=seed)
    return render(drawn)


def render(picture: Picture, quality: int = 86) -> bytes:
    """Encode the picture as PNG, WebP or JPEG. A 1K picture takes about 20 ms of one core."""
    image = _drawn(picture)
    stream = io.BytesIO()
    if picture.mime == "image/png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("Comment", _comment(picture))
        image.save(stream, "PNG", compress_level=1, pnginfo=text)
    elif picture.mime == "image/webp":
        exif = image.getexif()
        exif[_DESCRIPTION] = json.dumps(json.loads(_comment(picture)))  # in ASCII, as Exif wants it
        image.save(stream, "WEBP", quality=quality, method=0, exif=exif)
    else:
        image.save(stream, "JPEG", quality=quality, comment=_comment(picture).encode("utf-8", "replace"))
    return stream.getvalue()


def read_comment(data: bytes) -> dict[str, object]:
    """Read what `render` wrote about the request: n, index, model, prompt. Raises ValueError if nothing."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        raw = image.info.get("comment") or image.info.get("Comment") or image.getexif().get(_DESCRIPTION)
    facts = json.loads(raw) if raw else None
    if not isinstance(facts, dict):
        raise ValueError("not an image of the emulator")
    return facts


def scaled(pixels: tuple[int, int], longest_px: int | None) -> tuple[int, int]:
    """The size with the given longest side and the same shape; unchanged for None."""
    if longest_px is None:
        return pixels
    factor = longest_px / max(pixels)
    return max(1, round(pixels[0] * factor)), max(1, round(pixels[1] * factor))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def picture_size(source: bytes | Path) -> tuple[int, int] | None:
    """The width and height of a picture that decodes as a whole; None if it does not."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if image.width * image.height > _MAX_REFERENCE_PIXELS:
                return None
            image.load()
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fetch(url: str) -> bytes | None:
    """Fetch the bytes behind a link whose host is loopback, None if they cannot be had. Blocks: for worker threads.

    `http.client` knows no proxy and follows no redirect, which could lead anywhere.
    """
    parts = urlsplit(url)
    with contextlib.suppress(OSError, HTTPException, ValueError):
        with contextlib.closing(HTTPConnection(parts.hostname or "", parts.port, timeout=10)) as connection:
            connection.request("GET", parts._replace(scheme="", netloc="", fragment="").geturl() or "/")
            response = connection.getresponse()
            data = response.read(_MOST_FETCHED_BYTES + 1)
        return data if response.status == 200 and len(data) <= _MOST_FETCHED_BYTES else None
    return None


def reference_digest(url: str) -> str | None:
    """The hash of a picture sent along, None when there is no picture. Blocks: for worker threads.

    Data URLs are decoded, links to loopback fetched; any other link is taken by its name, because nothing this server
    does leaves the machine.
    """
    data: bytes | None = None
    if url.startswith("data:"):
        with contextlib.suppress(binascii.Error):
            data = base64.b64decode(url.partition(";base64,")[2], validate=True)
    elif is_loopback(urlsplit(url).hostname or ""):
        data = fetch(url)
    else:
        return sha256(url.encode())
    return sha256(data) if data and picture_size(data) else None


@dataclass(slots=True)
class Link:
    """A picture behind a link. failures_left: how often it still answers 404."""

    data: bytes
    mime: str
    failures_left: int = 0
    slow: bool = False


class Links:
    """The newest pictures by name, up to a fixed number of bytes. Filled from worker threads."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._bytes = 0
        self._lock = Lock()

    def add(self, name: str, link: Link) -> str:
        """Keep a picture and return its path."""
        with self._lock:
            self._links[name] = link
            self._bytes += len(link.data)
            while self._bytes > _KEPT_BYTES and len(self._links) > 1:
                self._bytes -= len(self._links.pop(next(iter(self._links))).data)
        return f"{LINKS_PATH}/{name}"

    def take(self, name: str) -> Link | None:
        """The picture, or None for 404; counts down the failures asked for."""
        link = self._links.get(name)
        if link is not None and link.failures_left > 0:
            link.failures_left -= 1
            return None
        return link

    def clear(self) -> None:
        with self._lock:
            self._links.clear()
            self._bytes = 0
