"""Jobs that have work in the queue of a cluster, and no more than that."""

from __future__ import annotations

from typing import Any

from batchgen.engine.cluster import queue
from batchgen.ledger import lease
from batchgen.ledger.postgresql import PostgreSQL

LANE = "gemini/m"
INSERT = "INSERT INTO work (run_id, key, lane, priority, missing, body, item_id, n, images) VALUES (?, ?, ?, ?, 0, '{}', ?, 1, 1)"


def rows_of(*work: tuple[str, int, int]) -> list[tuple[Any, ...]]:
    """For INSERT. work: key, priority, run."""
    return [(run, key, LANE, priority, key) for key, priority, run in work]


def job(url: str, name: str, *work: tuple[str, int, int]) -> PostgreSQL:
    """A connection to its schema, `batchgen_job_NAME`. work: key, priority, run."""
    database = PostgreSQL(url, f"batchgen_job_{name}")
    database.execute(f"CREATE SCHEMA {database.schema}")
    fill = [queue.create_work_tables, lambda db: db.executemany(INSERT, rows_of(*work))]
    database.transact([*fill, lambda db: lease.announce(db, database.schema)])
    return database
