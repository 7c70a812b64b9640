"""What can go wrong with batches, with calls about them, and with lines of their results."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from batchgen.emulator import BatchOptions
from tests.support.batch_client import BatchClient, line, quick

KEYS = ["a", "b", "c", "d"]


async def started(start: Any, client: Any, *faults: str, **options: Any) -> BatchClient:
    return BatchClient(client, await start(batch=quick(faults=faults, **options)))


def marked(key: str, fault: str) -> dict[str, Any]:
    return line(key, f"A fox [[fault:{fault}]]")


async def keys_with(start: Any, client: Any, fault: str, at: str = "b") -> Counter[str | None]:
    """The keys of the results when the line of one of them has a fault."""
    api = await started(start, client)
    answered = await api.lines_of(await api.run([marked(key, fault) if key == at else line(key) for key in KEYS]))
    return Counter(one.get("key") for one in answered)


async def test_a_create_whose_answer_is_lost_has_created_a_batch(start, client):
    api = await started(start, client, "create_lost*1")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.create([line("a")], "chunk 1")
    _, listed = await api.call("GET", "batches")
    assert [one["metadata"]["displayName"] for one in listed["operations"]] == ["chunk 1"]
    assert (await api.create([line("a")], "chunk 1"))[0] == 200
    assert (await api.counted())["created"] == {"chunk 1": 2}


async def test_a_create_that_was_cut_off_early_has_created_nothing(start, client):
    api = await started(start, client, "create_reset*1")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.create([line("a")])
    assert (await api.call("GET", "batches"))[1] == {}


async def test_a_display_name_can_carry_a_fault_of_its_own(start, client):
    api = await started(start, client)
    assert (await api.create([line("a")], "one [[fault:create_503*1]]"))[0] == 503
    assert (await api.create([line("a")], "two"))[0] == 200
    assert (await api.create([line("a")], "one [[fault:create_503*1]]"))[0] == 200


async def test_a_fault_that_nobody_knows_is_refused(start, client):
    api = await started(start, client)
    status, body = await api.create([line("a")], "one [[fault:nonsense]]")
    assert (status, "no fault named 'nonsense'" in body["error"]["message"]) == (400, True)


async def test_tokens_that_wait_are_limited_until_their_batch_has_ended(start, client):
    api = await started(start, client, enqueued_tokens=150, pending_s=60)
    _, first = await api.create([line("a", "x" * 400)])
    status, body = await api.create([line("b", "x" * 400)])
    assert (status, body["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert [detail["@type"].rpartition(".")[2] for detail in body["error"]["details"]] == ["Help"]
    await api.call("POST", f"{first['name']}:cancel")
    assert (await api.create([line("b", "x" * 400)]))[0] == 200


async def test_batches_at_once_are_limited(start, client):
    api = await started(start, client, most_at_once=1, pending_s=60)
    assert [(await api.create([line("a")]))[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("fault", "state", "code", "answered"),
    [
        ("failed", "FAILED", 13, 0),
        ("failed_partial", "FAILED", 13, 2),
        ("expired", "EXPIRED", 4, 0),
        ("expired_partial", "EXPIRED", 4, 2),
        ("cancelled", "CANCELLED", 1, 0),
        ("cancelled_partial", "CANCELLED", 1, 2),
        ("partly", "PARTIALLY_SUCCEEDED", None, 4),
    ],
)
async def test_a_batch_can_end_in_other_ways(start, client, fault, state, code, answered):
    api = await started(start, client, f"{fault}*1")
    ended = await api.run([line(key) for key in KEYS])
    assert (ended["metadata"]["state"], ended.get("error", {}).get("code")) == (f"BATCH_STATE_{state}", code)
    assert ("output" in ended["metadata"]) == bool(answered)
    assert len(await api.lines_of(ended) if answered else []) == answered
    assert (await api.run([line("a")]))["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


@pytest.mark.parametrize(("fault", "state"), [("stuck", "PENDING"), ("stuck_running", "RUNNING")])
async def test_a_batch_that_is_stuck_can_be_cancelled(start, client, fault, state):
    api = await started(start, client, fault)
    _, created = await api.create([line(key) for key in KEYS])
    found = created
    while found["metadata"]["state"] != f"BATCH_STATE_{state}":
        _, found = await api.get(created["name"])
    await api.call("POST", f"{created['name']}:cancel")
    assert (await api.get(created["name"]))[1]["metadata"]["state"] == "BATCH_STATE_CANCELLED"


async def test_a_batch_that_takes_too_long_expires_without_results(start, client):
    api = await started(start, client, life_s=0.3, running_s=60)
    ended = await api.run([line(str(n)) for n in range(2000)])
    assert (ended["metadata"]["state"], "output" in ended["metadata"]) == ("BATCH_STATE_EXPIRED", False)


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_batch_may_not_be_seen_for_a_while(start, client, status):
    api = await started(start, client, f"get_{status}*2")
    _, created = await api.create([line("a")])
    assert [(await api.get(created["name"]))[0] for _ in range(3)] == [status, status, 200]


async def test_results_may_be_named_later_than_the_success(start, client):
    api = await started(start, client, "no_file*2")
    _, created = await api.create([line("a")])
    first, second, third = [await api.wait(created["name"]) for _ in range(3)]
    assert ["output" in one["metadata"] for one in (first, second, third)] == [False, False, True]
    assert first["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


async def test_a_cancel_whose_answer_is_lost_has_cancelled(start, client):
    api = await started(start, client, "cancel_lost", pending_s=60)
    _, created = await api.create([line("a")])
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.call("POST", f"{created['name']}:cancel")
    assert (await api.get(created["name"]))[1]["metadata"]["state"] == "BATCH_STATE_CANCELLED"


async def test_a_download_that_breaks_half_way_goes_on(start, client):
    api = await started(start, client, "download_half*1")
    name = (await api.run([line(key) for key in KEYS]))["response"]["responsesFile"]
    url = f"{api.emulator.base_url}/download/v1beta/{name}:download?alt=media"
    got = b""
    async with client.session.get(url, headers={"x-goog-api-key": "k"}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            async for piece in response.content.iter_any():
                got += piece
    _, whole, _ = await api.download(name)
    assert len(got) == len(whole) // 2
    assert got + (await api.download(name, Range=f"bytes={len(got)}-"))[1] == whole


async def test_an_upload_that_breaks_half_way_goes_on(start, client):
    api = await started(start, client, "upload_reset*1")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.upload(b"x" * 1000)
    assert (await api.upload(b"x" * 1000)).startswith("files/")


async def test_an_upload_whose_answer_was_lost_says_what_became_of_it(start, client):
    api = await started(start, client, "upload_lost*1")
    url = await api.begin(4, "lines")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.finish(url, b"abcd")
    async with client.session.post(url, headers={"X-Goog-Upload-Command": "query"}) as response:
        assert (response.status, response.headers["X-Goog-Upload-Status"]) == (200, "final")
        assert (await response.json())["file"]["sizeBytes"] == "4"


async def test_a_key_can_be_missing_from_the_results(start, client):
    assert await keys_with(start, client, "line_missing") == {"a": 1, "c": 1, "d": 1}


async def test_a_key_can_come_twice(start, client):
    assert await keys_with(start, client, "line_doubled") == {"a": 1, "b": 2, "c": 1, "d": 1}


async def test_a_key_can_be_one_that_nobody_asked_for(start, client):
    assert await keys_with(start, client, "line_unknown_key") == {"a": 1, "unknown-b": 1, "c": 1, "d": 1}


async def test_a_line_can_be_without_its_key(start, client):
    assert await keys_with(start, client, "line_keyless") == {"a": 1, None: 1, "c": 1, "d": 1}


@pytest.mark.parametrize("at", KEYS)
async def test_a_key_can_be_swapped_with_that_of_another_line(start, client, at):
    api = await started(start, client)
    lines = [line(key, f"{key} [[fault:line_crossed]]" if key == at else key) for key in KEYS]
    answered = await api.lines_of(await api.run(lines))
    _, served = await client.get(f"{api.emulator.base_url}/_emulator/served")
    prompts = {one["sha256"][0]: one["prompt"][0] for one in served}
    wrong = [one["key"] for one in answered if prompts[sha256_of(one)] != one["key"]]
    assert (sorted(one["key"] for one in answered), len(wrong), at in wrong) == (KEYS, 2, True)


def sha256_of(answered: Any) -> str:
    data = answered["response"]["candidates"][0]["content"]["parts"][-1]["inlineData"]["data"]
    return hashlib.sha256(base64.b64decode(data)).hexdigest()


@pytest.mark.parametrize("fault", ["line_cut", "truncated_json"])
async def test_a_line_can_be_cut_off(start, client, fault):
    api = await started(start, client)
    ended = await api.run([line("a"), marked("b", fault), line("c")])
    _, data, _ = await api.download(ended["response"]["responsesFile"])
    whole = []
    for one in data.splitlines():
        try:
            whole.append(json.loads(one)["key"])
        except ValueError:
            whole.append("cut")
    assert sorted(whole) == ["a", "c", "cut"]


@pytest.mark.parametrize(
    ("fault", "code"), [("500", 13), ("503", 14), ("429", 8), ("504", 4), ("reset", 13), ("hang", 13)]
)
async def test_a_fault_of_the_online_api_is_an_error_of_its_line(start, client, fault, code):
    api = await started(start, client)
    ended = await api.run([line("a"), marked("b", fault)])
    found = {one["key"]: one.get("error", {}).get("code") for one in await api.lines_of(ended)}
    assert found == {"a": None, "b": code}


async def test_a_refusal_is_a_response_of_its_line(start, client):
    api = await started(start, client)
    (answered,) = await api.lines_of(await api.run([marked("a", "image_safety")]))
    assert answered["response"]["candidates"][0]["finishReason"] == "IMAGE_SAFETY"


async def test_attempts_are_counted_across_batches_and_online(start, client):
    api = await started(start, client)
    ended = [await api.run([marked("a", "500*2")]) for _ in range(2)]
    assert ["error" in (await api.lines_of(one))[0] for one in ended] == [True, True]
    assert (await client.draw(api.emulator, "A fox [[fault:500*2]]"))[0] == 200


async def test_a_rate_of_errors_is_drawn_for_lines_too(start, client):
    api = BatchClient(client, await start(batch=quick(), faults={"500": 0.5}))
    ended = await api.run([line(str(n), f"fox {n}") for n in range(40)])
    failed = int(ended["metadata"]["batchStats"]["failedRequestCount"])
    assert (10 < failed < 30, sum("error" in one for one in await api.lines_of(ended))) == (True, failed)


async def test_a_fault_of_lines_does_nothing_online(start, client):
    emulator = await start()
    assert (await client.draw(emulator, "A fox [[fault:line_missing]]"))[0] == 200


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"faults": ("nonsense",)}, "unknown batch fault 'nonsense'"),
        ({"faults": ("failed*0",)}, r"expected NAME or NAME\*TIMES"),
        ({"places": ("sky",)}, "expected some of metadata, response, dest"),
        ({"states": "x"}, "expected batch or job"),
        ({"pending_s": -1}, "cannot be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, part):
    with pytest.raises(ValueError, match=part):
        BatchOptions(**options)
