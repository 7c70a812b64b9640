"""The window: never more than the quota in any sliding minute as the server counts it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import random
from collections import deque
from datetime import UTC, datetime

import pytest
from asyncio_throttle.throttler import Throttler
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.scheduling.window import MARGIN_S, Window, daily_quota_reset
from tests.support.sliding_window import most_in_a_minute


async def send_all(window: Window, count: int, jitter_s: float = 0.0, seed: int = 1) -> list[float]:
    loop, rng, arrivals = asyncio.get_running_loop(), random.Random(seed), []
    for _ in range(count):
        await asyncio.sleep(max(0.0, window.earliest_start_s(loop.time()) - loop.time()))
        stamp = await window.admit(loop.time())
        window.sent(stamp, loop.time())
        arrivals.append(loop.time() + rng.uniform(0, jitter_s))
    return arrivals


def test_the_library_is_the_version_whose_private_log_we_read():
    assert importlib.metadata.version("asyncio-throttle") == "1.0.2"


def test_the_librarys_private_log_is_what_we_take_it_for(run):
    async def two() -> list[object]:
        loop, library = asyncio.get_running_loop(), Throttler(rate_limit=1, period=5.0)
        log, first_s = library._task_logs, loop.time()
        await library.acquire()
        seen = [type(log), list(log) == [first_s]]
        await library.acquire()  # waits until the first is older than the period, and forgets it
        return [*seen, library._task_logs is log, len(log), 5.0 < log[0] - first_s < 5.1, log[0] == loop.time()]

    assert run(two()) == [deque, True, True, 1, True, True]


def test_no_sliding_minute_has_more_than_the_quota_although_requests_take_time_to_arrive(run):
    arrivals = run(send_all(Window(60), 300, jitter_s=MARGIN_S * 0.99))
    assert most_in_a_minute(arrivals) == 60


def test_the_quota_is_used_to_the_last_request(run):
    arrivals = run(send_all(Window(60), 300))
    assert arrivals[-1] - arrivals[0] == pytest.approx(4 * 60.5, abs=0.01)


def test_a_fresh_minute_opens_with_a_burst_so_that_100_items_at_60_take_one_period(run):
    arrivals = run(send_all(Window(60), 100))
    assert arrivals[59] == arrivals[0]
    assert arrivals[99] - arrivals[0] == pytest.approx(60.5, abs=0.01)


def test_a_window_seeded_with_what_an_earlier_process_sent_does_not_overrun(run):
    async def restarts() -> list[float]:
        arrivals: list[float] = []
        for _ in range(4):
            window = Window(60)
            window.seed(arrivals, asyncio.get_running_loop().time())
            arrivals += await send_all(window, 50)
            await asyncio.sleep(1.0)
        return arrivals

    assert most_in_a_minute(run(restarts())) <= 60


def test_the_stamp_moves_to_when_the_headers_left(run):
    async def slow_connect() -> float:
        loop, window = asyncio.get_running_loop(), Window(1)
        stamp = await window.admit(loop.time())
        await asyncio.sleep(5)
        window.sent(stamp, loop.time())
        return window.earliest_start_s(loop.time()) - loop.time()

    assert run(slow_connect()) == pytest.approx(60.5, abs=0.01)


def test_a_request_that_never_left_gives_its_place_back(run):
    async def refund() -> float:
        loop, window = asyncio.get_running_loop(), Window(1)
        window.refund(await window.admit(loop.time()))
        return window.earliest_start_s(loop.time()) - loop.time()

    assert run(refund()) == 0


def test_after_a_refusal_that_shows_nothing_the_rate_is_halved_and_recovers_by_a_twentieth_a_minute():
    window = Window(60)
    window.refused(0.0, stamp_s=0.0, used_before=0)
    assert [window.rate(60.0 * minute) for minute in (0, 1, 5, 10, 100)] == [30, 33, 45, 60, 60]


def test_what_was_accepted_before_a_refusal_is_kept_to_for_a_while_and_slowly_left_again():
    window = Window(60)
    window.refused(0.0, stamp_s=0.0, used_before=20)
    assert [window.rate(60.0 * minute) for minute in (0, 5, 6, 100)] == [20, 20, 23, 60]


def test_refusals_of_one_wave_leave_the_smallest_figure():
    window = Window(60)
    for used_before in (24, 22, 20, 21, 23):
        window.refused(0.0, stamp_s=0.0, used_before=used_before, same_wave=used_before != 24)
    assert window.rate(0.0) == 20


def test_what_was_refused_earlier_in_the_window_was_not_accepted():
    window = Window(60)
    window.refused(1.0, stamp_s=1.0, used_before=40)
    window.refused(10.0, stamp_s=10.0, used_before=40)
    assert window.rate(10.0) == 39


def test_a_limit_that_the_server_names_is_kept_to_for_good():
    window = Window(60)
    window.refused(0.0, stamp_s=0.0, used_before=40, server_limit=20)
    assert [window.rate(0.0), window.rate(1e6)] == [20, 20]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Window(0)


@settings(deadline=None, max_examples=30)
@given(limit=st.integers(1, 20), gaps=st.lists(st.floats(0, 40), min_size=1, max_size=60))
def test_no_pattern_of_demand_gets_more_than_the_limit_through(limit, gaps):
    now_s, window, sent = 500.0, Window(limit), []
    for gap_s in gaps:
        now_s = max(now_s + gap_s, window.earliest_start_s(now_s + gap_s))
        window.seed([now_s], now_s)
        sent.append(now_s)
    assert most_in_a_minute(sent) <= limit


def test_a_daily_quota_is_free_again_at_midnight_pacific_unless_the_server_names_hours():
    now = datetime(2026, 11, 21, 3, 0, tzinfo=UTC).timestamp()  # 19:00 the day before in California
    assert daily_quota_reset(now, 41.0) == datetime(2026, 11, 21, 8, 0, tzinfo=UTC).timestamp()
    assert daily_quota_reset(now, 6776.0) == now + 6776.0


def test_counting_windows_here_finds_the_most_crowded_minute():
    assert most_in_a_minute([0.0, 59.9, 60.0, 60.1]) == 3
    assert most_in_a_minute(list(itertools.repeat(5.0, 7))) == 7
