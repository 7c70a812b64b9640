"""Imagen's predict."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

STANDARD = "imagen-4.0-generate-001"


async def predict(client, emulator, prompt="a fox", model=STANDARD, **parameters):
    body = {"instances": [{"prompt": prompt}], "parameters": parameters}
    return await client.post(f"{emulator.base_url}/v1beta/models/{model}:predict", body)


def image_of(prediction):
    return Image.open(io.BytesIO(base64.b64decode(prediction["bytesBase64Encoded"])))


async def test_as_many_pictures_come_as_were_asked_for(start, client):
    emulator = await start()
    _, answer = await predict(client, emulator, sampleCount=3)
    assert (len(answer["predictions"]), emulator.stats.billed_images) == (3, 3)


@pytest.mark.parametrize("size, pixels", [("1K", (1408, 768)), ("2k", (2816, 1536))])
async def test_size_and_ratio_give_the_documented_pixels(start, client, size, pixels):
    emulator = await start(picture="full")
    _, answer = await predict(client, emulator, aspectRatio="16:9", sampleImageSize=size)
    assert image_of(answer["predictions"][0]).size == pixels


async def test_the_output_options_choose_the_format(start, client):
    emulator = await start()
    _, answer = await predict(client, emulator, outputOptions={"mimeType": "image/jpeg", "compressionQuality": 60})
    assert image_of(answer["predictions"][0]).format == "JPEG"


async def test_a_filtered_picture_is_dropped_without_a_word(start, client):
    emulator = await start()
    _, answer = await predict(client, emulator, prompt="x [[fault:rai_filtered]]", sampleCount=2)
    assert len(answer["predictions"]) == 1


async def test_a_filtered_picture_gives_its_reason_where_asked(start, client):
    emulator = await start()
    _, answer = await predict(client, emulator, prompt="x [[fault:rai_filtered]]", sampleCount=2, includeRaiReason=True)
    assert [sorted(one) for one in answer["predictions"]] == [["bytesBase64Encoded", "mimeType"], ["raiFilteredReason"]]


async def test_all_filtered_is_an_empty_object(start, client):
    emulator = await start()
    assert await predict(client, emulator, prompt="x [[fault:rai_all]]") == (200, {})


async def test_a_field_of_another_product_is_refused(start, client):
    emulator = await start()
    status, answer = await predict(client, emulator, seed=1)
    assert (status, "Unknown name \"seed\" at 'parameters'" in answer["error"]["message"]) == (400, True)


async def test_five_pictures_are_too_many(start, client):
    emulator = await start()
    assert (await predict(client, emulator, sampleCount=5))[0] == 400


async def test_a_gemini_model_does_not_predict(start, client):
    emulator = await start()
    status, answer = await predict(client, emulator, model="gemini-3-pro-image")
    assert (status, "is not supported for predict" in answer["error"]["message"]) == (404, True)


async def test_shut_down_models_say_so_where_that_is_asked_for(start, client):
    emulator = await start(serve_retired=False)
    assert (await predict(client, emulator))[0] == 404
