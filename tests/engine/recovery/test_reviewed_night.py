"""A catalogue of forty with every fault that a check or a judge finds, a budget and a crash: forty images are accepted or named."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchgen.ledger.reader import Reader
from tests.engine.recovery.test_soak import start, stop_after
from tests.support.bench import Bench
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
JUDGE = "gemini-3.1-flash-lite"
BUDGET_USD = 6
HEAD = f"""\
check: {{blank: reject, twin: reject}}
judge: {{model: {JUDGE}, rubric: "One mug, whole.", again: 2, feedback: true}}
models: {{gemini-nano-banana-2.1: {{rpm: 100000}}, {JUDGE}: {{rpm: 100000}}}}
limits: {{budget_usd: {BUDGET_USD}}}
items:
"""
FAULTS = [
    "[[image:blank,good]]",
    "[[image:twin,good]]",
    "[[image:half,good]]",
    "[[judge:3,9]]",
    "[[image:blank]]",
    "",
    "",
    "",
]


def entry(n: int) -> str:
    fault = FAULTS[n % len(FAULTS)]
    if n in (5, 13):  # misspelt at first
        return f"  - {{id: p{n}, prompt: 'SALE {n} [[image:misspelt,good]]', check: {{text: {{text: SALE {n}, on_fail: reject}}}}}}\n"
    return f"  - {{id: p{n}, prompt: 'mug number {n} {fault}', tags: [{'glazed' if n % 2 else 'matt'}]}}\n"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    argv = ("--latency", "0.05-0.15", "--rpm", "0")
    emulator = await asyncio.create_subprocess_exec(PYTHON, "-m", "batchgen.emulator", *argv, cwd=ROOT, stdout=PIPE)
    assert emulator.stdout is not None
    url = (await emulator.stdout.readline()).decode().removeprefix("listening on ").strip()
    bench = Bench(url, tmp_path)
    bench.manifest("".join(map(entry, range(40))), HEAD)
    yield bench
    emulator.kill()
    await emulator.wait()


async def run_and_read(bench: Bench) -> tuple[int | None, str]:
    """A run to its end: its exit code, and what it has said to a person."""
    argv = ("run", str(bench.folder / "job.yaml"), "--output", str(bench.folder / "out"), "--no-progress")
    environ = {"PYTHONPATH": str(ROOT), "GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.url}
    child = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "batchgen", *argv, env=environ, stdout=PIPE, stderr=STDOUT
    )
    out, _ = await child.communicate()
    return child.returncode, out.decode()


async def test_forty_are_accepted_or_named_within_the_budget_whatever_happens_in_the_middle(bench):
    assert await stop_after(bench, await start(bench), 25, 0.05, signal.SIGKILL) == -signal.SIGKILL
    code, words = await run_and_read(bench)
    with Reader.open(bench.folder / "out") as ledger:
        money, ends = ledger.money(), {result.key: result for result in ledger.results()}
    rejected = sorted(key for key, result in ends.items() if not result.accepted)
    assert rejected == sorted(f"p{n}" for n in range(4, 40, 8)), words  # blank, however often they are bought
    assert (code, len(ends)) == (3, 40)
    assert all(ends[key].reason == "blank" and key in words for key in rejected)
    assert money.spent + money.estimated + money.maybe <= BUDGET_USD
    assert words.strip().splitlines()[-1].startswith("accepted") and "per accepted image" in words
