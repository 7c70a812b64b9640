"""Real processes that die before and after each step of a batch: nothing is lost, no batch is created twice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen.emulator import serve
from batchgen.ledger.reader import Reader
from tests.support.batch_bench import BATCH, CHUNKS, MUGS, BatchBench, assert_all_are_right, crash, quick
from tests.support.bench import items

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
TRANSPORT = "batchgen.http.transport:Transport"
# Of one chunk: written, upload_url, uploaded, created, counts, ended, fetched, collected, done; `asked` is a call of its own.
STEPS = range(1, 10)
BEFORE_CREATE = [
    *[
        (f"{CHUNKS}.create", 1),
        (f"{CHUNKS}.create!", 2),
        (f"{BATCH}.chunk_submitter:_write_and_sync", 1),
        (f"{BATCH}.chunk_submitter:_write_and_sync!", 1),
    ],
    *[("batchgen.http.uploads:Uploader.start_upload", 1), ("batchgen.http.uploads:Uploader.start_upload!", 1)],
    *[("batchgen.http.uploads:Uploader.resume_upload", 2), ("batchgen.http.uploads:Uploader.resume_upload!", 1)],
    *[(f"{TRANSPORT}.upload", 3), (f"{TRANSPORT}.upload!", 3)],  # half way: some of several pieces
    (f"{CHUNKS}.mark_asked", 1),
]
CREATE = [
    (f"{CHUNKS}.mark_asked!", 1),
    (f"{CHUNKS}.mark_asked!", 2),
    (f"{TRANSPORT}.request", 1),
    (f"{TRANSPORT}.request!", 1),
]
AFTER = [
    *[(f"{TRANSPORT}.request", 3), (f"{TRANSPORT}.request!", 3)],  # a look
    *[
        (f"{TRANSPORT}.download", 1),
        (f"{TRANSPORT}.download", 2),
        (f"{TRANSPORT}.download!", 2),
    ],  # the second goes on half way
    *[(f"{CHUNKS}.adopt", 1), (f"{CHUNKS}.adopt!", 1)],
    *[
        (f"{BATCH}.result_collector:read_lines", 1),
        (f"{BATCH}.result_collector:read_lines!", 1),
        (f"{BATCH}.result_collector:read_lines", 2),
    ],
    *[(f"{BATCH}.result_collector:decode_line", 1), (f"{BATCH}.result_collector:decode_line!", 5)],
    *[("batchgen.engine.attempts:AttemptRecorder.settle", 3), ("batchgen.engine.attempts:AttemptRecorder.settle!", 3)],
    *[("batchgen.ledger.ledger:Ledger.attempt_succeeded", 2), ("batchgen.ledger.ledger:Ledger.attempt_succeeded!", 5)],
    ("batchgen.engine.settle:move_into_place", 4),
    *[
        (f"{BATCH}.result_collector:BatchContext.delete_files", 1),
        (f"{BATCH}.result_collector:BatchContext.delete_files!", 2),
    ],
    *[
        (f"{BATCH}.result_collector:ResultCollector.delete_remote_files", 1),
        (f"{BATCH}.result_collector:ResultCollector.delete_remote_files!", 1),
    ],
]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    options = quick(faults=("download_half*1",), list_lag_s=0.1)
    async with await serve(replace(options, upload_granularity_bytes=256)) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


async def assert_the_books_are_right(bench: BatchBench) -> None:
    """Nothing was bought twice or created twice, and nothing stands open."""
    assert set((await bench.created()).values()) <= {1}
    assert (await bench.stats())["billed_images"] == len(MUGS)
    with Reader.open(bench.folder / "out") as ledger:
        attempts = ledger.attempts()
        assert ledger.open_chunks() == []
    assert attempts.pop("succeeded") == len(MUGS)
    assert set(attempts) <= {"failed"}  # never sent
    assert len(bench.lines()) == len(MUGS)


@pytest.mark.parametrize(("place", "k"), [*BEFORE_CREATE, *CREATE, *AFTER])
async def test_after_a_crash_a_further_run_finishes_and_buys_nothing_twice(bench, place, k):
    await crash(bench, place, k)
    outcome = await bench.submit(items(*MUGS), requests=6)
    assert (outcome.exit_code, outcome.submitted) == (0, 0)
    await assert_all_are_right(bench)
    await assert_the_books_are_right(bench)
    assert await bench.at_the_vendors("batches") == {}


@pytest.mark.parametrize("late", ["", "!"])
@pytest.mark.parametrize("k", STEPS)
async def test_a_crash_before_and_after_each_step_that_is_recorded(bench, k, late):
    await crash(bench, f"{CHUNKS}.update{late}", k, requests=12)
    outcome = await bench.submit(items(*MUGS))
    assert (outcome.exit_code, outcome.submitted) == (0, 0)
    await assert_all_are_right(bench)
    await assert_the_books_are_right(bench)


async def until_nothing_is_out(bench: BatchBench) -> None:
    for _ in range(20):
        outcome = await bench.submit(items(*MUGS), engine="online")
        assert outcome.exit_code in (0, 9)
        if not outcome.exit_code:
            return
        assert outcome.submitted > 0
        await asyncio.sleep(0.2)
    pytest.fail("batches were never collected")


@pytest.mark.parametrize(("place", "k"), BEFORE_CREATE[::3])
async def test_what_was_in_no_batch_yet_an_online_run_makes_online(bench, place, k):
    await crash(bench, place, k)
    before = (await bench.stats())["batches_created"]
    await until_nothing_is_out(bench)
    assert (await bench.stats())["batches_created"] == before <= 1
    await assert_all_are_right(bench)
    await assert_the_books_are_right(bench)


@pytest.mark.parametrize(("place", "k"), [*CREATE, *AFTER[::4]])
async def test_what_may_be_in_a_batch_an_online_run_looks_for_and_collects(bench, place, k):
    await crash(bench, place, k)
    await until_nothing_is_out(bench)
    await assert_all_are_right(bench)
    await assert_the_books_are_right(bench)
