"""Time limits count only time in which this process ran. On virtual time, where being stopped is a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest

from batchgen.http.time_limit import GRACE_S, TimeLimit


def stopped_for(seconds: float) -> None:
    """As a process that is stopped finds it when it goes on: nothing has run, and the clock is ahead."""
    asyncio.get_running_loop().now_s += seconds  # type: ignore[attr-defined]


async def ends_after(limit_s: float, work: list[float]) -> float | None:
    """When the limit ended a wait for ever, in seconds of the clock; None when it did not. work: steps that are awaited,
    or, when they are negative, in which the process is stopped."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with TimeLimit(limit_s):
            for step_s in work:
                if step_s < 0:
                    stopped_for(-step_s)
                await asyncio.sleep(max(0.0, step_s))
    except TimeoutError:
        return loop.time() - began_s
    return None


@pytest.mark.parametrize("limit_s", [0.05, 0.5, 1.0, 1.2, 30.0, 299.9])
def test_what_takes_longer_than_its_limit_is_ended_when_the_limit_says(run, limit_s):
    assert run(ends_after(limit_s, [1000.0])) == pytest.approx(limit_s)


def test_what_is_done_in_time_is_not_ended_then_or_later(run):
    assert run(ends_after(10.0, [9.9])) is None


@pytest.mark.parametrize("stopped_s", [0.5, 2.0, 60.0, 100_000.0])
@pytest.mark.parametrize("at_s", [0.0, 0.5, 3.2, 9.9])
def test_what_was_missing_when_the_process_was_stopped_may_still_come(run, at_s, stopped_s):
    assert run(ends_after(10.0, [at_s, -stopped_s, 0.09])) is None


@pytest.mark.parametrize("at_s", [0.0, 3.2, 9.9])
def test_what_never_comes_is_given_up_after_a_stop_too(run, at_s):
    ended_s = run(ends_after(10.0, [at_s, -1000.0, 1000.0]))
    assert ended_s is not None and 1008.0 < ended_s < 1011.0 + GRACE_S


def test_a_process_that_is_stopped_again_and_again_gives_up_all_the_same(run):
    assert run(ends_after(10.0, [-5.0, 0.01] * 1000)) is not None


def test_a_limit_that_is_restarted_counts_from_then_on(run):
    async def drips() -> None:
        async with TimeLimit(1.5) as limit:
            for _ in range(20):
                await asyncio.sleep(1.0)
                limit.restart()

    run(drips())


def test_who_cancels_from_outside_is_told_so_and_hears_of_no_time_limit(run):
    async def cancelled() -> None:
        task = asyncio.ensure_future(ends_after(5.0, [10.0]))
        await asyncio.sleep(1.0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancelled())
