"""Quotas over a sliding minute and day, and the counts that prove them."""

from __future__ import annotations

import re

import pytest

from batchgen.emulator.accounting import Quotas, Statistics
from batchgen.emulator.google import go_duration
from batchgen.emulator.options import EmulatorOptions


def passed(quotas, times_s, key="k", model="m", rpm=2, rpd=0):
    return [quotas.admit(key, model, at_s, rpm=rpm, rpd=rpd) is None for at_s in times_s]


def test_the_minute_slides():
    assert passed(Quotas(), [0, 59, 59.9, 60, 61, 119]) == [True, True, False, True, False, True]


def test_a_rejected_request_uses_up_nothing():
    assert passed(Quotas(), [0, 1, 2, 3, 4, 60.5]) == [True, True, False, False, False, True]


def test_a_rejected_request_uses_up_quota_where_that_is_asked_for():
    assert passed(Quotas(rejected_counts=True), [0, 1, 2, 3, 60.5]) == [True, True, False, False, False]


def test_each_key_has_its_own_quota():
    quotas = Quotas()
    assert passed(quotas, [0, 0, 0], key="a") + passed(quotas, [0], key="b") == [True, True, False, True]


def test_each_model_has_its_own_quota():
    quotas = Quotas()
    assert passed(quotas, [0, 0, 0], model="a") + passed(quotas, [0], model="b") == [True, True, False, True]


def test_a_limit_of_zero_means_none():
    assert all(passed(Quotas(), [0] * 500, rpm=0))


def test_the_hint_is_the_time_until_the_oldest_request_leaves():
    quotas = Quotas()
    passed(quotas, [10, 20])
    assert quotas.admit("k", "m", 30, rpm=2, rpd=0).retry_s == 40


def test_the_day_is_named_when_the_day_is_used_up():
    quotas = Quotas()
    passed(quotas, [0, 100], rpd=2)
    over = quotas.admit("k", "m", 200, rpm=2, rpd=2)
    assert (over.window, over.limit, over.retry_s) == ("Day", 2, 86_200)


@pytest.mark.parametrize("model, rpm", [("gemini-nano-banana-2.1", 60), ("gemini-3-pro-image", 15)])
def test_flash_and_pro_have_their_own_default(model, rpm):
    assert EmulatorOptions().rpm_of(model) == rpm


def test_most_per_minute_looks_at_every_sliding_minute():
    statistics = Statistics()
    for at_s in (0, 50, 55, 59.9, 60, 100):
        statistics.arrive(at_s).model = "m"
    assert statistics.max_per_minute("m") == 5


@pytest.mark.parametrize(
    "duration_s, text", [(6776.409571576, "1h52m56.409571576s"), (26.66, "26.66s"), (0.5, "500ms")]
)
def test_a_delay_is_spoken_as_the_servers_message_has_it(duration_s, text):
    assert go_duration(duration_s) == text


async def test_a_refused_request_carries_delay_limit_and_quota_id(start, client):
    emulator = await start(rpm={"gemini-nano-banana-2.1": 1})
    await client.draw(emulator)
    status, answer = await client.draw(emulator)
    _, failure, retry = answer["error"]["details"]
    violation = failure["violations"][0]
    assert (status, violation["quotaId"], violation["quotaValue"]) == (
        429,
        "GenerateRequestsPerMinutePerProjectPerModel",
        "1",
    )
    assert 55 < float(retry["retryDelay"].rstrip("s")) <= 60
    assert re.search(r"Please retry in 5\d\.\d+s\.$", answer["error"]["message"])


async def test_a_quota_answer_has_no_retry_after_header(start, client):
    emulator = await start(rpm=1)
    await client.draw(emulator)
    url = f"{emulator.base_url}/v1/models/gemini-nano-banana-2.1:generateContent?key=k"
    async with client.session.post(url, json={"contents": [{"parts": [{"text": "x"}]}]}) as response:
        assert (response.status, "Retry-After" in response.headers) == (429, False)


async def test_the_counts_are_read_over_http(start, client):
    emulator = await start(rpm=1)
    await client.draw(emulator, prompt="a")
    await client.draw(emulator, prompt="b")
    _, stats = await client.get(f"{emulator.base_url}/_emulator/stats")
    found = {name: stats[name] for name in ("requests", "answered", "billed", "refused_429", "in_flight")}
    assert found == {"requests": 2, "answered": 2, "billed": 1, "refused_429": 1, "in_flight": 0}
    assert [status for _, _, status in stats["arrivals"]] == [200, 429]


async def test_served_pictures_are_listed_with_prompt_and_hash(start, client):
    emulator = await start()
    await client.draw(emulator, prompt="A red fox")
    _, served = await client.get(f"{emulator.base_url}/_emulator/served")
    assert [(one["n"], one["prompt"], len(one["sha256"][0])) for one in served] == [(1, "A red fox", 64)]


async def test_reset_forgets_counts_and_quotas(start, client):
    emulator = await start(rpm=1)
    await client.draw(emulator)
    await client.post(f"{emulator.base_url}/_emulator/reset", {})
    status, _ = await client.draw(emulator)
    assert (status, emulator.stats.requests) == (200, 1)
