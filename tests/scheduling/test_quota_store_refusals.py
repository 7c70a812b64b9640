"""What a server's refusal of one process means for all that share its quota, and who comes first when all wait."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from batchgen.errors import DailyQuotaReached, LedgerError, RateLimited
from batchgen.ledger.quota_store import QUEUED_START_S, QuotaStore
from batchgen.scheduling.lane import InMemorySampleSource
from batchgen.scheduling.stop_reason import StopKind, StopReason
from batchgen.scheduling.window import (
    LOWERED_RATE_HOLD_S,
    LoweredRate,
    NotBefore,
    Parked,
    Reserved,
    Window,
    daily_quota_reset,
)
from tests.support.samples import make_sample
from tests.support.shared_quota import OtherProcesses, child, dispatcher_with
from tests.support.stub_server import make_dispatcher


@contextlib.contextmanager
def two(where, rate_s=60.0):
    """Two processes' sides of one quota."""
    books = [QuotaStore(where, print) for _ in range(2)]
    yield [book.start_log("q", rate_s) for book in books]
    for book in books:
        book.close()


async def test_a_refusal_of_one_keeps_the_others_from_starting_and_lowers_their_rate(place):
    with two(place) as (one, other):
        assert await other.current_denial() is None
        one.publish_cooldown(0.5, LoweredRate(2.0, LOWERED_RATE_HOLD_S))
        await one.current_denial()
        answer = await other.reserve(60)
        assert isinstance(answer, NotBefore)
        assert (answer.why, 0 < answer.wait_s <= 0.5) == ("cooling", True)
        assert (await other.current_denial()).why == "cooling"
        one.publish_cooldown(0.1, None)  # a shorter one shortens nothing, and keeps the rate
        await asyncio.sleep(0.51)
        assert await other.current_denial() is None
        assert [type(await other.reserve(60)) for _ in range(3)] == [Reserved, Reserved, NotBefore]


async def test_a_lowered_rate_rises_again_with_the_declared_one(place):
    with two(place) as (one, other):
        one.publish_cooldown(0.0, LoweredRate(1.0, -60.0))  # a minute ago: 5 % of 40 more
        await one.current_denial()
        assert [type(await other.reserve(40)) for _ in range(4)] == [Reserved] * 3 + [NotBefore]


async def test_a_day_that_is_used_up_for_one_is_used_up_for_all_until_it_is_over(place):
    with two(place) as (one, other):
        one.publish_parking("no more today", None)
        await one.current_denial()
        answer = await other.reserve(60)
        assert isinstance(answer, Parked)
        assert answer.wait_s == pytest.approx(daily_quota_reset(time.time(), None) - time.time(), abs=60.0)
        one.publish_parking("an hour", 3600.0)
        await one.current_denial()
        assert (await other.current_denial()).wait_s == pytest.approx(3600.0, abs=60.0)


async def test_another_quota_hears_nothing_of_it(shared):
    shared.start_log("q", 60.0).publish_parking("no more today", None)
    assert isinstance(await shared.start_log("other", 60.0).reserve(60), Reserved)


async def test_who_waits_longer_comes_first(place):
    with two(place, 0.6) as (first, second):
        await first.reserve(1)
        assert isinstance(await second.reserve(1), NotBefore)
        await asyncio.sleep(0.02)
        assert (await first.reserve(1)).wait_s > 0.7  # behind the other's turn
        await asyncio.sleep(0.6)
        assert isinstance(await first.reserve(1), NotBefore)
        assert isinstance(await second.reserve(1), Reserved)


async def test_a_turn_that_nobody_takes_is_free_soon(place):
    with two(place, 0.5) as (living, dead):
        await living.reserve(1)
        await dead.reserve(1)
        await asyncio.sleep(0.5 + QUEUED_START_S + 0.05)
        assert isinstance(await living.reserve(1), Reserved)


async def test_a_late_start_before_it_keeps_a_turn_waiting_longer(place):
    with two(place, 0.5) as (one, other):
        start = await one.reserve(1)
        wait = await other.reserve(1)
        await asyncio.sleep(0.2)
        one.sent(start.quota_slot)
        await asyncio.sleep(wait.wait_s - 0.2 + 0.01)
        assert isinstance(await other.reserve(1), NotBefore)


@pytest.mark.parametrize("hint_s", [30, 0])
async def test_what_the_server_tells_one_process_closes_a_waiting_lane_of_another(place, hint_s):
    book, heard = QuotaStore(place, print), []
    source = InMemorySampleSource([("m", make_sample("a"))])
    dispatcher = make_dispatcher(
        {"m": Window(60)}, source, concurrency=1, shared_quotas={"m": book.start_log("q", 60.0)},
        on_quota_denied=lambda lane, why: heard.append((lane, why)),
    )  # fmt: skip
    hearing = asyncio.ensure_future(dispatcher.poll_shared_state())
    teller = await child("refused", place, hint_s)
    assert await teller.wait() == 0
    told_s = time.monotonic()
    async with asyncio.timeout(20.0):
        while not heard:
            await asyncio.sleep(0.01)
    print(f"heard {time.monotonic() - told_s:.2f} s after the other had ended")
    hearing.cancel()
    lane = dispatcher.lanes["m"]
    assert lane.parked == (hint_s == 0)
    assert (lane.cooled_until_s > asyncio.get_running_loop().time() + 5.0) == (hint_s != 0)
    book.close()


# --- dispatch


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RateLimited("busy", retry_after_s=20.0), "cooled"),
        (RateLimited("come tomorrow", retry_after_s=7200.0), "parked"),
        (DailyQuotaReached("no more today"), "parked"),
    ],
)
def test_a_refusal_is_told_to_the_others(run, error, told):
    log = OtherProcesses([Reserved(1)])

    async def drive():
        dispatcher = dispatcher_with(log)
        work = await dispatcher.take()
        dispatcher.sent(work)
        dispatcher.failed(work, error)

    run(drive())
    assert [word for word, _ in log.told] == ["sent", "settled", told]


def test_a_lane_that_others_have_parked_is_parked_here_and_the_run_ends(run):
    held = []
    log = OtherProcesses([Parked(3600.0, "no more today")])
    dispatcher = dispatcher_with(log, on_quota_denied=lambda lane, why: held.append(why))
    assert run(dispatcher.take()) is None
    assert (held, dispatcher.lanes["m"].parked) == ([Parked(3600.0, "no more today")], True)


def test_a_lane_waits_while_another_process_cools_and_says_so_once(run):
    held = []
    log = OtherProcesses([NotBefore(30.0, "cooling"), Reserved(1)], said=[None, *[NotBefore(29.0, "cooling")] * 9])

    async def drive():
        dispatcher = dispatcher_with(log, on_quota_denied=lambda lane, why: held.append(why))
        hearing = asyncio.ensure_future(dispatcher.poll_shared_state())
        await dispatcher.take()
        hearing.cancel()
        return asyncio.get_running_loop().time()

    assert run(drive()) >= 1000.0 + 30.0
    assert len(held) < 10


def test_a_book_that_cannot_be_asked_any_more_ends_the_run(run):
    class Lost(OtherProcesses):
        async def reserve(self, rate, usd=0.0):
            raise LedgerError("the server is gone")

    async def drive():
        dispatcher = dispatcher_with(Lost([]))
        assert await dispatcher.take() is None
        return dispatcher

    dispatcher = run(drive())
    assert (dispatcher.stop_reason, str(dispatcher.shared_quota_error), dispatcher.untried_count()) == (
        StopReason(StopKind.DISK),
        "the server is gone",
        1,
    )
