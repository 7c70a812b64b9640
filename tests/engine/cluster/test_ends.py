"""How work of the cluster ends before it is done, and what people are told: cancelled, out of time, a day's quota, a key."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import time

import jsonschema
from PIL import Image

from tests.support.bench import items
from tests.support.fork_server import PYTHON


def command(cluster, *words):
    environment = {**os.environ, "BATCHGEN_LEDGER": str(cluster.ledger)}
    ran = subprocess.run(
        [PYTHON, "-m", "batchgen", *words], capture_output=True, text=True, env=environment, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


def picture():
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(data, "PNG")
    return data.getvalue()


def states(cluster):
    with cluster.reader() as reader:
        return reader.counts()


def work_left(cluster):
    with cluster.reader() as reader:
        return next(iter(reader._query("SELECT (SELECT count(*) FROM work), (SELECT count(*) FROM need)")))


async def test_cancel_withdraws_what_has_not_begun_and_a_later_run_submits_it_again(slow_fleet):
    fleet = slow_fleet
    text = items(*"abcdefgh") + "  - {id: z, prompt: again, references: ['@i7']}\n"
    await fleet.submit(text)
    fleet.impatient("--concurrency", "1")
    await fleet.until_sent("w1", 1)
    code, out, _ = await asyncio.to_thread(command, fleet, "status", str(fleet.folder / "out"))
    assert code == 0
    assert "9 samples with the cluster's workers" in out
    assert "1 worker alive" in out
    code, out, _ = await asyncio.to_thread(command, fleet, "cancel", str(fleet.folder / "out"), "--json")
    said = json.loads(out)
    assert (code, 0 < said["withdrawn"] + said["in_flight"] <= 9) == (0, True)
    await fleet.until(lambda: work_left(fleet) == (0, 0))
    begun = await fleet.requests()  # one, or more where a busy machine took its time to cancel
    assert (begun < 9, states(fleet)) == (True, {"succeeded": begun, "wanted": 9 - begun})
    _, out, _ = await asyncio.to_thread(command, fleet, "status", str(fleet.folder / "out"))
    assert "stopped: it was cancelled" in out
    again = await asyncio.wait_for(fleet.submit(text), 20.0)
    assert (again.exit_code, again.left) == (9, 9 - begun)


async def test_an_online_run_leaves_alone_what_the_clusters_workers_have(fleet):
    await fleet.submit(items(*"ab"))
    outcome = await fleet.run(items(*"abc"))
    assert (outcome.exit_code, outcome.made, await fleet.requests()) == (9, 1, 1)
    _, out, _ = await asyncio.to_thread(
        command, fleet, "plan", str(fleet.folder / "job.yaml"), "--output", str(fleet.folder / "out")
    )
    assert "with the cluster's workers" in out


async def test_a_deadline_ends_the_watching_and_withdraws_the_rest_though_no_worker_is_there(fleet):
    outcome = await asyncio.wait_for(fleet.watch(items(*"abc"), deadline=time.time() + 1.0), 20.0)
    assert (outcome.exit_code, states(fleet), work_left(fleet)) == (7, {"wanted": 3}, (0, 0))


async def test_an_account_that_may_spend_no_more_stops_the_submission_with_5_and_leaves_nothing_in_the_queue(fleet):
    fleet.impatient()
    outcome = await asyncio.wait_for(fleet.watch(items("[[fault:429spend]]", *"abcdefghijkl")), 30.0)
    assert (outcome.exit_code, work_left(fleet)) == (5, (0, 0))


async def test_a_model_that_is_gone_stops_its_lane_alone_for_all_workers(fleet):
    text = items(*(f"[[fault:429limit0]] {name}" for name in "abcdefg")) + "  - {id: p, prompt: p, model: pro}\n"
    text += "  - {id: z, prompt: again, references: ['@i6']}\n"
    fleet.impatient("--concurrency", "1")
    outcome = await asyncio.wait_for(fleet.watch(text), 30.0)
    assert (outcome.exit_code, work_left(fleet)) == (4, (0, 0))
    assert list(outcome.stopped_lanes) == ["gemini/gemini-nano-banana-2.1"]
    assert fleet.lines()["p"]["state"] == "succeeded"


async def test_a_days_quota_parks_its_lane_and_the_run_leaves_with_8_when_the_others_are_done(fleet):
    text = items("[[fault:429day]]", *"abc") + "  - {id: p, prompt: p, model: pro}\n"
    text += "  - {id: z, prompt: again, model: pro, references: ['@i0']}\n"
    fleet.impatient("--concurrency", "1")
    outcome = await asyncio.wait_for(fleet.watch(text), 30.0)
    assert outcome.exit_code == 8
    assert outcome.parked
    assert fleet.lines()["p"]["state"] == "succeeded"
    assert outcome.left >= 2


async def test_groups_conversations_files_and_fallbacks_come_to_their_ends_and_all_views_agree(fleet):
    """A request for several pictures of which some are withheld; turns; a local file; another model when a lane parks."""
    (fleet.folder / "photo.png").write_bytes(picture())
    text = (
        "  - {id: four, prompt: '[[fault:rai_filtered]] four', model: imagen-4.0-generate-001, count: 4}\n"
        "  - {id: talk, turns: [a mug, calmer, warmer], model: pro}\n"
        "  - {id: file, prompt: like this, model: pro, references: [photo.png]}\n"
        "  - {id: gone, prompt: '[[fault:429limit0]] x'}\n  - {id: other, prompt: y, fallback: [pro]}\n"
        + "".join(
            f"  - {{id: 'after{n[1:]}', prompt: again, model: pro, references: ['@four{n}']}}\n" for n in ("", "#4")
        )
    )
    fleet.impatient("--log-format", "json", "--log-file", str(fleet.folder / "w1.jsonl"))
    outcome = await asyncio.wait_for(fleet.watch(text), 40.0)
    lines = fleet.lines()
    assert (outcome.exit_code, work_left(fleet)) == (4, (0, 0))
    assert {key: line["state"] for key, line in lines.items()} == {
        **dict.fromkeys(("talk-t1", "talk-t2", "talk-t3", "file", "other", "after"), "succeeded"),
        "four": "refused", "gone": "failed", "after4": "blocked",
    }  # fmt: skip
    out = str(fleet.folder / "out")
    assert (await asyncio.to_thread(command, fleet, "verify", out))[0] == 0
    assert (await asyncio.to_thread(command, fleet, "report", out))[0] == 0
    code, schema, _ = await asyncio.to_thread(command, fleet, "schema", "--log")
    log = [json.loads(line) for line in (fleet.folder / "w1.jsonl").read_text().splitlines()]
    assert (code, len(log) > 5) == (0, True)
    checker = jsonschema.Draft202012Validator(json.loads(schema))
    assert [error.message for line in log for error in checker.iter_errors(line)] == []
