"""Service tiers: asked for as wished, once more at standard when refused, and paid for as served."""

from __future__ import annotations

import sqlite3

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.errors import BadRequest, RateLimited, ServerFault, ServerFaultMaybeBilled
from batchgen.events import AttemptFailed, AttemptStarted
from batchgen.providers.server_faults import tier_refusal
from tests.support.bench import Bench, items
from tests.support.samples import FLASH_USD

STANDARD_USD = FLASH_USD


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.scheduling.retry.backoff_s", lambda *_: 0.01)


def head(tier: str) -> str:
    return f"defaults: {{model: flash, service_tier: {tier}}}\nitems:\n"


async def run_with(tmp_path, tiers, tier="flex", prompts=("a",), latency_s=(0.0, 0.02), **options):
    """The job against an emulator whose tiers meet this. Answers the bench, the outcome and the requests."""
    async with await serve(EmulatorOptions(latency_s=latency_s, picture="tiny", rpm=0, tiers=tiers)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        outcome = await bench.run(items(*prompts), head(tier), **options)
        return bench, outcome, await bench.requests()


def column(bench, name):
    with sqlite3.connect(bench.folder / "out" / ".batchgen" / "ledger.sqlite") as ledger:
        rows = [value for (value,) in ledger.execute(f"SELECT {name} FROM attempt ORDER BY id")]
    ledger.close()
    return rows


@pytest.mark.parametrize(("tier", "factor"), [("flex", 0.5), ("standard", 1.0), ("priority", 1.8)])
async def test_a_tier_that_serves_is_paid_for_at_its_price(tmp_path, tier, factor):
    _, outcome, requests = await run_with(tmp_path, {}, tier)
    assert (outcome.exit_code, requests) == (0, 1)
    assert outcome.forecast.usd == pytest.approx(STANDARD_USD * factor, rel=1e-3)
    assert outcome.usd + outcome.estimated_usd == pytest.approx(STANDARD_USD * factor, rel=0.15)


@pytest.mark.parametrize(("model", "guessed"), [("flash", True), ("pro", False)])
async def test_what_a_tier_cost_is_charged_only_where_its_price_is_published(tmp_path, model, guessed):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        head = f"defaults: {{model: {model}, service_tier: flex}}\nitems:\n"
        outcome = await Bench(emulator.base_url, tmp_path).run(items("a fox"), head)
    assert (outcome.usd == 0, outcome.estimated_usd > 0) == (guessed, guessed)


async def test_a_request_that_was_served_at_standard_is_paid_for_at_standard(tmp_path):
    _, outcome, requests = await run_with(tmp_path, {"priority": 200}, "priority")
    assert requests == 1
    assert outcome.usd < STANDARD_USD * 1.3


@pytest.mark.parametrize("status", [400, 429, 503])
async def test_a_refused_tier_is_asked_for_once_more_at_standard_and_said(tmp_path, status):
    bench, outcome, requests = await run_with(tmp_path, {"flex": status})
    assert (outcome.exit_code, outcome.made, requests) == (0, 1, 2)
    assert outcome.usd == pytest.approx(STANDARD_USD, rel=0.15)
    (failed,) = [event for event in bench.events if isinstance(event, AttemptFailed)]
    assert failed.reason == "tier_refused" and "flex was refused" in failed.message
    assert (
        [event.sent_as for event in bench.events if isinstance(event, AttemptStarted)]
        == column(bench, "coalesce(sent_as, '')")
        == ["", "service tier standard, for flex was refused"]
    )


async def test_a_tier_that_the_key_does_not_have_is_asked_for_once_in_a_run(tmp_path):
    _, outcome, requests = await run_with(tmp_path, {"flex": 400}, prompts=("a", "b", "c", "d"), concurrency=1)
    assert (outcome.made, requests) == (4, 5)


async def test_requests_in_flight_while_a_tier_turns_out_to_be_gone_are_all_asked_again(tmp_path):
    _, outcome, requests = await run_with(tmp_path, {"flex": 400}, prompts="abcdef", concurrency=6)
    assert (outcome.exit_code, outcome.made) == (0, 6)
    assert requests <= 12


async def test_a_budget_is_not_overshot_by_what_is_asked_for_again_at_standard(tmp_path):
    options = {"latency_s": (0.2, 0.2), "max_usd": 0.15, "concurrency": 8}  # all that there is room for, at once
    _, outcome, _ = await run_with(tmp_path, {"flex": 503}, prompts="abcdefgh", **options)
    assert (outcome.exit_code, outcome.stopped_by) == (6, "budget")
    assert 0 < outcome.usd <= 0.15


async def test_an_unanswered_request_may_have_cost_what_its_tier_does(tmp_path):
    _, outcome, _ = await run_with(tmp_path, {}, prompts=["[[fault:reset]] x"], hold_uncertain=True)
    assert outcome.maybe_usd == pytest.approx(STANDARD_USD / 2, rel=1e-3)


async def test_another_tier_makes_no_picture_stale(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items("a"), head("flex"))
        outcome = await bench.run(items("a", "b"), head("priority"))
        assert (outcome.kept, outcome.made, await bench.requests()) == (1, 1, 2)


def test_what_may_have_been_billed_or_names_a_quota_is_no_refused_tier():
    limited = RateLimited("slow down", retry_after_s=3.0)
    for error in (ServerFaultMaybeBilled("x", reason="deadline"), limited, BadRequest("bad ratio"), ServerFault("x")):
        assert tier_refusal(error, "flex") is None


def test_without_a_tier_of_its_own_nothing_is_a_refused_tier():
    for tier in (None, "standard"):
        assert tier_refusal(ServerFault("x", reason="overloaded"), tier) is None
