"""How workers come by their work: woken when there is some, by looking where nothing is heard, and each under its own name."""

from __future__ import annotations

import asyncio

import pytest

from batchgen.engine.cluster import heartbeat, queue
from batchgen.engine.cluster.heartbeat import Member
from batchgen.ledger.location import SHARED_SCHEMA
from tests.support.bench import items
from tests.support.fork_server import PYTHON

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


def test_a_worker_that_comes_back_to_find_its_name_taken_leaves_that_of_the_other_alone(database, monkeypatch):
    """It was suspended for longer than others wait; what is claimed in the name is the other's."""
    monkeypatch.setattr(queue, "STALE_S", 0.0)
    queue.migrate(database)
    server = queue.open_server(database, "test")
    monkeypatch.setattr(
        heartbeat, "_SAY", heartbeat._SAY.replace("extract(epoch FROM pg_postmaster_start_time())", "0")
    )
    first, second = (Member("w1", 1, 0, "h", pid) for pid in (1, 2))
    assert (heartbeat.register(server, first, pytest.fail), heartbeat.register(server, second, pytest.fail)) == (
        first,
        second,
    )
    names = f"SELECT name, pid FROM {SHARED_SCHEMA}.worker"
    heartbeat.unregister(server, first)
    assert server.execute(names).fetchall() == [("w1", 2)]
    heartbeat.unregister(server, second)
    assert server.execute(names).fetchall() == []
    server.close()
