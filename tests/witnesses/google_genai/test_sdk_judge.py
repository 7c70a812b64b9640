"""The vendor's own SDK, google-genai 3.4.0, asks how good an image is: of the emulator, and beside our codec."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from aiohttp import web
from google import genai
from google.genai import errors, types

from batchgen.emulator.pictures import draw
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.judgement import ANSWER_SCHEMA
from batchgen.providers.registry import provider_for
from batchgen.records import Question, ReferenceImage, Response
from tests.support.emulator import KEYS
from tests.support.http_server import serving
from tests.support.provider_requests import camel

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
JUDGE = "gemini-3.1-flash-lite"
IMAGE = draw("A mug", model="m", pixels=(320, 320))
TEXT = "A mug [[judge:3]][[judge:remark=the handle is missing]]"
QUESTION = Question(
    model=JUDGE, text=TEXT, images=(ReferenceImage("image/png", base64.b64encode(IMAGE).decode()),), timeout_s=60
)


def ask_by_sdk(url, model=JUDGE, **schema):
    """schema: as the SDK takes it; that of our codec by default."""
    config = types.GenerateContentConfig(
        response_modalities=["TEXT"],
        response_mime_type="application/json",
        temperature=0,
        **(schema or {"response_json_schema": dict(ANSWER_SCHEMA)}),
    )
    contents = types.UserContent([types.Part(text=TEXT), types.Part.from_bytes(data=IMAGE, mime_type="image/png")])
    with genai.Client(api_key="k", http_options={"base_url": url, "api_version": "v1beta"}) as client:
        return client.models.generate_content(model=model, contents=contents, config=config)


def our_codec():
    return provider_for(load_catalogue().resolve(JUDGE))


async def test_the_sdk_reads_the_json_that_our_codec_reads(start, client):
    emulator = await start()
    theirs = await asyncio.to_thread(ask_by_sdk, emulator.base_url)
    request = our_codec().build_question(QUESTION)
    async with client.session.post(emulator.base_url + request.path, data=request.body, headers=KEYS) as response:
        ours = our_codec().read_answer(Response(response.status, dict(response.headers), await response.read()))
    assert (
        theirs.parsed == {"score": 3, "remark": "the handle is missing"} == {"score": ours.score, "remark": ours.remark}
    )
    used = theirs.usage_metadata
    assert (used.prompt_token_count, used.candidates_token_count) == (ours.usage.prompt_tokens, ours.usage.text_tokens)


async def test_a_schema_in_the_vendors_own_dialect_is_answered_too(start):
    emulator = await start()
    theirs = await asyncio.to_thread(ask_by_sdk, emulator.base_url, response_schema=dict(ANSWER_SCHEMA))
    assert theirs.parsed == {"score": 3, "remark": "the handle is missing"}


async def test_the_sdk_hears_that_a_model_of_images_writes_no_json(start):
    emulator = await start()
    with pytest.raises(errors.ClientError, match="JSON mode is not enabled"):
        await asyncio.to_thread(ask_by_sdk, emulator.base_url, "gemini-3-pro-image")


async def test_our_question_is_the_request_that_the_sdk_sends():
    seen = []

    async def record(request):
        seen.append((request.method, request.path, await request.json()))
        return web.json_response({"candidates": [{"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}]})

    async with serving(record) as url:
        await asyncio.to_thread(ask_by_sdk, url)
    ours = our_codec().build_question(QUESTION)
    ((method, path, body),) = seen
    sent = body["contents"][0]["parts"][1]["inlineData"]
    sent["data"] = (
        sent["data"].replace("-", "+").replace("_", "/")
    )  # the other alphabet of base64, which Google takes too
    assert (ours.method, ours.path, json.loads(ours.body)) == (method, path, camel(body))
