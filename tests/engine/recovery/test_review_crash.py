"""A run that is killed in the middle of a review goes on where it was: every image that was paid for is kept, none is judged twice,
and none is bought twice."""

from __future__ import annotations

import json
import sqlite3

import pytest

from batchgen.emulator import serve
from tests.support.bench import FAST, Bench, items
from tests.support.crash import start_child

EFFECTS = "batchgen.engine.review_effects:ReviewEffects"
PLACES = [
    ("batchgen.engine.image_checks:ImageChecks.run", 1),
    ("batchgen.engine.image_checks:ImageChecks.run!", 2),
    ("batchgen.engine.judging:Judging._record!", 1),
    ("batchgen.engine.judging:Judging._record!", 3),
    (f"{EFFECTS}._set_aside", 1),
    (f"{EFFECTS}._move!", 1),
    (f"{EFFECTS}._set_aside!", 1),
    (f"{EFFECTS}._ask_again!", 1),
    (f"{EFFECTS}._tell!", 2),
]
CHOICE = [(f"{EFFECTS}._replace", 1), (f"{EFFECTS}._move!", 3), (f"{EFFECTS}._move!", 4), (f"{EFFECTS}._replace!", 1)]
JUDGE = {"model": "gemini-3.1-flash-lite", "rubric": "Is it a whole mug?"}


@pytest.fixture
async def bench(tmp_path):
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


async def die_and_run_again(bench: Bench, rules: dict[str, object], entries: str, place: str, k: int) -> None:
    said = "".join(f"{name}: {json.dumps(value)}\n" for name, value in rules.items())
    head = f"defaults: {{model: flash}}\n{said}items:\n"
    child = await start_child(bench, place, k, entries, head)
    assert await child.wait() == 9, "it was not killed there"
    await bench.run(entries, head)


def check_books(bench: Bench) -> dict[str, str]:
    """Every image that was bought lies where the ledger says, and each was judged at most once. Answers states by item."""
    out = bench.folder / "out"
    with sqlite3.connect(out / ".batchgen" / "ledger.sqlite") as db:
        for path, size in db.execute("SELECT path, bytes FROM image"):
            assert (out / path).stat().st_size == size
        assert (
            db.execute("SELECT count(*) FROM image").fetchone()
            == db.execute(
                "SELECT count(*) FROM attempt WHERE item_id NOT LIKE '% (judge)' AND outcome = 'succeeded'"
            ).fetchone()
        )
        judged = db.execute("SELECT count(*) FROM verdict WHERE by = 'judge'").fetchone()
        assert (
            judged
            == db.execute(
                "SELECT count(*) FROM attempt WHERE item_id LIKE '% (judge)' AND outcome = 'succeeded'"
            ).fetchone()
        )
        return dict(db.execute("SELECT item_id, state FROM sample"))


@pytest.mark.parametrize(("place", "k"), PLACES)
async def test_killed_in_a_review_it_buys_and_judges_what_an_undisturbed_run_would(bench, place, k):
    rules = {"judge": {**JUDGE, "again": 1}, "check": {"blank": "reject"}}
    await die_and_run_again(bench, rules, items("[[judge:3,8]] a", "[[image:blank,good]] b", "c"), place, k)
    assert check_books(bench) == {"i0": "succeeded", "i1": "succeeded", "i2": "succeeded"}
    assert sorted(bench.pictures()) == ["i0.jpg", "i1.jpg", "i2.jpg"]
    assert 5 <= await images_served(bench) <= 5 + uncertain(bench)


@pytest.mark.parametrize(("place", "k"), CHOICE)
async def test_killed_while_the_best_gets_its_name_it_has_it_in_the_end(bench, place, k):
    rules = {"judge": {**JUDGE, "of": 3}}
    await die_and_run_again(bench, rules, items("[[judge:8,9,7]] a"), place, k)
    assert check_books(bench) == {"i0": "succeeded"}
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as db:
        best = db.execute("SELECT sha256 FROM verdict WHERE by = 'judge' AND score = 9").fetchone()
    assert bench.pictures() == {"i0.jpg": best[0]}
    assert 3 <= await images_served(bench) <= 3 + uncertain(bench)


async def images_served(bench: Bench) -> int:
    return sum(len(found) for found in (await bench.served()).values())


def uncertain(bench: Bench) -> int:
    """Images that the emulator may have made for a request that the kill cut off, and that are counted so."""
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as db:
        sql = "SELECT count(*) FROM attempt WHERE item_id NOT LIKE '% (judge)' AND outcome = 'uncertain'"
        return int(db.execute(sql).fetchone()[0])


async def test_what_the_judge_said_goes_into_the_next_prompt_after_a_crash_too(bench):
    rules = {"judge": {**JUDGE, "again": 1, "feedback": True}}
    await die_and_run_again(bench, rules, items("[[judge:3,8]] a"), f"{EFFECTS}._set_aside!", 1)
    assert check_books(bench) == {"i0": "succeeded"}
    assert any("The emulated judge gives 3 of 10" in prompt for prompt in await bench.served())
