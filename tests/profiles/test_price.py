"""Costs: estimated from what a request carries, computed from usage, or unknown; never 0 for want of knowing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.price import (
    cost_usd,
    cost_without_picture_usd,
    estimate_question_usd,
    estimate_usd,
    price_is_guess,
)
from batchgen.profiles.profile import Prices, Profile
from batchgen.records import Item, Question, ReferenceImage, Sample, Usage

FLASH, PRO = load_catalogue().resolve("flash"), load_catalogue().resolve("pro")
STRANGER = load_catalogue().resolve("gemini-9-image")
RECORDED = Usage(prompt_tokens=14, image_tokens=1120, text_tokens=163, thought_tokens=174, total_tokens=1471)
BY_THE_PICTURE = Profile(id="m", provider="acme", prices=Prices(image_usd={"1K": 0.05}, batch_factor=0.5))


def sample(images: int = 1, **facts: object) -> Sample:
    fields = {"id": "a", "prompt": "a fox!!!", "model": "m", "provider": "gemini", "filename": "a", **facts}
    return Sample(item=Item(**fields), n=1, fingerprint="f", wire="{}", images=images)  # type: ignore[arg-type]


def more(profile: Profile, **facts: object) -> float:
    """US dollars that a request with these fields costs more than one without."""
    with_it, without = estimate_usd(profile, sample(**facts)), estimate_usd(profile, sample())
    assert with_it is not None and without is not None
    return with_it - without


def test_a_model_that_is_priced_by_the_picture_costs_its_pictures_and_nothing_else():
    asked = sample(3, references=("a.png",), thinking="high", search="web", system="Be brief.")
    assert estimate_usd(BY_THE_PICTURE, asked) == pytest.approx(0.15)


def test_an_estimate_is_the_pictures_price_with_prompt_thoughts_and_hidden_text():
    assert estimate_usd(FLASH, sample()) == pytest.approx(0.0336 + (2 * 1.5 + (335 + 350) * 7.5) / 1e6)


def test_4k_of_the_default_model_is_estimated_at_3780_tokens():
    assert more(FLASH, image_size="4K") == pytest.approx(0.1134 - 0.0336)


@pytest.mark.parametrize(("profile", "each"), [(FLASH, 0.00168), (PRO, 0.00112)], ids=["flash", "pro"])
def test_each_reference_picture_is_input(profile, each):
    assert more(profile, references=("a.png", "@b", "https://c.example/d.png")) == pytest.approx(3 * each)


def test_references_that_are_looked_at_coarsely_cost_less():
    facts = {"references": ("a.png",), "media_resolution": "low"}
    assert more(FLASH, **facts) == pytest.approx(280 * 1.5 / 1e6)


def test_a_later_turn_sends_back_the_pictures_and_prompts_of_those_before_it():
    assert more(FLASH, turn=3, history=("x" * 400, "y" * 400)) == pytest.approx((2 * 1120 + 200) * 1.5 / 1e6)


def test_a_turn_that_was_asked_for_text_sends_that_back_too():
    facts = {"turn": 2, "history": ("",)}
    assert more(FLASH, **facts, modalities=("text", "image")) > more(FLASH, **facts)


def test_thinking_harder_costs_more_and_hardly_at_all_less():
    assert more(FLASH, thinking="minimal") < 0 < more(FLASH, thinking="high")


def test_a_search_costs_its_queries_in_a_batch_as_well():
    assert more(FLASH, search="web") == pytest.approx(2 * 0.014)
    by_batch = estimate_usd(FLASH, sample(search="web"), batch=True), estimate_usd(FLASH, sample(), batch=True)
    assert by_batch[0] - by_batch[1] == pytest.approx(2 * 0.014)


def test_a_long_prompt_costs_a_token_for_four_characters():
    assert more(PRO, prompt="a fox!!!" + "x" * 4000) == pytest.approx(1000 * 2 / 1e6)


def test_an_unknown_price_is_none():
    assert estimate_usd(STRANGER, sample()) is None


def test_a_size_without_a_price_is_none():
    assert estimate_usd(PRO, sample(image_size="8K")) is None


def test_a_batch_costs_its_share():
    assert estimate_usd(PRO, sample(), batch=True) == pytest.approx(estimate_usd(PRO, sample()) / 2)


def test_a_batch_price_is_unknown_where_no_share_is_known():
    assert estimate_usd(load_catalogue().resolve("imagen"), sample(), batch=True) is None


def test_tokens_are_billed_each_at_its_own_rate():
    usd, _ = cost_usd(PRO, RECORDED, 1, None)
    assert usd == pytest.approx((1120 * 120 + (163 + 174) * 12 + 14 * 2) / 1e6)


def test_a_cost_from_tokens_says_so():
    assert cost_usd(PRO, RECORDED, 1, 0.2)[1] == "usage"


def test_searches_that_the_answer_tells_of_are_billed_at_the_full_price():
    plain, _ = cost_usd(PRO, RECORDED, 1, None)
    searched = replace(RECORDED, queries=3)
    assert cost_usd(PRO, searched, 1, None) == (pytest.approx(plain + 3 * 0.014), "usage")
    assert cost_usd(PRO, searched, 1, None, batch=True) == (pytest.approx(plain / 2 + 3 * 0.014), "usage")


def test_searches_without_a_price_lead_to_the_estimate():
    unpriced = replace(PRO, prices=replace(PRO.prices, search_usd_per_1000=None))
    assert cost_usd(unpriced, replace(RECORDED, queries=1), 1, 0.2) == (0.2, "estimate")


def test_the_vendors_own_figure_comes_first():
    assert cost_usd(PRO, Usage(usd=0.5, image_tokens=9), 1, 0.2) == (0.5, "vendor")


def test_a_picture_without_its_token_count_costs_what_it_was_estimated_at():
    usage = Usage(prompt_tokens=10, text_tokens=1290, total_tokens=1300)
    assert cost_usd(PRO, usage, 1, 0.134) == (0.134, "estimate")


def test_an_answer_in_words_is_billed_as_text():
    assert cost_usd(PRO, Usage(text_tokens=1_000_000), 0, None) == (12, "usage")


def test_no_usage_is_estimated():
    assert cost_usd(PRO, None, 2, 0.268) == (0.268, "estimate")


def test_credits_alone_do_not_make_a_price():
    aiml = load_catalogue().resolve("aiml-pro")
    assert cost_usd(aiml, Usage(credits=84000), 1, None) == (None, "unknown")


def test_a_rate_that_is_needed_and_unknown_leads_to_the_estimate():
    nameless = replace(PRO, prices=replace(PRO.prices, text_usd_per_mtok=None))
    assert cost_usd(nameless, RECORDED, 1, 0.134) == (0.134, "estimate")


def test_nano_banana_bills_text_by_the_token():
    nano_banana = load_catalogue().resolve("nano-banana")
    usage = Usage(prompt_tokens=1_000_000, image_tokens=1290, text_tokens=1_000_000)
    assert cost_usd(nano_banana, usage, 1, None) == (pytest.approx(0.30 + 2.50 + 0.0387), "usage")


def test_nothing_known_at_all_is_none():
    assert cost_usd(STRANGER, RECORDED, 1, None) == (None, "unknown")


@pytest.mark.parametrize(("tier", "factor"), [("flex", 0.5), ("priority", 1.8), ("standard", 1.0), (None, 1.0)])
def test_a_service_tier_has_its_share_of_the_price(tier, factor):
    asked, full = sample(service_tier=tier), cost_usd(PRO, RECORDED, 1, None)[0]
    assert estimate_usd(PRO, asked) == pytest.approx(estimate_usd(PRO, sample()) * factor)
    assert cost_usd(PRO, RECORDED, 1, None, tier=tier) == (pytest.approx(full * factor), "usage")
    assert cost_without_picture_usd(PRO, Usage(text_tokens=1_000_000), 0, tier=tier) == (
        pytest.approx(12 * factor),
        "usage",
    )


def test_the_tier_that_served_counts_and_not_the_one_that_was_asked_for():
    served = Usage(image_tokens=1_000_000, tier="standard")
    assert cost_usd(PRO, served, 1, None, tier="priority") == (120, "usage")


def test_a_tier_without_a_known_share_has_no_known_price():
    assert estimate_usd(load_catalogue().resolve("imagen"), sample(service_tier="flex")) is None


def test_a_manifest_may_give_a_tier_another_share():
    changed = load_catalogue().with_overrides({"pro": {"prices": {"tier_factor": {"priority": 2}}}}).resolve("pro")
    assert changed.prices.tier_factor == {"flex": 0.5, "priority": 2.0}


def test_a_tier_whose_share_nobody_has_published_gives_a_guess():
    served = Usage(image_tokens=1_000_000, tier="flex")
    assert cost_usd(FLASH, served, 1, None) == (15, "guess")
    assert cost_without_picture_usd(FLASH, Usage(text_tokens=1_000_000), 0, tier="flex")[1] == "guess"
    assert cost_usd(FLASH, None, 1, 0.02, tier="flex") == (0.02, "guess")


def test_a_standard_answer_to_a_request_for_such_a_tier_is_no_guess():
    assert cost_usd(FLASH, Usage(image_tokens=1_000_000, tier="standard"), 1, None, tier="flex") == (30, "usage")


@pytest.mark.parametrize(
    ("model", "guessed"),
    [("flash", True), ("lite", True), ("nano-banana-2", True), ("pro", False), ("nano-banana", False)],
)
def test_the_models_whose_tiers_are_priced_by_a_guess_say_so(model, guessed):
    assert {price_is_guess(load_catalogue().resolve(model), tier) for tier in ("flex", "priority")} == {guessed}


def test_a_share_that_a_manifest_gives_is_no_guess():
    changed = load_catalogue().with_overrides({"flash": {"prices": {"tier_factor": {"flex": 0.6}}}}).resolve("flash")
    assert (price_is_guess(changed, "flex"), price_is_guess(changed, "priority")) == (False, True)


@pytest.mark.parametrize(("quality", "factor"), [(None, 1), ("auto", 1), ("low", 0.112), ("max", 4)])
def test_a_quality_has_its_share_of_the_images_price(quality, factor):
    profile = load_catalogue().resolve("gpt-image-2.6")
    image, text = 0.0527, 2 * 5 / 1e6
    assert estimate_usd(profile, sample(quality=quality)) == pytest.approx(image * factor + text)


def test_a_quality_without_a_known_share_has_no_known_price():
    assert estimate_usd(load_catalogue().resolve("gpt-image-2"), sample(quality="max")) is None


JUDGE = load_catalogue().resolve("gemini-3.1-flash-lite")
QUESTION = Question(model=JUDGE.id, text="x" * 4000, images=(ReferenceImage("image/png"),))


def test_a_judgement_is_estimated_by_its_text_its_image_and_a_typical_answer():
    assert estimate_question_usd(JUDGE, QUESTION) == pytest.approx(((1000 + 1120) * 0.25 + 60 * 1.5) / 1e6)


def test_images_with_a_rate_of_their_own_are_counted_by_it():
    prices = Prices(input_usd_per_mtok=1, input_image_usd_per_mtok=10, text_usd_per_mtok=0)
    assert estimate_question_usd(replace(JUDGE, prices=prices), QUESTION) == pytest.approx((1000 + 11200) / 1e6)


@pytest.mark.parametrize("rate", ["input_usd_per_mtok", "text_usd_per_mtok"])
def test_a_judgement_whose_rates_are_not_known_has_no_known_price(rate):
    unknown = replace(JUDGE, prices=replace(JUDGE.prices, **{rate: None}))
    assert estimate_question_usd(unknown, QUESTION) is None
    assert cost_usd(unknown, Usage(prompt_tokens=9, text_tokens=9), 0, None) == (None, "unknown")


def test_a_judgement_costs_what_its_answer_says_was_used():
    usage = Usage(prompt_tokens=1400, text_tokens=20, thought_tokens=80)
    assert cost_usd(JUDGE, usage, 0, 0.5) == (pytest.approx((1400 * 0.25 + 100 * 1.5) / 1e6), "usage")
    assert cost_usd(JUDGE, None, 0, 0.5) == (0.5, "estimate")
