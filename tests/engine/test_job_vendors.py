"""Vendors that take jobs, each as its emulator is: nothing is bought twice, whatever happens while its jobs are under way."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import BatchOptions
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

MODELS = ["replicate-flux-schnell", "flux-2", "fal-flux-schnell"]
WITHOUT_LIST = {"flux-2"}  # of vendors that do not say which jobs there are
each_vendor = pytest.mark.parametrize("model", MODELS)


class VendorBench:
    def __init__(self, folder: Path, model: str, url: str) -> None:
        self.folder, self.out, self.model, self.url = folder, folder / "out", model, url

    def write(self, *prompts: str) -> Path:
        items = [{"id": f"i{n}", "prompt": prompt, "model": self.model} for n, prompt in enumerate(prompts)]
        path = self.folder / "job.yaml"
        path.write_text(json.dumps({"items": items}))
        return path

    async def run(self, *prompts: str, wait: bool = True, **options):
        job = batchgen.load(self.write(*prompts), output=self.out, emulate=True, environ={})
        return await batchgen.run(
            job, options=batchgen.RunOptions(emulator_url=self.url, batches=BatchOptions(wait=wait), **options)
        )

    async def start(self, *prompts: str) -> asyncio.subprocess.Process:
        hold = json.dumps({"hold_uncertain": self.model in WITHOUT_LIST})
        arguments = [str(self.write(*prompts)), str(self.out), self.url, "-", "0", hold]
        return await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", *arguments, cwd=ROOT
        )  # fmt: skip

    def states(self) -> dict[str, int]:
        with Reader.open(self.out) as reader:
            return dict(reader.counts())


@pytest.fixture
async def emulator():
    async with await serve(EmulatorOptions(latency_s=(0.1, 0.3), picture="tiny", rpm=0)) as running:
        yield running


@pytest.fixture
def bench(emulator, tmp_path):
    return lambda model: VendorBench(tmp_path, model, emulator.base_url)


FAULTS = [
    ("429*1", 0, 2, 1),
    ("503*1", 0, 2, 1),
    ("reset_early*1", 0, 2, 1),
    ("job_flagged", 4, 1, 0),
    ("job_failed*1", 0, 2, 1),
    ("credits", 5, 1, 0),
]
OF_ONE = [
    ("replicate-flux-schnell", "reset*1", 0, 1, 1),  # the job is in the vendor's list
    ("replicate-flux-schnell", "truncated_json*1", 0, 1, 1),  # as is one of which half an answer came
    ("fal-flux-schnell", "truncated_json*1", 0, 1, 1),
    ("flux-2", "truncated_json*1", 0, 2, 2),
    ("replicate-flux-schnell", "job_aborted*1", 0, 2, 1),
    ("flux-2", "reset*1", 0, 2, 2),  # nobody can know that it was taken: uncertain, and asked for once more
    ("flux-2", "job_filtered*1", 0, 2, 1),
    ("flux-2", "job_removed*1", 0, 2, 2),
]


@pytest.mark.parametrize(
    ("model", "fault", "exit_code", "requests", "billed"),
    [*((model, *each) for model in MODELS for each in FAULTS), *OF_ONE],
)
async def test_a_fault_costs_no_more_than_it_must(bench, emulator, model, fault, exit_code, requests, billed):
    outcome = await bench(model).run(f"a fox [[fault:{fault}]]")
    assert outcome.exit_code == exit_code
    assert (emulator.stats.requests, emulator.stats.billed) == (requests, billed)


@pytest.mark.parametrize(("fault", "billed"), [("job_no_media*1", 1), ("job_black*1", 2)])
async def test_what_fal_makes_no_image_of_is_asked_for_once_more_and_costs_what_it_says(bench, emulator, fault, billed):
    outcome = await bench("fal-flux-schnell").run(f"a fox [[fault:{fault}]]")
    assert (outcome.exit_code, emulator.stats.requests, emulator.stats.billed) == (0, 2, billed)
    assert outcome.usd == pytest.approx(0.003 * billed)


@each_vendor
async def test_a_job_is_left_and_collected_by_the_next_run(bench, emulator, model):
    assert (await bench(model).run("a fox", "a hare", wait=False)).exit_code == 9
    outcome = await bench(model).run("a fox", "a hare")
    assert (outcome.exit_code, outcome.made, emulator.stats.requests) == (0, 2, 2)


@each_vendor
async def test_a_run_that_does_not_wait_collects_what_is_done(bench, emulator, model):
    assert (await bench(model).run("a fox", wait=False)).exit_code == 9
    await asyncio.sleep(0.4)  # longer than any job takes here
    outcome = await bench(model).run("a fox", wait=False)
    assert (outcome.exit_code, outcome.made, emulator.stats.requests) == (0, 1, 1)


async def test_no_more_tasks_are_open_than_black_forest_labs_takes(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(1.5, 1.5), picture="tiny", rpm=0)) as emulator:
        bench = VendorBench(tmp_path, "flux-2", emulator.base_url)
        outcome = await bench.run(*(f"thing {n}" for n in range(26)), concurrency=26)
    assert (outcome.exit_code, outcome.made, emulator.stats.requests) == (0, 26, 26)  # a 429 would be one more
    assert outcome.usd == pytest.approx(0.78)


@each_vendor
async def test_five_kills_with_sixty_jobs_under_way_buy_nothing_twice(tmp_path, model):
    prompts, draw = [f"thing {n}" for n in range(60)], random.Random(model)
    async with await serve(EmulatorOptions(latency_s=(1.0, 3.0), picture="tiny", rpm=0)) as emulator:
        bench = VendorBench(tmp_path, model, emulator.base_url)
        for kill in range(5):
            before, child = emulator.stats.requests, await bench.start(*prompts)
            while emulator.stats.requests == before < 60 and child.returncode is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(draw.uniform(0.0, 0.3))
            assert child.returncode is None, f"it was over before kill {kill}"
            child.send_signal(signal.SIGKILL)
            await child.wait()
        hold = model in WITHOUT_LIST
        chosen = batchgen.RetrySelection.of(None, hold_uncertain=hold)
        outcome = await bench.run(*prompts, hold_uncertain=hold, retry_selection=chosen)
        made, states = len(list(bench.out.glob("*.png"))), bench.states()
    if model in WITHOUT_LIST:  # what a kill has hidden is held, and said
        assert set(states) <= {"succeeded", "uncertain"} and sum(states.values()) == 60
        assert made == states["succeeded"] <= emulator.stats.billed <= 60
    else:
        assert (outcome.exit_code, emulator.stats.billed, made) == (0, 60, 60)
