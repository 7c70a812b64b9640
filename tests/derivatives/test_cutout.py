"""Transparency against a known truth: a subject of known alpha, laid on green, white and black by nobody of ours."""

from __future__ import annotations

import io
from functools import partial

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageStat

from batchgen.derivatives.cutout import cut_by_difference, cut_by_key

SIDE = 256
WHITE, BLACK, GREEN = (255, 255, 255), (0, 0, 0), (12, 230, 40)  # green as a model makes it that was asked for #00ff00


def subject(second=(90, 40, 160)) -> Image.Image:
    """RGBA: a disc with a soft edge of two pixels, one half of it of a second colour."""
    alpha = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(alpha).ellipse((50, 40, 210, 200), fill=255)
    image = Image.new("RGB", (SIDE, SIDE), (230, 90, 40))
    ImageDraw.Draw(image).rectangle((0, 0, SIDE, 120), fill=second)
    image.putalpha(alpha.filter(ImageFilter.GaussianBlur(2)))
    return image


def with_glass(image: Image.Image) -> Image.Image:
    """With a translucent part, which no colour key can tell."""
    alpha = image.getchannel("A")
    ImageDraw.Draw(alpha).rectangle((60, 210, 200, 235), fill=90)
    image.putalpha(alpha)
    return image


def on(colour, image: Image.Image) -> Image.Image:
    under = Image.new("RGB", image.size, colour)
    under.paste(image, mask=image.getchannel("A"))
    return under


def jpeg(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return Image.open(out).convert("RGB")


def alpha_error(found: Image.Image, truth: Image.Image) -> tuple[float, float]:
    """(mean, most), from 0 to 1."""
    apart = ImageStat.Stat(ImageChops.difference(found.getchannel("A"), truth.getchannel("A")))
    return apart.mean[0] / 255, apart.extrema[0][1] / 255


def colour_error(found: Image.Image, truth: Image.Image) -> float:
    """Mean of 255, where a fifth or more is covered."""
    apart = ImageChops.difference(found.convert("RGB"), truth.convert("RGB"))
    return max(ImageStat.Stat(apart, truth.getchannel("A").point(lambda value: 255 * (value > 51))).mean)


@pytest.mark.parametrize(
    ("saved", "mean", "most", "colour"), [(lambda x: x, 0.002, 0.02, 1.0), (jpeg, 0.004, 0.12, 6.0)]
)
def test_alpha_by_difference_is_the_truth_also_of_what_is_translucent(saved, mean, most, colour):
    truth = with_glass(subject())
    found = cut_by_difference(saved(on(WHITE, truth)), saved(on(BLACK, truth)))
    assert found.mode == "RGBA"
    errors = alpha_error(found, truth)
    assert (errors[0] < mean, errors[1] < most, colour_error(found, truth) < colour) == (True, True, True), errors


def test_backgrounds_that_are_not_quite_white_and_black_are_taken_as_they_are():
    truth = with_glass(subject())
    found = cut_by_difference(on((243, 240, 235), truth), on((9, 12, 52), truth))
    assert (alpha_error(found, truth)[0] < 0.005, colour_error(found, truth) < 1.5) == (True, True)


@pytest.mark.parametrize(
    ("saved", "second", "mean", "most"),
    [
        (lambda x: x, (230, 90, 40), 0.001, 0.05),
        (lambda x: x, (90, 40, 160), 0.002, 0.3),  # the most where the colours meet
        (jpeg, (90, 40, 160), 0.008, 0.4),
    ],
)
@pytest.mark.parametrize("background", ["", "#00ff00"])
def test_the_soft_edge_of_a_disc_on_green_is_as_soft_as_it_was(background, saved, second, mean, most):
    truth = subject(second)
    found = cut_by_key(saved(on(GREEN, truth)), background)
    errors = alpha_error(found, truth)
    assert (errors[0] < mean, errors[1] < most) == (True, True), errors


def test_nothing_green_is_left_in_the_edge():
    truth = subject()
    assert colour_error(cut_by_key(on(GREEN, truth), ""), truth) < 3
    green = on(GREEN, truth)
    green.putalpha(truth.getchannel("A"))
    assert colour_error(green, truth) > 7  # what it would be without


def test_an_outline_of_another_colour_stays_opaque_and_as_it_was():
    truth = subject()
    draw = ImageDraw.Draw(truth)
    draw.ellipse((46, 36, 214, 204), outline=(20, 20, 26, 255), width=6)
    found = cut_by_key(on(GREEN, truth), "")
    red, green, blue, alpha = found.getpixel((130, 38))
    assert (alpha, abs(red - 20) < 12, abs(green - 20) < 12, abs(blue - 26) < 12) == (255, True, True, True)


def test_a_hair_thinner_than_the_edge_keeps_nothing_green_either():
    truth = subject()
    big = truth.resize((SIDE * 4, SIDE * 4))
    ImageDraw.Draw(big).line((520, 160, 560, 4), fill=(30, 24, 20, 255), width=6)
    truth = big.resize((SIDE, SIDE), Image.Resampling.BOX)
    found = cut_by_key(on(GREEN, truth), "")
    hair = [found.getpixel((x, 20)) for x in range(SIDE)]
    covered = [pixel for pixel in hair if pixel[3] > 40]
    assert covered
    assert max(green - max(red, blue) for red, green, blue, _ in covered) < 20


def test_what_has_the_colour_goes_inside_of_the_subject_too():
    truth = subject()
    ImageDraw.Draw(truth).ellipse((100, 90, 160, 150), fill=(0, 0, 0, 0))
    assert cut_by_key(on(GREEN, truth), "").getpixel((130, 120))[3] == 0


def test_a_pair_of_two_sizes_is_none():
    image = on(WHITE, subject())
    with pytest.raises(ValueError, match="the image on black is 256 x 256 and the one on white is 250 x 256"):
        cut_by_difference(image.crop((0, 0, 250, 256)), on(BLACK, subject()))


@pytest.mark.parametrize(("white", "black"), [((190, 200, 255), BLACK), (WHITE, (60, 0, 0))])
def test_a_background_of_another_colour_than_asked_for_is_said(white, black):
    with pytest.raises(ValueError, match=r"borders of the images on white and on black are #\w{6} and #\w{6}"):
        cut_by_difference(on(white, subject()), on(black, subject()))


def test_a_pair_that_does_not_show_the_same_is_said_with_the_tolerance():
    moved = ImageChops.offset(subject(), 40, 0)
    with pytest.raises(ValueError, match=r"do not show the same: [0-9]+% of the subject .* 5% is the most"):
        cut_by_difference(on(WHITE, subject()), on(BLACK, moved))
    redrawn = Image.merge("RGBA", [subject().getchannel(name) for name in "GRBA"])
    with pytest.raises(ValueError, match="do not show the same"):
        cut_by_difference(on(WHITE, subject()), on(BLACK, redrawn))
    nudged = ImageChops.offset(subject(), 1, 0)
    assert cut_by_difference(on(WHITE, subject()), on(BLACK, nudged)).mode == "RGBA"


@pytest.mark.parametrize(
    ("image", "background", "why"),
    [
        (partial(Image.effect_noise, (SIDE, SIDE), 200), "", "less than 50% of the border is of one colour"),
        (lambda: Image.new("RGB", (SIDE, SIDE), (200, 40, 40)), "#00ff00", "less than 1% of the image is a background of #00ff00"),
    ],
)  # fmt: skip
def test_an_image_without_such_a_background_is_said(image, background, why):
    with pytest.raises(ValueError, match=why):
        cut_by_key(image().convert("RGB"), background)


def test_two_empty_backgrounds_are_an_empty_cutout_and_so_is_a_tiny_one():
    plain = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (WHITE, BLACK)]
    assert cut_by_difference(*plain).getchannel("A").getextrema() == (0, 0)
    assert cut_by_key(Image.new("RGB", (3, 1), GREEN), "").getchannel("A").getextrema() == (0, 0)
