"""Several images of one item: each API in its own way, and a raised count buys only what is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from batchgen.emulator import EmulatorOptions, serve
from tests.support.bench import Bench


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def entry(model: str, count: int) -> str:
    return f"  - {{id: a, prompt: a fox, model: {model}, count: {count}}}\n"


@pytest.mark.parametrize(
    ("model", "first", "then"),
    [
        ("flash", 2, 4),  # one request each
        ("imagen-4.0-generate-001", 1, 2),  # sampleCount up to 4
        ("imagen-4.0-ultra-generate-001", 2, 4),  # one each, as its documents say
        ("google/imagen-4.0-generate-001", 1, 2),  # num_images
        ("google/nano-banana-pro", 1, 2),
        ("google/nano-banana-2", 2, 4),  # has no num_images
    ],
)
async def test_raising_the_count_from_2_to_4_buys_only_two_more(bench, model, first, then):
    await bench.run(entry(model, 2))
    before = bench.pictures()
    assert (len(before), await bench.requests(), (await bench.get("/_emulator/stats"))["billed_images"]) == (
        2,
        first,
        2,
    )
    outcome = await bench.run(entry(model, 4))
    after = bench.pictures()
    assert (outcome.made, outcome.kept, await bench.requests()) == (2, 2, then)
    assert (await bench.get("/_emulator/stats"))["billed_images"] == 4
    assert {name: after[name] for name in before} == before
    assert len(after) == 4


async def test_more_than_one_request_can_hold_are_several_requests(bench):
    outcome = await bench.run(entry("imagen-4.0-generate-001", 10))
    assert (outcome.made, await bench.requests()) == (10, 3)


async def test_a_lowered_count_deletes_nothing_and_a_raised_one_brings_it_back(bench):
    await bench.run(entry("imagen-4.0-generate-001", 4))
    before = bench.pictures()
    await bench.run(entry("imagen-4.0-generate-001", 2))
    assert len(bench.pictures()) == 2
    await bench.run(entry("imagen-4.0-generate-001", 4))
    assert (bench.pictures(), await bench.requests()) == (before, 1)


async def test_all_pictures_of_one_answer_are_listed_the_last_one_first(bench):
    await bench.run('  - {id: a, prompt: "[[fault:many_images]] x"}\n')
    files = bench.lines()["a"]["files"]
    assert (files[0], [name.split("/")[0] for name in files[1:]]) == ("a.jpg", ["drafts", "drafts"])
    assert all((bench.folder / "out" / name).is_file() for name in files)
