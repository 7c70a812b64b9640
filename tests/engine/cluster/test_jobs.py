"""Jobs that an API answers later, on the cluster: whoever takes over from a worker asks about its jobs, and buys none again."""

from __future__ import annotations

import asyncio
import json

import pytest

from batchgen.ledger.reader import Reader
from batchgen.providers import registry
from tests.support.cluster import Cluster
from tests.support.easel import MODELS, Studio, drawn, serving

CODEC = "easel tests.support.easel Easel"
HEAD = f"models: {json.dumps(MODELS)}\nlimits: {{concurrency: 3}}\ndefaults: {{model: easel-1}}\nitems:\n"
PROMPTS = [f"thing {n}" for n in range(8)]
ITEMS = "".join(f"  - {{id: i{n}, prompt: {prompt}}}\n" for n, prompt in enumerate(PROMPTS))
MADE = {f"i{n}": drawn(prompt) for n, prompt in enumerate(PROMPTS)}


@pytest.fixture
async def studio(monkeypatch):
    name, *where = CODEC.split()
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, name: tuple(where)})
    monkeypatch.setenv("TEST_CODEC", CODEC)
    async with serving(Studio(seconds=4.0)) as found:
        yield found


@pytest.fixture
async def fleet(studio, tmp_path, database):
    cluster = Cluster(studio.url, tmp_path, database)
    yield cluster
    cluster.finish()


def made(fleet):
    return {path.stem: path.read_bytes() for path in (fleet.folder / "out").glob("*.png")}


def claimants(fleet):
    with Reader.open(fleet.folder / "out", fleet.ledger) as reader:
        return {name for (name,) in reader._query("SELECT DISTINCT worker FROM work")}


@pytest.mark.parametrize("ends", ["killed", "told to stop"])
async def test_the_jobs_of_a_worker_that_is_gone_are_waited_for_by_another(fleet, studio, ends):
    await fleet.submit(ITEMS, HEAD)
    first = fleet.impatient()
    await fleet.until(lambda: len(studio.jobs) == 8)
    if ends == "killed":
        fleet.kill(first)
    else:
        first.terminate()
        assert await asyncio.to_thread(first.wait, 30.0) == 143
    fleet.impatient()
    outcome = await fleet.watch(ITEMS, HEAD)
    assert (outcome.exit_code, len(studio.jobs)) == (0, 8)
    assert made(fleet) == MADE


async def test_a_worker_that_dies_before_it_has_recorded_a_job_buys_it_no_second_time(fleet, studio):
    await fleet.submit(ITEMS, HEAD)
    first = fleet.impatient(die=("batchgen.ledger.ledger:Ledger.job_taken", 3))
    assert await asyncio.to_thread(first.wait, 60.0) == 9
    fleet.impatient()
    outcome = await fleet.watch(ITEMS, HEAD)
    assert (outcome.exit_code, len(studio.jobs)) == (0, 8)
    assert made(fleet) == MADE


async def test_a_worker_submits_nothing_while_another_has_as_many_jobs_as_the_api_takes(fleet, studio):
    models = {"easel-1": {**MODELS["easel-1"], "max_jobs": 2}}
    studio.seconds = 600.0
    await fleet.submit(ITEMS, f"models: {json.dumps(models)}\n" + HEAD.partition("\n")[2])
    fleet.impatient("--concurrency", "1")  # so that it claims six of the eight
    await fleet.until(lambda: len(studio.jobs) == 2)
    fleet.impatient("--concurrency", "1")
    await fleet.until(lambda: claimants(fleet) >= {"w1", "w2"})
    await asyncio.sleep(1.0)
    assert len(studio.jobs) == 2
