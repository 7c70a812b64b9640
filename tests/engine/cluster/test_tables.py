"""The queue's tables: made once, taken over from the version that had procrastinate's, refused when they are newer."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batchgen.engine.cluster import queue
from batchgen.errors import LedgerError, UsageError
from batchgen.ledger.location import SHARED_SCHEMA, job_identity
from batchgen.ledger.postgresql import PostgreSQL
from tests.support.bench import items
from tests.support.cluster import HEAD, Cluster

OLD = Path(__file__).parents[2] / "support" / "queue_of_procrastinate.sql"
JOB, SCHEMA = "fe45cd8f-dd7c-47f5-af0c-6fd1a7856303", "batchgen_job_job_fe45cd8f"
PROMPTS = items(*"abcdefgh") + "  - {id: z, prompt: again, references: ['@i7']}\n"
# What a worker of that version does: when it starts, when the queue has handed it a sample, and when it has made one.
STARTS = (
    "SET search_path = batchgen_queue; DELETE FROM procrastinate_jobs WHERE task_name = 'batchgen.post';"
    "SET search_path = batchgen"
)
CLAIMS = "UPDATE work SET claim = ? WHERE key = ? AND run_id = ? AND missing = 0 RETURNING lane, body, item_id, n"
ENDS = (
    "UPDATE work SET missing = missing - 1 WHERE id IN (SELECT work_id FROM need WHERE key = 'i0') RETURNING id, missing;"
    "DELETE FROM need WHERE work_id IN (SELECT id FROM work WHERE key = 'i0'); DELETE FROM work WHERE key = 'i0'"
)
ITS_NEWEST = "03.04.00_50_post_add_retry_failed_job_procedure"


@pytest.fixture
def server(database):
    found = PostgreSQL(database, SHARED_SCHEMA)
    yield found
    found.close()


def run_script(url: str, text: str) -> None:
    with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(text)


def load_old(cluster: Cluster) -> None:
    """The server and the job's folder as that version left them."""
    out = cluster.folder / "out"
    (out / ".batchgen").mkdir(parents=True)
    pointer = {"server": "postgresql://batchgen@127.0.0.1/old", "schema": SCHEMA, "job": JOB}
    (out / ".batchgen" / "ledger.json").write_text(json.dumps(pointer))
    text = OLD.read_text().replace("@OUTPUT@", job_identity(str(out))).replace("@FOLDER@", str(cluster.folder))
    run_script(str(cluster.ledger), text.replace("@URL@", cluster.url))


def shape(server: PostgreSQL) -> list[Any]:
    """Every column and index of the queue's tables and the job's, whatever its schema is called, and every function."""
    tables = "('queue', 'worker', 'queue_tables', 'procrastinate_jobs', 'work', 'need', 'submission')"
    columns = "concat_ws(' ', column_name, data_type, column_default, is_nullable)"
    found = server.execute(
        f"SELECT 'c', table_name, {columns} FROM information_schema.columns WHERE table_name IN {tables}"
        f" UNION ALL SELECT 'i', tablename, indexname FROM pg_indexes WHERE tablename IN {tables}"
        " UNION ALL SELECT 'f', p.proname, '' FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
        " WHERE nspname IN ('batchgen', 'batchgen_queue')"
    ).fetchall()
    return sorted(found)


async def test_what_an_earlier_version_has_submitted_is_made_and_its_own_queue_is_gone(cluster):
    load_old(cluster)
    with cluster.reader() as reader:
        status = reader.queue_status()
        assert (status.samples, status.taken) == (9, 6)  # whoever only looks changes nothing
    cluster.impatient()
    outcome = await asyncio.wait_for(cluster.watch(PROMPTS, HEAD), 60.0)
    assert (outcome.exit_code, len(cluster.pictures()), await cluster.requests()) == (0, 9, 9)
    with cluster.reader() as reader:
        # What its worker had sent when it died is listed, as ever.
        assert reader.attempts() == {"succeeded": 9, "uncertain": 1}
        tables = reader._query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'batchgen_queue'")
        assert list(tables) == [("procrastinate_jobs",)]
        assert list(reader._query("SELECT * FROM batchgen_queue.procrastinate_jobs")) == []


def test_a_worker_of_an_earlier_version_can_claim_nothing_more_and_one_that_starts_leaves(server, cluster):
    load_old(cluster)
    queue.migrate(server.url)
    job = PostgreSQL(server.url, SCHEMA)
    with pytest.raises(LedgerError, match=r'column "claim" .* does not exist'):
        job.execute(CLAIMS, ("w1", "i6", 1))
    run_script(server.url, f"SET search_path = {SCHEMA}; {ENDS}")  # what it has in flight is settled
    assert job.execute("SELECT count(*) FROM work").fetchone() == (8,)
    run_script(server.url, STARTS)
    assert queue.schema_version(server) > ITS_NEWEST  # which it takes for a procrastinate that it does not know
    job.close()


def test_work_that_was_put_off_is_not_taken_up_before_its_time(server, cluster):
    load_old(cluster)
    run_script(
        server.url,
        "SET LOCAL search_path = batchgen_queue;"  # for its triggers
        "UPDATE procrastinate_jobs SET scheduled_at = '2040-01-01 00:00Z' WHERE args ->> 'key' = 'i6'",
    )
    queue.migrate(server.url)
    found = dict(server.execute(f"SELECT key, ready_at FROM {SCHEMA}.work").fetchall())
    assert {key: at for key, at in found.items() if at} == {"i6": 2208988800.0}


async def test_tables_that_were_taken_over_are_those_that_a_new_server_gets(server, cluster, postgres):
    load_old(cluster)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(queue.migrate, [server.url] * 3))  # several workers begin at once
    fresh_url = postgres.new_database(f"fresh_{server.url.rpartition('_')[2]}")
    fresh = Cluster(cluster.url, cluster.folder / "fresh", fresh_url)
    fresh.folder.mkdir()
    await fresh.submit(items("a"))
    made = PostgreSQL(fresh_url, SHARED_SCHEMA)
    assert shape(server) == shape(made)
    made.close()


def test_tables_of_a_newer_version_are_refused_with_what_to_do(server):
    queue.migrate(server.url)
    server.execute(f"UPDATE {SHARED_SCHEMA}.queue_tables SET version = 'batchgen 99'")
    with pytest.raises(UsageError, match=r"newer version of batchgen \(batchgen 99.*pip install --upgrade"):
        queue.migrate(server.url)
