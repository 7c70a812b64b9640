"""Jobs that an API takes and answers later: each bought once, whatever happens while it is waited for."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

import batchgen
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import BatchOptions
from batchgen.providers import registry
from batchgen.records import Request
from tests.support.crash import exit_code
from tests.support.easel import MODELS, Easel, Studio, drawn, serving

CODEC = "easel tests.support.easel Easel"


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    name, *where = CODEC.split()
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, name: tuple(where)})


@pytest.fixture
async def studio():
    async with serving(Studio()) as found:
        yield found


class JobBench:
    def __init__(self, studio: Studio, folder: Path) -> None:
        self.studio, self.folder, self.out = studio, folder, folder / "out"
        self.max_jobs: int | None = None

    def write(self, *prompts: str) -> Path:
        items = [{"id": f"i{n}", "prompt": prompt, "model": "easel-1"} for n, prompt in enumerate(prompts)]
        manifest = self.folder / "job.yaml"
        models = {"easel-1": {**MODELS["easel-1"], "max_jobs": self.max_jobs}}
        manifest.write_text(json.dumps({"models": models, "limits": {"concurrency": 3}, "items": items}))
        return manifest

    async def run(self, *prompts: str, wait: bool = True, **options):
        job = batchgen.load(self.write(*prompts), output=self.out, emulate=True, environ={})
        batches = BatchOptions(wait=wait)
        return await batchgen.run(
            job, options=batchgen.RunOptions(emulator_url=self.studio.url, batches=batches, **options)
        )

    async def child(self, *prompts: str, place: str = "-", k: int = 0) -> int:
        arguments = [
            str(self.write(*prompts)),
            str(self.out),
            self.studio.url,
            place,
            str(k),
            json.dumps({"codec": CODEC}),
        ]
        return await asyncio.to_thread(exit_code, arguments)

    def pictures(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.out.glob("*.png")}

    def states(self) -> dict[str, int]:
        with Reader.open(self.out) as reader:
            return dict(reader.counts())


@pytest.fixture
def bench(studio, tmp_path):
    return JobBench(studio, tmp_path)


PROMPTS = [f"thing {n}" for n in range(8)]
real = Easel.poll
MADE = {f"i{n}": drawn(prompt) for n, prompt in enumerate(PROMPTS)}


async def test_jobs_are_waited_for_in_no_place_in_flight(bench, studio):
    studio.seconds = 1.0
    outcome = await bench.run(*PROMPTS)
    assert (outcome.exit_code, outcome.made, outcome.estimated_usd) == (0, 8, pytest.approx(0.24))
    assert bench.pictures() == MADE
    assert (len(studio.jobs), studio.max_open) == (8, 8)  # with three in flight at most
    assert await bench.run(*PROMPTS) and len(studio.jobs) == 8


async def test_a_question_that_fails_is_asked_again_and_the_job_is_not(bench, studio):
    studio.faults = [503, "reset", 500, 503]
    outcome = await bench.run("a fox")
    assert (outcome.exit_code, len(studio.jobs), studio.faults) == (0, 1, [])
    assert bench.pictures() == {"i0": drawn("a fox")}


@pytest.mark.parametrize(
    ("ends", "exit_code", "jobs", "state"),
    [
        (["drawn"], 0, 1, "succeeded"),
        (["refused"], 4, 1, "refused"),
        (["failed"], 0, 2, "succeeded"),
        (["failed"] * 9, 4, None, "failed"),
        (["lost"], 0, 2, "succeeded"),
        (["lost", "lost"], 4, 2, "uncertain"),
    ],
)
async def test_a_job_ends_as_its_api_says(bench, studio, ends, exit_code, jobs, state):
    studio.seconds, studio.ends = 0.0, {"a fox": ends}
    outcome = await bench.run("a fox")
    assert (outcome.exit_code, bench.states()) == (exit_code, {state: 1})
    assert jobs is None or len(studio.jobs) == jobs


async def test_without_waiting_jobs_are_left_and_the_next_run_collects_them(bench, studio):
    studio.seconds = 0.5
    outcome = await bench.run(*PROMPTS, wait=False)
    assert (outcome.exit_code, outcome.submitted, bench.states()) == (9, 8, {"submitted": 8})
    outcome = await bench.run(*PROMPTS)
    assert (outcome.exit_code, outcome.made, len(studio.jobs)) == (0, 8, 8)
    assert bench.pictures() == MADE


async def test_a_run_that_does_not_wait_collects_what_is_there(bench, studio):
    studio.seconds = 600.0
    assert (await bench.run("a fox", "a hare", wait=False)).exit_code == 9
    studio.jobs["1"]["due"] = 0.0
    assert (await bench.run("a fox", "a hare", wait=False)).exit_code == 9
    assert (list(bench.pictures()), studio.polls) == (["i0"], {"1": 1, "2": 1})


async def test_a_deadline_leaves_jobs_where_they_are(bench, studio):
    studio.seconds = 30.0
    outcome = await bench.run("a fox", deadline=time.time() + 1.0)
    assert (outcome.exit_code, bench.states()) == (7, {"submitted": 1})
    studio.jobs["1"]["due"] = 0.0
    assert (await bench.run("a fox")).exit_code == 0
    assert len(studio.jobs) == 1


async def test_a_key_that_is_refused_ends_the_run_and_not_the_job(bench, studio):
    studio.faults = [401]
    outcome = await bench.run("a fox")
    assert (outcome.exit_code, bench.states()) == (5, {"submitted": 1})
    assert (await bench.run("a fox")).exit_code == 0
    assert len(studio.jobs) == 1


async def test_a_prompt_that_was_changed_meanwhile_is_asked_for_and_the_old_image_kept(bench, studio):
    assert (await bench.run("a fox", wait=False)).exit_code == 9
    outcome = await bench.run("a hare")
    assert (outcome.exit_code, bench.pictures(), len(studio.jobs)) == (0, {"i0": drawn("a hare")}, 2)
    kept = [path.read_bytes() for path in bench.out.rglob("*.png") if path.parent != bench.out]
    assert kept == [drawn("a fox")]


async def test_a_job_that_failed_in_a_later_run_is_bought_again_there(bench, studio):
    studio.ends = {"a fox": ["failed"]}
    assert (await bench.run("a fox", wait=False)).exit_code == 9
    outcome = await bench.run("a fox")
    assert (outcome.exit_code, len(studio.jobs)) == (0, 2)
    assert bench.pictures() == {"i0": drawn("a fox")}


async def test_a_lost_answer_takes_no_job_whose_own_answer_is_still_to_come(bench, studio):
    studio.slow, studio.lost_answers = {"a fox": 1.0}, 1  # of two that ask for the same: one comes late, one not at all
    outcome = await bench.run("a fox", "a fox")
    assert (outcome.exit_code, outcome.maybe_requests, len(studio.jobs)) == (0, 0, 2)
    assert set(studio.polls) == {"1", "2"}  # each of the two was collected


async def test_a_job_that_does_not_end_is_left_and_after_two_days_given_up(bench, studio, monkeypatch):
    monkeypatch.setattr("batchgen.engine.jobs.WAIT_S", 1.0)
    studio.seconds = 600.0
    outcome = await bench.run("a fox")
    assert (outcome.exit_code, bench.states()) == (9, {"submitted": 1})
    monkeypatch.setattr("batchgen.engine.jobs.GIVE_UP_AFTER_S", 0.5)
    outcome = await bench.run("a fox", hold_uncertain=True)
    assert (outcome.exit_code, bench.states(), len(studio.jobs)) == (4, {"uncertain": 1}, 1)


async def test_a_bug_in_the_question_leaves_the_job_and_costs_no_other_sample(bench, studio, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Easel, "poll", lambda codec, job: {}[job.id] if job.id == "1" else real(codec, job))
        outcome = await bench.run(*PROMPTS)
        assert (outcome.exit_code, outcome.made, bench.states()["submitted"]) == (9, 7, 1)
    assert (await bench.run(*PROMPTS)).exit_code == 0
    assert (bench.pictures(), len(studio.jobs)) == (MADE, 8)


async def test_an_address_that_an_answer_made_up_gets_no_key_and_the_job_is_left(bench, studio, monkeypatch):
    async with serving(Studio()) as other:
        with monkeypatch.context() as patch:
            patch.setattr(Easel, "poll", lambda codec, job: Request(method="GET", url=other.url + job.state["at"]))
            assert ((await bench.run("a fox")).exit_code, bench.states()) == (9, {"submitted": 1})
        assert not other.polls
    assert (await bench.run("a fox")).exit_code == 0
    assert len(studio.jobs) == 1


async def test_no_more_jobs_are_open_than_the_api_has_at_once(bench, studio):
    bench.max_jobs = 2
    assert (await bench.run(*PROMPTS)).exit_code == 0
    assert (studio.max_open, bench.pictures()) == (2, MADE)


async def test_jobs_that_earlier_runs_have_left_are_among_those(bench, studio):
    bench.max_jobs, studio.seconds = 3, 1.5
    outcome = await bench.run(*PROMPTS, wait=False)
    assert (outcome.exit_code, outcome.left, len(studio.jobs)) == (9, 5, 3)
    studio.seconds = 0.1
    assert (await bench.run(*PROMPTS)).exit_code == 0
    assert (studio.max_open, bench.pictures()) == (3, MADE)


async def test_the_job_whose_result_goes_first_is_asked_about_first(bench, studio, monkeypatch):
    kept = {"1": None, "2": 3600.0, "3": 600.0}
    read = Easel.read
    monkeypatch.setattr(
        Easel, "read", lambda codec, response: replace(job := read(codec, response), result_kept_s=kept[job.id])
    )
    await bench.run(*PROMPTS[:3], wait=False)
    studio.polls.clear()
    assert (await bench.run(*PROMPTS[:3])).exit_code == 0
    assert list(studio.polls) == ["3", "2", "1"]


async def test_a_job_that_was_cancelled_at_its_vendors_is_not_bought_again_by_this_run(bench, studio):
    studio.ends = {"a fox": ["cancelled"]}
    assert (await bench.run("a fox")).exit_code == 4
    with Reader.open(bench.out) as reader:
        assert [(found.state, found.reason) for found in reader.results()] == [("failed", "cancelled")]
    assert len(studio.jobs) == 1
    assert (await bench.run("a fox")).exit_code == 0


# Between any two steps of a codec of ours: tests/providers/test_kit.py.
STEPS = [("batchgen.ledger.ledger:Ledger.job_taken", 5), ("batchgen.ledger.ledger:Ledger.record_placed", 3)]


@pytest.mark.parametrize(("place", "k"), STEPS)
async def test_a_process_that_dies_at_any_step_buys_no_recorded_job_twice(bench, studio, place, k):
    assert await bench.child(*PROMPTS, place=place, k=k) == 9
    with Reader.open(bench.out) as reader:
        lost = sum(attempt.job is None for attempt in reader.open_attempts())
    assert await bench.child(*PROMPTS) == 0
    assert bench.pictures() == MADE
    assert (
        len(studio.jobs) <= 8 + lost
    )  # those whose answer had not been recorded are uncertain, and asked for once more
