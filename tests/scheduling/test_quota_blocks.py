"""A worker takes its starts in blocks: with one question, as many as it uses, and back comes what it does not."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pytest

from batchgen.ledger.quota_ahead import UNUSED, BlockStartLog, start_log
from batchgen.ledger.quota_database import advisory_lock_id
from batchgen.ledger.quota_store import QuotaStore, SharedStartLog
from batchgen.scheduling.window import Budget, LoweredRate, NotBefore, Reserved, StartLimits


@pytest.fixture
def book(database):
    with contextlib.closing(QuotaStore(database, print)) as opened:
        yield opened


def worker(book: QuotaStore, name: str = "w", period_s: float = 60.0) -> BlockStartLog:
    log = start_log(book, "q", period_s, StartLimits(job="j", worker=name))
    assert isinstance(log, BlockStartLog)
    return log


async def starts(log: SharedStartLog, number: int, rate: int | None, usd: float = 0.5) -> list[int]:
    """Their places, when all of them may start now."""
    found = []
    for _ in range(number):
        answer = await log.reserve(rate, usd)
        assert isinstance(answer, Reserved), answer
        assert answer.quota_slot is not None
        found.append(answer.quota_slot)
    return found


async def rows(book: QuotaStore, sql: str) -> list[tuple[object, ...]]:
    return await book.transact(lambda db: db.execute(sql).fetchall(), [])


def test_only_a_worker_whose_lane_nothing_else_binds_takes_blocks(book, tmp_path):
    bound = [{"rpd": 5}, {"usd_per_10_min": 1.0}, {"budgets": (Budget("day", 1.0),)}]
    terms = [StartLimits(job="j"), *(StartLimits(job="j", worker="w", **each) for each in bound)]
    assert [type(start_log(book, "q", 60.0, each)) for each in terms] == [SharedStartLog] * 4
    with contextlib.closing(QuotaStore(tmp_path, print)) as file:
        assert type(start_log(file, "q", 60.0, StartLimits(worker="w"))) is SharedStartLog


async def test_many_starts_cost_few_transactions_and_are_all_counted(book):
    log, before = worker(book), book._writer.commits
    for place in await starts(log, 100, 6000):
        log.sent(place)
        log.record_cost(place, 0.25)
    await book.transact(lambda db: None, None)
    assert book._writer.commits - before < 20
    assert await book.requests_today("q") == 100
    assert await book.spent_since(0.0, settled=True) == pytest.approx(25.0)


async def test_a_block_is_no_more_than_a_seconds_share_of_the_quota(book):
    log = worker(book)
    await starts(log, 30, 240)
    assert len(await rows(book, "SELECT 1 FROM start")) <= 30 + 240 // 60


async def test_a_block_is_taken_by_one_worker_at_a_time_who_sees_what_the_last_has_taken(book, database):
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_lock_id("quota q"),))
        taking = asyncio.ensure_future(worker(book).reserve(90))
        assert not (await asyncio.wait([taking], timeout=0.3))[0]
        now = "extract(epoch FROM clock_timestamp())"
        other.execute(f"INSERT INTO batchgen.start SELECT n, 'q', {now} FROM generate_series(1, 90) AS n")
    assert isinstance(await taking, NotBefore)


async def test_what_a_worker_does_not_use_is_anothers_within_seconds(book):
    idle, busy = worker(book, "idle", 20.0), worker(book, "busy", 20.0)
    await starts(idle, 10, 1000)
    taken = len(await rows(book, "SELECT 1 FROM start"))
    assert taken > 10
    assert isinstance(await busy.reserve(taken), NotBefore)
    async with asyncio.timeout(10.0):
        while len(await rows(book, "SELECT 1 FROM start WHERE place > 0")) > 10:
            await asyncio.sleep(0.02)
    assert await book.spent_since(0.0) == pytest.approx(5.0)
    await starts(busy, 1, taken)


async def test_what_a_dead_worker_had_taken_comes_back_with_the_window_and_its_money_too(book):
    dead, period_s = worker(book, "dead", 0.5), 0.5
    sent = (await starts(dead, 10, 1000))[0]
    dead.sent(sent)
    dead._give_back_stale = lambda: None  # type: ignore[method-assign]
    dead._block.clear()
    assert (await rows(book, "SELECT count(*) FROM spending"))[0][0] > 10
    other = worker(book, "other", period_s)
    async with asyncio.timeout(10.0):
        while len(await rows(book, f"SELECT 1 FROM spending WHERE worker = '{UNUSED}dead'")):
            await asyncio.sleep(0.1)
            await starts(other, 1, None)
    assert await rows(book, "SELECT usd FROM spending WHERE worker = 'dead'") == [
        (0.5,)
    ]  # maybe billed: the ledger knows
    book.delete_reservations("j", "", "dead")
    assert await rows(book, "SELECT usd FROM spending WHERE worker = 'dead'") == []


async def test_a_place_that_becomes_free_within_a_second_is_taken_and_waited_for_without_a_question(book):
    first, second = worker(book, "first", 8.0), worker(book, "second", 8.0)
    await starts(first, 20, 20)
    assert isinstance(await second.reserve(20), NotBefore)
    assert not second._block
    await book.transact(lambda db: db.execute("UPDATE start SET at = at - 7.5").rowcount, None)
    assert isinstance(await second.reserve(20), NotBefore)
    asked = second._taking
    later, *_ = second._block
    assert later.at > book.clock()
    assert isinstance(await second.reserve(20), NotBefore)
    await asyncio.sleep(later.at - book.clock())
    assert isinstance(await second.reserve(20), Reserved)
    assert second._taking is asked


async def test_a_refusal_that_others_heard_and_a_lower_rate_bind_blocks_too(book):
    log, other = worker(book), worker(book, "other")
    await starts(log, 4, 1000)
    assert log._block
    await starts(log, 1, 900)
    other.publish_cooldown(30.0, LoweredRate(7.0, 300.0))
    await book.transact(lambda db: None, None)
    log._give_back(list(log._block))
    answer = await log.reserve(900)
    assert isinstance(answer, NotBefore)
    assert answer.why == "cooling"


async def test_a_place_that_was_not_needed_is_used_next_and_one_that_is_old_is_free(book):
    log = worker(book, "w", 1.0)
    (place,) = await starts(log, 1, 100)
    log.refund(place)
    assert await starts(log, 1, 100) == [place]
    await asyncio.sleep(0.15)
    log.refund(place)
    await book.transact(lambda db: None, None)
    assert await rows(book, f"SELECT 1 FROM start WHERE place = {place}") == []


async def test_a_request_that_took_longer_than_the_window_to_leave_is_counted_with_its_money(book):
    log = worker(book, "w", 0.3)
    (place,) = await starts(log, 1, 1000, 0.5)
    (cheap,) = await starts(log, 1, 1000, 0.25)
    log.sent(cheap)
    log.record_cost(cheap, 0.0)
    await asyncio.sleep(0.4)
    other = worker(book, "other", 0.3)
    async with asyncio.timeout(10.0):
        while len(await rows(book, f"SELECT 1 FROM spending WHERE place = {place}")):
            await asyncio.sleep(0.1)
            await starts(other, 1, None)
    log.sent(place)
    await book.transact(lambda db: None, None)
    assert await rows(book, f"SELECT usd, worker FROM spending WHERE place IN ({place}, {cheap})") == [(0.5, "w")]
    log.record_cost(place, 0.75)
    await book.transact(lambda db: None, None)
    assert await book.spent_since(0.0, settled=True) == pytest.approx(0.75)


async def test_a_quota_of_few_a_minute_is_waited_for_in_turn_and_counted_once(book):
    first, second = worker(book, "first", 4.0), worker(book, "second", 4.0)
    log, sent = first, []
    async with asyncio.timeout(20.0):
        while len(sent) < 4:
            answer = await log.reserve(2)
            if isinstance(answer, Reserved):
                assert answer.quota_slot is not None
                log.sent(answer.quota_slot)
                sent.append(book.clock())
                log = second if log is first else first
            else:
                await asyncio.sleep(answer.wait_s)
    await book.transact(lambda db: None, None)
    assert sent[2] - sent[0] >= 4.0
    assert await book.requests_today("q") == 4
