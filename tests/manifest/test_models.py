"""Which models a manifest may name for images, and which for judging them."""

from __future__ import annotations

import pytest

from batchgen.manifest.models import Models, UnusableModelError, no_retired_models
from batchgen.profiles.catalogue import load_catalogue


@pytest.fixture
def models():
    return Models(load_catalogue(), no_retired_models, lambda words: None)


def refusal(find, name):
    with pytest.raises(UnusableModelError) as caught:
        find(name)
    return str(caught.value)


def test_a_model_that_makes_no_images_is_refused_for_them_and_one_that_does_is_named(models):
    assert refusal(models.usable, "gemini-3.1-flash-lite") == (
        "gemini-3.1-flash-lite makes no images: it looks at them, as `judge: {model: gemini-3.1-flash-lite}`; "
        "for images use gemini-3.1-flash-lite-image"
    )


def test_a_model_that_makes_images_alone_is_refused_as_a_judge(models):
    said = refusal(models.judge, "flash")
    assert said.startswith("gemini-nano-banana-2.1 makes images, and judges none; use gemini-3.1-flash-lite or ")


def test_a_model_whose_api_is_asked_about_no_images_is_refused_as_a_judge(models):
    assert "cannot judge: provider bfl asks about no images" in refusal(models.judge, "flux-2")


@pytest.mark.parametrize("name", ["gemini-3.1-flash-lite", "models/gemini-3.7-flash", "gemini-12-ultra", "vertex/any"])
def test_a_judge_that_is_known_or_of_which_nothing_is_known_may_be_asked(models, name):
    assert models.judge(name).id == name.removeprefix("models/")


def test_a_misspelt_judge_is_named(models):
    assert "did you mean 'gemini-3.5-flash-lite'" in refusal(models.judge, "gemini-3.5-flsh-lite")


def test_a_manifest_refuses_it_where_it_stands(folder):
    assert "model: gemini-3.7-flash makes no images" in folder.complaint(
        "items: [{prompt: p, model: gemini-3.7-flash}]"
    )
