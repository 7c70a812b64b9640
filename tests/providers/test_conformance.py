"""What the vendor's SDKs send for a wish, captured and live, is what our codec sends for it, field by field."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from google import genai
from google.genai import types

from batchgen.providers.gemini import Gemini
from batchgen.records import Inputs, ReferenceImage
from tests.support.http_server import serving
from tests.support.provider_requests import PIXEL, WORDS, camel, sent

ONE = {"generationConfig": {"responseModalities": ["IMAGE"]}}  # the SDKs leave it to the model, we ask for a picture
SAID = {
    "role": "model",
    "parts": [
        {"text": "thinking about it", "thought": True},
        {"text": "Here it is", "thoughtSignature": "c2lnLXRleHQ="},
        {"inlineData": {"mimeType": "image/png", "data": PIXEL}, "thoughtSignature": "c2lnLWltZw=="},
    ],
}
ANSWER = {"candidates": [{"content": SAID, "finishReason": "STOP", "index": 0}]}


def turns() -> Inputs:
    """The model's turn, kept as a run keeps it."""
    return Inputs(turns=(json.dumps(Gemini.turn(json.dumps(ANSWER).encode())),))


# --- captured


def test_a_second_turn_sends_back_thoughts_words_picture_and_signatures_as_google_genai_does(
    codec, sample_of, captured
):
    sample = sample_of(prompt="Make it blue", history=("Draw a cat",), turn=2, modalities=("text", "image"))
    assert sent(codec("pro"), sample, turns()) == camel(captured("chat")["json"])


def test_a_search_is_what_google_genai_sends(codec, sample_of, captured):
    web_search = sample_of(prompt="weather chart", search="web", modalities=("text", "image"))
    assert sent(codec("flash"), web_search) == captured("search_web")["json"]
    image_search = sample_of(prompt="quetzal", search="image")
    assert sent(codec("flash"), image_search) == camel(captured("search_image")["json"])


def test_an_image_search_is_what_the_javascript_sdk_sends(codec, sample_of, captured):
    assert sent(codec("flash"), sample_of(prompt="x", search="image")) == {**captured("search_image_js")["json"], **ONE}


def test_an_edit_is_what_the_javascript_sdk_sends(codec, sample_of, captured):
    picture = Inputs((ReferenceImage("image/png", "AAAA"),))
    assert sent(codec("flash"), sample_of(prompt="x"), picture) == {**captured("edit_js")["json"], **ONE}


def test_text_to_image_is_what_google_genai_1_75_sent(codec, sample_of, captured):
    thoughts = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    wish = {"aspect_ratio": "16:9", "image_size": "2K", "modalities": ("text", "image"), "extra": thoughts}
    request, expected = (
        codec("pro").build(sample_of(prompt="A red fox", **wish), Inputs()),
        captured("text_to_image_old"),
    )
    assert (request.method, request.path) == (expected["method"], expected["path"])
    assert json.loads(request.body) == camel(expected["json"])


def test_tier_storage_and_labels_stand_where_google_genai_puts_them(codec, sample_of, captured):
    extra = {"serviceTier": "priority", "store": False, "labels": {"a": "b"}}
    assert sent(codec("flash"), sample_of(prompt="x", extra=extra)) == {**captured("tier")["json"], **ONE}


def test_no_field_of_ours_makes_the_response_format_that_the_live_server_refuses_in_strings(codec, sample_of, captured):
    assert "responseFormat" in captured("response_format")["json"]["generationConfig"]
    body = sent(codec("flash"), sample_of(**{**WORDS, "search": "image"}))
    assert "responseFormat" not in json.dumps(body)
    assert body["generationConfig"]["imageConfig"] == {"aspectRatio": "4:3", "imageSize": "2K"}


# --- live: the installed SDK beside our codec, so that a new release of it shows


class Recorder:
    """Answers every request with a picture and remembers (path, body)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, camel(await request.json())))
        return web.json_response(ANSWER)

    def client(self) -> genai.Client:
        return genai.Client(api_key="k", http_options={"base_url": self.url, "api_version": "v1beta"})


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with serving(recorder.answer) as recorder.url:
        yield recorder


def ours(codec: Any, sample: Any, inputs: Inputs | None = None) -> tuple[str, Any]:
    request = codec.build(sample, inputs or Inputs())
    return request.path, json.loads(request.body)


async def test_the_installed_sdk_asks_for_a_picture_as_we_do(recorder, codec, sample_of):
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(aspect_ratio="16:9", image_size="2K"),
        thinking_config=types.ThinkingConfig(thinking_level="HIGH"),
        safety_settings=[types.SafetySetting(category="HARM_CATEGORY_HARASSMENT", threshold="BLOCK_ONLY_HIGH")],
        seed=42,
        temperature=0.5,
    )
    with recorder.client() as client:
        await asyncio.to_thread(
            client.models.generate_content, model="gemini-nano-banana-2.1", contents="A red fox", config=config
        )
    sample = sample_of(
        prompt="A red fox",
        modalities=("text", "image"),
        aspect_ratio="16:9",
        image_size="2K",
        thinking="high",
        safety={"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH"},
        seed=42,
        temperature=0.5,
    )
    assert recorder.seen == [ours(codec("flash"), sample)]


async def test_the_installed_sdk_sends_two_pictures_to_edit_as_we_do(recorder, codec, sample_of):
    part = types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
    config = types.GenerateContentConfig(response_modalities=["IMAGE"])
    with recorder.client() as client:
        await asyncio.to_thread(
            client.models.generate_content,
            model="gemini-3-pro-image",
            contents=["Combine these", part, part],
            config=config,
        )
    two = Inputs((ReferenceImage("image/png", PIXEL), ReferenceImage("image/png", PIXEL)))
    assert recorder.seen == [ours(codec("pro"), sample_of(prompt="Combine these"), two)]


async def test_the_installed_sdk_holds_a_conversation_as_we_do(recorder, codec, sample_of):
    config = types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"])
    with recorder.client() as client:
        chat = client.chats.create(model="gemini-3-pro-image", config=config)
        for prompt in ("Draw a cat", "Make it blue"):
            await asyncio.to_thread(chat.send_message, prompt)
    both = ("text", "image")
    assert recorder.seen == [
        ours(codec("pro"), sample_of(prompt="Draw a cat", turn=1, modalities=both)),
        ours(codec("pro"), sample_of(prompt="Make it blue", history=("Draw a cat",), turn=2, modalities=both), turns()),
    ]


@pytest.mark.parametrize(
    ("search", "kinds"),
    [("web", None), ("image", types.SearchTypes(web_search=types.WebSearch(), image_search=types.ImageSearch()))],
)
async def test_the_installed_sdk_searches_as_we_do(recorder, codec, sample_of, search, kinds):
    tools = [types.Tool(google_search=types.GoogleSearch(search_types=kinds))]
    config = types.GenerateContentConfig(tools=tools, response_modalities=["IMAGE"])
    with recorder.client() as client:
        await asyncio.to_thread(
            client.models.generate_content, model="gemini-nano-banana-2.1", contents="quetzal", config=config
        )
    assert recorder.seen == [ours(codec("flash"), sample_of(prompt="quetzal", search=search))]
