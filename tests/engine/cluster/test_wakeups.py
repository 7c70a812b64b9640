"""How workers come by their work: woken when there is some, by looking where nothing is heard, and each under its own name."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.support.bench import items
from tests.support.fork_server import PYTHON
from tests.support.worker_child import STALE_S

CHAIN = items(*"abc") + "  - {id: d, prompt: again, references: ['@i0']}\n"
MAIN = "from batchgen.__main__ import main; import sys; sys.argv = ['batchgen', 'worker', *sys.argv[1:]]; main()"
# Behind a pooler that hands a connection to another client after each transaction.
DEAF = "import time; from batchgen.ledger.postgresql import PostgreSQL; PostgreSQL.wait_for_notification = lambda _, s: time.sleep(s);"
NEVER_LOOKS = "from batchgen.engine.cluster import worker; worker.POLL_S = 3600.0;"

# Where the job's folder is not mounted.
BLIND = "from batchgen.engine.cluster import session; session.read_pointer = lambda folder: None;"


def rows(cluster, sql):
    with cluster.reader() as reader:
        return list(reader._query(sql))


async def test_a_worker_that_hears_nothing_finds_what_is_submitted_and_what_waited_for_a_picture(cluster):
    cluster.worker(start=(PYTHON, "-c", DEAF + MAIN))
    outcome = await asyncio.wait_for(cluster.watch(CHAIN), 60.0)
    assert (outcome.exit_code, await cluster.requests()) == (0, 4)


async def test_an_idle_worker_hears_at_once_of_what_is_submitted_and_what_waited_for_a_picture(cluster):
    await cluster.run(items("a"))
    cluster.worker(start=(PYTHON, "-c", NEVER_LOOKS + MAIN))
    listens = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'batchgen heart w1' AND query LIKE 'LISTEN %'"
    await cluster.until(lambda: rows(cluster, listens))
    outcome = await asyncio.wait_for(cluster.watch(CHAIN), 60.0)
    assert (outcome.exit_code, await cluster.requests()) == (0, 4)


async def test_two_workers_that_were_given_the_same_name_go_by_two_and_take_nothing_from_each_other(slow_cluster):
    cluster, prompts = slow_cluster, items(*"abcdefghijkl")
    await cluster.submit(prompts)
    cluster.worker("--concurrency", "2", name="twin")
    await cluster.until_sent("twin", 2)
    cluster.worker("--concurrency", "2", name="twin")
    outcome = await asyncio.wait_for(cluster.watch(prompts), 60.0)
    assert (outcome.exit_code, await cluster.requests()) == (0, 12)
    assert "this one goes by twin-" in cluster.said("twin")
    (one,), (other,) = rows(cluster, "SELECT DISTINCT worker FROM attempt ORDER BY 1")
    assert one == "twin" and other.startswith("twin-")


async def test_a_worker_that_cannot_open_a_job_says_so_and_keeps_nothing_of_it_from_others(cluster):
    cluster.worker(start=(PYTHON, "-c", BLIND + MAIN))
    await cluster.submit(items("a", "b"))
    await cluster.until(lambda: "is not here as the submitter sees it" in cluster.said("w1"))
    assert rows(cluster, "SELECT worker, ready_at FROM work") == [("", 0), ("", 0)]
    cluster.worker()
    outcome = await asyncio.wait_for(cluster.watch(items("a", "b")), 60.0)
    assert (outcome.exit_code, await cluster.requests()) == (0, 2)


async def test_a_worker_that_was_suspended_finds_nobody_under_its_name_when_it_comes_back(slow_fleet):
    await slow_fleet.submit(items(*"abcdefgh"))
    first = slow_fleet.impatient(name="twin")
    await slow_fleet.until_sent("twin", 3)
    os.kill(first.pid, signal.SIGSTOP)
    await asyncio.sleep(2 * STALE_S)  # by now it is taken for dead
    sent = await slow_fleet.requests()  # those that were on their way have arrived too
    slow_fleet.impatient(name="twin")
    await slow_fleet.until(lambda: "this one goes by twin-" in slow_fleet.said("twin"))
    taken = "SELECT 1 FROM work WHERE worker LIKE 'twin-%'"
    await slow_fleet.until(lambda: rows(slow_fleet, taken))
    os.kill(first.pid, signal.SIGCONT)
    outcome = await slow_fleet.watch(items(*"abcdefgh"))
    assert (outcome.exit_code, len(slow_fleet.pictures())) == (0, 8)
    # Each request that was in flight when it was suspended is sent once more.
    assert await slow_fleet.requests() <= 8 + sent
