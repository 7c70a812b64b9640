"""Planning: what happens to a sample and why, what a run asks for, and which limit binds. Pure."""

from __future__ import annotations

import pytest

from batchgen.manifest import json_schema
from batchgen.planning.plan import (
    LaneLoad,
    RetrySelection,
    choose_action,
    disk_space_problem,
    expected_bytes,
    forecast,
    group_into_requests,
    is_selected,
    quota_wait_s,
)
from batchgen.planning.reason import reason_text
from batchgen.records import KnownSample, Sample
from tests.support.samples import make_sample


def known(
    state: str, *, made: str | None = "now", fingerprint: str = "now", reason: str = "", attempts: int = 1
) -> KnownSample:
    return KnownSample(1, state, fingerprint, "a.png", 9, made, reason, attempts)


def verdict(
    entry: KnownSample | None, retry_selection: RetrySelection | None = None, *, there: bool = True
) -> tuple[str, str]:
    action, reason = choose_action(
        entry, "now", retry_selection or RetrySelection(), lambda _path, _size: there, lambda: ["prompt", "seed"]
    )
    return action, reason_text(reason)


FAILED = known("failed", made=None, reason="overloaded")
REFUSED = known("refused", made=None, reason="safety")
BUYS = "retry --failed buys it again"
BEHIND = f"paid for: every run tries its link again, {BUYS}"
UNCERTAIN = known("uncertain", made=None, reason="timeout")
REJECTED = known("rejected", reason="person")
KEPT = "its image is kept: accept it, change the prompt, or retry --rejected"


@pytest.mark.parametrize(
    ("entry", "there", "answer"),
    [
        (None, True, ("generate", "new")),
        (known("succeeded"), True, ("keep", "done")),
        (known("succeeded"), False, ("generate", "its file is missing")),
        (known("superseded"), True, ("keep", "done")),
        (known("succeeded", made="then", fingerprint="then"), True, ("generate", "changed: prompt, seed")),
        (known("wanted", made=None), True, ("generate", "not finished")),
        (known("running", made=None), True, ("generate", "not finished")),
        (FAILED, True, ("generate", "retry: failed: overloaded")),
        (UNCERTAIN, True, ("generate", "retry: uncertain: timeout (it may have been billed)")),
        (REFUSED, True, ("skip", "refused: safety; change the prompt, or retry --refused")),
        (REJECTED, True, ("skip", f"rejected: person; {KEPT}")),
        (REJECTED, False, ("skip", f"rejected: person; {KEPT}")),
        (known("rejected", made="then", fingerprint="then"), True, ("generate", "changed: prompt, seed")),
        (
            known("failed", made=None, reason="link_gone"),
            True,
            ("skip", f"failed: link_gone; paid for: its link is dead, {BUYS}"),
        ),
        (
            known("failed", made=None, reason="download_failed"),
            True,
            ("skip", f"failed: download_failed; {BEHIND}"),
        ),
    ],
)
def test_each_state_has_its_action_and_says_why(entry, there, answer):
    assert verdict(entry, there=there) == answer


def test_a_refused_prompt_that_was_changed_is_sent():
    assert verdict(known("refused", made=None, fingerprint="then"))[0] == "generate"


def test_an_uncertain_sample_is_held_when_the_user_says_so():
    assert verdict(UNCERTAIN, RetrySelection(states=frozenset({"failed"}))) == (
        "skip",
        "uncertain: timeout; held: retry --uncertain",
    )


def test_an_explicit_retry_takes_up_what_it_names_and_nothing_else():
    retry_selection = RetrySelection(explicit=True, states=frozenset({"refused"}))
    actions = [
        verdict(entry, retry_selection)[0] for entry in (REFUSED, FAILED, UNCERTAIN, None, known("wanted", made=None))
    ]
    assert actions == ["generate", "skip", "skip", "skip", "skip"]


def test_a_rejected_image_is_bought_again_by_those_who_say_so_alone():
    for selection in (
        RetrySelection(states=frozenset({"rejected"})),
        RetrySelection(explicit=True, states=frozenset({"rejected"})),
    ):
        assert verdict(REJECTED, selection) == ("generate", "retry: rejected: person")
    assert verdict(REJECTED, RetrySelection(explicit=True, states=frozenset({"failed"})))[0] == "skip"


def test_an_explicit_retry_by_reason_leaves_other_reasons():
    retry_selection = RetrySelection(explicit=True, states=frozenset({"failed"}), reasons=frozenset({"timeout"}))
    assert verdict(FAILED, retry_selection)[0] == "skip"


def test_fresh_makes_even_what_is_there_anew():
    assert verdict(known("succeeded"), RetrySelection(fresh=True)) == ("generate", "fresh: asked for again")


def samples(*numbers: int) -> list[Sample]:
    item = make_sample("a", count=9).item
    return [Sample(item=item, n=n, fingerprint="f", wire="{}") for n in numbers]


def test_neighbouring_samples_share_a_request_where_the_api_gives_several():
    assert [(group.n, group.images) for group in group_into_requests(samples(1, 2, 3, 4, 5, 7), 4)] == [
        (1, 4),
        (5, 1),
        (7, 1),
    ]
    assert [(group.n, group.images) for group in group_into_requests(samples(1, 2), 1)] == [(1, 1), (2, 1)]


def load(
    requests: int, rpm: int | None, latency_s: float, usd: float = 0.04, model: str = "m", unpriced: int = 0
) -> LaneLoad:
    return LaneLoad(model, rpm, requests, requests, requests * usd, unpriced, requests * latency_s)


def test_a_minute_opens_with_a_burst():
    assert [quota_wait_s(count, 60) for count in (1, 60, 61, 100, 121)] == [0, 0, 60.5, 60.5, 121.0]
    assert quota_wait_s(10**6, None) == 0


@pytest.mark.parametrize(
    ("loads", "concurrency", "budget", "binding", "seconds"),
    [
        ([], 5, None, "nothing", 0),
        ([load(3, 60, 20.0)], 5, None, "latency", 20),
        ([load(100, 60, 20.0)], 5, None, "cap", 400),
        ([load(100, 60, 20.0)], 100, None, "quota", 80.5),
        ([load(100, 60, 1.0), load(31, 15, 1.0, model="pro")], 50, None, "quota", 122.0),
        ([load(100, 60, 20.0)], 5, 1.0, "budget", 400),
    ],
)
def test_the_limit_that_binds_is_named(loads, concurrency, budget, binding, seconds):
    prospect = forecast(loads, concurrency, budget)
    assert (prospect.limit.binding, prospect.seconds) == (binding, pytest.approx(seconds))


def test_the_cap_that_is_advised_would_indeed_no_longer_bind():
    loads = [load(100, 60, 20.0)]
    advised = int(forecast(loads, 5, None).limit.remedy.split()[2])
    assert forecast(loads, advised, None).limit.binding == "quota"
    assert forecast(loads, advised - 2, None).limit.binding == "cap"


def test_no_cap_is_advised_that_would_not_be_taken():
    loads = [load(20_000, None, 20.0)]
    taken = json_schema()["$defs"]["Limits"]["properties"]["concurrency"]["maximum"]
    limit = forecast(loads, 5, None).limit
    assert (limit.binding, limit.remedy) == ("cap", f"try --concurrency {taken}")
    assert limit.advice == "5 in flight take 80000 s; --concurrency 1000 would take about 400 s"
    most = forecast(loads, taken, None).limit
    assert (most.binding, most.remedy) == ("cap", "nothing to change")


def test_a_spend_rate_that_takes_longest_is_the_limit_and_lanes_of_one_account_share_it():
    loads = [load(100, 600, 1.0), load(100, 600, 1.0, model="pro")]
    for each in loads:
        each.spend_rate, each.account = 3.0, "google"
    other = load(100, 600, 1.0, model="other")
    prospect = forecast([*loads, other], 50, None)  # 8 USD at 3 in ten minutes: the last ones after 20 minutes
    assert (prospect.limit.binding, prospect.seconds) == ("spend", 1200.0)
    assert prospect.limit.remedy == "if your tier has more, set limits: usd_per_10_min or tier"


def test_a_day_that_has_too_few_requests_left_is_the_limit():
    one = load(100, 60, 1.0)
    one.rpd, one.rpd_left = 250, 99
    assert forecast([one], 5, None).limit.binding == "day"
    assert "99 of the day's 250 requests of m are left for 100" in forecast([one], 5, None).limit.advice
    one.rpd_left = 100
    assert forecast([one], 5, None).limit.binding != "day"


@pytest.mark.parametrize(
    "of, word", [("run", "--max-cost"), ("day", "budget_usd_per_day"), ("month", "budget_usd_per_month")]
)
def test_the_remedy_for_a_budget_names_the_one_that_binds(of, word):
    assert word in forecast([load(100, 60, 20.0)], 5, 1.0, of).limit.remedy


def test_a_price_that_is_unknown_makes_the_sum_unknown_and_not_smaller():
    prospect = forecast([load(2, None, 1.0), load(1, None, 1.0, usd=0.0, model="x", unpriced=1)], 5, None)
    assert (prospect.usd, prospect.known_usd) == (None, pytest.approx(0.08))


def test_only_takes_globs_over_ids_and_tags():
    item = make_sample("mug-hero", tags=("print",)).item
    assert [is_selected(item, patterns) for patterns in ([], ["mug-*"], ["tag:print"], ["bowl*", "tag:web"], ["tag:pr*"])] == [
        True, True, True, False, False]  # fmt: skip


def test_a_plan_that_does_not_fit_on_the_disk_is_told_with_both_figures_and_the_limit_that_fits():
    loads = [LaneLoad("m", None, requests=100, images=100, bytes=100 * expected_bytes("1K"))]
    assert disk_space_problem(loads, 250_000_000) is None
    assert disk_space_problem(loads, 249_000_000) == (
        "249 MB are free and the plan needs about 250 MB: make room or choose another --output, or begin with --limit 99"
    )
    assert disk_space_problem(loads, 150_000_000).endswith("--limit 50")
    assert disk_space_problem(loads, 1_000).endswith("another --output")


def test_a_full_disk_does_not_hinder_a_run_that_has_nothing_to_ask_for():
    assert disk_space_problem([], 0) is None


def test_a_picture_of_a_size_that_is_not_known_is_expected_to_be_large():
    assert expected_bytes("1024x1536") > expected_bytes("1K") == expected_bytes(None)
