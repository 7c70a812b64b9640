"""A worker whose clock is hours ahead harms nobody but its own stamps."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.support.bench import items
from tests.support.fork_server import PYTHON

AHEAD = (
    PYTHON, "-c",
    "import sys, time; right = time.time; time.time = lambda: right() + 1e4;"
    "from batchgen.__main__ import main; sys.argv = ['batchgen', 'worker', *sys.argv[1:]]; main()",
)  # fmt: skip


async def test_it_neither_ends_the_work_of_others_before_its_time_nor_puts_off_what_it_gives_back(slow_cluster):
    cluster, prompts = slow_cluster, items(*"abcdefghijkl")
    await cluster.submit(prompts, deadline=time.time() + 3600.0)
    ahead = cluster.worker(start=AHEAD)
    await cluster.until_sent("w1", 5)
    ahead.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(ahead.wait, 30.0) == 143
    assert 5 <= len(cluster.pictures()) < 12
    cluster.worker()
    async with asyncio.timeout(60.0):
        outcome = await cluster.watch(prompts)
    assert (outcome.exit_code, len(cluster.pictures()), await cluster.requests()) == (0, 12, 12)
