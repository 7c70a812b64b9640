"""The vendor's own SDK, google-genai 3.4.0, unchanged, against the emulator."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from batchgen.emulator import read_comment

# google-genai 3.4.0 subclasses aiohttp's session, which aiohttp discourages by a warning; not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
PRO = "gemini-3-pro-image"
FLASH = "gemini-nano-banana-2.1"


def sdk(emulator: Any, version: str = "v1beta", key: str = "k") -> genai.Client:
    return genai.Client(api_key=key, http_options={"base_url": emulator.base_url, "api_version": version})


def pictures(response: Any) -> list[Image.Image]:
    return [Image.open(io.BytesIO(part.inline_data.data)) for part in response.parts if part.inline_data]


def photo() -> io.BytesIO:
    stream = io.BytesIO()
    Image.effect_noise((160, 90), 60).save(stream, "PNG")
    stream.seek(0)
    return stream


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
    assert response.candidates[0].grounding_metadata.web_search_queries == ["Weather chart", "about Weather chart"]


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
        "models/gemini-2.5-flash-image",
        *(f"models/gemini-{name}" for name in ("3.1-flash-lite", "3.5-flash-lite")),
        *(f"models/gemini-{name}" for name in ("3.5-flash", "3.6-flash", "3.7-flash")),
    ]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_a_chat_of_three_turns_sends_large_signatures_back(start, version):
    emulator = await start(signature_bytes=200_000)
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"], thinking_config=types.ThinkingConfig(include_thoughts=True)
    )
    with sdk(emulator, version) as client:  # aiohttp, below the asynchronous one, warns of bodies beyond 1 MB
        chat = client.chats.create(model=PRO, config=config)
        for prompt in ("Draw a cat", "Make it blue", "Add a hat"):
            answer = await asyncio.to_thread(chat.send_message, prompt)
    facts = read_comment(answer.parts[-1].inline_data.data)
    assert (facts["turn"], facts["prompt"], emulator.stats.succeeded) == (3, "Add a hat", 3)


async def test_a_chat_goes_on_over_streams(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        chat = client.chats.create(model=PRO)
        for prompt in ("Draw a cat", "Make it blue"):
            chunks = [chunk async for chunk in await chat.send_message_stream(prompt)]
    assert [len(pictures(chunk)) for chunk in chunks] == [1]


async def test_a_chat_that_lost_a_signature_is_a_client_error(start):
    emulator = await start()
    async with sdk(emulator).aio as client:
        chat = client.chats.create(model=PRO)
        await chat.send_message("Draw a cat")
        for part in chat.get_history()[1].parts:
            part.thought_signature = None
        with pytest.raises(errors.ClientError, match="missing a thought_signature in content position 2"):
            await chat.send_message("Make it blue")


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_an_uploaded_file_is_used_listed_and_deleted(start, version):
    emulator = await start(picture="full")
    async with sdk(emulator, version).aio as client:
        file = await client.files.upload(file=photo(), config={"mime_type": "image/png", "display_name": "photo"})
        answer = await client.models.generate_content(model=FLASH, contents=["Add a hat", file])
        listed = [one.name async for one in await client.files.list()]
        await client.files.delete(name=file.name)
        with pytest.raises(errors.ClientError, match="You do not have permission to access the File"):
            await client.files.get(name=file.name)
    assert (file.state, listed) == (types.FileState.ACTIVE, [file.name])
    assert [picture.size for picture in pictures(answer)] == [(1376, 768)]


async def test_a_file_of_several_pieces_is_uploaded_by_the_synchronous_client(start):
    emulator = await start()
    large = io.BytesIO(photo().getvalue() + bytes(9 * 1024 * 1024))  # the SDK's pieces have 8 MiB; PNG may have a tail
    with sdk(emulator) as client:
        file = await asyncio.to_thread(client.files.upload, file=large, config={"mime_type": "image/png"})
        answer = await asyncio.to_thread(client.models.generate_content, model=FLASH, contents=["Add a hat", file])
    assert (file.size_bytes, len(pictures(answer))) == (len(large.getvalue()), 1)


async def test_image_search_is_read_by_the_sdk(start):
    emulator = await start()
    kinds = types.SearchTypes(web_search=types.WebSearch(), image_search=types.ImageSearch())
    config = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch(search_types=kinds))])
    async with sdk(emulator).aio as client:
        answer = await client.models.generate_content(model=FLASH, contents="quetzal", config=config)
    found = answer.candidates[0].grounding_metadata
    assert (found.image_search_queries, found.web_search_queries) == (["quetzal"], ["quetzal", "about quetzal"])
    assert found.grounding_chunks[1].image.source_uri.startswith("https://")
    assert found.search_entry_point.rendered_content


async def test_a_downgraded_tier_is_told_in_the_header_that_the_documents_read(start):
    emulator = await start(tiers={"priority": 200})
    config = types.GenerateContentConfig(service_tier="priority")
    async with sdk(emulator).aio as client:
        answer = await client.models.generate_content(model=FLASH, contents="A fox", config=config)
    assert answer.sdk_http_response.headers["x-gemini-service-tier"] == "standard"


async def test_interim_pictures_are_thoughts_to_the_sdk(start):
    emulator = await start()
    thinking = types.ThinkingConfig(include_thoughts=True, thinking_level="HIGH")
    config = types.GenerateContentConfig(thinking_config=thinking, media_resolution="MEDIA_RESOLUTION_HIGH")
    async with sdk(emulator).aio as client:
        answer = await client.models.generate_content(model=FLASH, contents="A fox", config=config)
    assert [bool(part.thought) for part in answer.parts if part.inline_data] == [True, True, False]
