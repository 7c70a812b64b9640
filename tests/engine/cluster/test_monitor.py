"""What a watcher reads: all that changed, whoever committed it late, and not the whole queue."""

from __future__ import annotations

import contextlib

import pytest

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.events import AttemptStarted, SampleEnded
from batchgen.ledger import lease
from batchgen.ledger.location import SHARED_SCHEMA, LedgerServer, register_job
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader

ATTEMPT = (
    "INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, worker)"
    " VALUES (1, ?, 1, 1, 1, 'gemini/m', '', '', 0, 'w')"
)
SAMPLE = "INSERT INTO sample (item_id, n, model, state, fingerprint, wire, updated_at) VALUES (?, 1, 'm', ?, '', '', 0)"
WORK = (
    "INSERT INTO work (run_id, key, lane, priority, missing, body, item_id, n, images)"
    " SELECT 1, 'p' || i, 'gemini/m', 0, 0, '{}', 'p' || i, 1, 1 FROM generate_series(1, ?) i"
)


@pytest.fixture
def schema(database):
    queue.migrate(database)
    with contextlib.closing(PostgreSQL(database, SHARED_SCHEMA)) as server:
        found = register_job(server, LedgerServer(database, "job", "here")).schema
    with contextlib.closing(PostgreSQL(database, found)) as job:
        job.transact([queue.create_work_tables])
    return found


@pytest.fixture
def events():
    return []


@pytest.fixture
def monitor(database, schema, events):
    reader = Reader(PostgreSQL(database, schema))
    found = ClusterMonitor(database, schema, reader, events.append)
    yield found
    found.close()
    reader.close()


@pytest.fixture
def job(database, schema):
    with contextlib.closing(PostgreSQL(database, schema)) as found:
        yield found


@contextlib.contextmanager
def begun(database, schema, item):
    """A transaction that has recorded an attempt and not committed it yet, as those of workers that were slower."""
    with contextlib.closing(PostgreSQL(database, schema)) as other:
        other.execute("START TRANSACTION")
        other.execute(SAMPLE, (item, "running"))
        other.execute(ATTEMPT, (item,))
        yield other


def started(events):
    return [event.key for event in events if isinstance(event, AttemptStarted)]


def test_an_attempt_that_is_committed_after_later_ones_is_heard_of(database, schema, job, monitor, events):
    with begun(database, schema, "early") as slow:
        job.execute(ATTEMPT, ("late",))
        monitor._poll()
        monitor._poll()
        assert started(events) == ["late"]
        slow.execute("COMMIT")
        monitor._poll()
        assert started(events) == ["late", "early"]
        job.execute("UPDATE attempt SET outcome = 'failed', ended_at = 1")
        monitor._poll()
        monitor._poll()
    assert len(events) == 4 and monitor._open_attempts == set()


def test_so_is_one_that_was_under_way_when_the_watching_began(database, schema, job):
    heard = []
    with begun(database, schema, "early") as slow:
        job.execute(ATTEMPT, ("late",))
        reader = Reader(PostgreSQL(database, schema))
        monitor = ClusterMonitor(database, schema, reader, heard.append)
        slow.execute("COMMIT")
        monitor._poll()
        assert started(heard) == ["early"]
        monitor.close()
        reader.close()


def test_a_number_that_was_rolled_back_is_not_waited_for_long(database, schema, job, monitor):
    with begun(database, schema, "never") as other:
        job.execute(ATTEMPT, ("there",))
        monitor._poll()
        monitor._poll()
        assert len(monitor._attempts.missing) == 1
        other.execute("ROLLBACK")
    for _ in range(2):
        monitor._poll()
    assert monitor._attempts.missing == []


def test_a_sample_that_is_blocked_is_heard_of_once_whatever_the_clock_of_its_worker_says(job, monitor, events):
    job.execute(WORK, (1,))
    job.execute(ATTEMPT, ("a",))
    monitor._poll()
    job.execute(SAMPLE, ("b", "blocked"))  # updated in 1970
    job.execute("UPDATE attempt SET outcome = 'refused', ended_at = 1")
    monitor._poll()
    monitor._poll()
    assert [(event.key, event.state) for event in events if isinstance(event, SampleEnded)] == [("b", "blocked")]


def rows_read(monitor):
    """Rows of the queue that a look reads: PostgreSQL counts them for the transaction under way."""
    db, sums = monitor._db, "sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))"
    db.execute("START TRANSACTION")
    monitor._poll()
    sql = (
        f"SELECT {sums} FROM pg_stat_xact_user_tables WHERE relname IN ('work', 'sample', 'attempt') AND schemaname = ?"
    )
    found = db.execute(sql, (db.schema,)).fetchone()[0]
    db.execute("COMMIT")
    return found


@pytest.mark.parametrize("statistics", ["none", "fresh"])
def test_a_look_does_not_walk_the_queue(schema, job, monitor, statistics):
    """Nor does one when a lane is parked, or when the front of the table has been made and not been vacuumed."""
    job.execute(WORK, (5000,))
    job.execute("INSERT INTO sample (item_id, n, model, state, fingerprint, wire, updated_at)"
                " SELECT item_id, 1, 'm', 'submitted', '', '', 0 FROM work")  # fmt: skip
    job.execute("DELETE FROM work WHERE id <= 2500")
    job.transact([lambda db: lease.announce(db, schema)])
    if statistics == "fresh":
        job.execute("ANALYZE work, sample")
    assert monitor._poll() == (True, False, False)
    assert rows_read(monitor) <= 10
    job.execute("INSERT INTO lane VALUES ('gemini/m', ?, '')", (4e9,))
    assert monitor._poll() == (True, True, False)
    assert rows_read(monitor) <= 10
