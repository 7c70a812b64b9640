"""What is said of accepted images and of what each has cost, and variants side by side."""

from __future__ import annotations

import pytest

from batchgen.ledger.acceptance import Acceptance, Rejection
from batchgen.ledger.requests import Money
from batchgen.report.acceptance import (
    NO_TAG,
    AcceptanceView,
    acceptance_fields,
    acceptance_text,
    compare,
    comparison_rows,
    conclusion,
    wilson_interval,
)


def text(accepted: int, rejected: int = 0, *reasons: str, seconds: float = 60.0, **money: float) -> str:
    rejections = [Rejection(f"i{number}", 1, "m", "", reason, "") for number, reason in enumerate(reasons)]
    found = Acceptance(accepted, rejected, Money(**money), seconds)
    return acceptance_text(AcceptanceView(**acceptance_fields(found, rejections)), emulated=False)


def test_the_line_says_how_many_what_each_has_cost_and_why_others_do_not_count():
    assert text(40, spent=2.0) == "40 of 40 images; $0.05 and 1.5 s per accepted image"
    reasons = ["text"] * 6 + ["person"] * 3 + ["judge"]
    assert text(30, 10, *reasons, spent=3.0, seconds=3600.0) == (
        "30 of 40 images; $0.10 and 2 min per accepted image; of 10 rejected 6 for text, 3 by people, 1 by the judge"
    )
    assert text(0, 1, "", spent=1.0) == "0 of 1 image; of 1 rejected 1 for no reason given"
    assert text(0) == ""
    more = text(1, 6, *"abcdef")
    assert more.endswith("of 6 rejected 1 for a, 1 for b, 1 for c, 1 for d, 1 for e, …")


@pytest.mark.parametrize(
    ("money", "words"),
    [
        ({"spent": 1.0, "estimated": 1.0}, "$1.00 (estimated) and"),
        ({"spent": 2.0, "unknown": 3}, "at least $1.00 and"),
        ({"spent": 1.0, "estimated": 1.0, "maybe": 0.1, "maybe_requests": 1}, "at least $1.00 (estimated) and"),
        ({"unknown": 1}, "an unknown amount and"),
        ({"maybe_requests": 1, "maybe_unknown": 1}, "an unknown amount and"),
        ({}, "$0.00 and"),
    ],
)
def test_an_estimate_is_called_one_and_what_has_no_price_is_never_nothing(money, words):
    assert words in text(2, **money)


def test_what_is_emulated_is_called_so():
    found = AcceptanceView(**acceptance_fields(Acceptance(1, 0, Money(spent=1.0), 1.0)))
    assert "$1.00 (emulated) and" in acceptance_text(found, emulated=True)


# --- variants


@pytest.mark.parametrize(
    ("accepted", "images", "low", "high"),
    # Source: epitools.ausvet.io, Wilson, 95 %.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (15, 20, 0.5313, 0.8881), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilsons(accepted, images, low, high):
    assert wilson_interval(accepted, images) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def variants(*found: tuple[str, int, int], by: str = "style"):
    sums = {("m", f"{by}={name}"): Acceptance(yes, no, Money(spent=1.0), 60.0) for name, yes, no in found}
    return compare(sums, [], by)


def test_few_images_are_too_few_to_tell_and_many_are_not():
    few = variants(("ink", 6, 4), ("oil", 9, 1))
    assert [(each.variant, each.overlaps_best) for each in few] == [("oil", False), ("ink", True)]
    assert conclusion(few) == "too few to tell: the interval of oil overlaps that of ink"
    many = variants(("ink", 60, 40), ("oil", 90, 10), ("pen", 88, 12))
    assert [(each.variant, each.overlaps_best) for each in many] == [("oil", False), ("pen", True), ("ink", False)]
    assert conclusion(many) == "oil is accepted more often than ink; too few to tell it from pen"
    assert conclusion(variants(("ink", 1, 0))) == conclusion([]) == ""
    assert conclusion(variants(("ink", 0, 0), ("oil", 9, 1))) == ""  # one that has no image yet
    assert comparison_rows(variants(("ink", 0, 0))) == [("ink", "0", "0", "-", "-", "-", "-")]
    assert comparison_rows(few)[1] == ("ink", "10", "6", "60%", "31% to 83%", "$0.167", "0.17")


def test_an_item_counts_for_each_of_its_tags_and_a_variable_is_what_tags_name():
    found = {
        ("pro", "shop,style=ink"): Acceptance(1, 1, Money(spent=3.0)),
        ("flash", "shop,style=oil"): Acceptance(2, 0, Money(spent=1.0)),
        ("flash", ""): Acceptance(1, 0),
    }
    why = [Rejection("a", 1, "pro", "shop,style=ink", "text", "")]
    by_tag = {each.variant: each for each in compare(found, why, "tag")}
    assert {name: each.accepted for name, each in by_tag.items()} == {
        "shop": 3,
        "style=ink": 1,
        "style=oil": 2,
        NO_TAG: 1,
    }
    assert (by_tag["shop"].usd_per_accepted, by_tag["shop"].rejected_for) == (pytest.approx(4 / 3), {"text": 1})
    assert [(each.variant, each.images) for each in compare(found, why, "model")] == [("flash", 3), ("pro", 2)]
    assert [each.variant for each in compare(found, why, "style")] == ["oil", "ink"]
    assert compare(found, why, "colour") == []
