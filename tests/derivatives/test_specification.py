"""Which files are to be made of a picture and how large: exact ratios, nothing larger than asked, no two under one path."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.derivatives.specification import GRAVITIES, OutputSpec, crop_and_size, outputs_of
from batchgen.records import Derivative, Post

side = st.integers(1, 5000)


def spec(**fields):
    return OutputSpec(path="", format="png", **fields)


@given(side, side, st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from(list(GRAVITIES)))
def test_a_crop_has_exactly_its_ratio_is_as_large_as_it_can_be_and_lies_inside(wide, high, crop, gravity):
    a, b = (part // math.gcd(*crop) for part in crop)
    try:
        (left, top, right, bottom), (width, height) = crop_and_size((wide, high), spec(crop=crop, gravity=gravity))
    except ValueError:
        assert wide < a or high < b
        return
    assert width * b == height * a
    assert width + a > wide or height + b > high
    assert -1e-6 <= left < right <= wide + 1e-6
    assert -1e-6 <= top < bottom <= high + 1e-6


@given(side, side, side, st.booleans())
def test_nothing_becomes_larger_than_the_picture_unless_asked(wide, high, width, upscale):
    size = crop_and_size((wide, high), spec(width=width, upscale=upscale))[1]
    assert size[0] == (width if upscale else min(width, wide))
    assert abs(size[1] - size[0] * high / wide) <= 1


def test_widths_beyond_the_picture_are_left_out_and_a_single_width_becomes_the_pictures_own():
    assert crop_and_size((800, 600), spec(width=960, skips=True)) is None
    assert crop_and_size((800, 600), spec(width=960))[1] == (800, 600)
    assert crop_and_size((800, 600), spec(width=960, skips=True, upscale=True))[1] == (960, 720)


@pytest.mark.parametrize(("gravity", "box"), [
    ("center", (25, 0, 75, 50)), ("west", (0, 0, 50, 50)), ("east", (50, 0, 100, 50)), ("northeast", (50, 0, 100, 50)),
])  # fmt: skip
def test_gravity_says_which_part_a_crop_keeps(gravity, box):
    assert crop_and_size((100, 50), spec(crop=(1, 1), gravity=gravity)) == (box, (50, 50))


WEB = Derivative(name="web", format="webp", widths=(480, 960), quality=82)
ALL = Post(derivatives=(WEB, Derivative(name="web-x", format="png")), embed="ids", sidecar=True)


def test_every_file_has_a_folder_of_its_kind_and_the_name_of_its_picture():
    assert [output.path for output in outputs_of(ALL, "mug-480", "jpeg", "j")] == [
        "derivatives/web-480/mug-480.webp", "derivatives/web-960/mug-480.webp", "derivatives/web-x/mug-480.png",
        "derivatives/mug-480.json",
    ]  # fmt: skip


@pytest.mark.parametrize("post", [Post(embed="ids"), Post(sign=True)])
def test_embedding_or_signing_alone_makes_a_copy_of_the_original(post):
    (output,) = outputs_of(post, "mug", "jpeg", "j")
    assert (output.path, output.spec.format) == ("derivatives/original/mug.jpg", "original")


def recipes(post, job="j"):
    return {output.path: output.recipe for output in outputs_of(post, "a", "png", job)}


def test_a_recipe_from_before_cutouts_is_the_same_and_a_cutout_is_part_of_one():
    plain = Derivative(name="w", format="png", width=9)
    (before,) = recipes(Post(derivatives=(plain,))).values()
    assert before == "b783cf792af88440"  # else every file that there is would be made again
    kinds = [
        replace(plain, cutout=cutout, background=colour) for cutout in ("key", "difference") for colour in ("", "#fff")
    ]
    assert len({before, *(recipe for kind in kinds for recipe in recipes(Post(derivatives=(kind,))).values())}) == 5
    assert before not in recipes(Post(derivatives=(plain,), sign=True)).values()


@pytest.mark.parametrize(("post", "changed"), [
    (replace(ALL, derivatives=(replace(WEB, quality=83), ALL.derivatives[1])), {"web-480", "web-960", "sidecar"}),
    (replace(ALL, derivatives=(replace(WEB, widths=(480,)), ALL.derivatives[1])), {"web-960", "sidecar"}),
    (replace(ALL, embed="full"), {"web-480", "web-960", "web-x", "sidecar"}),
    (replace(ALL, source_type="compositeWithTrainedAlgorithmicMedia"), {"web-480", "web-960", "web-x", "sidecar"}),
    (ALL, set()),
])  # fmt: skip
def test_a_changed_recipe_is_another_one_only_where_it_changed(post, changed):
    before, after = recipes(ALL), recipes(post)
    kinds = {
        path.split("/")[1] if path.count("/") == 2 else "sidecar" for path in before if before[path] != after.get(path)
    }
    assert kinds == changed
