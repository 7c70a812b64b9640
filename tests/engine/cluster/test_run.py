"""The engine `cluster` from end to end: submitted by one process, made by others, watched by whoever wants to."""

from __future__ import annotations

import asyncio
import signal

from batchgen.engine import opening
from batchgen.engine.cluster import submit
from tests.support.bench import items

CHAIN = (
    "  - {id: a, prompt: a mug}\n  - {id: b, prompt: '[[fault:safety]] b'}\n"
    "  - {id: c, prompt: again, references: ['@a']}\n  - {id: d, prompt: again, references: ['@b']}\n"
    "  - {id: e, prompt: again, references: ['@d']}\n"
)


async def test_what_is_submitted_is_made_by_a_worker_and_asked_for_once(cluster):
    worker = cluster.worker()
    outcome = await cluster.watch(items("a", "b", "c", "d"))
    assert (outcome.exit_code, outcome.made, await cluster.requests()) == (0, 4, 4)
    assert len(cluster.pictures()) == 4
    again = await cluster.watch(items("a", "b", "c", "d"))
    assert (again.exit_code, again.kept, await cluster.requests()) == (0, 4, 4)
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30.0) == 143


async def test_without_waiting_it_leaves_with_9_and_a_later_run_finds_the_pictures(cluster):
    submitted = await cluster.submit(items("a", "b"))
    assert (submitted.exit_code, submitted.submitted, await cluster.requests()) == (9, 2, 0)
    again = await cluster.submit(items("a", "b"))
    assert (again.exit_code, again.submitted) == (9, 2)
    worker = cluster.worker("--until-empty")
    assert await asyncio.to_thread(worker.wait, 60.0) == 0
    found = await cluster.watch(items("a", "b"))
    assert (found.exit_code, await cluster.requests(), sorted(cluster.lines())) == (0, 2, ["i0", "i1"])


async def test_what_needs_a_picture_waits_for_it_and_is_blocked_when_it_never_comes(cluster):
    cluster.worker()
    outcome = await cluster.watch(CHAIN)
    assert {key: line["state"] for key, line in cluster.lines().items()} == {
        "a": "succeeded", "b": "refused", "c": "succeeded", "d": "blocked", "e": "blocked",
    }  # fmt: skip
    assert (outcome.exit_code, await cluster.requests()) == (3, 3)


async def test_a_worker_that_is_told_to_stop_or_loses_its_terminal_gives_back_what_has_not_begun(slow_cluster):
    cluster = slow_cluster
    await cluster.submit(items(*"abcdefghijklmnop"))
    first = cluster.worker()
    await cluster.until_sent("w1", 5)
    first.send_signal(signal.SIGHUP)
    assert await asyncio.to_thread(first.wait, 30.0) == 129
    made = len(cluster.pictures())
    assert 5 <= made < 16
    cluster.worker()
    outcome = await cluster.watch(items(*"abcdefghijklmnop"))
    assert (outcome.exit_code, await cluster.requests(), len(cluster.pictures())) == (0, 16, 16)


async def test_the_budget_of_a_run_binds_all_workers_together(cluster):
    cluster.worker()
    cluster.worker()
    outcome = await cluster.watch(items(*"abcdefghijkl"), max_usd=0.20)
    with cluster.reader() as reader:
        assert reader.money().spent <= 0.20
    assert outcome.exit_code == 6
    assert 3 <= len(cluster.pictures()) <= 5
    assert outcome.counts.get("submitted", 0) == 0


def row_estimates(cluster):
    """What the planner knows of the tables that workers claim from; less than 0, or 0 before PostgreSQL 14: nothing."""
    with cluster.reader() as reader:
        sql = "SELECT relname, reltuples FROM pg_class WHERE oid IN ('work'::regclass, 'sample'::regclass)"
        return {name: max(0, int(rows)) for name, rows in reader._query(sql)}


async def test_a_large_submission_has_fresh_statistics(cluster, monkeypatch):
    await cluster.submit(items("a", "b"))
    assert row_estimates(cluster) == {"work": 0, "sample": 0}
    monkeypatch.setattr(submit, "ANALYZED_FROM", 3)
    await cluster.submit(items("a", "b", "c", "d", "e"))
    assert row_estimates(cluster) == {"work": 5, "sample": 5}


async def test_work_that_ends_while_a_run_looks_at_the_job_is_of_the_run_that_submitted_it(cluster, monkeypatch):
    """It was still in the queue when the manifest was compared with the ledger, and is no more when the run begins."""
    await cluster.submit(items("a", "b"))

    async def survey_and_wait(*values, **options):
        found = await survey(*values, **options)
        assert await asyncio.to_thread(cluster.worker("--until-empty").wait, 60.0) == 0
        return found

    survey = opening._recover_and_survey
    monkeypatch.setattr(opening, "_recover_and_survey", survey_and_wait)
    outcome = await cluster.watch(items("a", "b"))
    assert (outcome.exit_code, outcome.run_id, outcome.made) == (0, 1, 2)
