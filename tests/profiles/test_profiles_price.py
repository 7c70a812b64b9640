"""Costs: estimated from the table, computed from usage, or unknown; never 0 for want of knowing."""

from __future__ import annotations

import pytest

from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.price import cost_usd, estimate_usd, lost_usd
from batchgen.records import Usage

PRO = load_catalogue().resolve("pro")
STRANGER = load_catalogue().resolve("gemini-9-image")
RECORDED = Usage(prompt_tokens=14, image_tokens=1120, text_tokens=163, thought_tokens=174, total_tokens=1471)


def test_an_estimate_multiplies_the_price_of_the_size():
    assert estimate_usd(PRO, "4K", 3) == pytest.approx(0.72)


def test_no_size_is_estimated_at_the_default_size():
    assert estimate_usd(PRO, None) == 0.134


def test_an_unknown_price_is_none():
    assert estimate_usd(STRANGER, "1K") is None


def test_a_size_without_a_price_is_none():
    assert estimate_usd(PRO, "8K") is None


def test_a_batch_costs_its_share():
    assert estimate_usd(PRO, "1K", batch=True) == pytest.approx(0.067)


def test_a_batch_price_is_unknown_where_no_share_is_known():
    assert estimate_usd(load_catalogue().resolve("imagen"), "1K", batch=True) is None


def test_tokens_are_billed_each_at_its_own_rate():
    usd, _ = cost_usd(PRO, RECORDED, "1K", 1)
    assert usd == pytest.approx((1120 * 120 + (163 + 174) * 12 + 14 * 2) / 1e6)


def test_a_cost_from_tokens_says_so():
    assert cost_usd(PRO, RECORDED, "1K", 1)[1] == "usage"


def test_the_vendors_own_figure_comes_first():
    assert cost_usd(PRO, Usage(usd=0.5, image_tokens=9), "1K", 1) == (0.5, "vendor")


def test_a_picture_without_its_token_count_is_estimated():
    usage = Usage(prompt_tokens=10, text_tokens=1290, total_tokens=1300)
    assert cost_usd(PRO, usage, "1K", 1) == (0.134, "estimate")


def test_an_answer_in_words_is_billed_as_text():
    assert cost_usd(PRO, Usage(text_tokens=1_000_000), "1K", 0) == (12, "usage")


def test_no_usage_is_estimated():
    assert cost_usd(PRO, None, "2K", 2) == (0.268, "estimate")


def test_credits_alone_do_not_make_a_price():
    aiml = load_catalogue().resolve("aiml-pro")
    assert cost_usd(aiml, Usage(credits=84000), "1K", 1) == (None, "unknown")


def test_a_rate_that_is_needed_and_unknown_leads_to_the_estimate():
    nano_banana = load_catalogue().resolve("nano-banana")
    assert cost_usd(nano_banana, RECORDED, "1K", 1) == (0.039, "estimate")


def test_nothing_known_at_all_is_none():
    assert cost_usd(STRANGER, RECORDED, "1K", 1) == (None, "unknown")


@pytest.mark.parametrize(("tier", "factor"), [("flex", 0.5), ("priority", 1.8), ("standard", 1.0), (None, 1.0)])
def test_a_service_tier_has_its_share_of_the_price(tier, factor):
    assert estimate_usd(PRO, "1K", tier=tier) == pytest.approx(0.134 * factor)
    full, _ = cost_usd(PRO, RECORDED, "1K", 1)
    assert cost_usd(PRO, RECORDED, "1K", 1, tier=tier) == (pytest.approx(full * factor), "usage")
    assert lost_usd(PRO, Usage(text_tokens=1_000_000), 0, tier=tier) == (pytest.approx(12 * factor), "usage")


def test_the_tier_that_served_counts_and_not_the_one_that_was_asked_for():
    served = Usage(image_tokens=1_000_000, tier="standard")
    assert cost_usd(PRO, served, "1K", 1, tier="priority") == (120, "usage")


def test_a_tier_without_a_known_share_has_no_known_price():
    assert estimate_usd(load_catalogue().resolve("imagen"), "1K", tier="flex") is None


def test_a_manifest_may_give_a_tier_another_share():
    changed = load_catalogue().with_overrides({"pro": {"prices": {"tier_factor": {"priority": 2}}}}).resolve("pro")
    assert changed.prices.tier_factor == {"flex": 0.5, "priority": 2.0}
