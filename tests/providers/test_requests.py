"""Golden requests: what we send is what the official SDKs send, and what the documents say beyond them."""

from __future__ import annotations

import base64
import datetime
import json

import pytest

from batchgen.errors import BadRequest
from batchgen.profiles.catalogue import load_catalogue, unknown_profile
from batchgen.profiles.profile import SUPPORTABLE
from batchgen.providers.gemini import Gemini
from batchgen.providers.gemini_remote import GeminiFiles
from batchgen.providers.registry import encoded_fields
from batchgen.providers.request_body import deep_merged
from batchgen.records import Inputs, ReferenceImage
from tests.support.provider_requests import NONE, PIXEL, WORDS, camel, sent

FILE = "https://generativelanguage.googleapis.com/v1beta/files/abc-123"


def test_text_to_image_is_what_google_genai_sends(codec, sample_of, captured):
    sample = sample_of(
        prompt="A red fox",
        system="You draw.",
        safety={"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH"},
        modalities=("text", "image"),
        aspect_ratio="16:9",
        image_size="2K",
        seed=42,
        temperature=1.0,
        thinking="high",
        extra={  # what the SDK adds by itself or was told beyond our fields
            "generationConfig": {"candidateCount": 1, "thinkingConfig": {"includeThoughts": True}},
            "systemInstruction": {"role": "user"},
        },
    )
    assert sent(codec("flash"), sample) == camel(captured("text_to_image")["json"])


def test_text_to_image_is_what_the_javascript_sdk_sends(codec, sample_of, captured):
    sample = sample_of(
        prompt="A red fox",
        modalities=("text", "image"),
        aspect_ratio="16:9",
        image_size="2K",
        seed=1,
        thinking="high",
        extra={"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
    )
    assert sent(codec("flash"), sample) == captured("text_to_image_js")["json"]


def test_references_are_sent_as_google_genai_sends_them(codec, sample_of, captured):
    expected = camel(captured("multi_image_edit")["json"])
    sample = sample_of(prompt="Combine these", aspect_ratio="1:1")
    inline, uploaded = ReferenceImage("image/png", PIXEL), ReferenceImage("image/png", uri=FILE)
    assert sent(codec("flash"), sample, Inputs((inline, inline, uploaded))) == expected


def test_an_upload_starts_as_in_google_genai(captured):
    expected = captured("upload_js")
    request = GeminiFiles("v1").start("jsonl", 62, "b")
    assert (request.method, request.path, request.headers, json.loads(request.body)) == (
        expected["method"], expected["path"], expected["headers"], expected["json"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("search", "file", "prompt"), [("web", "search_web", "weather chart"), ("image", "search_image", "quetzal")]
)
def test_search_is_the_tool_google_genai_sends(codec, sample_of, captured, search, file, prompt):
    expected = camel(captured(file)["json"])
    assert sent(codec("flash"), sample_of(prompt=prompt, search=search))["tools"] == expected["tools"]


def test_a_service_tier_is_named_where_google_genai_names_it(codec, sample_of, captured):
    expected = captured("service_tier")["json"]
    assert sent(codec("flash"), sample_of(service_tier="priority"))["serviceTier"] == expected["serviceTier"]


def test_flex_is_waited_for_as_long_as_its_documents_say(codec, sample_of):
    assert codec("flash").build(sample_of(service_tier="flex"), NONE).timeout_s >= 15 * 60


def test_thoughts_are_asked_for_with_and_without_a_level(codec, sample_of):
    levels = [
        sent(codec("flash"), sample_of(keep_thoughts=True, thinking=level))["generationConfig"]["thinkingConfig"]
        for level in ("high", None)
    ]
    assert levels == [{"thinkingLevel": "HIGH", "includeThoughts": True}, {"includeThoughts": True}]


def test_the_resolution_of_references_is_the_vendors_word(codec, sample_of):
    config = sent(codec("flash"), sample_of(media_resolution="low"))["generationConfig"]
    assert config["mediaResolution"] == "MEDIA_RESOLUTION_LOW"


def test_the_request_goes_where_google_genai_sends_it(codec, sample_of, captured):
    request = codec("pro").build(sample_of(), NONE)
    assert (request.method, request.path) == (captured("timeout")["method"], captured("timeout")["path"])


def test_the_server_is_asked_to_stop_before_we_do(codec, sample_of):
    request = codec("pro").build(sample_of(image_size="4K"), NONE)
    assert (request.timeout_s, request.headers["X-Server-Timeout"]) == (600, "595")


def test_a_plain_item_asks_for_a_picture_only(codec, sample_of):
    assert sent(codec("flash"), sample_of()) == {
        "contents": [{"role": "user", "parts": [{"text": "a fox"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"]},
    }


def test_the_size_reaches_the_wire_in_upper_case(codec, sample_of):
    body = sent(codec("flash"), sample_of(image_size="2k"))
    assert body["generationConfig"]["imageConfig"] == {"imageSize": "2K"}


def test_a_strange_model_id_cannot_leave_its_place_in_the_path(codec, sample_of):
    path = Gemini(unknown_profile("x?key=1#\r\n../y", "gemini")).build(sample_of(), NONE).path
    assert path == "/v1beta/models/x%3Fkey%3D1%23%0D%0A..%2Fy:generateContent"


def test_a_profile_may_choose_another_api_version(codec, sample_of):
    path = codec("flash", wire={"api_version": "v1"}).build(sample_of(), NONE).path
    assert path.startswith("/v1/models/")


def test_imagen_is_what_google_genai_sent_while_it_could(codec, sample_of, captured):
    sample = sample_of(
        images=2,
        aspect_ratio="16:9",
        image_size="2K",
        person_generation="ALLOW_ADULT",
        extra={
            "parameters": {
                "guidanceScale": 5.0,
                "safetySetting": "BLOCK_LOW_AND_ABOVE",
                "includeSafetyAttributes": True,
                "language": "en",
                "outputOptions": {"mimeType": "image/jpeg", "compressionQuality": 80},
            }
        },
    )
    request = codec("imagen").build(sample, NONE)
    expected = captured("imagen_predict")
    assert (request.path, json.loads(request.body)) == (expected["path"], expected["json"])


def test_imagen_is_told_how_many_because_its_default_is_four(codec, sample_of):
    assert sent(codec("imagen"), sample_of())["parameters"]["sampleCount"] == 1


def test_aiml_gets_the_request_of_its_documents(codec, sample_of):
    sample = sample_of(prompt="Racoon eating ice-cream", aspect_ratio="16:9")
    assert sent(codec("aiml-imagen-4"), sample) == {
        "prompt": "Racoon eating ice-cream",
        "model": "google/imagen-4.0-generate-001",
        "aspect_ratio": "16:9",
    }


def test_aiml_fields_are_named_by_the_models_own_table(codec, sample_of):
    sample = sample_of(images=3, image_size="4K", seed=1)  # this model has no seed
    body = sent(codec("aiml-pro"), sample)
    assert (body["resolution"], body["num_images"], "seed" in body) == ("4K", 3, False)


def test_aiml_search_is_a_switch(codec, sample_of):
    assert sent(codec("aiml-flash"), sample_of(search="web"))["enable_web_search"] is True


def test_aiml_references_travel_as_data_urls_and_links(codec, sample_of):
    link = "https://example.com/a.png"
    inputs = Inputs((ReferenceImage("", uri=link), ReferenceImage("image/png", PIXEL)))
    assert sent(codec("aiml-flash"), sample_of(), inputs)["image_urls"] == [link, f"data:image/png;base64,{PIXEL}"]


def test_aiml_model_name_on_the_wire_may_differ_from_the_id(codec, sample_of):
    assert sent(codec("aimlapi/imagen-3.0-generate-002"), sample_of())["model"] == "imagen-3.0-generate-002"


def test_another_openai_style_endpoint_is_a_matter_of_data(codec, sample_of):
    wire = {
        "path": "/v1/images/create",
        "fields": {"count": "n", "image_size": "size"},
        "defaults": {"quality": "high"},
    }
    request = codec("gpt-image", provider="aimlapi", wire=wire).build(sample_of(images=2, image_size="1024x1024"), NONE)
    assert (request.path, json.loads(request.body)) == (
        "/v1/images/create",
        {"model": "gpt-image", "prompt": "a fox", "quality": "high", "n": 2, "size": "1024x1024"},
    )


MODELS = pytest.mark.parametrize("model", ["flash", "imagen", "aiml-imagen-4"])


@MODELS
def test_extra_reaches_the_wire_as_given_and_wins(codec, sample_of, model):
    body = sent(codec(model), sample_of(extra={"new": {"deep": [1, None]}, "model": "other"}))
    assert (body["new"], body["model"]) == ({"deep": [1, None]}, "other")


@MODELS
def test_building_leaves_extra_as_it_was(codec, sample_of, model):
    extra = {"generationConfig": {"x": 1}, "parameters": {"x": 1}}
    codec(model).build(sample_of(extra=extra, seed=3), NONE)
    assert extra == {"generationConfig": {"x": 1}, "parameters": {"x": 1}}


def test_merging_leaves_both_sides_as_they_were():
    body, extra = {"a": {"b": 1}}, {"a": {"c": 2}, "d": 3}
    deep_merged(body, extra)
    assert (body, extra) == ({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3})


@MODELS
def test_what_json_cannot_say_is_a_bad_request_not_a_crash(codec, sample_of, model):
    with pytest.raises(BadRequest, match="cannot be written as JSON") as caught:
        codec(model).build(sample_of(extra={"day": datetime.date(2026, 1, 1)}), NONE)
    assert caught.value.reason == "not_sendable"


@MODELS
def test_any_prompt_survives_the_way_to_the_wire(codec, sample_of, model):
    prompt = 'ünï "quoted" \\ \n\x00 \ud83e 🦊'
    assert prompt in _strings(sent(codec(model), sample_of(prompt=prompt)))


@pytest.mark.parametrize("model", ["flash", "aiml-flash"])
def test_references_arrive_in_order_and_whole(codec, sample_of, model):
    pictures = [f"{number}" * 40 for number in range(9)] + ["A" * 40]
    inputs = Inputs(tuple(ReferenceImage("image/png", picture) for picture in pictures))
    strings = _strings(sent(codec(model), sample_of(), inputs))
    assert [text.removeprefix("data:image/png;base64,") for text in strings if len(text) >= 40] == pictures


def test_extra_may_replace_the_place_of_the_references(codec, sample_of):
    extra = {"contents": [{"role": "user", "parts": [{"text": "mine"}]}]}
    body = sent(codec("flash"), sample_of(extra=extra), Inputs((ReferenceImage("image/png", PIXEL),)))
    assert body["contents"] == extra["contents"]


STRANGERS = ["gemini-9-image", "imagen-9", "somebody/their-model"]


def takes(profile):
    """What a manifest may ask of a model: of one that nobody knows, what its codec sends."""
    return profile.supports if profile.status != "unknown" else encoded_fields(profile) & SUPPORTABLE


@pytest.mark.parametrize("model", [*(profile.id for profile in load_catalogue()), *STRANGERS])
def test_every_field_a_model_supports_reaches_its_wire(codec, sample_of, model):
    provider = codec(model)
    plain = provider.build(sample_of(), NONE).body
    supported = takes(provider.profile) - {"references", "mask", "turns"}
    assert [
        field for field in supported if provider.build(sample_of(**{field: WORDS[field]}), NONE).body == plain
    ] == []


@pytest.mark.parametrize("model", [*(profile.id for profile in load_catalogue()), *STRANGERS])
def test_references_reach_the_wire_of_a_model_that_supports_them(codec, sample_of, model):
    provider = codec(model)
    body = provider.build(sample_of(), Inputs((ReferenceImage("image/png", PIXEL),))).body
    is_sent = PIXEL.encode() in body or base64.b64decode(PIXEL) in body  # in JSON, or as a part of a form
    assert is_sent == ("references" in takes(provider.profile))


@pytest.mark.parametrize("model", [profile.id for profile in load_catalogue() if profile.images_per_request > 1])
def test_a_model_that_takes_several_samples_is_told_how_many(codec, sample_of, model):
    assert codec(model).build(sample_of(images=4), NONE).body != codec(model).build(sample_of(), NONE).body


@MODELS
def test_the_same_sample_gives_the_same_bytes(codec, sample_of, model):
    inputs = Inputs((ReferenceImage("image/png", PIXEL),))
    assert codec(model).build(sample_of(), inputs) == codec(model).build(sample_of(), inputs)


@MODELS
def test_the_key_has_one_header_and_no_other_place(codec, sample_of, model):
    credentials = codec(model).credentials("SECRET")
    request = codec(model).build(sample_of(), NONE)
    assert "SECRET" in credentials.value and credentials.name not in request.headers and "key=" not in request.path
    assert "SECRET" not in repr(credentials)


def _strings(value):
    if isinstance(value, dict):
        return [text for entry in value.values() for text in _strings(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in _strings(entry)]
    return [value] if isinstance(value, str) else []
