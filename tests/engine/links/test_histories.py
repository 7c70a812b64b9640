"""What becomes of a picture behind a link, from run to run: it is fetched for as long as it may live, and bought once."""

from __future__ import annotations

import sys

import pytest

from tests.support.link_bench import BEHIND, FOUR, MADE, ONE, retry_failed
from tests.support.link_vendor import BAD, USD
from tests.support.postgres import both_ledgers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
DOWNLOAD = "batchgen.engine.http_attempt:Exchange.download_images"


# --- one link


@pytest.mark.parametrize("kind", BAD)
async def test_whatever_a_link_gives_in_place_of_its_picture_every_run_fetches_it_and_none_buys_it(bench, kind):
    bench.vendor.goes_bad(kind)
    for code in (4, 3):
        assert await bench.run() == code
        assert bench.states() == [("failed", "link_refused" if "private" in kind else "download_failed")]
        assert bench.vendor.fetched["1-0.png"] > 0
        bench.vendor.goes_bad(kind)
    bench.vendor.is_well()
    assert await bench.run() == 0
    assert (bench.vendor.requests, bench.states()) == ([1], MADE)
    assert bench.pictures() == bench.vendor.served()
    assert bench.usd() == pytest.approx(USD)


@pytest.mark.parametrize("kind", ["a web page", "half a picture", "nothing", "404", "202"])
async def test_a_link_that_is_bad_at_first_is_tried_again_in_the_same_run(bench, kind):
    bench.vendor.goes_bad(kind, times=3)
    assert (await bench.run(), bench.vendor.requests, bench.vendor.fetched["1-0.png"]) == (0, [1], 4)


async def test_a_link_whose_connections_break_off_is_fetched_by_a_later_run(bench):
    bench.vendor.resets = True
    assert (await bench.run(), bench.states()) == (4, BEHIND)
    bench.vendor.is_well()
    assert (await bench.run(), bench.vendor.requests, bench.states()) == (0, [1], MADE)


async def test_what_a_picture_behind_its_link_has_cost_counts_as_spent_at_once(bench):
    bench.vendor.goes_bad("404")
    await bench.run()
    assert bench.usd() == pytest.approx(USD)


# --- dead links


@pytest.mark.parametrize("status", ["403", "404", "410"])
async def test_a_link_that_is_gone_after_a_day_is_not_looked_for_again_and_bought_only_when_asked(bench, status):
    bench.vendor.goes_bad(status)
    await bench.run()
    bench.ages(days=1.1)
    assert (await bench.run(), bench.states()) == (3, [("failed", "link_gone")])
    bench.vendor.is_well()
    assert (await bench.run(), bench.vendor.requests, dict(bench.vendor.fetched)) == (3, [1], {})
    await retry_failed(bench)
    assert (bench.vendor.requests, bench.states()) == ([1, 1], MADE)


@pytest.mark.parametrize(("days", "state"), [(2.0, BEHIND), (31.0, [("failed", "link_gone")])])
async def test_a_link_that_answers_anything_else_is_looked_for_through_a_month(bench, days, state):
    bench.vendor.goes_bad("a web page")
    await bench.run()
    bench.ages(days)
    assert (await bench.run(), bench.states(), bench.vendor.requests) == (3, state, [1])


# --- bought again on purpose, or another picture is wanted


async def test_a_picture_that_comes_late_after_it_was_bought_again_is_kept_aside(bench):
    bench.vendor.goes_bad("404")
    await bench.run()
    bench.vendor.goes_bad("404", times=3)  # as often as a run tries; a new link more often
    await retry_failed(bench)
    assert (bench.vendor.requests, bench.states(), len(bench.pictures())) == ([1, 1], MADE, 1)
    now = bench.pictures()
    bench.vendor.is_well()
    assert await bench.run() == 0
    assert (bench.vendor.requests, bench.pictures(), len(bench.aside())) == ([1, 1], now, 1)
    assert bench.pictures() | bench.aside() == bench.vendor.served()


async def test_the_first_picture_counts_when_the_one_bought_in_its_place_is_behind_a_link_too(bench):
    bench.vendor.goes_bad("404")
    await bench.run()
    await retry_failed(bench)
    bench.vendor.goes_bad("404", of=[2])
    assert (await bench.run(), bench.states(), len(bench.pictures())) == (0, MADE, 1)


async def test_a_link_that_dies_after_its_picture_was_bought_again_takes_nothing_from_the_new_one(bench):
    bench.vendor.goes_bad("404")
    await bench.run()
    bench.vendor.goes_bad("404", times=3)
    await retry_failed(bench)
    bench.vendor.goes_bad("404")
    bench.ages(days=2)
    assert (await bench.run(), bench.states(), bench.attempts()) == (0, MADE, {"succeeded": 1, "failed": 1})


async def test_two_pictures_of_one_sample_behind_their_links_come_both_and_one_of_them_counts(bench):
    bench.vendor.goes_bad("404")
    await bench.run()
    await retry_failed(bench)
    assert (bench.vendor.requests, bench.states()) == ([1, 1], BEHIND)
    bench.vendor.is_well()
    assert (await bench.run(), bench.vendor.requests, bench.states()) == (0, [1, 1], MADE)
    assert (len(bench.pictures()), bench.pictures() | bench.aside()) == (1, bench.vendor.served())


@both_ledgers
async def test_a_late_picture_of_a_prompt_that_has_changed_since_does_not_take_the_new_ones_place(bench):
    changed = ONE.replace("fox", "hare")
    bench.vendor.goes_bad("404")
    await bench.run()
    bench.vendor.goes_bad("404", times=3)
    assert (await bench.run(changed), bench.vendor.requests) == (0, [1, 1])
    now = bench.pictures()
    bench.vendor.is_well()
    assert (await bench.run(changed), bench.pictures(), len(bench.aside())) == (0, now, 1)


async def test_a_late_picture_is_none_of_a_prompt_that_has_none_yet(bench):
    changed = ONE.replace("fox", "hare")
    bench.vendor.goes_bad("404")
    await bench.run()
    bench.vendor.refuses = True
    assert (await bench.run(changed), bench.states()) == (4, [("failed", "bad_request")])
    bench.vendor.is_well()
    bench.vendor.refuses = True
    assert (await bench.run(changed), bench.states(), bench.pictures()) == (4, [("failed", "bad_request")], set())
    assert bench.aside() == bench.vendor.served()


# --- several links in one answer


@both_ledgers
async def test_of_several_links_those_that_came_are_there_at_once_and_only_the_others_are_fetched_again(bench):
    bench.vendor.goes_bad("a web page", places=[2])
    assert await bench.run(FOUR) == 3
    assert bench.states() == [*MADE * 2, *BEHIND, *MADE]
    assert len(bench.pictures()) == 3
    assert bench.usd() == pytest.approx(4 * USD)
    bench.vendor.is_well()
    assert await bench.run(FOUR) == 0
    assert (bench.vendor.requests, dict(bench.vendor.fetched)) == ([4], {"1-2.png": 1})
    assert bench.pictures() == bench.vendor.served()
    assert bench.usd() == bench.lines()[0]["usd"] == pytest.approx(4 * USD)
    assert (await bench.run(FOUR), dict(bench.vendor.fetched)) == (0, {"1-2.png": 1})


async def test_of_several_links_only_what_a_dead_one_held_is_bought_again(bench):
    bench.vendor.goes_bad("410", places=[1])
    await bench.run(FOUR)
    bench.ages(days=2)
    assert await bench.run(FOUR) == 3
    assert (bench.states(), bench.attempts()) == ([*MADE, ("failed", "link_gone"), *MADE * 2], {"succeeded": 1})
    bench.vendor.is_well()
    await retry_failed(bench, FOUR)
    assert (bench.vendor.requests, bench.states(), len(bench.pictures())) == ([4, 1], MADE * 4, 4)


@pytest.mark.parametrize("bad", [False, True])
async def test_pictures_in_an_answer_itself_are_kept_beside_those_behind_its_links(bench, bad):
    bench.vendor.inline = 2
    if bad:
        bench.vendor.goes_bad("500")
    assert await bench.run(FOUR) == (3 if bad else 0)
    assert bench.states() == [*MADE * 2, *(BEHIND if bad else MADE) * 2]
    bench.vendor.is_well()
    assert (await bench.run(FOUR), bench.vendor.requests, bench.states()) == (0, [4], MADE * 4)
    assert bench.pictures() == bench.vendor.served()


@pytest.mark.parametrize("inline", [0, 2])
async def test_what_else_an_answer_holds_takes_no_pictures_place(bench, inline):
    bench.vendor.inline, bench.vendor.previews = inline, True
    assert (await bench.run(FOUR), bench.vendor.requests, bench.states()) == (0, [4], MADE * 4)
    assert bench.pictures() == bench.vendor.served()


# --- processes that die


@both_ledgers
async def test_a_process_that_is_killed_between_answer_and_download_costs_nothing_whatever_the_link_does(bench):
    assert await bench.run(die=(DOWNLOAD, 1)) == 9
    bench.vendor.goes_bad("a web page")
    assert (await bench.run(), bench.states()) == (3, BEHIND)
    bench.vendor.is_well()
    assert (await bench.run(), bench.vendor.requests, bench.states()) == (0, [1], MADE)


@both_ledgers
async def test_a_picture_that_had_come_when_the_process_was_killed_outlives_its_link(bench):
    bench.vendor.goes_bad("503", places=[1, 3])
    assert await bench.run(FOUR, die=("batchgen.engine.http_attempt:Exchange._fetch_once", 10)) == 9
    bench.vendor.goes_bad("410")
    assert await bench.run(FOUR) == 3
    assert bench.states() == [*MADE, *BEHIND, *MADE, *BEHIND]
    assert (bench.vendor.requests, len(bench.pictures())) == ([4], 2)
    assert bench.pictures() < bench.vendor.served()
    bench.vendor.is_well()
    assert (await bench.run(FOUR), bench.pictures() == bench.vendor.served()) == (0, True)


@pytest.mark.parametrize("k", [1, 2])
async def test_a_process_that_is_killed_when_it_fetches_for_an_earlier_one_costs_nothing(bench, k):
    bench.vendor.goes_bad("503")
    await bench.run()
    bench.vendor.is_well()
    move_into_place = ("batchgen.engine.links:settle", 1) if k == 1 else ("batchgen.engine.settle:move_into_place", 1)
    assert await bench.run(die=move_into_place) == 9
    bench.vendor.goes_bad("410")
    assert (await bench.run(), bench.vendor.requests, bench.states()) == (0, [1], MADE)
