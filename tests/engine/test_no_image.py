"""Answers without a picture: a budget of their own, another wording if one was given, and no refused prompt sent again unchanged."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.events import AttemptStarted
from tests.support.bench import Bench


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.scheduling.retry.backoff_s", lambda *_: 0.01)


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def head(limits: str) -> str:
    return f"defaults: {{model: flash}}\nlimits: {{{limits}}}\nitems:\n"


@pytest.mark.parametrize(
    ("limits", "requests"), [("attempts: 5", 3), ("no_image_attempts: 0", 1), ("no_image_attempts: 4", 5)]
)
@pytest.mark.parametrize("fault", ["no_image", "text_only", "image_safety"])
async def test_it_is_asked_for_again_as_often_as_the_manifest_says(bench, fault, limits, requests):
    outcome = await bench.run(f'  - {{id: a, prompt: "[[fault:{fault}]] x"}}\n', head(limits))
    assert (outcome.made, await bench.requests()) == (0, requests)


async def test_the_budget_is_apart_from_that_for_faults_of_the_server(bench):
    outcome = await bench.run('  - {id: a, prompt: "[[fault:no_image*2]] x"}\n', head("attempts: 1"))
    assert (outcome.exit_code, await bench.requests()) == (0, 3)


async def test_a_suffix_is_appended_only_after_an_answer_without_a_picture_and_recorded(bench):
    text = '  - {id: a, prompt: "[[fault:no_image*1]] a fox", no_image_suffix: "Draw it as a picture."}\n'
    outcome = await bench.run(text)
    assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 1, 3)  # the emulator counts each wording
    (prompt,) = [prompt for prompt, hashes in (await bench.served()).items() if hashes]
    assert prompt.endswith("a fox Draw it as a picture.")
    told = [event.sent_as for event in bench.events if isinstance(event, AttemptStarted)]
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        recorded = [row[0] or "" for row in ledger.execute("SELECT sent_as FROM attempt ORDER BY id")]
    ledger.close()
    assert told == recorded == ["", "prompt with no_image_suffix", "prompt with no_image_suffix"]
    assert "Draw it" not in bench.lines()["a"]["prompt"]


async def test_a_fault_of_the_server_appends_nothing(bench):
    await bench.run('  - {id: a, prompt: "[[fault:503*1]] a fox", no_image_suffix: "Draw it."}\n')
    assert [prompt for prompt in await bench.served() if "Draw it." in prompt] == []


async def test_another_suffix_makes_no_picture_stale(bench):
    await bench.run("  - {id: a, prompt: a fox, no_image_suffix: one}\n")
    outcome = await bench.run("  - {id: a, prompt: a fox, no_image_suffix: two}\n")
    assert (outcome.kept, await bench.requests()) == (1, 1)


@pytest.mark.parametrize("fault", ["safety", "block", "prohibited"])
async def test_a_refused_prompt_is_never_sent_again_unchanged(bench, fault):
    text = f'  - {{id: a, prompt: "[[fault:{fault}]] x", no_image_suffix: Draw it.}}\n'
    for _ in range(2):
        outcome = await bench.run(text, head("no_image_attempts: 5"))
        assert (outcome.exit_code, await bench.requests()) == (4, 1) or (outcome.exit_code, await bench.requests()) == (
            3,
            1,
        )
    await bench.run(text.replace("x", "y", 1), head("no_image_attempts: 5"))
    assert await bench.requests() == 2
