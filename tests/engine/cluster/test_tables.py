"""The queue's tables: made once, brought up to date by the steps that procrastinate ships, refused when they are newer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.submit import submit
from batchgen.errors import UsageError
from batchgen.ledger import work_queue
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA, LedgerServer, read_pointer
from batchgen.ledger.postgresql import PostgreSQL

OLD = "03.00.00_50_post_cancel_notification"


@pytest.fixture
def server(database):
    found = PostgreSQL(database, SHARED_SCHEMA)
    yield found
    found.close()


def shape(server: PostgreSQL) -> list[Any]:
    """Every function, column, index, trigger and value of a type."""
    return server.execute(
        "SELECT 'f', p.oid::regprocedure::text, '' FROM pg_proc p WHERE pronamespace = 'batchgen_queue'::regnamespace"
        " UNION ALL SELECT 'c', table_name, column_name FROM information_schema.columns WHERE table_schema = 'batchgen_queue'"
        " UNION ALL SELECT 'i', tablename, indexname FROM pg_indexes WHERE schemaname = 'batchgen_queue'"
        " UNION ALL SELECT 't', event_object_table, trigger_name FROM information_schema.triggers WHERE trigger_schema ="
        " 'batchgen_queue' UNION ALL SELECT 'e', t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid"
        " ORDER BY 1, 2, 3"
    ).fetchall()


def recorded(server: PostgreSQL) -> list[Any]:
    return server.execute(f"SELECT version FROM {SHARED_SCHEMA}.queue_tables").fetchall()


def test_tables_of_an_older_procrastinate_become_those_of_the_one_that_is_here(server, postgres):
    newest = queue._migrations()[-1][0]
    server.execute_script(
        f"CREATE SCHEMA {SHARED_SCHEMA}; CREATE SCHEMA {queue.SCHEMA}; CREATE TABLE {SHARED_SCHEMA}.queue_tables (version TEXT)"
    )
    for name, sql in queue._migrations():
        if name <= OLD:
            server.execute_script(f"SET LOCAL search_path = {queue.SCHEMA}; {sql}")
    server.execute_script(f"INSERT INTO {SHARED_SCHEMA}.queue_tables VALUES ('{OLD}')")
    databases = [PostgreSQL(server.url, SHARED_SCHEMA) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(queue.migrate, databases))  # several workers begin at once
    fresh = PostgreSQL(postgres.new_database(f"fresh_{server.url.rpartition('_')[2]}"), SHARED_SCHEMA)
    queue.migrate(fresh)
    assert (shape(server), recorded(server), recorded(fresh)) == (shape(fresh), [(newest,)], [(newest,)])
    for each in (fresh, *databases):
        each.close()


def test_tables_of_a_newer_procrastinate_are_refused_with_what_to_do(server):
    queue.migrate(server)
    server.execute_script(f"UPDATE {SHARED_SCHEMA}.queue_tables SET version = '99.00.00_01_pre_wonder'")
    with pytest.raises(UsageError, match=r"newer procrastinate \(99.*pip install --upgrade"):
        queue.migrate(server)


def test_tables_from_before_this_was_written_down_are_taken_for_what_they_were(server):
    queue.migrate(server)
    before = shape(server)
    server.execute_script(f"DELETE FROM {SHARED_SCHEMA}.queue_tables")
    queue.migrate(server)
    assert shape(server) == before


def test_derivatives_that_an_older_version_put_into_the_queue_leave_it_and_its_submissions_are_read(server, tmp_path):
    """The job's next run asks for their files again."""
    queue.migrate(server)
    server.execute_script(
        f"SET LOCAL search_path = {queue.SCHEMA}; INSERT INTO procrastinate_jobs (queue_name, task_name, args, status)"
        " VALUES ('post', 'batchgen.post', '{}', 'doing'), ('gemini/m', 'batchgen.sample', '{}', 'todo')"
    )
    queue.migrate(server)
    assert server.execute(f"SELECT task_name FROM {queue.SCHEMA}.procrastinate_jobs").fetchall() == [
        ("batchgen.sample",)
    ]
    (tmp_path / ".batchgen").mkdir()
    ledger = Ledger(tmp_path, LedgerServer(server.url, "job", str(tmp_path)))
    facts = work_queue.Submission(
        name="job", folder=str(tmp_path), bucket="", hold_uncertain=True, emulator_url=None, version="0.1"
    )

    def old_submission(db: Any) -> None:
        work_queue.add_submission(db, 1, facts, None, None)
        db.execute('UPDATE submission SET facts = (facts::jsonb || \'{"recipes": {"a": {}}}\')::text')

    schema = read_pointer(tmp_path).schema
    submit(server.url, schema, old_submission)
    assert work_queue.load_submission(ledger.database, 1) == facts
    ledger.close()
