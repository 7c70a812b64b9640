"""Answers as recorded or documented, read into pictures, usage and typed reasons."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import BadRequest, KeyRejected, Malformed, NoImage, OutputRefused, ProviderError, Refused
from batchgen.records import DECODED_PREFIX, ReplyImage, Response, Usage

JPEG_START = b"\xff\xd8\xff\xe0\x00\x10"


@pytest.fixture
def gemini(codec):
    return codec("pro")


@pytest.fixture
def imagen(codec):
    return codec("imagen")


@pytest.fixture
def aiml(codec):
    return codec("aiml-imagen-4")


def read(codec, body):
    return codec.read(Response(200, {}, body if isinstance(body, bytes) else json.dumps(body).encode()))


def one(part=None, **candidate):
    """A Gemini answer of one candidate with one part."""
    return {"candidates": [{"content": {"parts": [part]} if part else {}, **candidate}]}


IMAGE = {"inlineData": {"mimeType": "image/png", "data": "b25l"}}


def failure(codec, body) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        read(codec, body)
    return caught.value


# ------------------------------------------------------------------------------------------------------- Gemini


def test_the_picture_of_a_recorded_answer_is_found_behind_its_text(gemini, answer):
    assert read(gemini, answer("gemini_image.json")).images == (ReplyImage("image/jpeg", data=JPEG_START),)


def test_the_usage_of_a_recorded_answer_is_split_by_rate(gemini, answer):
    usage = read(gemini, answer("gemini_image.json")).usage
    assert usage == Usage(prompt_tokens=14, image_tokens=1120, text_tokens=163, thought_tokens=174, total_tokens=1471)


def test_thoughts_and_text_are_kept_apart(gemini):
    parts = [{"text": "hm", "thought": True}, {"text": "a fox"}, IMAGE]
    reply = read(gemini, {"candidates": [{"content": {"parts": parts}}]})
    assert (reply.thoughts, reply.text) == ("hm", "a fox")


@pytest.mark.parametrize(
    ("said", "headers", "tier"),
    [
        ({"serviceTier": "flex"}, {}, "flex"),
        ({"service_tier": "SERVICE_TIER_PRIORITY"}, {}, "priority"),
        ({"serviceTier": "standard"}, {"X-Gemini-Service-Tier": "priority"}, "standard"),
        ({}, {"X-Gemini-Service-Tier": "standard"}, "standard"),
        ({"serviceTier": "golden"}, {}, ""),
        ({"serviceTier": 3}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_the_tier_that_served_is_what_the_usage_says_and_else_the_header(gemini, said, headers, tier):
    body = {**one(IMAGE), "usageMetadata": {"promptTokenCount": 1, **said}}
    assert gemini.read(Response(200, headers, json.dumps(body).encode())).usage.tier == tier


def test_the_ids_of_a_recorded_answer_are_kept(gemini, answer):
    reply = read(gemini, answer("gemini_image.json"))
    assert (reply.reply_id, reply.model_version, reply.finish_reason, reply.text) == (
        "QV8oae6ZGKGnmtkPoanu6A0",
        "gemini-3-pro-image-preview",
        "STOP",
        "A little axolotl",
    )


def test_snake_case_answers_are_read_alike(gemini, answer):
    reply = read(gemini, answer("gemini_image_snake_case.json"))
    assert (reply.images[0].mime_type, reply.finish_reason, reply.usage.total_tokens) == ("image/png", "STOP", 110)


def test_the_last_picture_that_is_no_thought_is_the_one_asked_for(gemini, answer):
    images = read(gemini, answer("gemini_drafts_and_thoughts.json")).images
    assert [(image.role, image.data) for image in images] == [
        ("thought", b"thought"),
        ("draft", b"draft"),
        ("image", b"final"),
    ]


def test_thoughts_are_not_part_of_the_text(gemini, answer):
    assert read(gemini, answer("gemini_drafts_and_thoughts.json")).text == "Done."


def test_grounding_is_kept_because_its_display_is_due(gemini, answer):
    assert read(gemini, answer("gemini_grounded.json")).grounding["webSearchQueries"] == ["quetzal"]


def test_grounding_never_holds_what_json_cannot_say(gemini):
    body = json.dumps(one(IMAGE, groundingMetadata={"a": [float("nan")]})).encode()
    assert read(gemini, body).grounding == {"a": [None]}


def test_an_announced_retirement_becomes_a_note(gemini, answer):
    assert "2026-12-31" in read(gemini, answer("gemini_grounded.json")).notes[0]


def test_a_picture_counts_whatever_the_finish_reason_with_a_note(gemini):
    reply = read(gemini, one(IMAGE, finishReason="MAX_TOKENS"))
    assert (len(reply.images), reply.notes) == (1, ("an image came with finish reason MAX_TOKENS",))


def test_a_picture_without_mime_type_is_a_picture(gemini):
    assert read(gemini, one({"inlineData": {"data": "b25l"}})).images[0].data == b"one"


def test_inline_data_of_another_kind_is_no_picture(gemini):
    assert failure(gemini, one({"inlineData": {"mimeType": "audio/wav", "data": "b25l"}})).reason == "no_image"


@pytest.mark.parametrize(
    "oddity",
    [
        {"usageMetadata": "none"},
        {"usageMetadata": {"promptTokenCount": -3, "candidatesTokensDetails": [None]}},
        {"promptFeedback": []},
        {"responseId": {"a": 1}},
        {"modelStatus": 3},
        {"error": None},
        {"responseId": 7},
    ],
    ids=str,
)
def test_no_oddity_beside_a_picture_costs_the_picture(gemini, oddity):
    assert len(read(gemini, {**one(IMAGE), **oddity}).images) == 1


def test_a_finish_reason_in_numbers_does_not_cost_the_picture(gemini):
    assert len(read(gemini, one(IMAGE, finishReason=1)).images) == 1


def test_an_empty_picture_is_malformed(gemini):
    assert failure(gemini, one({"inlineData": {"mimeType": "image/png", "data": ""}})).reason == "bad_base64"


def test_an_unreadable_part_beside_a_picture_does_not_cost_it(gemini):
    body = {"candidates": [{"content": {"parts": [None, 3, IMAGE]}}]}
    assert read(gemini, body).images[0].data == b"one"


def test_an_unreadable_draft_is_dropped_with_a_note(gemini):
    draft = {"inlineData": {"mimeType": "image/png", "data": "%%%"}}
    reply = read(gemini, {"candidates": [{"content": {"parts": [draft, IMAGE]}}]})
    assert (len(reply.images), "draft was dropped" in reply.notes[0]) == (1, True)


def test_blocked_answers_do_not_bill_their_thoughts_twice(gemini):
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 5, "totalTokenCount": 15}
    assert read(gemini, {**one(IMAGE), "usageMetadata": counts}).usage.text_tokens == 0


def test_tokens_of_a_search_count_as_input(gemini):
    counts = {"promptTokenCount": 10, "toolUsePromptTokenCount": 90}
    assert read(gemini, {**one(IMAGE), "usageMetadata": counts}).usage.prompt_tokens == 100


@pytest.mark.parametrize(
    ("file", "kind", "reason", "words"),
    [
        ("gemini_text_only.json", NoImage, "text_only", "What would you like me to draw?"),
        ("gemini_image_other.json", NoImage, "image_other", "You will not be charged"),
        ("gemini_image_prohibited.json", Refused, "image_prohibited_content", "third-party content providers"),
        ("gemini_safety.json", Refused, "safety", "finish reason SAFETY"),
        ("gemini_prompt_blocked.json", Refused, "prompt_blocked", "PROHIBITED_CONTENT"),
    ],
)
def test_a_recorded_refusal_keeps_reason_and_words(gemini, answer, file, kind, reason, words):
    error = failure(gemini, answer(file))
    assert (type(error), error.reason, words in error.message) == (kind, reason, True)


@pytest.mark.parametrize(
    ("finish_reason", "kind"),
    [
        *((name, Refused) for name in ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "LANGUAGE")),
        *((name, Refused) for name in ("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "MODEL_ARMOR")),
        *((name, NoImage) for name in ("NO_IMAGE", "IMAGE_OTHER", "OTHER", "MAX_TOKENS", "MALFORMED_RESPONSE")),
        *((name, NoImage) for name in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")),
        ("FINISH_REASON_UNSPECIFIED", NoImage),
        ("IMAGE_SAFETY", OutputRefused),
        ("MISSING_THOUGHT_SIGNATURE", BadRequest),
        ("PUP_LIMITED_DISABLED", KeyRejected),
        ("CONTINUATION", Malformed),
        ("SOMETHING_NEW", NoImage),
    ],
)
def test_a_finish_reason_without_a_picture_has_its_class(gemini, finish_reason, kind):
    assert type(failure(gemini, one(finishReason=finish_reason))) is kind


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "empty_answer"),
        ({"candidates": []}, "empty_answer"),
        ({"candidates": None}, "empty_answer"),
        (one(finishReason="STOP"), "no_image"),
        ({"candidates": [{"content": {"parts": None}}]}, "no_image"),
        ({"candidates": [{"content": None}]}, "no_image"),
        ({"candidates": [{}]}, "no_image"),
        (one({"text": ""}, finishReason="STOP"), "no_image"),
        (one(finishReason="SOMETHING_NEW"), "unknown_finish_reason"),
    ],
    ids=str,
)
def test_every_shape_of_nothing_has_a_reason(gemini, body, reason):
    assert failure(gemini, body).reason == reason


def test_a_finish_reason_nobody_knows_is_named_in_the_message(gemini):
    assert failure(gemini, one({"text": "hm"}, finishReason="SOMETHING_NEW")).message == "SOMETHING_NEW: hm"


def test_an_error_inside_a_200_is_that_error(gemini):
    assert (
        type(failure(gemini, {"error": {"code": 8, "message": "Resource has been exhausted"}})).__name__
        == "RateLimited"
    )


# ------------------------------------------------------------------------------------------------------- Imagen


def test_imagen_pictures_come_in_order_and_filtered_ones_are_listed(imagen, answer):
    reply = read(imagen, answer("imagen_images.json"))
    assert ([image.data for image in reply.images], reply.filtered) == (
        [b"one", b"two"],
        ("The response is blocked, as it may violate our policies.",),
    )


def test_imagen_with_everything_filtered_is_a_refusal_in_the_vendors_words(imagen, answer):
    error = failure(imagen, answer("imagen_all_filtered.json"))
    assert (type(error), error.reason, "All images were filtered" in error.message) == (Refused, "filtered", True)


@pytest.mark.parametrize("body", [{}, {"predictions": []}, {"predictions": None}], ids=str)
def test_imagen_without_predictions_means_all_were_filtered(imagen, body):
    assert failure(imagen, body).reason == "filtered"


def test_imagen_with_predictions_but_neither_picture_nor_reason_is_no_image(imagen):
    assert failure(imagen, {"predictions": [{"contentType": "Positive Prompt"}]}).reason == "no_image"


# --------------------------------------------------------------------------------------------------------- AIML


def test_an_aiml_link_is_handed_on_for_fetching(aiml, answer):
    reply = read(aiml, answer("aiml_link.json"))
    assert (reply.links, reply.images) == (("https://cdn.aimlapi.com/generations/guepard/1758236160134.png",), ())


def test_a_prompt_aiml_rewrote_becomes_a_note(aiml, answer):
    assert "mischievous racoon" in read(aiml, answer("aiml_link.json")).notes[0]


def test_aiml_credits_of_older_answers_are_read(aiml, answer):
    assert read(aiml, answer("aiml_link.json")).usage == Usage(credits=84000)


def test_aiml_base64_is_decoded_with_what_was_spent(aiml, answer):
    reply = read(aiml, answer("aiml_base64.json"))
    assert ([image.data for image in reply.images], reply.usage.usd) == ([b"one", b"two"], 0.042)


def test_aiml_may_name_its_list_images(aiml, answer):
    assert read(aiml, answer("aiml_images.json")).links == ("https://cdn.aimlapi.com/a.png",)


def test_aiml_success_may_be_201(aiml, answer):
    assert len(aiml.read(Response(201, {}, answer("aiml_base64.json"))).images) == 2


@pytest.mark.parametrize("spent", [float("nan"), float("inf"), -1])
def test_an_amount_that_is_none_is_unknown(aiml, spent):
    body = {"data": [{"b64_json": "b25l"}], "meta": {"usage": {"usd_spent": spent}}}
    assert read(aiml, body).usage.usd is None


def test_a_data_url_is_a_picture_not_a_link(aiml):
    reply = read(aiml, {"data": [{"url": "data:image/webp;base64,b25l"}]})
    assert (reply.links, reply.images) == ((), (ReplyImage("image/webp", data=b"one"),))


def test_tokens_of_an_openai_style_answer_are_read(aiml):
    usage = {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
    reply = read(aiml, {"data": [{"b64_json": "b25l"}], "usage": usage})
    assert reply.usage == Usage(prompt_tokens=5, image_tokens=9, total_tokens=14)


def test_an_aiml_error_inside_a_200_is_that_error(aiml, answer):
    assert failure(aiml, answer("aiml_free_tier.json")).reason == "hourly_quota"


# ----------------------------------------------------------------------------------------------- all three alike

ENVELOPES = pytest.mark.parametrize(
    ("model", "envelope"),
    [
        ("pro", lambda data: one({"inlineData": {"mimeType": "image/png", "data": data}})),
        ("imagen", lambda data: {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": data}]}),
        ("aiml-imagen-4", lambda data: {"data": [{"b64_json": data, "mime_type": "image/png"}]}),
    ],
    ids=["gemini", "imagen", "aimlapi"],
)


@ENVELOPES
def test_a_lifted_picture_is_known_by_its_number(codec, model, envelope):
    assert read(codec(model), envelope(f"{DECODED_PREFIX}12")).images == (ReplyImage("image/png", decoded=12),)


@ENVELOPES
@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "٣", "1" * 30])
def test_a_lifted_picture_without_a_number_is_malformed(codec, model, envelope, number):
    assert type(failure(codec(model), envelope(f"{DECODED_PREFIX}{number}"))) is Malformed


@ENVELOPES
@pytest.mark.parametrize("data", ["%%%", "b25", "b2 5l", "b25l\n", "\u00e9\u00e9\u00e9\u00e9", "_-_-"])
def test_bad_base64_is_malformed_and_says_so(codec, model, envelope, data):
    error = failure(codec(model), envelope(data))
    assert (type(error), error.reason) == (Malformed, "bad_base64")


# ------------------------------------------------------------------------------------------------ usage of a failure


@pytest.mark.parametrize(
    "candidate",
    [
        one({"text": "no"}, finishReason="STOP"),
        one(finishReason="IMAGE_SAFETY"),
        one(finishReason="NO_IMAGE"),
        one(finishReason="PROHIBITED_CONTENT"),
        one({"inlineData": {"mimeType": "image/png", "data": "???"}}),
        {"promptFeedback": {"blockReason": "SAFETY"}},
    ],
)
def test_an_answer_of_gemini_without_a_picture_says_what_it_used(gemini, candidate):
    usage = {"promptTokenCount": 14, "thoughtsTokenCount": 200, "totalTokenCount": 214}
    assert failure(gemini, {**candidate, "usageMetadata": usage}).usage == Usage(
        prompt_tokens=14, thought_tokens=200, total_tokens=214
    )


@pytest.mark.parametrize("status", [200, 400])
def test_an_error_of_aiml_says_what_it_used(aiml, status):
    body = {"message": "no", "data": [], "meta": {"usage": {"credits_used": 84000, "usd_spent": 0.042}}}
    with pytest.raises(ProviderError) as caught:
        aiml.read(Response(status, {}, json.dumps(body).encode()))
    assert caught.value.usage == Usage(credits=84000, usd=0.042)
