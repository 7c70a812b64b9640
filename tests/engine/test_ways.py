"""A run that has a time to be done by: each request goes the cheapest way that is in time, and nothing is bought twice for it."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import batchgen
from batchgen.emulator import serve
from batchgen.engine import ways
from batchgen.errors import UsageError
from batchgen.events import AttemptStarted, Notice
from batchgen.planning.ways import Basis, Latency, Obstacle
from tests.support.batch_bench import MUGS, BatchBench, quick
from tests.support.bench import HEAD, items
from tests.support.postgres import both_ledgers

HOUR_S, DAY_S = 3600.0, 86400.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    async with await serve(quick()) as emulator:
        yield BatchBench(emulator.base_url, tmp_path)


def in_s(seconds: float) -> float:
    return time.time() + seconds


def sent(bench: BatchBench) -> Counter[str]:
    """How many requests went which way, by what the ledger has of them."""
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        rows = ledger.execute(
            "SELECT CASE WHEN chunk IS NOT NULL THEN 'batch' ELSE coalesce(usage ->> 'tier', '') END,"
            " substr(lane, instr(lane, '/') + 1) FROM attempt WHERE outcome = 'succeeded'"
        ).fetchall()
    ledger.close()
    return Counter(way for way, _ in rows)


def plan(bench: BatchBench, text: str, head: str = HEAD, **options: object) -> batchgen.Plan:
    job = batchgen.load(bench.manifest(text, head), output=bench.folder / "out", emulate=True, environ={})
    return batchgen.plan(job, options=batchgen.RunOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "way", "factor"), [(DAY_S, "batch", 0.5), (2 * HOUR_S, "flex", 0.5), (600.0, "standard", 1.0)]
)
async def test_it_goes_the_cheapest_way_that_is_in_time(bench, seconds, way, factor):
    outcome = await bench.run(items(*MUGS), by=in_s(seconds))
    assert (outcome.exit_code, outcome.made, sent(bench)) == (0, 12, {way: 12})
    words = {"batch": "by batch", "flex": "by flex", "standard": "online"}[way]
    assert f"the cheapest in time: 12 image(s) {words}" in [
        event.message for event in bench.events if isinstance(event, Notice)
    ]
    assert outcome.usd + outcome.estimated_usd == pytest.approx(12 * 0.039 * factor, rel=0.15)


@both_ledgers
async def test_a_batch_is_taken_for_less_time_once_batches_were_measured(bench):
    for n in range(3):
        assert plan(bench, items(*MUGS), by=in_s(300.0)).ways.totals()[0].kind == "online"
        await bench.submit(items(MUGS[n]), engine="batch")
    (total,) = plan(bench, items(*MUGS), by=in_s(300.0), **fresh()).ways.totals()
    assert (total.kind, total.images, total.passed) == ("batch", 12, ())
    assert total.latency.basis is Basis.MEASURED and 0 < total.latency.seconds < 60 and total.latency.measured == 3


@both_ledgers
async def test_answers_that_were_measured_say_how_long_one_takes(bench):
    (before,) = plan(bench, items(*MUGS), by=in_s(600.0)).ways.totals()
    await bench.run(items(*MUGS[:6]))
    (after,) = plan(bench, items(*MUGS), by=in_s(600.0), ledger=bench.ledger, **fresh()).ways.totals()
    assert (before.latency, before.passed[0][2]) == (Latency(15.0, Basis.DOCUMENTED), Obstacle.SLOW)
    assert after.latency.basis is Basis.MEASURED and after.latency.measured == 6 and after.latency.seconds < 10


def fresh() -> dict[str, object]:
    return {"retry_selection": batchgen.RetrySelection(fresh=True)}


async def test_a_latency_that_nobody_knows_is_called_a_guess_and_a_price_unknown(bench):
    head = "defaults: {model: gemini-9-new-image}\nitems:\n"
    (total,) = plan(bench, items("a fox"), head, by=in_s(600.0)).ways.totals()
    assert (total.kind, total.latency.basis, total.usd, total.unpriced) == ("online", Basis.GUESS, 0.0, 1)


async def test_what_the_model_has_no_room_for_goes_to_the_fallback_that_the_item_names(bench):
    head = (
        "defaults: {model: pro, fallback: [flash]}\nmodels: {gemini-3-pro-image: {rpd: 4}}\n"
        "limits: {concurrency: 8}\nitems:\n"
    )
    outcome = await bench.run(items(*MUGS), head, by=in_s(600.0))
    assert (outcome.exit_code, outcome.made) == (0, 12)
    models = Counter(event.model for event in bench.events if isinstance(event, AttemptStarted))
    assert models == {"gemini-3-pro-image": 4, "gemini-nano-banana-2.1": 8}


async def test_a_cheaper_fallback_is_left_alone_unless_the_item_lets_the_price_decide(bench):
    head = "defaults: {model: pro, fallback: [flash]%s}\nitems:\n"
    models = [
        [total.lane for total in plan(bench, items("a fox"), head % more, by=in_s(600.0)).ways.totals()]
        for more in ("", ", fallback_on: [price]")
    ]
    assert models == [["gemini/gemini-3-pro-image"], ["gemini/gemini-nano-banana-2.1"]]


async def test_a_fallback_that_the_price_chose_is_made_by_batch_too_and_kept(bench):
    head = "defaults: {model: pro, fallback: [flash], fallback_on: [price]}\nlimits: {concurrency: 8}\nitems:\n"
    outcome = await bench.run(items("a", "b"), head, by=in_s(DAY_S))
    assert (outcome.exit_code, outcome.made, sent(bench)) == (0, 2, {"batch": 2})
    assert outcome.usd == pytest.approx(2 * 0.039 / 2, rel=0.15)
    again = await bench.run(items("a", "b"), head)
    assert (again.exit_code, again.kept, again.made) == (0, 2, 0)


async def test_the_tier_that_an_item_names_is_kept(bench):
    head = "defaults: {model: flash, service_tier: %s}\nitems:\n"
    (total,) = plan(bench, items("a fox"), head % "flex", by=in_s(600.0)).ways.totals()
    assert (total.kind, total.late, total.latency.seconds) == ("online", True, 900.0)
    for tier in ("standard", "priority"):
        (total,) = plan(bench, items("a fox"), head % tier, by=in_s(2 * HOUR_S)).ways.totals()
        assert (total.kind, total.usd > 0.03) == ("online", True)


async def test_turns_wait_for_one_another_and_each_has_its_share_of_the_time(bench):
    turns = "  - {id: room, turns: [A room, Calmer, With a dog]}\n"
    ways_at = {
        hours: [(total.kind, total.images) for total in plan(bench, turns, by=in_s(hours * HOUR_S)).ways.totals()]
        for hours in (0.5, 1, 30, 80)
    }
    assert ways_at == {0.5: [("online", 3)], 1: [("flex", 3)], 30: [("flex", 3)], 80: [("batch", 1), ("flex", 2)]}
    outcome = await bench.run(turns, by=in_s(HOUR_S))
    assert (outcome.exit_code, sent(bench)) == (0, {"flex": 3})


async def test_flex_that_would_be_late_by_now_is_asked_for_at_standard_and_said(bench, monkeypatch):
    monkeypatch.setattr(ways, "FLEX_AIM", Latency(601.0, Basis.DOCUMENTED))
    by = in_s(600.0)  # a moment of grace when it is chosen, none when it is sent
    assert plan(bench, items("a"), by=by).ways.totals()[0].kind == "flex"
    await bench.run(items("a"), by=by)
    assert sent(bench) == {"standard": 1}
    said = [event.sent_as for event in bench.events if isinstance(event, AttemptStarted)]
    assert said == ["service tier standard, for flex would be late"]


async def test_flex_is_left_with_a_fallback_that_has_none(bench):
    head = "defaults: {model: flash, fallback: [aiml-flash], fallback_on: [refusal]}\nitems:\n"
    await bench.run(items("x [[fault:safety]]"), head, by=in_s(2 * HOUR_S))
    said = [(event.model, event.sent_as) for event in bench.events if isinstance(event, AttemptStarted)]
    assert said[0] == ("gemini-nano-banana-2.1", "")
    assert said[1][0].startswith("google/") and said[1][1] == "service tier standard, for flex is not offered"


async def test_what_no_batch_takes_in_time_goes_online(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "BATCH_AIM", Latency(100.0, Basis.DOCUMENTED))
    monkeypatch.setattr(ways, "SUBMIT_GRACE_S", 0.0)
    async with await serve(quick(enqueued_tokens=1)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.run(items("a", "b"), by=in_s(100.5))
    assert (outcome.exit_code, outcome.made, sent(bench)) == (0, 2, {"standard": 2})
    assert any(
        "go online: a batch would be late" in event.message for event in bench.events if isinstance(event, Notice)
    )


async def test_a_batch_that_is_late_is_waited_for_and_not_bought_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "BATCH_AIM", Latency(0.05, Basis.DOCUMENTED))
    async with await serve(quick(running_s=60.0)) as emulator:
        bench = BatchBench(emulator.base_url, tmp_path)
        outcome = await bench.run(items("a", "b"), by=in_s(1.2))
        assert (outcome.exit_code, outcome.stopped_by, outcome.submitted) == (7, "deadline", 2)
        assert (await bench.requests(), (await bench.stats())["batches_created"]) == (0, 1)


async def test_what_the_budget_has_no_room_for_is_not_begun(bench):
    outcome = await bench.run(items(*MUGS), by=in_s(600.0), max_usd=0.2, concurrency=1)
    assert (outcome.exit_code, outcome.stopped_by) == (6, "budget")
    assert 0 < outcome.made < 6 and outcome.usd <= 0.2 and outcome.left == 12 - outcome.made


async def test_an_engine_that_leaves_nothing_to_choose_is_refused(bench):
    with pytest.raises(UsageError, match="leave --engine batch out"):
        await bench.submit(items("a"), engine="batch", by=in_s(600.0))


def test_python_takes_a_datetime(tmp_path):
    job = batchgen.load(["a fox"], name="fox", output=tmp_path / "fox", emulate=True, environ={})
    by = datetime.fromtimestamp(in_s(2 * DAY_S), UTC)
    (total,) = batchgen.plan(job, by=by).ways.totals()
    assert (total.kind, batchgen.plan(job).ways) == ("batch", None)
