"""Every Google image model at AIML: the whole request of each, and its limits as an independent witness has them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from batchgen.emulator.aimlapi import OFFERS
from batchgen.emulator.aimlapi import parse as read_by_the_emulator
from batchgen.emulator.options import EmulatorOptions
from batchgen.errors import BadRequest
from batchgen.manifest.capability import check
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import Inputs, ReferenceImage

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
LINK = "https://example.com/mug.png"
FILE, LINKED = ReferenceImage("image/png", PIXEL), ReferenceImage("image/png", uri=LINK)
PROFILES = {
    profile.wire.get("model") or profile.id: profile for profile in load_catalogue() if profile.provider == "aimlapi"
}  # by the name on the wire

# What an item may ask for and what is then sent, beside model and prompt. Field tables: github.com/aimlapi/api-docs
# f14fa72 (2026-08-21), docs/api-references/image-models/Google/*.json.
IMAGEN = (
    {"images": 4, "aspect_ratio": "9:16", "seed": 4_294_967_295, "person_generation": "dont_allow"},
    {"num_images": 4, "aspect_ratio": "9:16", "seed": 4_294_967_295, "person_generation": "dont_allow"},
)
PRO = (
    {"images": 2, "aspect_ratio": "21:9", "image_size": "4K"},
    {"num_images": 2, "aspect_ratio": "21:9", "resolution": "4K"},
)
FLASH = (
    {"aspect_ratio": "3:4", "image_size": "2K", "search": "web"},
    {"aspect_ratio": "3:4", "resolution": "2K", "enable_web_search": True, "image_urls": "both"},
)
GOLDEN = {
    "google/imagen-4.0-generate-001": IMAGEN,
    "google/imagen-4.0-fast-generate-001": IMAGEN,
    "google/imagen-4.0-ultra-generate-001": IMAGEN,
    "google/imagen4/preview": IMAGEN,
    "imagen-3.0-generate-002": IMAGEN,
    "imagen-4.0-ultra-generate-preview-06-06": IMAGEN,
    "imagen4/preview": (
        {"images": 4, "aspect_ratio": "4:3", "seed": 7},
        {"num_images": 4, "aspect_ratio": "4:3", "seed": 7},
    ),
    "google/gemini-2.5-flash-image": (
        {"images": 3, "aspect_ratio": "5:4"},
        {"num_images": 3, "aspect_ratio": "5:4"},
    ),
    "google/nano-banana-edit": (IMAGEN[0], {**IMAGEN[1], "image_urls": "both"}),
    "google/nano-banana-pro": PRO,
    "google/gemini-3-pro-image-preview": PRO,
    "google/gemini-3-pro-image-edit": (
        {"images": 4, "aspect_ratio": "16:9", "image_size": "1K"},
        {"num_images": 4, "aspect_ratio": "16:9", "resolution": "1K", "image_urls": "both"},
    ),
    "google/nano-banana-2": FLASH,
    "google/gemini-3-1-flash-image-preview": FLASH,
    "google/gemini-3-1-flash-lite-image": FLASH,
    "google/gemini-nano-banana-2.1": FLASH,
}
EXTRA = {  # beyond the fields of a manifest: given as `extra`
    "enhance_prompt": False,
    "safety_setting": "block_only_high",
    "add_watermark": True,
    "convert_base64_to_url": False,
    "provider": "google",
}
each_model = pytest.mark.parametrize("model", list(GOLDEN))


def request_for(model, sample_of, inputs=Inputs(), **fields):  # noqa: B008 - frozen
    return provider_for(PROFILES[model]).build(sample_of(**fields), inputs)


def test_every_model_of_the_witness_has_a_golden_request_and_a_profile():
    assert set(GOLDEN) == set(PROFILES) == set(OFFERS)


@each_model
def test_the_whole_request(sample_of, model):
    asked, expected = GOLDEN[model]
    edits = "image_urls" in expected
    inputs = Inputs((FILE, LINKED)) if edits else Inputs()
    body = json.loads(request_for(model, sample_of, inputs, prompt="Racoon eating ice-cream", **asked).body)
    pictures = {"image_urls": [f"data:image/png;base64,{PIXEL}", LINK]} if edits else {}
    assert body == {"model": model, "prompt": "Racoon eating ice-cream", **expected, **pictures}


@each_model
def test_fields_that_only_this_vendor_has_go_through_extra(sample_of, model):
    body = json.loads(request_for(model, sample_of, extra=EXTRA).body)
    assert {name: body.get(name) for name in EXTRA} == EXTRA


@each_model
def test_the_limits_are_those_that_the_witness_keeps(model):
    profile, offer = PROFILES[model], OFFERS[model]
    refused = {
        "ratios": offer.fields["aspect_ratio"],
        "person_generation": offer.fields.get("person_generation", lambda _: "no such field"),
        "search": lambda kind: None if kind == "web" and "enable_web_search" in offer.fields else "no such field",
        "sizes": offer.fields.get("resolution", lambda size: None if size == "1K" else "only 1K"),
    }
    for fact, problem in refused.items():
        assert [value for value in getattr(profile, fact) if problem(value)] == []
    count, urls = offer.fields.get("num_images"), offer.fields.get("image_urls")
    most = max((n for n in range(1, 9) if count and count(n) is None), default=1)
    references = max((n for n in range(9) if urls and urls([LINK] * n) is None), default=0)
    facts = (profile.images_per_request, profile.references_max, profile.prompt_max_chars)
    assert facts == (most, references, offer.prompt_characters)


@each_model
def test_all_that_a_profile_supports_is_a_field_of_the_witness(model):
    profile, offer = PROFILES[model], OFFERS[model]
    named = {profile.wire["fields"][field] for field in profile.supports}
    assert named <= set(offer.fields)


@each_model
def test_the_witness_reads_the_request(sample_of, model):
    asked, expected = GOLDEN[model]
    inputs = Inputs((FILE, LINKED)) if "image_urls" in expected else Inputs()
    order = read_by_the_emulator(request_for(model, sample_of, inputs, **asked).body, EmulatorOptions())
    assert (order.ratio, order.count, len(order.links)) == (
        asked["aspect_ratio"],
        asked.get("images", 1),
        len(inputs.references),
    )


@pytest.mark.parametrize(
    ("model", "fields", "wrong"),
    [
        (
            "google/imagen-4.0-generate-001",
            {"person_generation": "allow_all"},
            "dont_allow, allow_adult, not allow_all",
        ),
        ("google/imagen-4.0-generate-001", {"seed": 4_294_967_296}, "from 0 to 4294967295"),
        ("google/nano-banana-edit", {"prompt": "a" * 401}, "takes at most 400"),
        ("google/nano-banana-edit", {"aspect_ratio": "21:9"}, "has no 21:9"),
        ("google/nano-banana-2", {"search": "image"}, "has web, not image"),
        ("google/nano-banana-pro", {"seed": 1}, "does not take it"),
        ("google/nano-banana-pro", {"image_size": "512"}, "has 1K, 2K, 4K"),
    ],
)
def test_what_a_model_cannot_do_is_wrong_at_plan_time(model, fields, wrong):
    assert [wrong in message for _, message in check(PROFILES[model], fields, ())] == [True]


def test_a_link_between_files_keeps_its_place(sample_of):
    other = ReferenceImage("image/jpeg", "b" * 40)
    body = json.loads(request_for("google/nano-banana-2", sample_of, Inputs((FILE, LINKED, other))).body)
    assert body["image_urls"] == [f"data:image/png;base64,{PIXEL}", LINK, "data:image/jpeg;base64," + "b" * 40]


def test_a_body_beyond_the_cap_is_never_sent(sample_of):
    provider = provider_for(replace(PROFILES["google/nano-banana-2"], request_max_bytes=1000))
    with pytest.raises(BadRequest, match=r"takes 0\.0 MB") as caught:
        provider.build(sample_of(), Inputs((ReferenceImage("image/png", "A" * 1000),)))
    assert caught.value.reason == "request_too_large"
