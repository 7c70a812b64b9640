"""The queue's tables: made once, brought up to date by the steps that procrastinate ships, refused when they are newer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchgen.engine.cluster import queue
from batchgen.errors import UsageError
from batchgen.ledger.location import SHARED
from batchgen.ledger.postgresql import PostgreSQL

OLD = "03.00.00_50_post_cancel_notification"


@pytest.fixture
def server(database):
    found = PostgreSQL(database, SHARED)
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
    return server.execute(f"SELECT version FROM {SHARED}.queue_tables").fetchall()


def test_tables_of_an_older_procrastinate_become_those_of_the_one_that_is_here(server, postgres):
    newest = queue._steps()[-1][0]
    server.script(
        f"CREATE SCHEMA {SHARED}; CREATE SCHEMA {queue.SCHEMA}; CREATE TABLE {SHARED}.queue_tables (version TEXT)"
    )
    for name, sql in queue._steps():
        if name <= OLD:
            server.script(f"SET LOCAL search_path = {queue.SCHEMA}; {sql}")
    server.script(f"INSERT INTO {SHARED}.queue_tables VALUES ('{OLD}')")
    databases = [PostgreSQL(server.url, SHARED) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(queue.prepare, databases))  # several workers begin at once
    fresh = PostgreSQL(postgres.new_database(f"fresh_{server.url.rpartition('_')[2]}"), SHARED)
    queue.prepare(fresh)
    assert (shape(server), recorded(server), recorded(fresh)) == (shape(fresh), [(newest,)], [(newest,)])
    for each in (fresh, *databases):
        each.close()


def test_tables_of_a_newer_procrastinate_are_refused_with_what_to_do(server):
    queue.prepare(server)
    server.script(f"UPDATE {SHARED}.queue_tables SET version = '99.00.00_01_pre_wonder'")
    with pytest.raises(UsageError, match=r"newer procrastinate \(99.*pip install --upgrade"):
        queue.prepare(server)


def test_tables_from_before_this_was_written_down_are_taken_for_what_they_were(server):
    queue.prepare(server)
    before = shape(server)
    server.script(f"DELETE FROM {SHARED}.queue_tables")
    queue.prepare(server)
    assert shape(server) == before
