"""`batchgen cancel` of jobs that are with their vendors, on Replicate's emulator; tests/engine/cluster/test_ends.py has the cluster's."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress

import pytest

import batchgen as api
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import BatchOptions
from tests.support.command_line import Answer, environment
from tests.support.fork_server import PYTHON

PROMPTS = ("a fox", "a hare", "an owl")


@pytest.fixture
async def emulator(monkeypatch, request):
    seconds = getattr(request, "param", 30.0)
    async with await serve(EmulatorOptions(latency_s=(seconds, seconds), picture="tiny", rpm=0)) as running:
        monkeypatch.setenv("BATCHGEN_REPLICATE_BASE_URL", running.base_url)
        yield running


@pytest.fixture
def manifest(tmp_path):
    items = [{"id": f"i{n}", "prompt": prompt, "model": "replicate-flux-schnell"} for n, prompt in enumerate(PROMPTS)]
    (tmp_path / "job.yaml").write_text(json.dumps({"items": items}))
    return str(tmp_path / "job.yaml")


async def command(*argv: str) -> Answer:
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "batchgen", *argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    out, err = await process.communicate()
    return Answer(process.returncode or 0, out.decode(), err.decode())


async def run(manifest, *, wait=False, **options):
    return await api.run(api.load(manifest), options=api.RunOptions(batches=BatchOptions(wait=wait), **options))


def ends(tmp_path):
    with Reader.open(tmp_path / "job") as reader:
        return [(found.state, found.reason) for found in reader.results()], reader.money().maybe_requests


async def test_jobs_are_cancelled_and_recorded_as_maybe_billed(emulator, manifest, tmp_path):
    assert (await run(manifest)).exit_code == 9
    dry = await command("cancel", manifest, "--dry-run")
    assert (dry.code, dry.out) == (0, "3 jobs to cancel at the vendor's\n")
    done = await command("cancel", manifest, "--json")
    assert (done.code, done.json["jobs"]) == (0, {"cancelled": 3, "made": 0, "going_on": []})
    assert ends(tmp_path) == ([("failed", "cancelled")] * 3, 3)
    lines = [json.loads(line) for line in (tmp_path / "job" / "results.jsonl").read_text().splitlines()]
    assert [(line["state"], line["reason"]) for line in lines] == [("failed", "cancelled")] * 3
    nothing = await command("cancel", manifest)
    assert (nothing.code, "Ctrl-C" in nothing.err) == (2, True)
    assert (await run(manifest)).exit_code == 9  # which asks for what is missing
    assert emulator.stats.requests == 6


async def test_a_run_that_is_going_on_records_the_ends_itself_and_buys_nothing_again(emulator, manifest, tmp_path):
    running = asyncio.ensure_future(run(manifest, wait=True))
    async with asyncio.timeout(20.0):
        while True:
            with suppress(Exception), Reader.open(tmp_path / "job") as reader:
                if len(reader.open_jobs()) == 3:
                    break
            await asyncio.sleep(0.05)
        done = await command("cancel", manifest)
        assert (done.code, done.out) == (
            0,
            "3 jobs cancelled at the vendor's; the run that is going on records how they end\n",
        )
        outcome = await running
    assert (outcome.exit_code, emulator.stats.requests) == (4, 3)
    assert ends(tmp_path) == ([("failed", "cancelled")] * 3, 3)


@pytest.mark.parametrize("emulator", [1.0], indirect=True)
async def test_no_wait_leaves_jobs_and_collects_them_later(emulator, manifest):
    left = await command("run", manifest, "--no-wait")
    assert (left.code, "batches" in left.out) == (9, False)
    status = await command("status", manifest)
    assert "jobs      its API has taken them and answers later" in status.out and "in flight" not in status.out
    facts = json.loads((await command("status", manifest, "--json")).out)
    assert ([job["id"] for job in facts["jobs"]], facts["in_flight"]) == (["i0", "i1", "i2"], [])
    await asyncio.sleep(1.0)
    assert (await command("status", manifest, "--collect")).code == 0
    assert (await command("run", manifest, "--quiet")).code == 0
    assert emulator.stats.requests == 3


@pytest.mark.parametrize("emulator", [0.5], indirect=True)
async def test_what_was_made_before_is_left_to_be_fetched(emulator, manifest):
    assert (await run(manifest)).exit_code == 9
    await asyncio.sleep(0.5)
    done = await command("cancel", manifest)
    assert (done.code, done.out) == (0, "3 jobs had ended before: the next run fetches what was made\n")
    assert (await run(manifest, wait=True)).made == 3


async def test_without_a_key_nothing_is_asked(emulator, manifest, monkeypatch):
    await run(manifest)
    monkeypatch.setenv("BATCHGEN_REPLICATE_BASE_URL", "https://replicate.example.com")
    assert "REPLICATE_API_TOKEN" not in os.environ
    done = await command("cancel", manifest)
    assert (done.code, "REPLICATE_API_TOKEN" in done.err) == (5, True)


async def test_requests_in_fals_queue_are_cancelled_too(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHGEN_FAL_BASE_URL", emulator.base_url)
    items = [{"id": "i0", "prompt": "a fox", "model": "fal-flux-schnell"}]
    (tmp_path / "job.yaml").write_text(json.dumps({"items": items}))
    assert (await run(str(tmp_path / "job.yaml"))).exit_code == 9
    done = await command("cancel", str(tmp_path / "job.yaml"), "--json")
    assert (done.code, done.json["jobs"]) == (0, {"cancelled": 1, "made": 0, "going_on": []})
    assert ends(tmp_path) == ([("failed", "cancelled")], 1)
