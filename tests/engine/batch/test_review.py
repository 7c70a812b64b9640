"""Images that came in a batch are reviewed too, and another one in the place of a rejected one is asked for in a batch again."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.emulator import serve
from tests.support.batch_bench import BatchBench, quick
from tests.support.bench import items

RULES = (
    "defaults: {model: flash}\ncheck: {blank: reject}\n"
    "judge: {model: gemini-3.1-flash-lite, rubric: Is it whole?, again: 1}\nitems:\n"
)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    async with await serve(quick()) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


async def test_what_a_check_or_the_judge_rejects_goes_into_the_next_batch(bench):
    outcome = await bench.submit(items("a [[image:blank,good]]", "b [[judge:2,9]]", "c"), RULES)
    assert (outcome.exit_code, outcome.counts, outcome.reviewed.counts) == (
        0,
        {"succeeded": 3},
        {"accepted": 3, "again": 2},
    )
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as db:
        lanes = dict(db.execute("SELECT lane, count(*) FROM attempt GROUP BY lane"))
    assert sorted(lanes.items()) == [("gemini/gemini-3.1-flash-lite", 4), ("gemini:batch/gemini-nano-banana-2.1", 5)]
    assert sorted(bench.pictures()) == ["i0.jpg", "i1.jpg", "i2.jpg"]


async def test_left_to_the_vendor_it_is_reviewed_by_the_run_that_collects_it(bench):
    left = await bench.submit(items("a [[judge:2]]", "b"), RULES, wait=False)
    assert left.exit_code == 9
    await bench.until_ended()
    outcome = await bench.submit(items("a [[judge:2]]", "b"), RULES)
    assert (outcome.exit_code, outcome.counts) == (3, {"succeeded": 1, "rejected": 1})
