"""The vendor's own SDK, google-genai 3.4.0, unchanged, against the emulator."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

# google-genai 3.4.0 subclasses aiohttp's session, which aiohttp discourages by a warning; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
PRO = "gemini-3-pro-image"
FLASH = "gemini-nano-banana-2.1"


def sdk(emulator: Any, version: str = "v1beta", key: str = "k") -> genai.Client:
    return genai.Client(api_key=key, http_options={"base_url": emulator.base_url, "api_version": version})


def pictures(response: Any) -> list[Image.Image]:
    return [Image.open(io.BytesIO(part.inline_data.data)) for part in response.parts if part.inline_data]


def shaped(ratio: str, size: str) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(
        response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio=ratio, image_size=size)
    )


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_the_synchronous_client_gets_a_picture(start, version):
    emulator = await start(picture="full")
    with sdk(emulator, version) as client:
        response = await asyncio.to_thread(
            client.models.generate_content, model=PRO, contents="A red fox", config=shaped("16:9", "2K")
        )
    assert [picture.size for picture in pictures(response)] == [(2752, 1536)]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_the_asynchronous_client_gets_a_picture(start, version):
    emulator = await start(picture="full")
    async with sdk(emulator, version).aio as client:
        response = await client.models.generate_content(model=FLASH, contents="A red fox", config=shaped("3:4", "1K"))
    assert [picture.size for picture in pictures(response)] == [(896, 1200)]


async def test_usage_adds_up_as_the_sdk_reads_it(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        response = await client.models.generate_content(model=FLASH, contents="A red fox")
    usage = response.usage_metadata
    parts = usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    assert usage.total_token_count == parts


async def test_a_stream_carries_the_picture(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        chunks = [
            chunk async for chunk in await client.models.generate_content_stream(model=FLASH, contents="A red fox")
        ]
    assert sum(len(pictures(chunk)) for chunk in chunks) == 1


async def test_a_refusal_has_the_finish_reason_of_the_sdks_enum(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        response = await client.models.generate_content(model=FLASH, contents="Draw [[fault:image_safety]]")
    assert response.candidates[0].finish_reason is types.FinishReason.IMAGE_SAFETY


async def test_a_blocked_prompt_has_feedback_and_no_candidates(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        response = await client.models.generate_content(model=FLASH, contents="Draw [[fault:block]]")
    found = (response.prompt_feedback.block_reason, response.candidates)
    assert found == (types.BlockedReason.PROHIBITED_CONTENT, None)


async def test_a_used_up_quota_is_a_client_error_with_its_quota_id(start):
    emulator = await start(rpm=1)
    async with sdk(emulator).aio as client:
        await client.models.generate_content(model=FLASH, contents="A red fox")
        with pytest.raises(errors.ClientError) as caught:
            await client.models.generate_content(model=FLASH, contents="A red fox")
    failure = caught.value.details["error"]["details"][1]
    assert (caught.value.code, failure["violations"][0]["quotaId"]) == (
        429,
        "GenerateRequestsPerMinutePerProjectPerModel",
    )


async def test_a_bad_key_is_a_400_with_its_reason(start):
    emulator = await start()
    with sdk(emulator, key="bad-key") as client, pytest.raises(errors.ClientError) as caught:
        await asyncio.to_thread(client.models.generate_content, model=FLASH, contents="A red fox")
    reason = caught.value.details["error"]["details"][0]["reason"]
    assert (caught.value.code, caught.value.status, reason) == (400, "INVALID_ARGUMENT", "API_KEY_INVALID")


async def test_an_overloaded_model_is_a_server_error(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        with pytest.raises(errors.ServerError) as caught:
            await client.models.generate_content(model=FLASH, contents="A fox [[fault:503]]")
    assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")


async def test_an_error_in_a_stream_is_wrapped_in_a_list_that_the_sdk_understands(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        with pytest.raises(errors.ServerError) as caught:
            async for _ in await client.models.generate_content_stream(model=FLASH, contents="A fox [[fault:503]]"):
                pass
    assert caught.value.status == "UNAVAILABLE"


async def test_a_chat_of_two_turns_sends_the_signatures_back(start):
    emulator = await start()
    config = types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"])
    async with sdk(emulator).aio as client:
        chat = client.chats.create(model=PRO, config=config)
        await chat.send_message("Draw a cat")
        second = await chat.send_message("Make it blue")
    assert len(pictures(second)) == 1


async def test_a_synchronous_chat_of_two_turns_works(start):
    emulator = await start()
    with sdk(emulator) as client:
        chat = client.chats.create(model=PRO)
        await asyncio.to_thread(chat.send_message, "Draw a cat")
        second = await asyncio.to_thread(chat.send_message, "Make it blue")
    assert len(pictures(second)) == 1


async def test_references_are_taken_as_pillow_images(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        response = await client.models.generate_content(
            model=PRO, contents=["Add a hat", Image.new("RGB", (40, 30), "red")]
        )
    assert len(pictures(response)) == 1


async def test_grounding_is_read_by_the_sdk(start):
    emulator = await start()
    tools = [types.Tool(google_search=types.GoogleSearch())]
    async with sdk(emulator).aio as client:
        response = await client.models.generate_content(
            model=PRO, contents="Weather chart", config=types.GenerateContentConfig(tools=tools)
        )
    assert response.candidates[0].grounding_metadata.web_search_queries == ["Weather chart"]


async def test_the_model_list_names_the_models_that_answer(start):
    emulator = await start(serve_retired=False)
    with sdk(emulator) as client:
        names = await asyncio.to_thread(lambda: [model.name for model in client.models.list()])
    assert names == [
        "models/gemini-nano-banana-2.1",
        "models/gemini-3-pro-image",
        "models/nano-banana-pro-preview",
        "models/gemini-3.1-flash-lite-image",
        "models/gemini-3.1-flash-image",
    ]
