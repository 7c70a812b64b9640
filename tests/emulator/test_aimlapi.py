"""AIML's images endpoint, its links and its errors."""

from __future__ import annotations

import base64
import io

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
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


async def test_the_balance_goes_down_with_each_picture(start, client):
    emulator = await start()
    _, before = await client.get(f"{emulator.base_url}/v1/billing/balance")
    await generate(client, emulator, num_images=2)
    _, after = await client.get(f"{emulator.base_url}/v1/billing/balance")
    assert before["balance"] - after["balance"] == 2 * 84_000


async def test_an_answer_says_what_it_cost(start, client):
    _, answer = await generate(client, await start(), num_images=2)
    assert answer["meta"]["usage"] == {"credits_used": 168_000, "usd_spent": 0.084}


async def test_the_older_name_of_the_credits_comes_by_marker(start, client):
    _, answer = await generate(client, await start(), prompt="x [[fault:tokens_used]]")
    assert answer["meta"]["usage"] == {"tokens_used": 84_000}


@pytest.mark.parametrize("model", [IMAGEN, "google/nano-banana-edit"])
@pytest.mark.parametrize("shape", ["data", "images"])
async def test_either_shape_of_answer_comes_by_marker(start, client, model, shape):
    _, answer = await generate(client, await start(), prompt=f"x [[fault:{shape}_shape]]", model=model)
    assert ("data" in answer, "images" in answer) == (shape == "data", shape == "images")


def data_url(colour="red"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


async def edited(client, emulator, url):
    """The pixels of an edit of what the link shows, as often as it was asked for."""
    status, answer = await generate(client, emulator, model="google/nano-banana-edit", image_urls=[url])
    assert status == 200, answer
    async with client.session.get(answer["images"][0]["url"]) as response:
        return Image.open(io.BytesIO(await response.read())).tobytes()


async def test_an_edit_draws_on_the_picture_of_a_data_url(start, client):
    assert await edited(client, await start(), data_url("red")) != await edited(client, await start(), data_url("blue"))


async def test_an_edit_draws_on_the_picture_behind_a_link(start, client):
    emulator = await start()
    _, first = await generate(client, emulator, prompt="A fox")
    link = first["data"][0]["url"]
    async with client.session.get(link) as response:
        inline = "data:image/png;base64," + base64.b64encode(await response.read()).decode()
    assert await edited(client, emulator, link) == await edited(client, await start(), inline)


@pytest.mark.parametrize("url", ["data:image/png;base64,bm90IGE=", "data:image/png;base64,*", "ftp://x", "nothing"])
async def test_what_is_no_picture_is_refused(start, client, url):
    emulator = await start()
    status, _ = await generate(client, emulator, model="google/nano-banana-edit", image_urls=[url])
    assert (status, emulator.stats.billed) == (400, 0)


async def test_a_link_that_leads_nowhere_is_refused(start, client):
    emulator = await start()
    urls = [f"{emulator.base_url}/cdn/generations/none.png"]
    assert (await generate(client, emulator, model="google/nano-banana-edit", image_urls=urls))[0] == 400


async def test_a_link_that_redirects_is_not_followed(start, client):
    requests = []

    async def redirect(request):
        requests.append(request.path)
        raise web.HTTPFound("/picture")

    app = web.Application()
    app.router.add_get("/{name}", redirect)
    async with TestServer(app) as server:
        url = str(server.make_url("/first"))
        status, _ = await generate(client, await start(), model="google/nano-banana-edit", image_urls=[url])
    assert (status, requests) == (400, ["/first"])
