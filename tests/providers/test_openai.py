"""OpenAI's images: sizes, the form of an edit, usage and prices, and what each documented error amounts to."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    KeyRejected,
    ModelUnavailable,
    ProviderError,
    RateLimited,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
)
from batchgen.profiles.catalogue import load_catalogue, unknown_profile
from batchgen.profiles.price import cost_usd, estimate_usd
from batchgen.providers.openai import OpenAi, pixels_of, read_models
from batchgen.records import Inputs, ReferenceImage, Response, Usage
from tests.support.provider_requests import NONE, PIXEL, sent

MODEL = "gpt-image-2.6-sunburst"
ANSWER = {
    "created": 1,
    "output_format": "webp",
    "data": [{"b64_json": "b25l"}, {"b64_json": "dHdv"}],
    "usage": {
        "input_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        "output_tokens": 1756,
        "output_tokens_details": {"image_tokens": 1700, "text_tokens": 56},
        "total_tokens": 1806,
    },
}


def test_a_plain_item_leaves_everything_to_the_model(codec, sample_of):
    assert sent(codec(MODEL), sample_of()) == {"model": MODEL, "prompt": "a fox"}


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"aspect_ratio": "16:9"}, "1360x768"),
        ({"aspect_ratio": "16:9", "image_size": "4K"}, "3840x2160"),
        ({"image_size": "2k"}, "2048x2048"),
        ({"image_size": "4K"}, "2880x2880"),
    ],
)
def test_ratio_and_size_are_pixels_on_the_wire(codec, sample_of, fields, size):
    assert sent(codec(MODEL), sample_of(**fields))["size"] == size


def test_an_older_model_has_its_own_three_sizes(codec, sample_of):
    assert sent(codec("gpt-image-1.5"), sample_of(aspect_ratio="3:2"))["size"] == "1536x1024"


def test_every_size_of_the_tables_is_one_that_the_vendor_takes():
    profiles = [profile for profile in load_catalogue() if profile.provider == "openai" and "4K" in profile.sizes]
    table = {(ratio, size): pair for ratio, row in profiles[0].pixels.items() for size, pair in row.items()}
    assert set(table) == {(ratio, size) for ratio in profiles[0].ratios for size in profiles[0].sizes}
    for (ratio, size), (width, height) in table.items():
        wide, high = map(int, ratio.split(":"))
        assert (width % 16, height % 16, max(width, height) <= 3 * min(width, height)) == (0, 0, True)
        assert max(width, height) <= 3840
        assert 655_360 < width * height <= 3840 * 2160
        assert width / height == pytest.approx(wide / high, rel=0.03)
        assert pixels_of(ratio, size) == (width, height)  # what a model nobody knows is asked for


@pytest.mark.parametrize("fields", [{"aspect_ratio": "4:1"}, {"aspect_ratio": "0:0"}, {"image_size": "8K"}])
def test_of_a_model_nobody_knows_a_size_that_cannot_be_is_refused_before_it_is_sent(sample_of, fields):
    with pytest.raises(BadRequest, match="OpenAI takes 1K, 2K, 4K and ratios from 1:3 to 3:1"):
        OpenAi(unknown_profile("gpt-image-9", "openai")).build(sample_of(**fields), NONE)


def test_what_a_form_cannot_say_is_refused(codec, sample_of):
    with pytest.raises(BadRequest) as refused:
        codec(MODEL).build(sample_of(extra={"x": float("nan")}), Inputs((ReferenceImage("image/png", PIXEL),)))
    assert refused.value.reason == "not_sendable"


@pytest.mark.parametrize("references", [0, 1])
def test_a_request_that_is_too_large_is_not_sent(codec, sample_of, references):
    inputs = Inputs((ReferenceImage("image/png", PIXEL),) * references)
    with pytest.raises(BadRequest) as refused:
        codec(MODEL, request_max_bytes=40).build(sample_of(), inputs)
    assert refused.value.reason == "request_too_large"


def test_an_answer_is_read_with_its_format_its_tokens_and_its_number(codec):
    reply = codec(MODEL).read(Response(200, {"X-Request-Id": "req_1"}, json.dumps(ANSWER).encode()))
    assert [(image.data, image.mime_type) for image in reply.images] == [
        (b"one", "image/webp"),
        (b"two", "image/webp"),
    ]
    assert reply.usage == Usage(
        prompt_tokens=10, prompt_image_tokens=40, image_tokens=1700, text_tokens=56, total_tokens=1806
    )
    assert reply.reply_id == "req_1"


def test_the_list_of_models_says_by_their_names_which_make_images():
    listed = {"data": [{"id": name, "object": "model"} for name in ("gpt-5.3", "gpt-image-2", "chatgpt-image-latest")]}
    makers = [model.id for model in read_models(json.dumps(listed).encode()) if model.makes_images]
    assert makers == ["gpt-image-2", "chatgpt-image-latest"]


def test_text_in_images_in_and_images_out_have_a_price_each():
    profile = load_catalogue().resolve(MODEL)
    usage = Usage(prompt_tokens=10, prompt_image_tokens=40, image_tokens=1756)
    assert cost_usd(profile, usage, 1, None) == (pytest.approx((10 * 5 + 40 * 8 + 1756 * 30) / 1e6), "usage")


def test_images_sent_along_are_estimated_at_their_own_price(sample_of):
    profile = load_catalogue().with_overrides({MODEL: {"typical": {"reference_tokens": {"default": 1000}}}})
    plain, edit = (
        estimate_usd(profile.resolve(MODEL), sample_of(references=references)) for references in ((), ("a.png",))
    )
    assert edit - plain == pytest.approx(1000 * 8 / 1e6)


# -------------------------------------------------------------------------------------------------------- errors

RATE = (
    "Rate limit reached for gpt-image-2 (for limit gpt-image) in organization org-1 on input-images per min: Limit 5, "
    "Used 5, Requested 1. Please try again in 12s."
)
SAFETY = (
    "Your request was rejected by the safety system. If you believe this is an error, contact us at help.openai.com and "
    "include the request ID req_1. safety_violations=[sexual]."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."
VERIFY = "Your organization must be verified to use the model `gpt-image-2`. Please go to: https://platform.openai.com"
USER, INVALID = "image_generation_user_error", "invalid_request_error"
TABLE = [
    (400, SAFETY, USER, "moderation_blocked", Refused, "content_policy"),
    (400, "Billing hard limit has been reached.", INVALID, "billing_hard_limit_reached", BillingStopped, "billing"),
    (400, "Invalid value: 'huge'.", INVALID, "invalid_value", BadRequest, "bad_request"),
    (401, "Incorrect API key provided: sk-x.", INVALID, "invalid_api_key", KeyRejected, "key_rejected"),
    (403, VERIFY, INVALID, None, ModelUnavailable, "model_forbidden"),
    (404, "The model 'gpt-image-9' does not exist", INVALID, "model_not_found", ModelUnavailable, "model_unavailable"),
    (429, QUOTA, "insufficient_quota", "insufficient_quota", BillingStopped, "billing"),
    (429, RATE, "input-images", "rate_limit_exceeded", RateLimited, "rate_limited"),
    (500, "The server had an error.", "server_error", None, ServerFaultMaybeBilled, "server_fault"),
    (503, "The engine is currently overloaded.", "server_error", None, ServerFault, "overloaded"),
]


def failure(codec, status, message, kind, code, headers=None) -> ProviderError:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    with pytest.raises(ProviderError) as caught:
        codec(MODEL).read(Response(status, headers or {}, json.dumps(body).encode()))
    return caught.value


@pytest.mark.parametrize(("status", "message", "kind", "code", "error", "reason"), TABLE)
def test_each_documented_error_is_what_it_means(codec, status, message, kind, code, error, reason):
    found = failure(codec, status, message, kind, code)
    assert (type(found), found.reason, found.http_status) == (error, reason, status)
    assert message[:40] in found.message


def test_a_rate_limit_says_how_many_a_minute_and_how_long_to_wait(codec):
    found = failure(codec, 429, RATE, "input-images", "rate_limit_exceeded")
    assert (found.rpm, found.retry_after_s) == (5, 12.0)


@pytest.mark.parametrize(
    ("headers", "delay_s"),
    [
        ({"retry-after-ms": "1500", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"X-RateLimit-Remaining-Tokens": "0", "X-RateLimit-Reset-Tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        ({}, None),
    ],
)
def test_the_headers_of_a_429_say_when_it_is_free_again(codec, headers, delay_s):
    assert failure(codec, 429, "Too Many Requests", "requests", None, headers).retry_after_s == delay_s
