"""What a model cannot do is said before anything is sent, with a model that can."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from batchgen.manifest import open_manifest
from batchgen.profiles.catalogue import Catalogue
from batchgen.providers.gemini import HARM_CATEGORIES, HARM_THRESHOLDS

LITE = "gemini-3.1-flash-lite-image"


def says(folder, **fields):
    body = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return folder.complaint(f"items: [{{id: a, {'' if 'prompt' in fields else 'prompt: p, '}{body}}}]")


def test_a_size_the_model_does_not_have_names_one_that_does(folder):
    assert f"{LITE} has 1K, not 2K; for 2K use gemini-nano-banana-2.1" in says(folder, model="lite", image_size="2K")


def test_a_size_in_small_letters_is_corrected_because_the_vendor_would_ignore_it(folder):
    assert "write '2K', not '2k'" in says(folder, image_size="2k")


def test_a_ratio_the_model_does_not_have_names_the_nearest(folder):
    assert "has no 9:20; its nearest is 9:16" in says(folder, model="pro", aspect_ratio="9:20")


@pytest.mark.parametrize("ratio", ["wide", "16x9", "16:9:1", "0:0"])
def test_a_ratio_that_is_none_is_refused(folder, ratio):
    assert "aspect_ratio: " in says(folder, aspect_ratio=f"'{ratio}'")


def test_a_field_the_model_does_not_take_is_refused_and_never_dropped(folder):
    assert "negative_prompt: gemini-nano-banana-2.1 does not take it" in says(folder, negative_prompt="x")


def test_a_kind_of_search_the_model_does_not_have_is_refused(folder):
    assert "search: gemini-3-pro-image has web, not image" in says(folder, model="pro", search="image")


def test_thinking_the_model_does_not_have_is_refused(folder):
    assert f"thinking: {LITE} has minimal, high, not low" in says(folder, model="lite", thinking="low")


def test_a_quality_the_model_does_not_have_is_refused_and_one_named_that_has_it(folder):
    complaint = says(folder, model="gpt-image-2", quality="max")
    assert "gpt-image-2 has auto, low, medium, high, not max; for max use gpt-image-2.6-sunburst" in complaint


def test_a_transparent_background_is_no_jpeg(folder):
    fields = {"model": "gpt-image-2", "background": "transparent", "output_format": "jpeg"}
    assert "background: a JPEG has no transparency" in says(folder, **fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"mask": "a.png"}, "mask: needs `references`"),
        ({"references": "[a.png]", "mask": "a.png"}, "mask: 'a.png' is one of the references"),
        ({"references": "[a.png]", "mask": "'[bc].png'"}, "mask: is one image, and '[bc].png' names 2"),
        ({"references": "[a.png]", "mask": "nowhere.png"}, "mask: 'nowhere.png'"),
    ],
)
def test_a_mask_is_one_image_beside_the_references(folder, fields, problem):
    for number, name in enumerate("abc"):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder.path / f"{name}.png")
    assert problem in says(folder, model="gpt-image-2", **fields)


def test_a_prompt_longer_than_the_model_takes_is_refused(folder):
    model = "google/imagen-4.0-generate-001"
    assert "has 500 characters" in says(folder, prompt="x" * 500, model=model)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_out_of_range_is_refused(folder, seed):
    assert "must be from 0 to 2147483647" in says(folder, seed=seed)


def test_an_unknown_model_passes_with_a_warning_and_a_suggestion(folder):
    (warning,) = folder.warnings("items: [{prompt: p, model: gemini-7-pro-image, image_size: 9K}]")
    assert "'gemini-7-pro-image' is not a known model (did you mean 'gemini-3-pro-image'?)" in warning


@pytest.mark.parametrize(
    ("name", "meant"),
    [("flsh", "flash"), ("flashh", "flash"), ("gemini-3-pro-imag", "gemini-3-pro-image"), ("liet", None)],
)
def test_a_model_that_is_misspelt_is_an_error_and_no_unpriced_purchase(folder, name, meant):
    text = f"items: [{{prompt: p, model: {name}}}]"
    if meant is None:  # as far from it as from a name of its own
        assert "is not a known model" in folder.warnings(text)[0]
    else:
        said = folder.complaint(text)
        assert f"model: '{name}' is not a known model (did you mean '{meant}'?)" in said
        assert f"declare it: `models: {{{name}: {{…}}}}`" in said


def test_a_model_that_is_declared_is_not_misspelt(folder):
    assert folder.items("models: {flsh: {provider: gemini}}\nitems: [{prompt: p, model: flsh}]")[0].model == "flsh"


def test_a_deprecated_model_is_warned_about_once(folder):
    items = ", ".join(f"{{id: i{n}, prompt: p, model: gemini-3.1-flash-image}}" for n in range(3))
    (warning,) = folder.warnings(f"items: [{items}]")
    assert "is deprecated" in warning


def test_a_retired_model_is_refused_with_its_replacement(folder):
    assert "was shut down on 2026-06-25; use gemini-3-pro-image" in says(folder, model="gemini-3-pro-image-preview")


def test_a_retired_model_is_allowed_where_the_caller_says_so(folder):
    text = "items: [{prompt: p, model: gemini-3-pro-image-preview}]"
    (item,) = folder.items(text, allow_retired=lambda profile: profile.id == "gemini-3-pro-image-preview")
    assert item.model == "gemini-3-pro-image-preview"


def test_an_alias_becomes_the_id_and_names_the_codec(one):
    item = one(model="pro")
    assert (item.model, item.provider) == ("gemini-3-pro-image", "gemini")


def test_the_default_model_is_flash(one):
    assert one().model == "gemini-nano-banana-2.1"


def test_the_manifest_can_change_what_is_known_of_a_model(folder):
    text = "models: {gemini-3.1-flash-lite-image: {sizes: [1K, 2K], rpm: 3}}\nitems: [{prompt: p, model: lite, image_size: 2K}]"
    manifest = open_manifest(folder.write(text))
    assert [item.image_size for item in manifest.items()] == ["2K"]
    assert manifest.catalogue.resolve("lite").rpm == 3


def test_a_wrong_fact_of_a_model_is_complained_about_in_its_place(folder):
    text = "models:\n  pro: {rpm: 15}\n  lite: {rmp: 15}\nitems: [{prompt: p}]"
    assert folder.complaint(text).startswith("job.yaml:3:10: models.lite.rmp: no such fact")


def test_models_to_fall_back_to_are_lanes_with_causes(one):
    item = one(model="pro", fallback=["flash", "gemini-3.1-flash-lite-image"])
    assert item.fallback == ("gemini/gemini-nano-banana-2.1", "gemini/gemini-3.1-flash-lite-image")
    assert item.fallback_on == ("quota", "outage")
    assert one(model="pro", fallback=["flash"], fallback_on=["refusal"]).fallback_on == ("refusal",)
    assert one(model="pro", fallback_on=["refusal"]).fallback_on == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("model: pro, fallback: [pro]", "fallback[0]: gemini-3-pro-image is the model itself"),
        (
            "model: pro, image_size: 4K, fallback: [flash, lite]",
            "fallback[1]: image_size: gemini-3.1-flash-lite-image has 1K",
        ),
        ("model: flash, search: image, fallback: [pro]", "fallback[0]: search: gemini-3-pro-image has web, not image"),
        ("model: pro, fallback: [gemini-3-pro-image-preview]", "fallback[0]: gemini-3-pro-image-preview was shut down"),
        (
            "model: pro, fallback: [flash], fallback_on: [rain]",
            "fallback_on[0]: must be 'quota', 'outage', 'refusal' or 'price'",
        ),
    ],
)
def test_a_fallback_that_cannot_do_what_is_asked_is_found_before_anything_is_sent(folder, fields, words):
    assert words in folder.complaint(f"items: [{{id: a, prompt: p, {fields}}}]")


def test_a_conversation_has_no_fallback(folder):
    assert "a conversation stays with its model" in folder.complaint("items: [{id: a, turns: [x], fallback: [pro]}]")


@pytest.mark.parametrize(
    ("category", "threshold", "words"),
    [
        ("harassment", "OFF", "'harassment' is not a harm category (did you mean 'HARM_CATEGORY_HARASSMENT'?)"),
        ("HARM_CATEGORY_HARASMENT", "OFF", "(did you mean 'HARM_CATEGORY_HARASSMENT'?)"),
        ("HARM_CATEGORY_HARASSMENT", "only_high", "'only_high' is not a threshold (did you mean 'BLOCK_ONLY_HIGH'?)"),
        ("rain", "OFF", "'rain' is not a harm category; choose from HARM_CATEGORY_CIVIC_INTEGRITY, "),
    ],
)
def test_a_safety_setting_the_vendor_does_not_know_is_found_before_anything_is_sent(folder, category, threshold, words):
    assert words in says(folder, safety=f"{{{category}: '{threshold}'}}")


def test_every_known_safety_setting_passes(one):
    for category in HARM_CATEGORIES:
        for threshold in HARM_THRESHOLDS:
            assert one(safety={category: threshold}).safety == {category: threshold}


def test_a_service_tier_the_model_does_not_have_is_refused(folder):
    assert "service_tier: imagen-4.0-generate-001 does not take it" in folder.complaint(
        "items: [{id: a, prompt: p, service_tier: flex, model: imagen}]", allow_retired=lambda _: True
    )


def test_thoughts_are_refused_where_a_model_has_none_and_false_asks_for_nothing(folder, one):
    model = "google/nano-banana-pro"
    assert "keep_thoughts: google/nano-banana-pro does not take it" in says(folder, model=model, keep_thoughts="true")
    assert one(model=model, keep_thoughts=False).keep_thoughts is False


def test_a_suffix_counts_towards_the_length_of_the_prompt(folder):
    model = "google/imagen-4.0-generate-001"
    assert "has 401 characters" in says(folder, prompt="x" * 390, no_image_suffix="y" * 10, model=model)


def test_what_is_neither_true_nor_false_is_refused(folder):
    assert "keep_thoughts: must be true or false, not 'perhaps'" in says(folder, keep_thoughts="perhaps")


PATHS = [
    ":8080/x", ".evil.example/x", "//evil.example/x", "/\\evil.example/x", "@evil.example/x", "/v1/@evil.example", "\\\\evil.example",
    "https://evil.example/x", "?x", "/x?y=1", "/x#y", "/v1/../x", "/v1//x", "/v1/./x", "/%2e%2e/x", "/v1/x\r\nHost: evil.example",
    "/v1/x\n", "/v1/x y", "/v1/ø", "",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_could_lead_away_from_the_provider_is_refused_where_it_stands(folder, path):
    text = f"models:\n  acme/paint:\n    provider: aimlapi\n    wire: {{path: {json.dumps(path)}}}\nitems: [{{id: a, prompt: p}}]\n"
    complaint = folder.complaint(text)
    assert complaint.startswith(
        "job.yaml:4:12: models.acme/paint.wire.path: must be a path below the provider's address"
    )


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/openai/v1/images/generations/", "/v1/models/m-1.5:predict"]
)
def test_a_path_below_the_provider_s_address_is_taken(folder, path):
    text = f"models: {{acme/paint: {{provider: aimlapi, wire: {{path: {json.dumps(path)}}}}}}}\nitems: [{{id: a, prompt: p}}]\n"
    assert len(folder.items(text)) == 1


NAMES = [
    "../x",
    "a/../b",
    "a//b",
    "/a",
    "a/",
    "@a",
    "a?b",
    "a#b",
    "a b",
    "a\r\nb",
    "a\\b",
    "a%2fb",
    ".a",
    "ä",
    "a" * 201,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("items:\n  - {{id: a, prompt: p, model: {0}}}\n", "2:24: model"),
        ("defaults: {{model: {0}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:12: defaults.model"),
        ("items:\n  - {{id: a, prompt: p, fallback: [pro, {0}]}}\n", "2:40: fallback[1]"),
        ("models: {{{0}: {{rpm: 5}}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:10: models."),
        ("models: {{flash: {{wire: {{model: {0}}}}}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:25: models.flash.wire.model"),
        ("models: {{flash: {{wire: {{api_version: {0}}}}}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:25: models.flash.wire.api_version"),
        ("models: {{flash: {{wire: {{region: {0}}}}}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:25: models.flash.wire.region"),
        ("models: {{flash: {{provider: {0}}}}}\nitems:\n  - {{id: a, prompt: p}}\n", "1:18: models.flash.provider"),
    ],
)  # fmt: skip
def test_a_name_that_could_mean_another_address_is_refused_where_it_stands(folder, text, place, name):
    complaint = folder.complaint(text.format(json.dumps(name)))
    assert complaint.startswith(f"job.yaml:{place}")
    assert "letters, digits and . _ - / : @ +" in complaint


@pytest.mark.parametrize("value", ["'Bearer {}'", "[{}]"])
def test_a_key_in_a_wire_value_is_refused_and_not_repeated(folder, value):
    key = "sk-" + "0123456789abcdef" * 2
    text = f"models: {{flash: {{wire: {{path: {value.format(key)}}}}}}}\nitems: [{{id: a, prompt: p}}]\n"
    assert [problem for problem in folder.complaints(text) if key in problem] == []


@pytest.mark.parametrize(
    "name", ["flash", "vendor/model", "anthropic.x-v2:0", "publishers/google/models/x@001", "FLUX.1-dev+lora"]
)
def test_a_name_as_vendors_write_them_is_taken(folder, name):
    assert len(folder.items(f"items: [{{id: a, prompt: p, model: {json.dumps(name)}}}]\n")) == 1


def test_what_an_unknown_model_may_mean_is_looked_for_once_and_not_for_every_item(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(Catalogue, "suggestions", lambda _, name: asked.append(name) or [])
    text = "items: [{id: 'a{{ n }}', prompt: p, model: vendor/paint, matrix: {n: [1, 2, 3, 4, 5, 6]}}]"
    assert len(folder.items(text)) == 6
    assert len(asked) <= 2  # once for the warning, once for the spelling
