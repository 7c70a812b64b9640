"""Chat completions: what is taken of a question about an image, what is refused, and what an answer holds."""

from __future__ import annotations

import json

import pytest

from tests.emulator.test_judge import SCHEMA, encoded, noise

STRICT = {**SCHEMA, "additionalProperties": False}


async def ask(client, emulator, text, model="gpt-5.4-nano", schema=STRICT, url=None, **more):
    link = {"url": url or f"data:image/jpeg;base64,{encoded(noise())}"}
    body = {
        "model": model,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": link}]}
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "j", "strict": True, "schema": schema}},
        **more,
    }
    return await client.post(f"{emulator.base_url}/v1/chat/completions", body)


@pytest.mark.parametrize("model", ["gpt-5.4-nano", "google/gemini-2.5-flash"])
async def test_a_question_is_answered_by_the_same_rules_as_at_google(start, client, model):
    emulator = await start()
    status, answer = await ask(client, emulator, "A mug [[judge:3]][[judge:remark=no handle]]", model)
    assert (status, json.loads(answer["choices"][0]["message"]["content"])) == (
        200,
        {"remark": "no handle", "score": 3},
    )


async def test_usage_counts_the_image_as_input_and_reasoning_as_output(start, client):
    _, answer = await ask(client, await start(), "A mug [[judge:8]]")
    usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
    assert usage["prompt_tokens"] == -(-len("A mug [[judge:8]]") // 4) + 765
    assert usage["completion_tokens"] == -(-len(text) // 4) + usage["completion_tokens_details"]["reasoning_tokens"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temperature": 0}, "Unsupported value: 'temperature'"),
        ({"seeed": 1}, "Unknown parameter: 'seeed'."),
        ({"schema": SCHEMA}, "'additionalProperties' is required to be supplied and to be false."),
        ({"schema": {**STRICT, "required": ["score"]}}, "including every key in properties."),
        ({"url": "data:image/png;base64,AAAA"}, "unsupported image"),
        ({"model": "gpt-image-2"}, "does not exist"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_what_the_api_does_not_take_is_refused_in_its_words(start, client, more, message):
    status, answer = await ask(client, await start(), "A mug", **more)
    assert (status, message in answer["error"]["message"]) == (404 if "model" in more else 400, True)


async def test_faults_and_quota_are_those_of_the_api(start, client):
    emulator = await start(rpm=2)
    _, refused = await ask(client, emulator, "A mug [[fault:no_image]]")
    _, empty = await ask(client, emulator, "A mug [[fault:empty]]")
    status, limited = await ask(client, emulator, "A mug")
    assert (refused["choices"][0]["message"]["refusal"], empty["choices"]) == ("I'm sorry, I can't help with that.", [])
    assert (status, limited["error"]["code"]) == (429, "rate_limit_exceeded")
