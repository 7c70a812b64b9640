"""A night of accidents: 200 pictures, a run that is killed or told to stop ten times, and books that balance at the end."""

from __future__ import annotations

import asyncio
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
from batchgen.ledger.verdicts import VerdictReader
from tests.support.bench import Bench, items
from tests.support.crash import assert_each_turn_is_of_its_picture
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

ITEMS, STOPS = 200, 10
PROMPTS = [f"thing {n}" for n in range(ITEMS)]
HEAD = "defaults: {model: flash}\nmodels: {gemini-nano-banana-2.1: {rpm: 100000}}\nlimits: {concurrency: 8}\nitems:\n"
JUDGE = "gemini-3.1-flash-lite"
REVIEWED = 60
REVIEW_HEAD = HEAD.replace(
    "items:",
    f"check: {{blank: reject}}\njudge: {{model: {JUDGE}, rubric: Is it whole?, again: 2}}\nitems:",
).replace("models: {", f"models: {{{JUDGE}: {{rpm: 100000}}, ")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An emulator in a process of its own, and a manifest of 200 items."""
    argv = ("--latency", "0.05-0.15", "--rpm", "0", "--picture", "tiny")
    emulator = await asyncio.create_subprocess_exec(PYTHON, "-m", "batchgen.emulator", *argv, cwd=ROOT, stdout=PIPE)
    assert emulator.stdout is not None
    url = (await emulator.stdout.readline()).decode().removeprefix("listening on ").strip()
    bench = Bench(url, tmp_path)
    bench.manifest(items(*PROMPTS), HEAD)
    yield bench
    emulator.kill()
    await emulator.wait()


async def start(bench: Bench, stdout: int = DEVNULL) -> Process:
    argv = ("run", str(bench.folder / "job.yaml"), "--output", str(bench.folder / "out"), "--json", "--quiet")
    environ = {"PYTHONPATH": str(ROOT), "GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.url}
    return await asyncio.create_subprocess_exec(
        PYTHON, "-m", "batchgen", *argv, env=environ, stdin=DEVNULL, stdout=stdout, stderr=DEVNULL
    )


async def stop_after(bench: Bench, child: Process, requests: int, seconds: float, number: int) -> int:
    """Signal the child once the server has had so many more requests, and a moment later. Answers its exit code."""
    begun = await bench.requests()
    while await bench.requests() < begun + requests:
        assert child.returncode is None
        await asyncio.sleep(0.01)
    await asyncio.sleep(seconds)
    child.send_signal(number)
    return await child.wait()


async def run_to_the_end(bench: Bench) -> dict[str, Any]:
    child = await start(bench, PIPE)
    out, _ = await child.communicate()
    assert child.returncode == 0
    facts: dict[str, Any] = json.loads(out)
    return facts


async def assert_whole(bench: Bench) -> None:
    """Every picture decodes and is what was served for its prompt, nothing else lies about, and a further run is free."""
    pictures, served = bench.pictures(), await bench.served()
    assert len(pictures) == len(bench.lines()) == ITEMS
    assert all(digest in served[PROMPTS[int(name[1:-4])]] for name, digest in pictures.items())
    out = bench.folder / "out"
    assert {path.name for path in out.iterdir()} == {*pictures, "results.jsonl", ".batchgen"}
    assert list((out / ".batchgen" / "spool").iterdir()) == []
    requests = await bench.requests()
    assert (await run_to_the_end(bench))["images"] == {"made": 0, "kept": ITEMS, "moved": 0, "left": 0, "left_out": 0}
    assert await bench.requests() == requests


def in_flight(bench: Bench) -> int:
    if not (bench.folder / "out" / ".batchgen" / "ledger.sqlite").exists():
        return 0
    with Reader.open(bench.folder / "out") as ledger:
        return len(ledger.open_attempts())


async def test_ten_kills_lose_nothing_and_cost_at_most_what_was_in_the_air_each_of_it_listed(bench):
    rng, in_the_air = random.Random(7), 0
    for _ in range(STOPS):
        requests, seconds = rng.choice([(0, rng.uniform(0.0, 1.0)), (rng.randint(1, 25), rng.uniform(0.0, 0.1))])
        code = await stop_after(bench, await start(bench), requests, seconds, signal.SIGKILL)
        assert code == -signal.SIGKILL
        in_the_air += in_flight(bench)
    books = (await run_to_the_end(bench))["account"]
    stats = await bench.get("/_emulator/stats")
    with Reader.open(bench.folder / "out") as ledger:
        listed, open_now = ledger.attempts().get("uncertain", 0), len(ledger.open_attempts())
    assert 0 < listed <= in_the_air
    beyond = sum(books["beyond"].values())
    assert (books["holds"], books["wanted"], beyond) == (True, ITEMS, listed)
    assert (open_now, ITEMS <= stats["billed"] <= ITEMS + listed) == (0, True)
    await assert_whole(bench)


async def test_ten_kills_of_a_reviewed_run_judge_no_image_twice_and_keep_every_one_that_was_bought(bench):
    marks = {0: "[[judge:3,8]]", 1: "[[image:blank,good]]"}  # rejected once, then good
    bench.manifest(items(*(f"thing {n} {marks.get(n % 4, '')}" for n in range(REVIEWED))), REVIEW_HEAD)
    rng = random.Random(9)
    for _ in range(STOPS):
        requests, seconds = rng.randint(1, 20), rng.uniform(0.0, 0.1)
        await stop_after(bench, await start(bench), requests, seconds, signal.SIGKILL)
    await run_to_the_end(bench)
    with VerdictReader.open(bench.folder / "out") as ledger:
        images = [image.file.path for image in ledger.images()]
        verdicts = list(ledger.all_verdicts())
        judged = [(verdict.item_id, verdict.sha256) for verdict in verdicts if verdict.by == "judge"]
        blank = sum(verdict.reason == "blank" for verdict in verdicts)
        requests = {(model, outcome): count for model, outcome, count in ledger.requests_by_model()}
        open_now, uncertain = ledger.open_attempts(), ledger.attempts().get("uncertain", 0)
    assert (open_now, len(bench.pictures())) == ([], REVIEWED)
    assert REVIEWED * 5 // 4 < len(images) <= REVIEWED * 3 // 2  # a first image that a kill cut off was never rejected
    assert all((bench.folder / "out" / path).exists() for path in images)
    assert requests[JUDGE, "succeeded"] == len(judged) == len(set(judged)) == len(images) - blank
    billed = (await bench.get("/_emulator/stats"))["billed_images"]
    assert len(images) <= billed <= len(images) + uncertain


async def test_ten_polite_stops_cost_nothing_at_all(bench):
    rng = random.Random(8)
    for _ in range(STOPS):
        code = await stop_after(bench, await start(bench), rng.randint(1, 8), rng.uniform(0.0, 0.1), signal.SIGTERM)
        assert (code, in_flight(bench)) == (143, 0)
    await run_to_the_end(bench)
    with Reader.open(bench.folder / "out") as ledger:
        assert ledger.attempts() == {"succeeded": ITEMS}
    assert (await bench.get("/_emulator/stats"))["billed"] == ITEMS
    await assert_whole(bench)


TALKS, PARENTS, CHILDREN = [f"talk{n}" for n in range(10)], range(5), range(20)
FAMILY = (
    "".join(f"  - {{id: {talk}, turns: [{talk} one, {talk} two, {talk} three]}}\n" for talk in TALKS)
    + "".join(f"  - {{id: child{n}, prompt: child {n}, references: ['@parent{n % 5}']}}\n" for n in CHILDREN)
    + "".join(f"  - {{id: parent{n}, prompt: parent {n}}}\n" for n in PARENTS)
)
SAYS = {f"{talk}-t{turn}": f"{talk} {word}" for talk in TALKS for turn, word in enumerate(("one", "two", "three"), 1)}
SAYS |= {f"child{n}": f"child {n}" for n in CHILDREN} | {f"parent{n}": f"parent {n}" for n in PARENTS}


async def test_conversations_and_families_survive_five_kills_and_send_back_what_was_said(bench):
    bench.manifest(FAMILY, HEAD)
    rng, in_the_air = random.Random(9), 0
    for _ in range(5):
        code = await stop_after(bench, await start(bench), rng.randint(1, 9), rng.uniform(0.0, 0.2), signal.SIGKILL)
        assert code == -signal.SIGKILL
        in_the_air += in_flight(bench)
    books = (await run_to_the_end(bench))["account"]
    pictures, served = bench.pictures(), await bench.served()
    assert {name[:-4] for name in pictures} == set(SAYS)
    assert all(digest in served[SAYS[name[:-4]]] for name, digest in pictures.items())
    assert_each_turn_is_of_its_picture(bench.folder / "out", *TALKS)
    with Reader.open(bench.folder / "out") as ledger:
        attempts = ledger.attempts()
    listed = attempts.get("uncertain", 0)
    assert (set(attempts) <= {"succeeded", "uncertain"}, listed <= in_the_air) == (True, True)
    billed = (await bench.get("/_emulator/stats"))["billed"]
    assert (books["holds"], books["wanted"], len(SAYS) <= billed <= len(SAYS) + listed) == (True, len(SAYS), True)
    requests = await bench.requests()
    assert (await run_to_the_end(bench))["images"]["kept"] == len(SAYS)
    assert await bench.requests() == requests
