"""What an emulated judge answers: what the question's markers demand, else what it sees of the image."""

from __future__ import annotations

import base64
import functools
import io
import json

import pytest
from PIL import Image, ImageDraw

JUDGE = "gemini-3.1-flash-lite"
SCHEMA = {
    "type": "object",
    "properties": {"remark": {"type": "string"}, "score": {"type": "number"}},
    "required": ["remark", "score"],
}
AS_JSON = {"responseModalities": ["TEXT"], "responseMimeType": "application/json", "responseJsonSchema": SCHEMA}


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


@functools.cache
def noise(number=1):
    """A photo of nothing; each number another."""
    return Image.effect_noise((256 + number, 256), 60).convert("RGB")


def half_drawn():
    image = noise().copy()
    ImageDraw.Draw(image).rectangle((0, 128, 300, 256), fill=(128, 128, 128))
    return image


async def ask(client, emulator, text, image=None, model=JUDGE, **config):
    parts = [{"text": text}, {"inlineData": {"mimeType": "image/jpeg", "data": encoded(image or noise())}}]
    body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": {**AS_JSON, **config}}
    return await client.post(f"{emulator.base_url}/v1beta/models/{model}:generateContent", body)


def text_of(answer):
    return answer["candidates"][0]["content"]["parts"][0]["text"]


async def verdict(client, emulator, text, image=None):
    _, answer = await ask(client, emulator, text, image)
    found = json.loads(text_of(answer))
    return found["score"], found["remark"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (64, 64)), (1, "The image is blank.")),
        (half_drawn(), (2, "The lower half of the image is missing.")),
        (noise(), (8, "")),
    ],
    ids=["blank", "half", "whole"],
)
async def test_without_a_marker_the_score_follows_from_the_image(start, client, image, expected):
    assert await verdict(client, await start(), "Is it good?", image) == expected


async def test_a_marker_states_score_and_remark(start, client):
    found = await verdict(client, await start(), "[[judge:3.5]] A mug [[judge:remark=the handle is missing]]")
    assert found == (3.5, "the handle is missing")


async def test_a_remark_alone_is_a_bad_score_and_a_good_one_has_none(start, client):
    emulator = await start()
    assert (await verdict(client, emulator, "[[judge:remark=too dark]]"))[0] == 3
    assert await verdict(client, emulator, "[[judge:9]][[judge:remark=too dark]]") == (9, "")


async def test_each_further_image_gets_the_next_score_and_the_same_image_its_own_again(start, client):
    emulator = await start()
    asked = [noise(1), noise(2), noise(1), noise(3)]
    found = [await verdict(client, emulator, "A mug [[judge:3,8]]", image) for image in asked]
    assert [score for score, _ in found] == [3, 8, 3, 8]


async def test_what_is_added_behind_a_marker_goes_on_in_its_list_and_another_text_before_it_begins_anew(start, client):
    emulator = await start()
    texts = ["A mug [[judge:3,8]]", "A mug [[judge:3,8]] with its handle", "A cup [[judge:3,8]]"]
    found = [await verdict(client, emulator, text, noise(number)) for number, text in enumerate(texts)]
    assert [score for score, _ in found] == [3, 8, 3]


async def test_a_malformed_answer_can_be_followed_by_a_good_one(start, client):
    emulator = await start()
    texts = [text_of((await ask(client, emulator, "A mug [[judge:malformed*1]]"))[1]) for _ in range(2)]
    assert not texts[0].startswith("{")
    assert json.loads(texts[1])["score"] == 8


async def test_the_vendors_own_dialect_of_schemas_and_its_names_are_kept_to(start, client):
    own = {"type": "OBJECT", "properties": {"points": {"type": "INTEGER"}, "why": {"type": "STRING"}}}
    _, answer = await ask(client, await start(), "[[judge:2]]", responseJsonSchema=None, responseSchema=own)
    assert json.loads(text_of(answer)) == {"points": 2, "why": "The emulated judge gives 2 of 10."}


async def test_the_image_counts_as_input_and_the_json_as_output(start, client):
    _, answer = await ask(client, await start(), "Is it good?")
    usage, text = answer["usageMetadata"], text_of(answer)
    assert usage["promptTokensDetails"][1] == {"modality": "IMAGE", "tokenCount": 1120}
    assert usage["candidatesTokenCount"] == -(-len(text) // 4)
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


async def test_faults_by_marker_are_as_of_images(start, client):
    emulator = await start()
    statuses = [(await ask(client, emulator, "A mug [[fault:503*1]]"))[0] for _ in range(2)]
    _, refused = await ask(client, emulator, "A mug [[fault:safety]]")
    assert statuses == [503, 200]
    assert refused["candidates"][0]["finishReason"] == "SAFETY"


async def test_a_marker_that_means_nothing_is_said(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, "A mug [[judge:11]]")
    assert (status, answer["error"]["message"]) == (400, "emulator: [[judge:11]] means nothing here")


async def test_a_model_that_writes_makes_no_images_and_one_that_draws_no_json(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, model=JUDGE, responseModalities=["TEXT", "IMAGE"])
    assert (status, "(TEXT, IMAGE) is not supported by the model" in answer["error"]["message"]) == (400, True)
    status, answer = await ask(client, emulator, "A mug", model="gemini-3-pro-image")
    assert (status, answer["error"]["message"]) == (400, "JSON mode is not enabled for models/gemini-3-pro-image")


async def test_a_reset_begins_every_list_anew(start, client):
    emulator = await start()
    before = await verdict(client, emulator, "A mug [[judge:3,8]]", noise(1))
    await client.post(f"{emulator.base_url}/_emulator/reset", {})
    after = await verdict(client, emulator, "A mug [[judge:3,8]]", noise(2))
    assert (before[0], after[0]) == (3, 3)
