"""A submission that nobody watches: one worker writes its results and its end, and tells people of it, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import pytest

from batchgen.ledger import endings
from batchgen.ledger.location import SHARED_SCHEMA, read_pointer
from batchgen.ledger.postgresql import PostgreSQL
from tests.cli.test_notify import Receiver
from tests.support.bench import items
from tests.support.cluster import HEAD

NOTIFY = "notify: {to: '${NOTIFY_URL}', on: [success, partial]}\n"


@pytest.fixture
def receiver(monkeypatch):
    pytest.importorskip("apprise", reason="NOT TESTED: apprise is not installed")
    found = Receiver()
    monkeypatch.setenv("NOTIFY_URL", found.url)
    yield found
    found.server.shutdown()
    found.server.server_close()


def last_run(cluster):
    with cluster.reader() as reader:
        return reader.last_run()


def ended(cluster):
    """The exit codes that workers have recorded."""
    with contextlib.closing(PostgreSQL(cluster.ledger, SHARED_SCHEMA)) as server:
        return [code for (code,) in server.execute(f"SELECT exit_code FROM {endings.TABLE}").fetchall()]


def titles(receiver):
    return [message["title"] for message in receiver.messages]


async def test_workers_write_results_and_the_end_of_a_submission_and_send_one_message(cluster, receiver):
    submitted = await cluster.submit(items("a", "b", "[[fault:safety]] c"), head=NOTIFY + HEAD)
    assert submitted.exit_code == 9
    workers = [cluster.worker("--until-empty") for _ in range(3)]
    for worker in workers:
        assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert ended(cluster) == [3]
    assert {key: line["state"] for key, line in cluster.lines().items()} == {
        "i0": "succeeded", "i1": "succeeded", "i2": "refused",
    }  # fmt: skip
    assert titles(receiver) == ["batchgen: job: 2 of 3 images made; 1 refused"]
    run = last_run(cluster)
    assert (run.exit_code, run.stopped_by, json.loads(run.summary)["made"]) == (3, "", 2)
    assert run.ended_at > run.started_at
    assert sum("2 of 3 images made" in cluster.said(f"w{n}") for n in (1, 2, 3)) == 1


async def test_a_run_after_that_knows_that_people_have_been_told(cluster, receiver):
    text = items("a", "b")
    await cluster.submit(text, head=NOTIFY + HEAD)
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    again = await cluster.submit(text, head=NOTIFY + HEAD)
    assert (again.exit_code, again.already_announced, titles(receiver)) == (
        0,
        True,
        ["batchgen: job: all done: 2 of 2 images made"],
    )
    more = await cluster.submit(items("a", "b", "c"), head=NOTIFY + HEAD)
    assert (more.exit_code, more.already_announced, ended(cluster)) == (9, False, [None])


async def test_a_run_that_watches_ends_it_itself(cluster, receiver):
    text = items(*"abcdef")
    await cluster.submit(text, head=NOTIFY + HEAD)
    watching = asyncio.create_task(cluster.watch(text, head=NOTIFY + HEAD))
    await cluster.until(lambda: ended(cluster) == [])
    worker = cluster.worker("--until-empty")
    outcome = await watching
    assert (outcome.exit_code, outcome.already_announced, ended(cluster)) == (0, False, [])
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert titles(receiver) == []  # a run that watches has its own


async def test_a_run_that_stops_watching_hands_the_end_over(cluster, receiver, monkeypatch):
    """As Ctrl-C does: the work goes on."""
    text = items(*"abcdef")
    monkeypatch.setattr("batchgen.engine.cluster.engine.handling_stop_signals", stopping_at_once)
    left = await cluster.watch(text, head=NOTIFY + HEAD, install_signal_handlers=True)
    assert (left.exit_code, ended(cluster)) == (9, [None])
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert titles(receiver) == ["batchgen: job: all done: 6 of 6 images made"]


def stopping_at_once(stop):
    stop(signal.SIGINT)
    return contextlib.nullcontext()


async def test_when_the_worker_that_writes_it_dies_another_does_and_the_message_comes(fleet, receiver):
    await fleet.submit(items("a", "b"), head=NOTIFY + HEAD)
    dying = fleet.impatient(die=("batchgen.report.notify:send", 1))
    assert await asyncio.to_thread(dying.wait, 60.0) == 9
    assert (titles(receiver), ended(fleet)) == ([], [None])
    fleet.impatient("--until-empty")
    await fleet.until(lambda: ended(fleet) == [0])
    assert titles(receiver) == ["batchgen: job: all done: 2 of 2 images made"]


async def test_what_is_not_over_is_not_ended(slow_cluster, receiver):
    cluster = slow_cluster
    await cluster.submit(items(*"abcdefgh"), head=NOTIFY + HEAD)
    worker = cluster.worker("--concurrency", "1")
    await cluster.until_sent("w1", 1)
    await asyncio.sleep(3.0)  # longer than between two looks
    assert ended(cluster) == [None]
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 60.0) == 143
    assert (ended(cluster), titles(receiver)) == ([None], [])


@pytest.mark.parametrize(
    "address", ["${GEMINI_API_KEY}", "json://127.0.0.1:1/${NOTIFY_URL}", "json://127.0.0.1:1/?template=/etc/passwd"]
)
async def test_an_address_that_could_send_a_secret_of_the_worker_is_not_used(cluster, receiver, address):
    """Whoever may write to the server decides what stands there."""
    await cluster.submit(items("a"), head=NOTIFY + HEAD)
    with contextlib.closing(PostgreSQL(cluster.ledger, SHARED_SCHEMA)) as server:
        server.execute(f"UPDATE {endings.TABLE} SET notify = ?", (json.dumps({"to": [address], "on": ["success"]}),))
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    assert (ended(cluster), titles(receiver)) == ([0], [])
    assert "no message is sent: " in cluster.said("w1")


async def test_a_submitter_that_died_before_its_results_were_written_is_waited_for_and_then_not(cluster, monkeypatch):
    await cluster.submit(items("a"))
    schema = read_pointer(cluster.folder / "out").schema
    with contextlib.closing(PostgreSQL(cluster.ledger, schema)) as job:
        job.execute("UPDATE meta SET value = 'no' WHERE key = 'results_tidy'")
        cluster.worker()
        await cluster.until(lambda: [left for _, left in endings.due(job, 30.0)] == [False])
        job.execute(f"UPDATE {endings.TABLE} SET left_at = left_at - {endings.LEAVING_S}")
        await cluster.until(lambda: ended(cluster) == [0])
