"""Time limits count only time in which this process ran. On the real clock, in small steps."""

from __future__ import annotations

import asyncio
import time

import pytest

from batchgen.time_limit import TICK_S, TimeLimit


async def test_what_takes_longer_than_its_limit_is_ended():
    with pytest.raises(TimeoutError):
        async with TimeLimit(0.05):
            await asyncio.sleep(5)


async def test_a_limit_of_several_ticks_is_not_rounded():
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        async with TimeLimit(TICK_S * 1.2):
            await asyncio.sleep(5)
    assert 1.2 <= time.monotonic() - began_s < 1.4


async def test_what_is_done_in_time_is_not_ended_later():
    async with TimeLimit(0.05):
        pass
    await asyncio.sleep(0.1)


async def test_a_limit_that_is_restarted_counts_from_then_on():
    async with TimeLimit(0.2) as limit:
        for _ in range(5):
            await asyncio.sleep(0.1)
            limit.restart()


async def test_time_in_which_the_event_loop_was_blocked_is_not_counted():
    async with TimeLimit(0.2):
        asyncio.get_running_loop().call_soon(time.sleep, 1.0)
        await asyncio.sleep(0.3)  # what has arrived would be read now


async def test_a_loop_that_is_always_blocked_is_given_up_all_the_same(monkeypatch):
    monkeypatch.setattr("batchgen.time_limit.TICK_S", 0.02)
    monkeypatch.setattr("batchgen.time_limit.LATE_S", 0.01)
    monkeypatch.setattr("batchgen.time_limit.READ_S", 0.1)
    with pytest.raises(TimeoutError):
        async with TimeLimit(0.1):
            for _ in range(100):
                asyncio.get_running_loop().call_soon(time.sleep, 0.05)
                await asyncio.sleep(0.001)


async def test_who_cancels_from_outside_is_told_so_and_hears_of_no_time_limit():
    async def waits() -> None:
        async with TimeLimit(5):
            await asyncio.sleep(5)

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
