"""AIML's images endpoint, its links and its errors."""

from __future__ import annotations

import io

import pytest
from PIL import Image

IMAGEN = "google/imagen-4.0-generate-001"


async def generate(client, emulator, prompt="Racoon eating ice-cream", model=IMAGEN, **fields):
    return await client.post(f"{emulator.base_url}/v1/images/generations", {"prompt": prompt, "model": model, **fields})


async def test_a_link_leads_to_the_picture_without_credentials(start, client):
    emulator = await start(picture="full")
    _, answer = await generate(client, emulator, aspect_ratio="16:9")
    async with client.session.get(answer["data"][0]["url"]) as response:
        image = Image.open(io.BytesIO(await response.read()))
    assert (response.content_type, image.format, image.size) == ("image/png", "PNG", (1408, 768))


async def test_base64_comes_where_links_are_not_wanted(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, convert_base64_to_url=False)
    assert (answer["data"][0]["url"], len(answer["data"][0]["b64_json"]) > 100) == (None, True)


async def test_the_prompt_comes_back_rewritten_by_default(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, prompt="A fox")
    assert answer["data"][0]["prompt"].startswith("A fox A richly")


async def test_the_prompt_is_left_alone_where_asked(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, enhance_prompt=False)
    assert "prompt" not in answer["data"][0]


async def test_several_pictures_come_in_one_answer(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, num_images=4)
    assert (len({entry["url"] for entry in answer["data"]}), emulator.stats.billed_images) == (4, 4)


async def test_the_edit_model_answers_in_its_own_shape(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, model="google/nano-banana-edit", image_urls=["https://example.com/a"])
    assert sorted(answer) == ["description", "images", "meta"]


async def test_a_resolution_is_honoured(start, client):
    emulator = await start(picture="full")
    _, answer = await generate(client, emulator, model="google/nano-banana-pro", resolution="2K")
    async with client.session.get(answer["data"][0]["url"]) as response:
        assert Image.open(io.BytesIO(await response.read())).size == (2048, 2048)


async def test_an_unknown_model_is_a_validation_error_that_lists_the_known(start, client):
    emulator = await start()
    status, answer = await generate(client, emulator, model="nope")
    assert status == 400
    assert answer["message"].startswith("Body validation error!\nInvalid enum value. Expected 'google/imagen")


@pytest.mark.parametrize(
    "fields",
    [{"aspect_ratio": "2:3"}, {"num_images": 5}, {"num_images": True}, {"seed": -1}, {"enhance_prompt": "yes"}],
    ids=str,
)
async def test_a_value_outside_the_schema_is_refused(start, client, fields):
    emulator = await start()
    assert (await generate(client, emulator, **fields))[0] == 400


async def test_a_prompt_longer_than_400_characters_is_refused(start, client):
    emulator = await start()
    assert (await generate(client, emulator, prompt="x" * 401))[0] == 400


@pytest.mark.parametrize("key, status", [("", 401), ("Bearer bad", 401), ("Bearer nocredits", 403)])
async def test_a_key_says_by_its_name_how_it_is_refused(start, client, key, status):
    emulator = await start()
    found, answer = await client.post(
        f"{emulator.base_url}/v1/images/generations", {"prompt": "x", "model": IMAGEN}, Authorization=key
    )
    assert (found, answer["statusCode"]) == (status, status)


@pytest.mark.parametrize(
    "name, status",
    [("429", 429), ("429day", 429), ("credits", 403), ("maintenance", 500), ("500", 500), ("504", 504), ("201", 201)],
)
async def test_a_fault_has_its_status(start, client, name, status):
    emulator = await start()
    assert (await generate(client, emulator, prompt=f"x [[fault:{name}]]"))[0] == status


async def test_a_link_fails_as_often_as_asked_and_the_picture_is_billed_once(start, client):
    emulator = await start()
    _, answer = await generate(client, emulator, prompt="x [[fault:link404*1]]")
    statuses = []
    for _ in range(2):
        async with client.session.get(answer["data"][0]["url"]) as response:
            statuses.append(response.status)
    assert (statuses, emulator.stats.billed) == ([404, 200], 1)


async def test_a_slow_link_arrives_whole(start, client):
    emulator = await start(drip_s=0.1)
    _, answer = await generate(client, emulator, prompt="x [[fault:link_slow]]")
    async with client.session.get(answer["data"][0]["url"]) as response:
        Image.open(io.BytesIO(await response.read())).load()


async def test_a_used_up_quota_says_too_many_requests(start, client):
    emulator = await start(rpm=1)
    await generate(client, emulator)
    status, answer = await generate(client, emulator)
    assert (status, answer["message"]) == (429, "Too Many Requests")


async def test_the_balance_can_be_asked_for(start, client):
    emulator = await start()
    status, answer = await client.get(f"{emulator.base_url}/v1/billing/balance")
    assert (status, answer["lowBalance"]) == (200, False)
