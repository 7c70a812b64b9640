"""generateContent: what is taken, what is refused and in which words, and what an answer holds."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from batchgen.emulator import read_comment

PRO = "gemini-3-pro-image"
FLASH = "gemini-nano-banana-2.1"


def parts_of(answer):
    return answer["candidates"][0]["content"]["parts"]


def image_of(answer):
    data = next(part["inlineData"] for part in reversed(parts_of(answer)) if "inlineData" in part)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def png(width=4, height=4):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


async def test_snake_case_and_camel_case_may_be_mixed(start, client):
    emulator = await start(picture="full")
    body = {
        "contents": [{"parts": [{"inline_data": {"mimeType": "image/png", "data": png()}}, {"text": "A hat"}]}],
        "generation_config": {"imageConfig": {"aspect_ratio": "9:16"}, "response_modalities": ["Image"]},
    }
    _, answer = await client.post(f"{emulator.base_url}/v1/models/{PRO}:generateContent", body)
    assert image_of(answer).size == (768, 1376)


async def test_an_unknown_name_is_a_field_violation_in_the_servers_words(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, imageConfig={"size": "2K"})
    text = (
        "Invalid JSON payload received. Unknown name \"size\" at 'generation_config.image_config': Cannot find field."
    )
    violations = answer["error"]["details"][0]["fieldViolations"]
    assert (status, violations) == (400, [{"field": "generation_config.image_config", "description": text}])


async def test_all_violations_are_told_at_once(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, one=1, two=2)
    assert len(answer["error"]["details"][0]["fieldViolations"]) == 2


async def test_a_bad_ratio_names_those_of_the_model(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, model=PRO, imageConfig={"aspectRatio": "9:21"})
    message = answer["error"]["message"]
    assert status == 400
    assert message.startswith(
        "* GenerateContentRequest.generation_config.image_config.aspect_ratio: "
        "aspect_ratio must be one of '1:1', '2:3', '3:2'"
    )


async def test_response_format_with_plain_strings_is_refused(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, responseFormat={"image": {"aspectRatio": "1:1"}})
    expected = (
        "Invalid value at 'generation_config.response_format.image.aspect_ratio' (type.googleapis.com/"
        'google.ai.generativelanguage.v1beta.ImageResponseFormat.AspectRatio), "1:1"'
    )
    assert (status, answer["error"]["message"]) == (400, expected)


async def test_response_format_with_enum_names_shapes_the_picture(start, client):
    emulator = await start(picture="full")
    wanted = {"image": {"aspectRatio": "ASPECT_RATIO_TWENTY_ONE_BY_NINE", "imageSize": "IMAGE_SIZE_TWO_K"}}
    _, answer = await client.draw(emulator, responseFormat=wanted)
    assert image_of(answer).size == (3168, 1344)


@pytest.mark.parametrize("size", ["2k", "8K", "huge"])
async def test_an_unknown_size_is_1k_without_a_word(start, client, size):
    emulator = await start(picture="full")
    _, answer = await client.draw(emulator, imageConfig={"imageSize": size})
    assert image_of(answer).size == (1024, 1024)


async def test_missing_contents_are_refused_in_the_servers_words(start, client):
    emulator = await start()
    status, answer = await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", {})
    expected = "* GenerateContentRequest.contents: contents is not specified\n"
    assert (status, answer["error"]["message"]) == (400, expected)


async def test_a_thinking_level_the_model_lacks_is_refused(start, client):
    emulator = await start()
    thinking = {"thinkingLevel": "minimal"}
    status, answer = await client.draw(emulator, model="gemini-3.1-flash-lite-image", thinkingConfig=thinking)
    assert status == 200, answer
    status, answer = await client.draw(
        emulator, model="gemini-3.1-flash-lite-image", thinkingConfig={"thinkingLevel": "LOW"}
    )
    assert (status, answer["error"]["message"]) == (400, "Thinking level LOW is not supported for this model.")


async def test_a_reference_that_is_no_picture_cannot_be_processed(start, client):
    emulator = await start()
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"not a picture").decode()}}
    body = {"contents": [{"parts": [part, {"text": "A hat"}]}]}
    status, answer = await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", body)
    assert (status, answer["error"]["message"][:30]) == (400, "Unable to process input image.")


async def test_a_reference_that_is_not_base64_is_named(start, client):
    emulator = await start()
    part = {"inlineData": {"mimeType": "image/png", "data": "***"}}
    body = {"contents": [{"parts": [part]}]}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", body)
    expected = (
        "Invalid value at 'contents[0].parts[0].inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"***\""
    )
    assert answer["error"]["message"] == expected


async def test_without_a_ratio_the_picture_follows_the_last_reference(start, client):
    emulator = await start(picture="full")
    part = {"inlineData": {"mimeType": "image/png", "data": png(160, 90)}}
    body = {"contents": [{"parts": [part, {"text": "A hat"}]}]}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", body)
    assert image_of(answer).size == (1376, 768)


async def test_a_request_above_the_limit_is_refused_with_the_limit(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, prompt="x" * (20 * 1024 * 1024))
    expected = (
        "Request payload size exceeds the limit: 20971520 bytes. "
        "Please use the File API to upload files instead of using inline data."
    )
    assert (status, answer["error"]["message"]) == (400, expected)


@pytest.mark.parametrize("key, status", [("", 400), ("bad", 400), ("leaked-1", 403), ("nocredits-1", 429)])
async def test_a_key_says_by_its_name_how_it_is_refused(start, client, key, status):
    emulator = await start()
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    found, _ = await client.post(url, {"contents": [{"parts": [{"text": "x"}]}]}, **{"x-goog-api-key": key})
    assert found == status


async def test_a_key_in_the_query_is_as_good(start, client):
    emulator = await start()
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent?key=k"
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    async with client.session.post(url, json=body) as response:
        assert response.status == 200


async def test_an_unknown_model_is_not_found(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, model="gemini-9")
    assert (status, answer["error"]["message"][:52]) == (404, "models/gemini-9 is not found for API version v1beta,")


async def test_a_retired_model_answers_unless_told_otherwise(start, client):
    emulator = await start()
    status, _ = await client.draw(emulator, model="gemini-3-pro-image-preview")
    assert status == 200


async def test_a_retired_model_names_its_replacement(start, client):
    emulator = await start(serve_retired=False)
    status, answer = await client.draw(emulator, model="gemini-3-pro-image-preview")
    message = answer["error"]["message"]
    assert status == 404
    assert message.startswith("This model models/gemini-3-pro-image-preview is no longer available.")


async def test_a_path_that_does_not_exist_is_html(start, client):
    emulator = await start()
    async with client.session.get(f"{emulator.base_url}/v2/nothing") as response:
        assert (response.status, response.content_type) == (404, "text/html")


async def test_gemini_3_serves_signed_jpeg(start, client):
    emulator = await start(signature_bytes=5000)
    _, answer = await client.draw(emulator)
    image = parts_of(answer)[-1]
    signed_bytes = len(base64.b64decode(image["thoughtSignature"]))
    assert (image["inlineData"]["mimeType"], image_of(answer).format, signed_bytes) == ("image/jpeg", "JPEG", 5000)


async def test_gemini_25_serves_unsigned_png(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, model="gemini-2.5-flash-image")
    image = parts_of(answer)[-1]
    assert (image["inlineData"]["mimeType"], image_of(answer).format, list(image)) == (
        "image/png",
        "PNG",
        ["inlineData"],
    )


async def test_only_the_image_comes_when_only_images_are_asked_for(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, responseModalities=["IMAGE"])
    assert [sorted(part) for part in parts_of(answer)] == [["inlineData", "thoughtSignature"]]


async def test_text_alone_brings_no_picture_and_no_image_tokens(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, responseModalities=["TEXT"])
    assert ("candidatesTokensDetails" in answer["usageMetadata"], len(parts_of(answer))) == (False, 1)


@pytest.mark.parametrize(
    "model, size, tokens",
    [
        (FLASH, "1K", 1120),
        (FLASH, "2K", 1680),
        (FLASH, "4K", 3780),
        (PRO, "2K", 1120),
        (PRO, "4K", 2000),
        ("gemini-3.1-flash-image", "512", 747),
        ("gemini-2.5-flash-image", "1K", 1290),
    ],
)
async def test_image_tokens_are_those_of_model_and_size(start, client, model, size, tokens):
    emulator = await start()
    _, answer = await client.draw(emulator, model=model, imageConfig={"imageSize": size})
    assert answer["usageMetadata"]["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": tokens}]


async def test_a_model_turn_without_its_signature_is_refused(start, client):
    emulator = await start()
    contents = [
        {"role": "user", "parts": [{"text": "A cat"}]},
        {"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": png()}}]},
        {"role": "user", "parts": [{"text": "Make it blue"}]},
    ]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    status, answer = await client.post(url, {"contents": contents})
    expected = "Image part is missing a thought_signature in content position 2, part position 1."
    assert (status, answer["error"]["message"][: len(expected)]) == (400, expected)


async def test_a_signature_that_was_cut_is_refused(start, client):
    emulator = await start()
    _, first = await client.draw(emulator, model=PRO)
    turn = first["candidates"][0]["content"]
    turn["parts"][-1]["thoughtSignature"] = turn["parts"][-1]["thoughtSignature"][:-8]
    contents = [{"parts": [{"text": "A cat"}]}, turn, {"parts": [{"text": "Make it blue"}]}]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    status, answer = await client.post(url, {"contents": contents})
    assert (status, answer["error"]["message"]) == (400, "Thought signature is not valid.")


async def test_a_model_without_search_refuses_the_tool(start, client):
    emulator = await start()
    body = {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"google_search": {}}]}
    url = f"{emulator.base_url}/v1beta/models/gemini-3.1-flash-lite-image:generateContent"
    status, _ = await client.post(url, body)
    assert status == 400


async def test_image_search_is_told_in_the_grounding(start, client):
    emulator = await start()
    tools = [{"googleSearch": {"searchTypes": {"imageSearch": {}}}}]
    body = {"contents": [{"parts": [{"text": "quetzal"}]}], "tools": tools}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{FLASH}:generateContent", body)
    grounding = answer["candidates"][0]["groundingMetadata"]
    assert (grounding["imageSearchQueries"], "webSearchQueries" in grounding) == (["quetzal"], False)


async def test_tokens_of_the_search_are_part_of_the_total(start, client):
    emulator = await start()
    body = {"contents": [{"parts": [{"text": "quetzal"}]}], "tools": [{"googleSearch": {}}]}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{FLASH}:generateContent", body)
    usage = answer["usageMetadata"]
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
    assert usage["totalTokenCount"] == sum(usage[name] for name in names)


async def test_an_error_on_the_streaming_path_comes_as_a_list_of_one(start, client):
    emulator = await start()
    url = f"{emulator.base_url}/v1beta/models/{FLASH}:streamGenerateContent?alt=sse"
    status, answer = await client.post(url, {"contents": [{"parts": [{"text": "x [[fault:503]]"}]}]})
    assert (status, [sorted(one) for one in answer]) == (503, [["error"]])


async def test_the_same_prompt_asked_twice_is_painted_anew(start, client):
    emulator = await start()
    first, second = [image_of((await client.draw(emulator))[1]).tobytes() for _ in range(2)]
    assert first != second


async def test_two_emulators_paint_the_same_pixels(start, client):
    one, other = [image_of((await client.draw(await start()))[1]).tobytes() for _ in range(2)]
    assert one == other


async def test_a_picture_says_which_request_it_answers(start, client):
    emulator = await start()
    await client.draw(emulator, prompt="first")
    _, answer = await client.draw(emulator, prompt="Übung 猫")
    data = base64.b64decode(parts_of(answer)[-1]["inlineData"]["data"])
    facts = read_comment(data)
    assert (facts["n"], facts["prompt"]) == (2, "Übung 猫")


async def test_a_deadline_in_the_header_ends_a_slow_answer_with_504(start, client):
    emulator = await start(latency_s=(5, 5))
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    status, answer = await client.post(url, body, **{"X-Server-Timeout": "0.05"})
    assert (status, answer["error"]["status"]) == (504, "DEADLINE_EXCEEDED")


async def test_a_turn_of_a_conversation_is_in_its_picture(start, client):
    emulator = await start()
    _, first = await client.draw(emulator, "A cat", PRO)
    contents = [
        {"parts": [{"text": "A cat"}]},
        first["candidates"][0]["content"],
        {"parts": [{"text": "Make it blue"}]},
    ]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    _, second = await client.post(url, {"contents": contents})
    facts = read_comment(base64.b64decode(parts_of(second)[-1]["inlineData"]["data"]))
    assert (facts["turn"], facts["prompt"]) == (2, "Make it blue")


async def test_a_turn_draws_on_what_was_asked_for_before(start, client):
    emulator = await start()

    async def after(first_prompt):
        contents = [{"parts": [{"text": first_prompt}]}, {"parts": [{"text": "Bluer"}]}]
        url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
        return image_of((await client.post(url, {"contents": contents}))[1]).tobytes()

    assert await after("A cat") != await after("A dog")


async def replayed(client, emulator, spoil):
    """The status and message of a second turn whose model turn was changed by `spoil(parts)`."""
    _, first = await client.draw(emulator, "A cat", PRO)
    turn = first["candidates"][0]["content"]
    spoil(turn["parts"])
    contents = [{"parts": [{"text": "A cat"}]}, turn, {"parts": [{"text": "Make it blue"}]}]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    status, answer = await client.post(url, {"contents": contents})
    return status, answer.get("error", {}).get("message", "")[:60]


async def test_signatures_that_changed_places_are_refused(start, client):
    def swap(parts):
        one, other = parts
        one["thoughtSignature"], other["thoughtSignature"] = other["thoughtSignature"], one["thoughtSignature"]

    assert await replayed(client, await start(), swap) == (400, "Thought signature is not valid.")


async def test_a_picture_that_was_changed_no_longer_has_its_signature(start, client):
    def repaint(parts):
        parts[-1]["inlineData"] = {"mimeType": "image/png", "data": png()}

    assert await replayed(client, await start(), repaint) == (400, "Thought signature is not valid.")


async def test_the_first_text_of_a_turn_keeps_its_signature(start, client):
    def drop(parts):
        del parts[0]["thoughtSignature"]

    expected = "Text part is missing a thought_signature in content position"
    assert await replayed(client, await start(), drop) == (400, expected)


async def test_the_documented_word_waives_the_signature(start, client):
    def waive(parts):
        parts[-1]["thoughtSignature"] = "skip_thought_signature_validator"

    assert await replayed(client, await start(), waive) == (200, "")


async def test_a_conversation_ends_with_the_user(start, client):
    emulator = await start()
    contents = [{"parts": [{"text": "A cat"}]}, {"role": "model", "parts": [{"text": "Here"}]}]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    assert (await client.post(url, {"contents": contents}))[0] == 400


async def test_large_signatures_come_back_within_the_size_of_a_request(start, client):
    emulator = await start(signature_bytes=800_000)
    assert (await replayed(client, emulator, lambda parts: None))[0] == 200


async def test_image_search_is_refused_by_a_model_that_searches_the_web_only(start, client):
    emulator = await start()
    tools = [{"googleSearch": {"searchTypes": {"webSearch": {}, "imageSearch": {}}}}]
    body = {"contents": [{"parts": [{"text": "quetzal"}]}], "tools": tools}
    assert (await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", body))[0] == 400


async def test_both_searches_are_told_with_their_sources(start, client):
    emulator = await start()
    tools = [{"googleSearch": {"searchTypes": {"webSearch": {}, "imageSearch": {}}}}]
    body = {"contents": [{"parts": [{"text": "quetzal"}]}], "tools": tools}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{FLASH}:generateContent", body)
    grounding = answer["candidates"][0]["groundingMetadata"]
    assert [sorted(*chunk.values()) for chunk in grounding["groundingChunks"]] == [
        ["title", "uri"],
        ["domain", "imageUri", "sourceUri", "title"],
    ]


@pytest.mark.parametrize("level, interim", [("MINIMAL", 1), ("HIGH", 2)])
async def test_thoughts_that_are_asked_for_hold_interim_pictures_that_cost_nothing(start, client, level, interim):
    emulator = await start()
    thinking = {"thinkingLevel": level, "includeThoughts": True}
    _, answer = await client.draw(emulator, thinkingConfig=thinking)
    pictures = [part for part in parts_of(answer) if "inlineData" in part]
    thoughts = [part for part in pictures if part.get("thought")]
    tokens = answer["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"]
    assert (len(thoughts), len(pictures) - len(thoughts), tokens) == (interim, 1, 1120)


@pytest.mark.parametrize("resolution, tokens", [(None, 560), ("LOW", 280), ("HIGH", 1120)])
async def test_the_media_resolution_says_what_a_reference_costs(start, client, resolution, tokens):
    emulator = await start()
    parts = [{"inlineData": {"mimeType": "image/png", "data": png()}}, {"text": "A hat"}]
    body = {"contents": [{"parts": parts}]}
    if resolution:
        body["generationConfig"] = {"mediaResolution": f"MEDIA_RESOLUTION_{resolution}"}
    _, answer = await client.post(f"{emulator.base_url}/v1beta/models/{PRO}:generateContent", body)
    assert answer["usageMetadata"]["promptTokensDetails"][1] == {"modality": "IMAGE", "tokenCount": tokens}


async def test_a_media_resolution_that_does_not_exist_is_refused(start, client):
    emulator = await start()
    assert (await client.draw(emulator, mediaResolution="HUGE"))[0] == 400


async def ask_tier(client, emulator, tier):
    url = f"{emulator.base_url}/v1beta/models/{FLASH}:generateContent"
    return await client.post(url, {"contents": [{"parts": [{"text": "x"}]}], "serviceTier": tier})


@pytest.mark.parametrize("tier", ["flex", "PRIORITY", "SERVICE_TIER_FLEX"])
async def test_an_answer_says_at_which_tier_it_was_served(start, client, tier):
    _, answer = await ask_tier(client, await start(), tier)
    assert answer["usageMetadata"]["serviceTier"] == tier.lower().removeprefix("service_tier_")


@pytest.mark.parametrize("status", [400, 429, 503])
async def test_a_tier_may_be_refused_while_the_standard_answers(start, client, status):
    emulator = await start(tiers={"flex": status})
    found = [(await ask_tier(client, emulator, tier))[0] for tier in ("flex", "standard")]
    assert found == [status, 200]


async def test_a_tier_may_be_downgraded_to_the_standard(start, client):
    emulator = await start(tiers={"priority": 200})
    _, answer = await ask_tier(client, emulator, "priority")
    assert answer["usageMetadata"]["serviceTier"] == "standard"


async def test_a_free_key_has_a_quota_of_zero(start, client):
    emulator = await start()
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    status, answer = await client.post(url, {"contents": [{"parts": [{"text": "x"}]}]}, **{"x-goog-api-key": "free-1"})
    assert (status, "limit: 0" in answer["error"]["message"]) == (429, True)


async def test_a_key_sees_and_gets_only_the_models_it_may_use(start, client):
    emulator = await start(models=(PRO,))
    _, listed = await client.get(f"{emulator.base_url}/v1beta/models")
    found = [(await client.draw(emulator, model=model))[0] for model in (PRO, FLASH)]
    assert ([model["name"] for model in listed["models"]], found) == ([f"models/{PRO}"], [200, 404])


async def test_models_are_listed_page_by_page(start, client):
    emulator = await start()
    _, whole = await client.get(f"{emulator.base_url}/v1beta/models")
    _, first = await client.get(f"{emulator.base_url}/v1beta/models?pageSize=3")
    _, rest = await client.get(f"{emulator.base_url}/v1beta/models?pageToken={first['nextPageToken']}")
    assert (len(first["models"]), first["models"] + rest["models"]) == (3, whole["models"])


async def test_a_model_says_what_it_can_do(start, client):
    emulator = await start()
    _, model = await client.get(f"{emulator.base_url}/v1beta/models/{PRO}")
    assert (model["name"], "generateContent" in model["supportedGenerationMethods"]) == (f"models/{PRO}", True)


async def test_earlier_turns_are_part_of_what_a_turn_costs(start, client):
    emulator = await start()
    _, first = await client.draw(emulator, "A cat", PRO)
    contents = [{"parts": [{"text": "A cat"}]}, first["candidates"][0]["content"], {"parts": [{"text": "Bluer"}]}]
    url = f"{emulator.base_url}/v1beta/models/{PRO}:generateContent"
    _, second = await client.post(url, {"contents": contents})
    counted = [answer["usageMetadata"]["promptTokenCount"] for answer in (first, second)]
    said = 9  # "Here is the picture you asked for."
    assert counted == [2, 2 + 2 + said + 560]
