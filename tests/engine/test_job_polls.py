"""When jobs are asked about: all of a lane together not too often, and one whose result is there at once."""

from __future__ import annotations

import asyncio

import pytest

from batchgen.engine.jobs import POLLS_PER_S, JobLeft, JobPolls, JobProgress
from batchgen.records import PendingJob
from batchgen.scheduling.lane import InMemorySampleSource
from tests.support.stub_server import make_dispatcher

RUNNING, READY = PendingJob(id="a", poll_after_s=1.0), PendingJob(id="a", poll_after_s=0.0)
LATER = 2e12  # submitted then, so none of them is too old


async def turns_s(others: int, *jobs: PendingJob) -> list[float]:
    """How long each of these questions about one job waits, while so many other jobs wait for theirs."""
    loop, progress = asyncio.get_running_loop(), JobProgress("m", LATER)
    polls = JobPolls(make_dispatcher({"m": None}, InMemorySampleSource(), concurrency=5))
    slow = PendingJob(id="b", poll_after_s=1e6)
    waiting = [asyncio.ensure_future(polls.wait_turn(slow, JobProgress("m", 2e12))) for _ in range(others)]
    await asyncio.sleep(0)
    found = []
    for job in jobs:
        before_s = loop.time()
        await polls.wait_turn(job, progress)
        found.append(loop.time() - before_s)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return found


def test_jobs_of_a_lane_share_its_questions(run):
    assert run(turns_s(99, RUNNING)) == [100 / POLLS_PER_S]
    assert run(turns_s(0, RUNNING)) == [1.0]


def test_a_result_that_is_there_is_fetched_at_once_but_one_that_is_never_there_takes_turns(run):
    turn_s = 100 / POLLS_PER_S
    assert run(turns_s(99, RUNNING, READY, READY, READY)) == [turn_s, 0.0, turn_s, turn_s]
    assert run(turns_s(99, READY, RUNNING, READY)) == [0.0, turn_s, 0.0]


def test_a_run_that_does_not_wait_fetches_a_result_that_is_there(run):
    async def main() -> None:
        polls = JobPolls(make_dispatcher({"m": None}, InMemorySampleSource(), concurrency=5, wait_for_jobs=False))
        left = JobProgress("m", LATER, is_unasked=True)
        await polls.wait_turn(RUNNING, left)
        await polls.wait_turn(READY, left)
        with pytest.raises(JobLeft):
            await polls.wait_turn(RUNNING, left)

    run(main())
