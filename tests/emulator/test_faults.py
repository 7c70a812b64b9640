"""Faults by marker and by rate."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random

import aiohttp
import pytest
from PIL import Image

from batchgen.emulator.faults import fault_for, without_markers
from batchgen.emulator.options import EmulatorOptions

FLASH = "gemini-nano-banana-2.1"


async def until(holds):
    """Let the server go on until something holds; a server that never gets there is stopped after ten seconds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


def fault(prompt, attempt, rates=None):
    return fault_for(prompt, attempt, rates or {}, random.Random(0))


def test_a_marker_lasts_as_many_attempts_as_it_says():
    assert [fault("x [[fault:503*2]]", attempt) for attempt in (1, 2, 3)] == ["503", "503", None]


def test_a_marker_without_a_number_lasts_for_ever():
    assert fault("x [[fault:503]]", 1000) == "503"


def test_markers_follow_one_another():
    assert [fault("[[fault:503*1]] x [[fault:reset*1]]", attempt) for attempt in (1, 2, 3)] == ["503", "reset", None]


def test_a_rate_is_met_in_the_long_run():
    draw = random.Random(1)
    hits = sum(fault_for("x", 1, {"503": 0.2, "reset": 0.1}, draw) is not None for _ in range(5000))
    assert 1350 < hits < 1650


def test_the_type_in_the_picture_leaves_markers_out():
    assert without_markers("A fox [[fault:503*2]]") == "A fox"


def test_an_unknown_fault_is_refused_when_the_options_are_made():
    with pytest.raises(ValueError, match="unknown fault 'nonsense'"):
        EmulatorOptions(faults={"nonsense": 0.1})


async def test_an_unknown_marker_is_a_400_that_says_so(start, client):
    emulator = await start()
    status, answer = await client.draw(emulator, prompt="x [[fault:nonsense]]")
    assert (status, "nonsense" in answer["error"]["message"]) == (400, True)


async def test_the_faults_of_a_prompt_do_not_depend_on_the_order_of_arrival(start, client):
    async def statuses(emulator, prompts):
        return {prompt: (await client.draw(emulator, prompt=prompt))[0] for prompt in prompts}

    prompts = [f"fox {number}" for number in range(30)]
    one = await statuses(await start(faults={"503": 0.5}), prompts)
    other = await statuses(await start(faults={"503": 0.5}), reversed(prompts))
    assert one == other


async def test_two_attempts_fail_and_the_third_succeeds(start, client):
    emulator = await start()
    found = [(await client.draw(emulator, prompt="x [[fault:503*2]]"))[0] for _ in range(3)]
    assert found == [503, 503, 200]


@pytest.mark.parametrize(
    "name, status",
    [
        *((name, 429) for name in ("429", "429day", "429limit0", "429spend", "429bare")),
        *((str(code), code) for code in (408, 500, 503, 504)),
    ],
)
async def test_an_error_fault_has_its_status_in_the_body_and_bills_nothing(start, client, name, status):
    emulator = await start()
    found, answer = await client.draw(emulator, prompt=f"x [[fault:{name}]]")
    assert (found, answer["error"]["code"], emulator.stats.billed) == (status, status, 0)


async def test_the_daily_quota_names_the_day(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:429day]]")
    failure = answer["error"]["details"][1]
    assert failure["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel"
    assert answer["error"]["message"].endswith("Please retry in 1h52m56.409571576s.")


async def test_a_key_of_the_free_tier_has_a_limit_of_zero(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:429limit0]]")
    assert f"limit: 0, model: {FLASH}" in answer["error"]["message"]


@pytest.mark.parametrize("name", ["429spend", "429bare"])
async def test_money_and_bare_answers_have_no_details(start, client, name):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt=f"x [[fault:{name}]]")
    assert "details" not in answer["error"]


@pytest.mark.parametrize(
    "name, reason",
    [
        ("safety", "SAFETY"),
        ("image_safety", "IMAGE_SAFETY"),
        ("prohibited", "IMAGE_PROHIBITED_CONTENT"),
        ("no_image", "NO_IMAGE"),
        ("image_other", "IMAGE_OTHER"),
        ("max_tokens", "MAX_TOKENS"),
        ("missing_signature", "MISSING_THOUGHT_SIGNATURE"),
        ("empty", "STOP"),
        ("text_only", "STOP"),
    ],
)
async def test_an_answer_without_a_picture_has_its_finish_reason_and_bills_no_picture(start, client, name, reason):
    emulator = await start()
    status, answer = await client.draw(emulator, prompt=f"x [[fault:{name}]]")
    candidate = answer["candidates"][0]
    pictures = [part for part in candidate["content"].get("parts", []) if "inlineData" in part]
    assert (status, candidate["finishReason"], pictures, emulator.stats.billed) == (200, reason, [], 0)


async def test_three_pictures_in_one_candidate_are_each_billed(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:many_images]]")
    images = [part for part in answer["candidates"][0]["content"]["parts"] if "inlineData" in part]
    tokens = answer["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"]
    assert (len(images), tokens, emulator.stats.billed_images) == (3, 3360, 3)


async def test_pictures_thought_of_on_the_way_are_marked_and_not_billed(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:thought_images]]")
    images = [part for part in answer["candidates"][0]["content"]["parts"] if "inlineData" in part]
    assert ([part.get("thought", False) for part in images], emulator.stats.billed_images) == ([True, True, False], 1)


def picture_bytes(answer):
    return base64.b64decode(answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["data"])


async def test_half_a_picture_does_not_decode(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:half_image]]")
    with pytest.raises(OSError, match=r"(?i)truncated"):
        Image.open(io.BytesIO(picture_bytes(answer))).load()


async def test_a_mislabelled_picture_is_a_jpeg_called_png(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:mislabelled]]", model="gemini-2.5-flash-image")
    label = answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["mimeType"]
    assert (label, Image.open(io.BytesIO(picture_bytes(answer))).format) == ("image/png", "JPEG")


async def test_a_wrong_size_is_half_of_what_was_asked(start, client):
    emulator = await start(picture="full")
    _, answer = await client.draw(emulator, prompt="x [[fault:wrong_size]]")
    assert Image.open(io.BytesIO(picture_bytes(answer))).size == (512, 512)


async def test_bad_base64_does_not_decode_strictly(start, client):
    emulator = await start()
    _, answer = await client.draw(emulator, prompt="x [[fault:bad_base64]]")
    text = answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["data"]
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(text, validate=True)


async def test_a_truncated_answer_is_whole_http_and_broken_json(start, client):
    emulator = await start()
    url = f"{emulator.base_url}/v1/models/{FLASH}:generateContent?key=k"
    body = {"contents": [{"parts": [{"text": "x [[fault:truncated_json]]"}]}]}
    async with client.session.post(url, json=body) as response:
        text = await response.text()
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("name, status", [("html200", 200), ("502html", 502)])
async def test_a_page_comes_in_place_of_json(start, client, name, status):
    emulator = await start()
    url = f"{emulator.base_url}/v1/models/{FLASH}:generateContent?key=k"
    body = {"contents": [{"parts": [{"text": f"x [[fault:{name}]]"}]}]}
    async with client.session.post(url, json=body) as response:
        assert (response.status, response.content_type) == (status, "text/html")


@pytest.mark.parametrize("name, billed", [("reset", 1), ("reset_early", 0)])
async def test_a_reset_is_billed_only_when_the_work_was_done(start, client, name, billed):
    emulator = await start()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.draw(emulator, prompt=f"x [[fault:{name}]]")
    assert (emulator.stats.billed, emulator.stats.answered, emulator.stats.in_flight) == (billed, 0, 0)


async def test_a_hanging_request_ends_when_the_server_closes(start, client):
    emulator = await start()
    asked = asyncio.create_task(client.draw(emulator, prompt="x [[fault:hang]]"))
    await until(lambda: emulator.stats.billed)
    await emulator.close()
    with pytest.raises(aiohttp.ClientConnectionError):
        await asked


async def test_a_slow_answer_arrives_whole(start, client):
    emulator = await start(drip_s=0.1)
    status, answer = await client.draw(emulator, prompt="x [[fault:slow_drip]]")
    assert (status, len(picture_bytes(answer)) > 0, emulator.stats.in_flight) == (200, True, 0)


async def test_a_client_that_leaves_is_billed_all_the_same(start, client):
    emulator = await start(latency_s=(0.2, 0.2))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.draw(emulator)
    await until(lambda: not emulator.stats.in_flight)
    assert (emulator.stats.requests, emulator.stats.billed) == (1, 1)


async def test_most_in_flight_is_counted(start, client):
    emulator = await start(latency_s=(0.1, 0.1))
    await asyncio.gather(*(client.draw(emulator, prompt=str(number)) for number in range(5)))
    assert emulator.stats.max_in_flight == 5
