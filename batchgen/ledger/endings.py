"""Records submissions whose end nobody waits for: when the last image is made, one worker writes what a run writes at
its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from batchgen.ledger.database import Connection
from batchgen.ledger.lease import SERVER_NOW, WORKER_IS_ALIVE
from batchgen.ledger.location import SHARED_SCHEMA

# One row for each job: what is submitted later ends everything. notify: the recipients of a message, JSON. left_at: UTC
# seconds. exit_code: how it ended, once that is written.
TABLE = f"{SHARED_SCHEMA}.ending"
TABLE_DDL = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  schema TEXT PRIMARY KEY, run_id INTEGER NOT NULL, notify TEXT NOT NULL, left_at REAL NOT NULL,
  worker TEXT NOT NULL DEFAULT '', exit_code INTEGER)"""
LEAVING_S = 600.0  # then a submitter that has not confirmed its results is taken for dead
_UNCLAIMED = (
    "e.exit_code IS NULL AND NOT EXISTS"
    f" (SELECT 1 FROM {SHARED_SCHEMA}.worker w WHERE w.name = e.worker AND {WORKER_IS_ALIVE})"
)
# Nothing of the job can be made, waits for something that is being made, or is about to be moved into place. Uses the
# queue's index while much is waiting.
_OVER = (
    "(SELECT lane FROM {schema}.work WHERE missing = 0 ORDER BY lane LIMIT 1) IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM {schema}.work WHERE images > 0)"
    " AND NOT EXISTS (SELECT 1 FROM {schema}.image i JOIN {schema}.attempt a ON a.id = i.attempt_id"
    f" JOIN {SHARED_SCHEMA}.worker w ON w.name = a.worker AND {WORKER_IS_ALIVE} WHERE i.placed = 0)"
)
_SUBMITTER_HAS_LEFT = (
    f"left_at < {SERVER_NOW} - {LEAVING_S} OR (SELECT value FROM {{schema}}.meta WHERE key = 'results_tidy') = 'yes'"
)


class Ending(NamedTuple):
    schema: str
    run_id: int
    notify: Mapping[str, Any]


def _is_there(db: Connection) -> bool:
    """Whether the table exists, which it does not if the server's user may not create tables."""
    return db.execute("SELECT to_regclass(?)", (TABLE,)).fetchone()[0] is not None


def leave_to_workers(db: Connection, schema: str, run_id: int, notify: Mapping[str, Any]) -> None:
    """Let workers end what this job has in the queue, if there is anything."""
    if not _is_there(db) or not db.execute("SELECT 1 FROM work WHERE images > 0 OR missing = 0 LIMIT 1").fetchone():
        return
    db.execute(
        f"INSERT INTO {TABLE} (schema, run_id, notify, left_at) VALUES (?, ?, ?, {SERVER_NOW}) ON CONFLICT (schema) DO UPDATE SET"
        " run_id = excluded.run_id, notify = excluded.notify, left_at = excluded.left_at, worker = '', exit_code = NULL",
        (schema, run_id, json.dumps(notify)),
    )


def take_back(db: Connection, schema: str, *, forget: bool) -> int | None:
    """Take the ending back: a run does it itself. forget: also forget how the last submission ended; otherwise return
    the exit code with which workers ended it."""
    if not _is_there(db):
        return None
    row = db.execute(f"SELECT exit_code FROM {TABLE} WHERE schema = ? FOR UPDATE", (schema,)).fetchone()
    if row is None or (row[0] is not None and not forget):
        return None if row is None else int(row[0])
    db.execute(f"DELETE FROM {TABLE} WHERE schema = ?", (schema,))
    return None


def due(db: Connection, stale_s: float) -> list[tuple[Ending, bool]]:
    """The endings of jobs that have nothing left to do, claimed or not, and whether each submitter has left."""
    sql = f"SELECT schema, run_id, notify FROM {TABLE} WHERE exit_code IS NULL AND to_regclass(schema || '.work') IS NOT NULL"
    found = list[tuple[Ending, bool]]()
    if not _is_there(db):
        return found
    for schema, run_id, notify in db.execute(sql).fetchall():
        sql = f"SELECT {_OVER}, {_SUBMITTER_HAS_LEFT} FROM {TABLE} WHERE schema = ?".replace("{schema}", schema)
        over, left = db.execute(sql, (stale_s, schema)).fetchone() or (False, False)
        if over:
            found.append((Ending(schema, run_id, json.loads(notify)), bool(left)))
    return found


def claim(db: Connection, ending: Ending, worker: str, stale_s: float) -> bool:
    """Claim an ending. Returns whether it belongs to this worker alone, until it is ended, given back, or the worker
    falls silent."""
    sql = f"UPDATE {TABLE} e SET worker = ? WHERE schema = ? AND run_id = ? AND {_UNCLAIMED} RETURNING 1"
    return db.execute(sql, (worker, ending.schema, ending.run_id, stale_s)).fetchone() is not None


def give_back(db: Connection, ending: Ending, worker: str) -> None:
    sql = f"UPDATE {TABLE} SET worker = '' WHERE schema = ? AND run_id = ? AND worker = ?"
    db.execute(sql, (ending.schema, ending.run_id, worker))


def record_end(db: Connection, ending: Ending, worker: str, exit_code: int) -> None:
    sql = f"UPDATE {TABLE} SET worker = '', exit_code = ? WHERE schema = ? AND run_id = ? AND worker = ?"
    db.execute(sql, (exit_code, ending.schema, ending.run_id, worker))
