"""The Batch API: what becomes of a batch, how it is shown, and what its results hold."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.batch_client import MODEL, BatchClient, line, quick

KEYS = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_every_line_is_answered_under_its_key_and_in_another_order(start, client, version):
    api = BatchClient(client, await start(batch=quick()), version)
    answered = await api.lines_of(await api.run([line(key) for key in KEYS]))
    keys = [one["key"] for one in answered]
    assert (sorted(keys), keys != KEYS) == (KEYS, True)
    assert all(one["response"]["candidates"][0]["content"]["parts"][-1]["inlineData"] for one in answered)


async def test_a_batch_passes_from_pending_over_running_to_succeeded(start, client):
    api = BatchClient(client, await start(batch=quick(pending_s=0.1, running_s=0.2)))
    _, created = await api.create([line(key) for key in KEYS])
    seen = [created["metadata"]["state"]]
    while seen[-1] != "BATCH_STATE_SUCCEEDED":
        _, found = await api.get(created["name"])
        seen += [found["metadata"]["state"]] if found["metadata"]["state"] != seen[-1] else []
    assert seen == ["BATCH_STATE_PENDING", "BATCH_STATE_RUNNING", "BATCH_STATE_SUCCEEDED"]


async def test_a_new_batch_is_shown_as_recorded(start, client):
    api = BatchClient(client, await start(batch=quick(pending_s=60)))
    _, created = await api.create([line(key) for key in KEYS], "the chunk", priority="3")
    metadata = created["metadata"]
    wanted = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": f"models/{MODEL}",
        "displayName": "the chunk",
        "batchStats": {"requestCount": "5", "pendingRequestCount": "5"},
        "state": "BATCH_STATE_PENDING",
        "name": created["name"],
        "priority": "3",
    }
    assert {name: metadata[name] for name in wanted} == wanted
    assert ("done" in created, metadata["inputConfig"]["fileName"][:6]) == (False, "files/")


async def test_results_are_named_in_the_metadata_and_in_the_response(start, client):
    api = BatchClient(client, await start(batch=quick()))
    ended = await api.run([line("a")])
    name = ended["metadata"]["output"]["responsesFile"]
    assert (ended["response"]["responsesFile"], name.startswith("files/batch-")) == (name, True)
    assert ended["metadata"]["batchStats"] == {"requestCount": "1", "successfulRequestCount": "1"}


@pytest.mark.parametrize("places", [("metadata",), ("response",), ("dest",)])
async def test_results_can_be_at_one_place_only(start, client, places):
    api = BatchClient(client, await start(batch=quick(places=places)))
    ended = await api.run([line("a")])
    found = {
        "metadata": ended["metadata"].get("output", {}).get("responsesFile"),
        "response": ended.get("response", {}).get("responsesFile"),
        "dest": ended.get("dest", {}).get("fileName"),
    }
    assert [place for place, name in found.items() if name] == list(places)
    assert ("state" in ended) == (places == ("dest",))


async def test_states_can_carry_the_other_name(start, client):
    api = BatchClient(client, await start(batch=quick(states="job")))
    assert (await api.run([line("a")]))["metadata"]["state"] == "JOB_STATE_SUCCEEDED"


async def test_inline_requests_are_answered_in_their_order_with_their_metadata(start, client):
    api = BatchClient(client, await start(batch=quick()))
    requests = [{"request": line(key)["request"], "metadata": {"key": key}} for key in KEYS]
    _, created = await api.send({"inputConfig": {"requests": {"requests": requests}}, "displayName": "inline"})
    ended = await api.wait(created["name"])
    answers = ended["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert [one["metadata"]["key"] for one in answers] == KEYS
    assert ended["response"]["inlinedResponses"]["inlinedResponses"] == answers
    assert (await api.call("GET", "files"))[1] == {}


async def test_an_inline_answer_is_whole_whatever_its_line_should_suffer(start, client):
    api = BatchClient(client, await start(batch=quick(places=("dest",))))
    requests = [{"request": line("a", f"A fox [[fault:{name}]]")["request"]} for name in ("line_cut", "line_missing")]
    _, created = await api.send({"inputConfig": {"requests": {"requests": requests}}})
    ended = await api.wait(created["name"])
    assert [list(one) for one in ended["dest"]["inlinedResponses"]] == [["response"]]


async def test_inline_requests_beyond_the_limit_are_refused(start, client):
    api = BatchClient(client, await start(batch=quick(), max_request_bytes=500))
    requests = [{"request": line(key, "x" * 100)["request"]} for key in KEYS]
    status, body = await api.send({"inputConfig": {"requests": {"requests": requests}}})
    assert (status, "Request payload size exceeds the limit" in body["error"]["message"]) == (400, True)


async def test_batches_are_listed_page_by_page_newest_first_and_without_results(start, client):
    api = BatchClient(client, await start(batch=quick()))
    names = [(await api.run([line("a")], str(n)))["name"] for n in range(3)]
    _, first = await api.call("GET", "batches?pageSize=2")
    _, second = await api.call("GET", f"batches?pageSize=2&pageToken={first['nextPageToken']}")
    found = first["operations"] + second["operations"]
    assert [one["name"] for one in found] == names[::-1]
    assert ("nextPageToken" in second, any("response" in one for one in found)) == (False, False)


async def test_a_new_batch_may_be_late_in_the_list(start, client):
    api = BatchClient(client, await start(batch=quick(list_lag_s=0.2)))
    _, created = await api.create([line("a")])
    assert (await api.call("GET", "batches"))[1] == {}
    while not (listed := (await api.call("GET", "batches"))[1]):
        await asyncio.sleep(0.01)
    assert [one["name"] for one in listed["operations"]] == [created["name"]]


async def test_a_cancelled_batch_ends_with_an_error_and_what_was_answered_before(start, client):
    api = BatchClient(client, await start(batch=quick(running_s=60)))
    _, created = await api.create([line(str(n)) for n in range(1200)])
    while not (await api.get(created["name"]))[1]["metadata"]["batchStats"].get("successfulRequestCount"):
        await asyncio.sleep(0.01)
    assert await api.call("POST", f"{created['name']}:cancel") == (200, {})
    _, ended = await api.get(created["name"])
    assert (ended["metadata"]["state"], ended["done"], ended["error"]["code"]) == ("BATCH_STATE_CANCELLED", True, 1)
    done = int(ended["metadata"]["batchStats"]["successfulRequestCount"])
    assert len(await api.lines_of(ended)) == done < 1200


async def test_a_cancelled_batch_may_have_no_results(start, client):
    api = BatchClient(client, await start(batch=quick(running_s=60, keeps_cancelled=False)))
    _, created = await api.create([line(str(n)) for n in range(1200)])
    while not (await api.get(created["name"]))[1]["metadata"]["batchStats"].get("successfulRequestCount"):
        await asyncio.sleep(0.01)
    await api.call("POST", f"{created['name']}:cancel")
    assert "output" not in (await api.get(created["name"]))[1]["metadata"]


async def test_a_deleted_batch_is_gone_and_its_results_are_not(start, client):
    api = BatchClient(client, await start(batch=quick()))
    ended = await api.run([line("a")])
    assert await api.call("DELETE", ended["name"]) == (200, {})
    assert (await api.get(ended["name"]))[0] == 404
    assert len(await api.lines_of(ended)) == 1


async def test_a_batch_that_was_deleted_while_it_was_stuck_keeps_no_emulator_from_closing(start, client):
    api = BatchClient(client, await start(batch=quick(faults=("stuck",))))
    _, created = await api.create([line("a")])
    await api.call("DELETE", created["name"])
    await asyncio.wait_for(api.emulator.close(), 5)


async def test_a_batch_of_another_key_is_not_found(start, client):
    api = BatchClient(client, await start(batch=quick()))
    _, created = await api.create([line("a")])
    assert (await api.call("GET", created["name"], **{"x-goog-api-key": "other"}))[0] == 404


@pytest.mark.parametrize(
    ("batch", "status", "part"),
    [
        ({"inputConfig": {"fileName": "files/nothing"}}, 403, "do not have permission to access the File nothing"),
        ({"inputConfig": {}}, 400, "input_config"),
        ({"inputConfig": {"gcsUri": "gs://x"}}, 400, "Unknown name \"gcsUri\" at 'batch.input_config'"),
        ({"inputConfig": {"fileName": 7}}, 400, "Invalid value at 'batch.input_config.file_name'"),
    ],
)
async def test_a_create_that_makes_no_sense_is_refused(start, client, batch, status, part):
    api = BatchClient(client, await start(batch=quick()))
    found = await api.send(batch)
    assert (found[0], part in found[1]["error"]["message"]) == (status, True)


async def test_imagen_has_no_batches(start, client):
    api = BatchClient(client, await start(batch=quick()))
    assert (await api.send({"displayName": "x"}, "imagen-4.0-generate-001"))[0] == 404


async def test_a_line_the_server_would_not_take_fails_alone(start, client):
    api = BatchClient(client, await start(batch=quick()))
    bad = {"key": "bad", "request": {"contents": [{"parts": [{"text": "A fox"}]}], "size": "1K"}}
    ended = await api.run([line("a"), bad])
    errors = {one["key"]: one["error"] for one in await api.lines_of(ended) if "error" in one}
    assert (list(errors), errors["bad"]["code"]) == (["bad"], 3)
    assert ended["metadata"]["batchStats"] == {
        "requestCount": "2",
        "successfulRequestCount": "1",
        "failedRequestCount": "1",
    }


@pytest.mark.parametrize(
    ("rest", "part"), [(b'\n{"key": \n', "line 2"), (b"\n\n[]", "line 2: expected an object"), (None, "no request")]
)
async def test_a_file_that_is_no_jsonl_fails_the_batch(start, client, rest, part):
    api = BatchClient(client, await start(batch=quick()))
    ended = await api.run(b"\n" if rest is None else json.dumps(line("a")).encode() + rest)
    assert (ended["metadata"]["state"], ended["error"]["code"]) == ("BATCH_STATE_FAILED", 3)
    assert part in ended["error"]["message"]


async def test_a_download_goes_on_from_where_it_was(start, client):
    api = BatchClient(client, await start(batch=quick()))
    name = (await api.run([line(key) for key in KEYS]))["response"]["responsesFile"]
    _, whole, headers = await api.download(name)
    status, rest, more = await api.download(name, Range="bytes=1000-")
    assert (status, whole[1000:] == rest) == (206, True)
    assert more["Content-Range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    stale = {"Range": "bytes=1000-", "If-Range": '"another"'}
    assert (await api.download(name, **stale))[:2] == (200, whole)
    assert (await api.download(name, Range="bytes=1000-", **{"If-Range": headers["ETag"]}))[0] == 206
    assert (await api.download(name, Range=f"bytes={len(whole)}-"))[0] == 416


async def test_a_server_may_know_no_ranges(start, client):
    api = BatchClient(client, await start(batch=quick(ranges=False)))
    name = (await api.run([line("a")]))["response"]["responsesFile"]
    _, whole, _ = await api.download(name)
    assert (await api.download(name, Range="bytes=10-"))[:2] == (200, whole)


async def test_an_uploaded_file_is_not_downloaded(start, client):
    api = BatchClient(client, await start(batch=quick()))
    assert (await api.download(await api.upload(b"{}")))[0] == 400


async def test_results_are_files_that_were_generated(start, client):
    api = BatchClient(client, await start(batch=quick()))
    name = (await api.run([line("a")]))["response"]["responsesFile"]
    _, file = await api.get(name)
    assert (file["source"], file["downloadUri"].endswith(f"/download/v1beta/{name}:download?alt=media")) == (
        "GENERATED",
        True,
    )
    assert await api.call("DELETE", name) == (200, {})
    assert (await api.download(name))[0] == 403


async def test_input_that_is_deleted_once_the_batch_is_created_is_answered_all_the_same(start, client):
    api = BatchClient(client, await start(batch=quick(pending_s=0.2)))
    _, created = await api.create([line("a")])
    await api.call("DELETE", created["metadata"]["inputConfig"]["fileName"])
    assert len(await api.lines_of(await api.wait(created["name"]))) == 1


async def test_batches_and_their_lines_are_counted(start, client):
    api = BatchClient(client, await start(batch=quick()))
    await api.run([line("a"), line("b")], "one")
    await api.run([line("a")], "two")
    found = await api.counted()
    assert (found["created"], found["answered"]) == ({"one": 1, "two": 1}, {"a": 2, "b": 1})
    _, stats = await client.get(f"{api.emulator.base_url}/_emulator/stats")
    assert (stats["requests"], stats["billed"], stats["batches_created"], stats["batch_lines"]) == (0, 3, 2, 3)


async def test_a_picture_of_a_batch_is_found_among_those_served(start, client):
    api = BatchClient(client, await start(batch=quick()))
    await api.run([line("a", "A blue whale")])
    _, served = await client.get(f"{api.emulator.base_url}/_emulator/served")
    assert [(one["prompt"], one["delivered"], len(one["sha256"])) for one in served] == [("A blue whale", True, 1)]


async def test_a_reset_forgets_all_batches(start, client):
    api = BatchClient(client, await start(batch=quick(pending_s=60)))
    _, created = await api.create([line("a")])
    async with client.session.post(f"{api.emulator.base_url}/_emulator/reset") as response:
        assert response.status == 200
    assert (await api.get(created["name"]))[0] == 404
    assert (await api.counted())["created"] == {}
