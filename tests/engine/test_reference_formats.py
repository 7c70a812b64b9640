"""Which picture a model gets: what reaches the wire is decoded and looked at, whatever a reference was saved as."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageCms

from tests.engine.test_reference_inputs import HEAD, items, start

__all__ = ["start"]
PNG_ONLY = HEAD.replace("rpm: null", "rpm: null, reference_mime_types: [image/png, image/jpeg]").replace(
    "60_000", "9_000_000"
)


async def sent(start, picture, name, head=HEAD, **options):
    """What the emulator got for a reference: its MIME type and the picture. picture: saved under `name`, or its bytes."""
    bench = await start()
    if isinstance(picture, bytes):
        (bench.folder / name).write_bytes(picture)
    else:
        picture.save(bench.folder / name, **options)
    outcome = await bench.run(items(1, name), head)
    assert outcome.exit_code == 0
    ((part,),) = bench.wire.asked()
    data = base64.b64decode(part["inlineData"]["data"])
    got = Image.open(io.BytesIO(data))
    got.load()
    return part["inlineData"]["mimeType"], got, data


def two_halves(mode="RGB", size=(40, 20)):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image.convert(mode)


def colour_at(image, x, y):
    red, _, blue = image.convert("RGB").getpixel((x, y))
    return "red" if red > blue else "blue"


@pytest.mark.parametrize("name", ["a.avif", "a.tiff", "a.bmp"])
async def test_a_format_that_the_model_does_not_take_arrives_as_png_of_the_same_picture(start, name):
    mime_type, got, _ = await sent(start, two_halves(), name)
    assert (mime_type, got.format, got.size) == ("image/png", "PNG", (40, 20))
    assert [colour_at(got, x, 10) for x in (5, 35)] == ["red", "blue"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
async def test_a_picture_that_its_exif_turns_arrives_upright(start, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    options = {"exif": exif} | ({"quality": 95} if name == "a.jpg" else {})
    mime_type, got, _ = await sent(start, two_halves(), name, **options)
    assert mime_type == ("image/jpeg" if name == "a.jpg" else "image/png")
    assert (got.size, got.getexif().get(0x0112, 1)) == ((20, 40), 1)
    assert [colour_at(got, 10, y) for y in (5, 35)] == ["red", "blue"]


async def test_a_picture_that_needs_nothing_arrives_byte_by_byte(start, tmp_path):
    two_halves().save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    assert (await sent(start, data, "b.jpg"))[2] == data


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
async def test_a_grey_of_sixteen_bits_keeps_its_tone(start, name):
    image = Image.new("I;16", (16, 16), 127 * 257)
    head = HEAD.replace("rpm: null", "rpm: null, reference_mime_types: [image/jpeg]") if name == "a.png" else HEAD
    _, got, _ = await sent(start, image, name, head)
    assert got.convert("RGB").getpixel((8, 8)) == (127, 127, 127)


async def test_a_grey_of_floats_keeps_its_tone(start):
    _, got, _ = await sent(start, Image.new("F", (16, 16), 0.5), "a.tiff")
    assert got.convert("RGB").getpixel((8, 8)) == (128, 128, 128)


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
async def test_cmyk_arrives_in_rgb_with_its_colours(start, name):
    mime_type, got, _ = await sent(start, two_halves("CMYK"), name)
    assert (mime_type, got.mode) == ("image/jpeg" if name == "a.jpg" else "image/png", "RGB")
    assert [colour_at(got, x, 10) for x in (5, 35)] == ["red", "blue"]


async def test_a_palette_keeps_its_colours_and_its_holes(start):
    image = two_halves("P")
    _, got, _ = await sent(start, image, "a.gif", transparency=image.getpixel((5, 10)))
    assert [got.convert("RGBA").getpixel((x, 10))[3] for x in (5, 35)] == [0, 255]
    assert colour_at(got, 35, 10) == "blue"


async def test_a_profile_of_colours_arrives_with_the_picture(start):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _, got, _ = await sent(start, two_halves(), "a.tiff", icc_profile=profile)
    assert got.info["icc_profile"] == profile


async def test_a_heic_goes_as_it_is_to_a_model_that_takes_it_and_is_refused_for_another(start):
    heic = b"\x00\x00\x00\x18ftypheic" + b"\x00" * 40
    bench = await start()
    bench.write("a.heic", heic)
    assert (await bench.run(items(1, "a.heic"))).exit_code == 0
    ((part,),) = bench.wire.asked()
    assert base64.b64decode(part["inlineData"]["data"]) == heic
    with pytest.raises(Exception, match="takes png, jpeg; save it as PNG or JPEG"):
        await bench.run(items(1, "a.heic"), PNG_ONLY)
