"""Black Forest Labs' tasks, by the vendor's documents."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from tests.support.provider_requests import PIXEL

KEY = {"x-key": "k"}


async def take(client, emulator, model="flux-2-pro", **fields):
    return await client.post(f"{emulator.base_url}/v1/{model}", {"prompt": "a fox", **fields}, **KEY)


async def finished(client, task):
    """The answer that says how it ended."""
    while True:
        status, found = await client.get(task["polling_url"], **KEY)
        if found["status"] != "Pending":
            return status, found
        await asyncio.sleep(0.02)


async def image_of(client, found):
    async with client.session.get(found["result"]["sample"]) as response:  # no key
        return Image.open(io.BytesIO(await response.read()))


@pytest.mark.parametrize(
    ("model", "fields", "cost", "pixels", "format_"),
    [
        ("flux-2-pro", {}, 3.0, (1024, 1024), "JPEG"),
        ("flux-2-pro", {"width": 1920, "height": 1088, "output_format": "png"}, 4.5, (1920, 1088), "PNG"),
        ("flux-2-pro", {"width": 2048, "height": 2048}, 7.5, (2048, 2048), "JPEG"),
        ("flux-2-pro", {"input_image": PIXEL, "input_image_2": PIXEL}, 4.5, (1024, 1024), "JPEG"),
        ("flux-2-klein-4b", {}, 1.4, (1024, 1024), "JPEG"),
        ("flux-kontext-pro", {"input_image": PIXEL, "aspect_ratio": "16:9"}, 4, (1344, 768), "PNG"),
        ("flux-3-image", {"images": [PIXEL], "resolution": "2k"}, 10.0, (2048, 2048), "PNG"),
    ],
)
async def test_a_task_costs_what_the_documents_say_and_ends_with_a_link(
    start, client, model, fields, cost, pixels, format_
):
    emulator = await start(picture="full")
    status, task = await take(client, emulator, model, **fields)
    assert (status, task["cost"]) == (200, cost)
    status, found = await finished(client, task)
    image = await image_of(client, found)
    assert (status, found["status"], image.size, image.format) == (200, "Ready", pixels, format_)
    assert emulator.stats.billed_images == 1


@pytest.mark.parametrize(
    ("model", "fields", "field", "kind"),
    [
        ("flux-2-pro", {"width": 1000}, "width", "value_error"),
        ("flux-2-pro", {"width": 4096, "height": 4096}, "width", "value_error"),
        ("flux-2-pro", {"aspect_ratio": "1:1"}, "aspect_ratio", "extra_forbidden"),
        ("flux-2-klein-4b", {"input_image_5": PIXEL}, "input_image_5", "extra_forbidden"),
        ("flux-2-pro", {"input_image": "%%%"}, "input_image_1", "value_error"),
        ("flux-3-image", {"seed": 7}, "seed", "extra_forbidden"),
        ("flux-3-image", {"output_format": "png"}, "output_format", "extra_forbidden"),
        ("flux-3-image", {"resolution": "8k"}, "resolution", "value_error"),
        ("flux-2-pro", {"prompt": None}, "prompt", "missing"),
    ],
)
async def test_a_body_that_the_model_does_not_take_is_refused_by_its_field(start, client, model, fields, field, kind):
    emulator = await start()
    status, answer = await take(client, emulator, model, **fields)
    assert (status, answer["detail"][0]["loc"], answer["detail"][0]["type"]) == (422, ["body", field], kind)


@pytest.mark.parametrize(
    ("fault", "status", "ends"),
    [
        ("job_flagged", 200, "Request Moderated"),
        ("job_filtered", 200, "Content Moderated"),
        ("job_failed", 200, "Error"),
        ("job_removed", 404, "Task not found"),
    ],
)
async def test_how_a_task_can_end(start, client, fault, status, ends):
    emulator = await start()
    _, task = await take(client, emulator, prompt=f"x [[fault:{fault}]]")
    found = await finished(client, task)
    assert (found[0], found[1]["status"], found[1]["result"]) == (status, ends, None)


@pytest.mark.parametrize(("key", "status"), [("bad", 403), ("", 403), ("nocredits", 402)])
async def test_a_key_that_may_not_is_refused(start, client, key, status):
    emulator = await start()
    assert (await client.post(f"{emulator.base_url}/v1/flux-2-pro", {"prompt": "x"}, **{"x-key": key}))[0] == status


async def test_a_task_is_another_keys_no_more_than_one_that_there_is_not(start, client):
    emulator = await start()
    _, task = await take(client, emulator)
    status, found = await client.get(task["polling_url"], **{"x-key": "other"})
    assert (status, found["status"]) == (404, "Task not found")


@pytest.mark.parametrize(("model", "most"), [("flux-2-pro", 24), ("flux-kontext-max", 6)])
async def test_so_many_tasks_may_be_active_and_no_more(start, client, model, most):
    emulator = await start(latency_s=(60.0, 60.0), rpm=0)
    statuses = [(await take(client, emulator, model))[0] for _ in range(most + 1)]
    assert statuses == [200] * most + [429]
    assert (await client.post(f"{emulator.base_url}/v1/{model}", {"prompt": "x"}, **{"x-key": "another"}))[0] == 200
