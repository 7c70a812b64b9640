"""A day of accidents with batches: 200 pictures, a service with faults, a run that is killed twelve times, balanced books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.ledger.reader import Reader
from tests.support.batch_bench import BatchBench
from tests.support.bench import items
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

ITEMS, CHUNK = 200, 20
PROMPTS = [f"thing {n}" + (" [[fault:500*1]]" if n % 10 == 3 else "") for n in range(ITEMS)]
FAULTS = ("create_lost*2", "create_503*1", "get_503*1", "download_half*1", "upload_reset*3", "delete_503*1")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

EMULATOR = """
import asyncio
from dataclasses import replace
from batchgen.emulator import serve
from tests.support.batch_bench import quick

async def main():
    options = quick(faults={faults!r}, list_lag_s=0.3, pending_s=0.1, running_s=2.5)
    async with await serve(replace(options, upload_granularity_bytes=1024)) as emulator:
        print(emulator.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
# All is uploaded by the fourth kill; pictures come until the end.
STAGES = (*("uploads", "batches_created") * 2, "batch_lines", *("pictures",) * 7)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    """An emulator in a process of its own, and a manifest of 200 items."""
    emulator = await asyncio.create_subprocess_exec(PYTHON, "-c", EMULATOR.format(faults=FAULTS), cwd=ROOT, stdout=PIPE)
    assert emulator.stdout is not None
    url = (await emulator.stdout.readline()).decode().strip()
    bench = BatchBench(url, tmp_path)
    bench.manifest(items(*PROMPTS))
    yield bench
    emulator.kill()
    await emulator.wait()


async def start(bench: BatchBench) -> Process:
    options = json.dumps({"engine": "batch", "requests": CHUNK, "piece_bytes": 1024})
    return await asyncio.create_subprocess_exec(
        PYTHON, "-m", "tests.support.crash_child", str(bench.folder / "job.yaml"), str(bench.folder / "out"), bench.url,
        "-", "0", options, cwd=ROOT, stderr=DEVNULL,
    )  # fmt: skip


async def count(bench: BatchBench, stage: str) -> int:
    if stage == "pictures":
        return len(list((bench.folder / "out").glob("*.jpg")))
    stats = await bench.stats()
    return int(stats[stage])


async def kill_somewhere(bench: BatchBench, stage: str, rng: random.Random) -> bool:
    """When the stage has got on a little, and a moment later; false when the run had come to its end by then."""
    before = await count(bench, stage)
    child = await start(bench)
    beyond = before + (rng.randint(1, 5) if stage == "pictures" else 1)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while await count(bench, stage) < beyond and child.returncode is None:
                await asyncio.sleep(0.005)
    await asyncio.sleep(rng.uniform(0.0, 0.02))
    if child.returncode is not None:
        assert child.returncode == 0
        return False
    child.send_signal(signal.SIGKILL)
    return await child.wait() == -signal.SIGKILL


async def status(bench: BatchBench) -> dict[str, Any]:
    argv = ("status", str(bench.folder / "job.yaml"), "--output", str(bench.folder / "out"), "--json")
    child = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "batchgen", *argv, cwd=ROOT, stdout=PIPE, env={"PYTHONPATH": str(ROOT), "GEMINI_API_KEY": KEY}
    )  # fmt: skip
    out, _ = await child.communicate()
    facts: dict[str, Any] = json.loads(out)
    return facts


async def test_twelve_kills_lose_no_item_and_create_no_batch_twice(bench):
    rng = random.Random(11)
    kills = [await kill_somewhere(bench, stage, rng) for stage in STAGES]
    assert all(kills[:9])  # a busy machine may come to the end before the last ones
    for _ in range(2):  # what could not be deleted at the vendor's is tried again by the next run
        assert await (await start(bench)).wait() == 0
    stats, created = await bench.stats(), await bench.created()
    assert set(created.values()) == {1}
    pictures, served = bench.pictures(), await bench.served()
    assert len(pictures) == len(bench.lines()) == ITEMS
    assert all(digest in served[PROMPTS[int(name[1:-4])]] for name, digest in pictures.items())
    state = bench.folder / "out" / ".batchgen"
    assert [*(state / "spool").iterdir(), *(state / "batch").iterdir()] == []
    assert await bench.at_the_vendors("batches") == {}
    books = (await status(bench))["account"]
    with Reader.open(bench.folder / "out") as ledger:
        attempts = ledger.attempts()
        assert (ledger.open_chunks(), ledger.open_attempts()) == ([], [])
    assert (books["holds"], books["wanted"], stats["billed_images"]) == (True, ITEMS, ITEMS)
    assert (attempts["succeeded"], set(attempts)) == (ITEMS, {"succeeded", "failed"})
