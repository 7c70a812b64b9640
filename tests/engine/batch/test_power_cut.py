"""A power cut while a batch is on its way: names without bytes, bytes without names, and what the next run makes of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator

import pytest

from batchgen.emulator import serve
from batchgen.emulator.server import RunningEmulator
from batchgen.engine.batch.result_collector import ResultCollector
from batchgen.ledger.chunks import Chunk
from batchgen.ledger.reader import Reader
from tests.support.batch_bench import BatchBench, quick
from tests.support.bench import items
from tests.support.power_cut import STATE, Cut, Disk, lay_out, succeeded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see which file was synced")
TEXT = items("one", "two")


@pytest.fixture
async def emulator() -> AsyncIterator[RunningEmulator]:
    async with await serve(quick(running_s=0.0)) as running:
        yield running


async def left_there(_: ResultCollector, chunk: Chunk) -> Chunk:
    """Another run is to find at the vendor's what this one has left."""
    return chunk


async def test_a_power_cut_at_any_step_of_a_batch_loses_nothing_and_creates_nothing_twice(
    emulator, tmp_path, monkeypatch
):
    monkeypatch.setattr(ResultCollector, "delete_remote_files", left_there)
    bench = BatchBench(emulator.base_url, tmp_path / "first")
    bench.folder.mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(bench.folder, emulator.stats.created.total, patch, killed=False)
        assert (await bench.submit(TEXT)).exit_code == 0
    cuts = [cut for cut in disk.cuts.values() if any("/batch/" in path for path in (cut.step, *dict(cut.tree)))]
    assert len(cuts) > 20
    for number, cut in enumerate(cuts):
        await check(BatchBench(bench.url, tmp_path / str(number)), cut, f"{number}: {cut.kind} after {cut.step}")


async def check(case: BatchBench, cut: Cut, where: str) -> None:
    case.folder.mkdir()
    lay_out(cut.tree, case.folder)
    had, before = succeeded(case.folder), (await case.stats())["billed_images"]
    outcome = await case.submit(TEXT)
    assert (outcome.exit_code, outcome.submitted) == (0, 0), (where, outcome.message)
    bought = (await case.stats())["billed_images"] - before
    assert bought in ((0,) if cut.billed else (0, 2)), where  # what is asked for again at once is in the list by now
    has = succeeded(case.folder)
    assert len(has) == 2, where
    assert {key: has[key] for key in had} == had, where
    assert set(case.pictures().values()) == set(has.values()), where
    with Reader.open(case.folder / "out") as reader:
        assert reader.open_chunks() == [], where
        assert set(reader.attempts()) <= {"succeeded", "failed"}, where
    assert [*(case.folder / STATE / "spool").iterdir(), *(case.folder / STATE / "batch").iterdir()] == [], where
    shutil.rmtree(case.folder)
