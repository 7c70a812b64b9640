"""Dispatch on virtual time: lanes, caps, cooling, parking, breaker, budget, deadline. No socket, no thread, no sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from batchgen.errors import (
    BadRequest,
    DailyQuotaReached,
    KeyRejected,
    ModelUnavailable,
    NoImage,
    RateLimited,
    ServerFault,
)
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import InMemorySampleSource
from batchgen.scheduling.retry import GivenUp, Released, Requeued, RetryPolicy
from batchgen.scheduling.stop_reason import StopKind, StopReason
from tests.support.samples import make_sample
from tests.support.sliding_window import most_in_a_minute
from tests.support.stub_server import StubServer, drive, make_dispatcher


def minutes(arrivals: Iterable[tuple[float, str, str]], lane: str) -> int:
    return most_in_a_minute([at for at, of, _ in arrivals if of == lane])


def test_300_items_at_60_a_minute_never_exceed_the_quota_and_draw_no_refusal(run):
    night = run(drive({"m": 300}, StubServer(latency_s=2.0, quota=60), rpm={"m": 60}, concurrency=60))
    assert (len(night.done), night.server.refused, minutes(night.server.arrivals, "m")) == (300, 0, 60)
    assert night.seconds == pytest.approx(4 * 60.5 + 2, abs=0.1)


def test_no_more_than_the_cap_is_in_flight_and_the_cap_is_used(run):
    night = run(drive({"m": 40}, StubServer(latency_s=10.0), concurrency=5))
    assert night.server.most_in_flight == 5
    assert night.seconds == pytest.approx(80.0)


def test_a_slow_lane_never_delays_a_fast_one(run):
    alone = run(drive({"fast": 120}, StubServer(latency_s=0.5), rpm={"fast": 60}))
    both = run(drive({"slow": 45, "fast": 120}, StubServer(latency_s=0.5), rpm={"slow": 15, "fast": 60}))
    fast_done = max(at for at, key in both.done if key.startswith("fast"))
    assert fast_done == pytest.approx(alone.seconds, rel=0.05)
    assert both.seconds == pytest.approx(2 * 60.5, rel=0.05)


def test_two_lanes_share_the_cap_evenly_when_both_could_fill_it(run):
    night = run(drive({"a": 50, "b": 50}, StubServer(latency_s={"a": 20.0, "b": 1.0}), concurrency=4))
    b_done = max(at for at, key in night.done if key.startswith("b"))
    assert b_done < 30.0  # with first come, first served, it would be 250


def test_an_item_in_backoff_holds_no_place_in_flight(run):
    script = {f"m{n}": [ServerFault("503", retry_after_s=100.0)] for n in range(2)}
    night = run(drive({"m": 22}, StubServer(latency_s=1.0, script=script), concurrency=5))
    untouched = [at for at, key in night.done if key not in script]
    assert max(untouched) == pytest.approx(5.0)  # twenty others in five rounds beside and after the failing ones


def test_a_429_cools_the_whole_lane_for_as_long_as_the_server_asked_and_costs_no_attempt(run):
    refusals = [RateLimited("quota", retry_after_s=30.0) for _ in range(10)]
    night = run(drive({"m": 2}, StubServer(script={"m0": refusals}), concurrency=1))
    gaps = [
        later[0] - earlier[0] for earlier, later in zip(night.server.arrivals, night.server.arrivals[1:], strict=False)
    ]
    assert len(night.done) == 2
    assert all(gap >= 31.0 for gap in gaps[:10])


def test_a_cooling_lane_does_not_cool_another(run):
    script = {"a0": [RateLimited("quota", retry_after_s=300.0)]}
    night = run(drive({"a": 1, "b": 20}, StubServer(script=script), concurrency=2))
    assert max(at for at, key in night.done if key.startswith("b")) < 25.0


@pytest.mark.parametrize("named", [None, 20])
@pytest.mark.parametrize("concurrency, most", [(1, 1), (3, 3), (5, 5)])
def test_a_limit_of_a_third_of_the_declared_is_found_by_one_wave_of_refusals(run, named, concurrency, most):
    """Every 429 counts; a wave is at most what was in flight when the first of them came back."""
    server = StubServer(latency_s=0.1, quota=20, names=named)
    night = run(drive({"m": 60}, server, rpm={"m": 60}, concurrency=concurrency))
    assert (len(night.done), minutes(night.server.arrivals, "m")) == (60, 20)
    assert 1 <= night.server.refused <= most


def test_a_hidden_limit_costs_few_refusals_when_answers_do_not_come_in_step(run):
    server = StubServer(quota=20, spread_s=0.5)
    night = run(drive({"m": 60}, server, rpm={"m": 60}, concurrency=5))
    assert (len(night.done), 1 <= night.server.refused <= 3) == (60, True)


@pytest.mark.parametrize("quota", [16, 20, 33])  # of 60; below a quarter it takes another wave
@pytest.mark.parametrize("latency_s, concurrency", [(0.1, 5), (2.0, 5), (10.0, 20), (0.3, 50)])
def test_a_limit_that_nobody_told_and_nothing_has_proven_costs_three_refusals_at_most(
    run, quota, latency_s, concurrency
):
    server = StubServer(latency_s=latency_s, quota=quota, refusal_s=0.25)
    night = run(drive({"m": 3 * quota}, server, rpm={"m": 60}, concurrency=concurrency, confirmed=False))
    assert (len(night.done), minutes(night.server.arrivals, "m")) == (3 * quota, quota)
    assert 1 <= night.server.refused <= 3


def test_a_start_that_is_not_proven_is_spread_over_seconds_and_loses_no_quota(run):
    server = StubServer(latency_s=8.0, quota=60)
    night = run(drive({"m": 120}, server, rpm={"m": 60}, concurrency=30, confirmed=False))
    starts = [at - night.server.arrivals[0][0] for at, _, _ in night.server.arrivals]
    later = starts[15:]  # a quarter of what is declared is taken for granted
    assert max(sum(1 for at in later if moment <= at < moment + 0.999) for moment in later) <= 3
    assert (night.server.refused, night.seconds < 60.5 + 20 + 8 + 1) == (0, True)


def test_a_429_whose_hint_is_hours_parks_the_lane_and_others_go_on(run):
    script = {"a0": [RateLimited("per minute", retry_after_s=901.0)]}
    night = run(drive({"a": 30, "b": 30}, StubServer(script=script), concurrency=2))
    assert (night.dispatcher.lanes["a"].parked, night.dispatcher.lanes["b"].parked) == (True, False)
    assert sum(key.startswith("b") for _, key in night.done) == 30
    assert night.seconds < 60


def test_a_restart_inside_the_same_minute_does_not_overrun(run):
    async def three_runs() -> int:
        server = StubServer(latency_s=0.1, quota=60)
        for _ in range(3):
            sent = [at for at, _, _ in server.arrivals]

            def seed(dispatcher: Dispatcher, sent: list[float] = sent) -> None:
                window = dispatcher.lanes["m"].window
                assert window is not None
                window.seed(sent, asyncio.get_running_loop().time())

            await drive({"m": 40}, server, rpm={"m": 60}, on_start=seed)
        return server.refused

    assert run(three_runs()) == 0


def test_a_daily_quota_parks_its_lane_and_others_go_on(run):
    script = {"a0": [DailyQuotaReached("per day")]}
    night = run(drive({"a": 30, "b": 30}, StubServer(script=script), concurrency=2))
    assert night.dispatcher.lanes["a"].parked
    assert sum(key.startswith("b") for _, key in night.done) == 30
    assert night.dispatcher.untried_count() == 30  # the refused one and all that never started: the next run takes them


def test_a_bad_key_stops_the_run_and_nothing_more_is_sent(run):
    night = run(drive({"m": 50}, StubServer(script={"m0": [KeyRejected("API key not valid")]}), concurrency=3))
    assert night.dispatcher.stop_reason.slug == "key_rejected"
    assert len(night.server.arrivals) == 3
    assert night.retry_decisions == [("m0", Released())]


def test_a_model_that_is_gone_stops_its_lane_only(run):
    night = run(drive({"a": 9, "b": 9}, StubServer(script={"a0": [ModelUnavailable("404")]}), concurrency=2))
    assert night.dispatcher.lanes["a"].stopped == "model_unavailable"
    assert sum(key.startswith("b") for _, key in night.done) == 9


def test_the_same_400_for_five_different_items_in_a_row_opens_the_breaker(run):
    script = {f"m{n}": [BadRequest("aspect_ratio must be one of", http_status=400)] for n in range(50)}
    night = run(drive({"m": 50}, StubServer(script=script), concurrency=1))
    assert night.dispatcher.lanes["m"].stopped == "breaker"
    assert len(night.server.arrivals) == 5


def test_different_400s_do_not_open_the_breaker(run):
    script = {f"m{n}": [BadRequest(f"reason {n % 2}", http_status=400)] for n in range(20)}
    night = run(drive({"m": 20}, StubServer(script=script), concurrency=1))
    assert len(night.server.arrivals) == 20


def test_a_success_between_them_keeps_the_breaker_shut(run):
    script = {f"m{n}": [BadRequest("the same", http_status=400)] for n in range(20) if n % 5}
    night = run(drive({"m": 20}, StubServer(script=script), concurrency=1))
    assert len(night.server.arrivals) == 20


def test_what_failed_for_good_is_given_up_and_what_may_pass_is_requeued(run):
    night = run(drive({"m": 1}, StubServer(script={"m0": [NoImage("text only")] * 3}), concurrency=1))
    kinds = [type(retry_decision) for _, retry_decision in night.retry_decisions]
    assert kinds == [Requeued, Requeued, GivenUp]


def test_parallel_requests_never_overshoot_a_budget(run):
    night = run(drive({"m": 100}, StubServer(), concurrency=20, estimate_usd=lambda _: 0.07, budget_usd=1.0))
    assert night.dispatcher.stop_reason == StopReason(StopKind.BUDGET)
    assert len(night.done) == 14  # 14 x 0.07 = 0.98
    assert night.dispatcher.budget.spent_usd <= 1.0


def test_pictures_that_cost_a_tenth_more_than_the_table_says_do_not_overshoot_a_budget(run):
    options = {"concurrency": 20, "estimate_usd": lambda _: 0.07, "budget_usd": 1.0}
    night = run(drive({"m": 100}, StubServer(dearer=1.1), **options))
    assert night.dispatcher.stop_reason == StopReason(StopKind.BUDGET)
    assert 0.9 < night.dispatcher.budget.spent_usd <= 1.0


def test_a_lane_reserves_what_its_dearest_picture_has_cost_above_the_table(run):
    night = run(drive({"m": 3}, StubServer(dearer=1.3), estimate_usd=lambda _: 0.07))
    assert night.dispatcher.lanes["m"].reservation_factor == pytest.approx(1.3)
    assert night.dispatcher.budget.reserved_usd == pytest.approx(0.0)


def test_a_deadline_ends_the_run_even_while_a_lane_waits_for_its_quota(run):
    night = run(drive({"m": 100}, StubServer(latency_s=0.1), rpm={"m": 10}, deadline_s=1000.0 + 90.0))
    assert night.dispatcher.stop_reason == StopReason(StopKind.DEADLINE)
    assert len(night.done) == 20
    assert night.seconds <= 90.2


def test_a_stop_lets_what_is_in_flight_finish(run):
    def stop_soon(dispatcher: Dispatcher) -> None:
        asyncio.get_running_loop().call_later(1.5, dispatcher.stop, "SIGTERM")

    night = run(drive({"m": 50}, StubServer(latency_s=1.0), concurrency=5, on_start=stop_soon))
    assert len(night.done) == 10
    assert night.dispatcher.in_flight == night.dispatcher.unfinished == 0


def test_answers_being_stored_hold_no_place_in_flight_but_there_is_a_bound_to_them(run):
    night = run(drive({"m": 40}, StubServer(latency_s=1.0), concurrency=4, max_storing=8, storing_s=1.0))
    assert night.seconds == pytest.approx(
        11.0
    )  # ten rounds of sending and the last one's storing; 20 if it held the place


def test_work_that_vanishes_without_an_answer_does_not_leak_its_place(run):
    async def main() -> tuple[int, int]:
        dispatcher = make_dispatcher({"m": None}, InMemorySampleSource([("m", make_sample("a"))]), concurrency=1)
        work = await dispatcher.take()
        assert work is not None
        dispatcher.abandoned(work)
        dispatcher.abandoned(work)
        return dispatcher.in_flight, dispatcher.unfinished

    assert run(main()) == (0, 0)


@pytest.mark.parametrize("error", [RateLimited("429"), RateLimited("429", retry_after_s=5.0), ServerFault("503")])
def test_a_run_in_which_nothing_succeeds_stops_after_the_set_time(run, error):
    script = {f"m{n}": [error] * 10**5 for n in range(10)}
    night = run(drive({"m": 10}, StubServer(script=script), policy=RetryPolicy(attempts=10**6), stall_s=1800.0))
    assert (night.dispatcher.stop_reason, night.done, night.dispatcher.untried_count()) == (
        StopReason(StopKind.STALLED),
        [],
        10,
    )
    assert 1800.0 < night.seconds < 1800.0 + 180.0


def test_one_success_in_the_set_time_keeps_a_run_going(run):
    script = {"m0": [RateLimited("429", retry_after_s=60.0)] * 25, "m1": [RateLimited("429", retry_after_s=60.0)] * 25}
    night = run(drive({"m": 2}, StubServer(script=script), concurrency=1, stall_s=1800.0))
    assert (night.dispatcher.stop_reason, len(night.done)) == (None, 2)
    assert night.seconds > 3000.0


def test_waiting_for_a_quota_never_counts_as_standing_still(run):
    script = {f"m{n}": [ServerFault("503")] for n in range(0, 40, 2)}
    night = run(drive({"m": 40}, StubServer(script=script), rpm={"m": 1}, stall_s=70.0))
    assert (night.dispatcher.stop_reason, len(night.done)) == (None, 40)


def test_a_lane_that_has_not_failed_is_not_stopped_with_one_that_has(run):
    script = {"bad0": [RateLimited("429", retry_after_s=5.0)] * 10**5}
    server = StubServer({"bad": 1.0, "slow": 50.0}, script)
    night = run(drive({"bad": 1, "slow": 3}, server, rpm={"slow": 1}, concurrency=2, stall_s=30.0))
    assert (night.dispatcher.stop_reason, [key for _, key in night.done]) == (
        StopReason(StopKind.STALLED),
        ["slow0", "slow1", "slow2"],
    )


def test_a_lane_that_may_start_nothing_says_for_what_and_until_when(run):
    waits = []
    script = {"m0": [ServerFault("503", retry_after_s=30.0)]}
    night = run(drive({"m": 61}, StubServer(latency_s=1.0, script=script, quota=60), rpm={"m": 60}, concurrency=60,
                      on_lane_waits=lambda *wait: waits.append(wait)))  # fmt: skip
    assert len(night.done) == 61
    lane, (reason, until_s), now_s = waits[0]
    assert (lane, reason) == ("m", "quota") and until_s - now_s == pytest.approx(60.5, abs=1.5)
    assert len({(wait.reason, round(wait.until_s)) for _, wait, _ in waits}) == len(waits) < 6  # each once


def test_a_lane_whose_samples_are_all_in_backoff_says_so(run):
    waits = []
    script = {f"m{n}": [ServerFault("503", retry_after_s=30.0)] for n in range(2)}
    run(drive({"m": 2}, StubServer(latency_s=1.0, script=script), on_lane_waits=lambda *wait: waits.append(wait)))
    assert {wait.reason for _, wait, _ in waits} == {"backoff"} and len(waits) <= 2  # one for each sample at most
