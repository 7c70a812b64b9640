"""The pixel tables and the pictures painted from them."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageFont

from batchgen.emulator.models import GEMINI, IMAGEN
from batchgen.emulator.pictures import Picture, _font, read_comment, render, scaled
from batchgen.http.base64_stream import THRESHOLD_BYTES
from tests.support.bench import LIFTED_PX


def picture(**more):
    facts = {
        "prompt": "A red fox",
        "title": "A red fox",
        "model": "m",
        "caption": "m · 1:1 · 1K",
        "mime": "image/jpeg",
        "pixels": (256, 256),
        "n": 1,
    }
    return Picture(**(facts | more))


@pytest.mark.parametrize(
    "model, ratio, size, pixels",
    [
        ("gemini-3-pro-image", "1:1", "4K", (4096, 4096)),
        ("gemini-3-pro-image", "2:3", "1K", (848, 1264)),
        ("gemini-3-pro-image", "3:2", "2K", (2528, 1696)),
        ("gemini-3-pro-image", "4:3", "4K", (4800, 3584)),
        ("gemini-3-pro-image", "4:5", "2K", (1856, 2304)),
        ("gemini-3-pro-image", "9:16", "4K", (3072, 5504)),
        ("gemini-3-pro-image", "21:9", "1K", (1584, 672)),
        ("gemini-3-pro-image", "21:9", "4K", (6336, 2688)),
        ("gemini-nano-banana-2.1", "8:1", "1K", (3072, 384)),
        ("gemini-3.1-flash-image", "1:1", "512", (512, 512)),
        ("gemini-2.5-flash-image", "16:9", "1K", (1344, 768)),
    ],
)
def test_pixels_are_the_documented_ones(model, ratio, size, pixels):
    assert GEMINI[model].pixels(ratio, size) == pixels


def test_one_subject_is_painted_on_white_and_on_black_where_exactly_that_is_asked_for():
    white, black = (
        Image.open(io.BytesIO(render(picture(prompt=f"x on a pure {words}", mime="image/png", references=references))))
        for words, references in (("white background (#FFFFFF)", ()), ("black background (#000000)", ("ab",)))
    )
    assert [image.getpixel((2, 2)) for image in (white, black)] == [(255, 255, 255), (0, 0, 0)]
    assert white.getpixel((128, 60)) == black.getpixel((128, 60))  # opaque
    below = [w - b for w, b in zip(white.getpixel((128, 180)), black.getpixel((128, 180)), strict=True)]
    assert max(abs(each - 115) for each in below) <= 1  # 140 of 255 cover it
    plain = Image.open(io.BytesIO(render(picture(prompt="x on a pure white background", mime="image/png"))))
    assert plain.getpixel((2, 2)) != (255, 255, 255)


def test_imagen_paints_1408_by_768_for_16_to_9():
    assert IMAGEN["imagen-4.0-generate-001"].pixels("16:9", "1K") == (1408, 768)


@pytest.mark.parametrize("model", [*GEMINI.values(), *IMAGEN.values()], ids=lambda model: model.id)
def test_every_ratio_and_size_of_a_model_has_pixels(model):
    assert all(min(model.pixels(ratio, size)) > 0 for ratio in model.ratios for size in model.sizes)


@pytest.mark.parametrize("mime, form", [("image/jpeg", "JPEG"), ("image/png", "PNG")])
def test_the_format_is_the_one_asked_for(mime, form):
    assert Image.open(io.BytesIO(render(picture(mime=mime)))).format == form


@pytest.mark.parametrize("mime", ["image/jpeg", "image/png"])
def test_the_comment_holds_the_prompt_and_the_number(mime):
    facts = read_comment(render(picture(mime=mime, prompt="Äpfel 🍎", n=7)))
    assert (facts["prompt"], facts["n"]) == ("Äpfel 🍎", 7)


def test_equal_pictures_have_equal_bytes():
    assert render(picture()) == render(picture())


@pytest.mark.parametrize(
    "change", [{"prompt": "x"}, {"model": "x"}, {"seed": 1}, {"references": ("a",)}, {"nonce": 2}], ids=str
)
def test_whatever_the_picture_is_made_of_changes_its_pixels(change):
    pixels = [Image.open(io.BytesIO(render(one))).tobytes() for one in (picture(), picture(**change))]
    assert pixels[0] != pixels[1]


def test_the_number_of_the_request_does_not_change_the_pixels():
    pixels = [Image.open(io.BytesIO(render(picture(n=n)))).tobytes() for n in (1, 2)]
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize("prompt", ["", "word " * 5000, "w" * 5000, "猫" * 20_000, "a\x00b\n\n\tc"], ids=len)
def test_any_prompt_can_be_painted(prompt):
    image = Image.open(io.BytesIO(render(picture(prompt=prompt, title=prompt))))
    image.load()
    assert image.size == (256, 256)


@pytest.mark.parametrize(
    "title, drawn",
    [
        ("A \U0010fffd cat", "(no font here for 1 of 7 characters) A cat"),
        ("\U0010fffd\U0010fffc", "(no font here for 2 of 2 characters)"),
    ],
)
def test_what_no_font_has_is_counted_and_not_drawn_as_boxes(title, drawn):
    pixels = [Image.open(io.BytesIO(render(picture(title=one)))).tobytes() for one in (title, drawn)]
    assert pixels[0] == pixels[1]


def test_a_smaller_picture_keeps_its_shape():
    assert scaled((1376, 768), 64) == (64, 36)


def test_letters_of_a_prompt_beyond_ascii_are_drawn_where_the_system_has_a_font_for_them():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("NOT TESTED: there is no DejaVu font here")
    missing = bytes(ImageFont.truetype("DejaVuSans.ttf", 20).getmask("\uffff"))
    assert bytes(_font(20, frozenset("øß")).getmask("ø")) != missing
    assert _font(20).getname() == ImageFont.load_default(size=20).getname()


@pytest.mark.parametrize("nonce", range(8))
def test_what_tests_take_for_a_lifted_image_is_long_enough_to_be_decoded_to_disk(nonce):
    square = picture(prompt="a", title="a", caption="", pixels=(LIFTED_PX, LIFTED_PX), nonce=nonce)
    assert 4 * len(render(square)) / 3 > THRESHOLD_BYTES
