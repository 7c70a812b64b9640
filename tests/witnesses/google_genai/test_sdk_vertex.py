"""The vendor's own SDK, google-genai 3.4.0 with vertexai=True and a service account, unchanged, against the emulator."""

from __future__ import annotations

import asyncio
import io

import pytest
from google import genai
from google.auth.exceptions import RefreshError
from google.genai import errors, types
from google.oauth2 import service_account
from PIL import Image

from tests.support.google_key import key_file

pytestmark = pytest.mark.filterwarnings(
    # google-genai 3.4.0 subclasses aiohttp's session, which aiohttp discourages by a warning; not ours to mend.
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning",
    "ignore:The generate_images method is deprecated",
)
PRO = "gemini-3-pro-image"


@pytest.fixture
def sdk(tmp_path):
    def make(emulator, project="shop", name="painter"):
        path = key_file(tmp_path, emulator.base_url, name)
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        credentials = service_account.Credentials.from_service_account_file(str(path), scopes=scopes)
        options = {"base_url": emulator.base_url}
        return genai.Client(
            vertexai=True, project=project, location="global", credentials=credentials, http_options=options
        )

    return make


def pictures(response):
    parts = response.candidates[0].content.parts
    return [Image.open(io.BytesIO(part.inline_data.data)) for part in parts if part.inline_data]


async def test_the_synchronous_client_gets_a_png_of_the_size_it_asks_for(start, sdk):
    emulator = await start(picture="full")
    shape = types.ImageConfig(
        aspect_ratio="16:9", image_size="2K", person_generation="ALLOW_NONE", output_mime_type="image/png"
    )
    config = types.GenerateContentConfig(response_modalities=["IMAGE"], image_config=shape)
    with sdk(emulator) as client:
        asking = asyncio.to_thread(client.models.generate_content, model=PRO, contents="A red fox", config=config)
        response = await asking
    assert [(picture.size, picture.format) for picture in pictures(response)] == [((2752, 1536), "PNG")]
    assert response.usage_metadata.traffic_type is types.TrafficType.ON_DEMAND


async def test_one_token_serves_a_chat_whose_signatures_come_back(start, sdk):
    emulator = await start()
    with sdk(emulator) as client:
        chat = client.chats.create(model=PRO)
        await asyncio.to_thread(chat.send_message, "Draw a cat")
        second = await asyncio.to_thread(chat.send_message, "Make it blue")
    assert (len(pictures(second)), emulator.tokens_issued) == (1, 1)


async def test_a_stream_carries_the_image(start, sdk):
    emulator = await start()
    with sdk(emulator) as client:
        asking = asyncio.to_thread(lambda: list(client.models.generate_content_stream(model=PRO, contents="A red fox")))
        chunks = await asking
    assert sum(len(pictures(chunk)) for chunk in chunks) == 1


async def test_imagen_gives_what_it_is_asked_for(start, sdk):
    emulator = await start()
    config = types.GenerateImagesConfig(
        number_of_images=2, negative_prompt="rain", seed=3, output_mime_type="image/jpeg"
    )
    with sdk(emulator) as client:
        asking = asyncio.to_thread(
            client.models.generate_images, model="imagen-4.0-generate-001", prompt="A red fox", config=config
        )
        response = await asking
    assert [image.image.mime_type for image in response.generated_images] == ["image/jpeg"] * 2


@pytest.mark.parametrize(
    ("project", "reason"), [("denied-1", "IAM_PERMISSION_DENIED"), ("disabled-1", "SERVICE_DISABLED")]
)
async def test_a_project_that_may_not_is_a_client_error_with_its_reason(start, sdk, project, reason):
    emulator = await start()
    with sdk(emulator, project) as client, pytest.raises(errors.ClientError) as caught:
        await asyncio.to_thread(client.models.generate_content, model=PRO, contents="A red fox")
    assert (caught.value.code, caught.value.details["error"]["details"][0]["reason"]) == (403, reason)


async def test_an_account_whose_key_was_deleted_gets_no_token(start, sdk):
    emulator = await start()
    with sdk(emulator, name="deleted") as client, pytest.raises(RefreshError, match="invalid_grant"):
        await asyncio.to_thread(client.models.generate_content, model=PRO, contents="A red fox")
