"""The cluster's queue: its tables on the ledger's server, the migration of earlier versions, and the settings of its
workers. It also ends a submission before its work is done, because of its budget, its deadline, a refused key, or a
person."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from batchgen.errors import LedgerError, UsageError
from batchgen.ledger import endings, work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.lease import DEPTH_FUNCTION, DEPTH_FUNCTION_DDL, QUEUE_DDL, WORKER_IS_ALIVE, announce
from batchgen.ledger.location import SHARED_SCHEMA, lock_schema_changes, open_schema
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl
from batchgen.ledger.runs import WORKER_SILENT_AFTER_S

HEARTBEAT_S = 5.0
CONNECTIONS = 4  # at most, for one worker: to write, to read, its heartbeat, and one while it adopts
STALE_S = WORKER_SILENT_AFTER_S  # what a worker taken for dead still delivers is checked
VERSION = "batchgen 1"  # of the tables; earlier ones were procrastinate's, with its migration's name
_PROCRASTINATE = "batchgen_queue"  # the schema of procrastinate's tables
_VERSION_TABLE = f"{SHARED_SCHEMA}.queue_tables"
# A worker of an earlier version that starts now finds tables of a procrastinate that it does not know, and leaves.
_REFUSE_EARLIER_WORKERS = (
    f"DROP SCHEMA IF EXISTS {_PROCRASTINATE} CASCADE",
    f"CREATE SCHEMA {_PROCRASTINATE}",
    f"CREATE TABLE {_PROCRASTINATE}.procrastinate_jobs (task_name TEXT, status TEXT)",
    f"DELETE FROM {_VERSION_TABLE}",
    f"INSERT INTO {_VERSION_TABLE} VALUES ('{VERSION}')",
)


class Requeue(Exception):
    """The work goes back into the queue, and nobody takes it before this many seconds have passed."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"again in {delay_s} s")
        self.delay_s = delay_s


def open_server(url: str, application: str) -> PostgreSQL:
    """A connection to what all jobs of a server share. Raises LedgerError, UsageError."""
    return PostgreSQL(url, SHARED_SCHEMA, application)


def migrate(url: str) -> None:
    """Create the queue's tables if there are none, and take over what an earlier version has in its own.

    Raises LedgerError, and UsageError if the tables belong to a newer version.
    """
    with contextlib.closing(open_server(url, "batchgen queue")) as server:
        if schema_version(server) != VERSION:
            server.transact([_migrate])
        parts = "SELECT to_regprocedure(?), to_regclass(?)"
        if None in server.execute(parts, (DEPTH_FUNCTION, endings.TABLE)).fetchone():
            with contextlib.suppress(LedgerError):  # a user without the right leaves it to one who has it
                server.transact([lock_schema_changes, _add_later_parts])


def _add_later_parts(db: Connection) -> None:
    """Add tables that workers of this version can do without, so they are not part of the tables' version."""
    db.execute(DEPTH_FUNCTION_DDL)
    db.execute(to_postgresql_ddl(endings.TABLE_DDL))


def _migrate(db: Connection) -> None:
    lock_schema_changes(db)
    version = schema_version(db)
    if version == VERSION:  # another process was quicker
        return
    if is_newer(version):
        raise UsageError(
            f"the queue's tables were made by a newer version of batchgen ({version}): pip install --upgrade 'batchgen[cluster]'"
        )
    db.execute(f"CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA}")
    db.execute(f"CREATE TABLE IF NOT EXISTS {_VERSION_TABLE} (version TEXT NOT NULL)")
    db.execute(f"DROP TABLE IF EXISTS {SHARED_SCHEMA}.queue")  # it only named lanes
    for statement in _statements(QUEUE_DDL):
        db.execute(statement)
    for schema in _schemas_of_earlier_versions(db):
        _take_over(db, schema)
    db.execute(f"SET LOCAL search_path = {SHARED_SCHEMA}")
    for statement in _REFUSE_EARLIER_WORKERS:
        db.execute(statement)


def create_work_tables(db: Connection) -> None:
    """Create the tables of one job, in whose schema the transaction is."""
    for statement in _statements(work_queue.TABLES_DDL):
        db.execute(statement)


def schema_version(db: Connection) -> str | None:
    """The version of the queue's tables, None if there are none."""
    if db.execute("SELECT to_regclass(?)", (_VERSION_TABLE,)).fetchone()[0] is None:
        return None
    found = db.execute(f"SELECT max(version) FROM {_VERSION_TABLE}").fetchone()[0]
    return None if found is None else str(found)


def is_newer(version: str | None) -> bool:
    return version is not None and version.startswith("batchgen ") and version != VERSION


def _schemas_of_earlier_versions(db: Connection) -> list[str]:
    rows = db.execute(
        "SELECT n.nspname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = 'work' AND a.attname = 'claim' AND starts_with(n.nspname, 'batchgen_job_') ORDER BY 1"
    )
    return [schema for (schema,) in rows.fetchall()]


def _take_over(db: Connection, schema: str) -> None:
    """Take over a job that an earlier version submitted. Because a column is renamed, old workers finish what they have
    sent but claim nothing more: they would not check who holds it."""
    db.execute(f"SET LOCAL search_path = {schema}")
    db.execute("ALTER TABLE work RENAME COLUMN claim TO worker")
    db.execute(to_postgresql_ddl("ALTER TABLE work ADD COLUMN ready_at REAL NOT NULL DEFAULT 0"))
    create_work_tables(db)
    jobs = f"{_PROCRASTINATE}.procrastinate_jobs"
    if db.execute("SELECT to_regclass(?)", (jobs,)).fetchone()[0] is not None:
        db.execute(
            f"UPDATE work SET ready_at = extract(epoch FROM j.scheduled_at) FROM {jobs} j WHERE j.status = 'todo'"
            " AND j.scheduled_at IS NOT NULL AND j.args ->> 'schema' = ? AND j.args ->> 'key' = work.key"
            " AND j.args ->> 'run' = work.run_id::text",
            (schema,),
        )
    announce(db, schema)


def _statements(ddl: str) -> list[str]:
    return [statement for statement in to_postgresql_ddl(ddl).split(";") if statement.strip()]


def stop_submission(db: Connection, run_id: int, reason: str, message: str) -> int:
    """Start no more requests of a submission on any machine. The first reason is kept. Returns how many samples are
    withdrawn. What a living worker has is finished, and so are the derivatives of existing images. May be repeated for
    workers that have died since."""
    db.execute(
        "UPDATE submission SET stopped_by = ?, message = ? WHERE run_id = ? AND stopped_by = ''",
        (reason, message, run_id),
    )
    rows = db.execute(
        f"SELECT key FROM work WHERE run_id = ? AND images > 0 AND worker NOT IN (SELECT w.name FROM {SHARED_SCHEMA}.worker w"
        f" WHERE {WORKER_IS_ALIVE}) ORDER BY id FOR UPDATE",
        (run_id, STALE_S),
    ).fetchall()
    return work_queue.cancel_work(db, [key for (key,) in rows])


def stop_expired(db: Connection, settled: Collection[int] = ()) -> set[int]:
    """Stop submissions whose time is up, and withdraw what stopped ones still have with workers that died since.
    settled: submissions known to have nothing left. Returns the others that have nothing left."""
    rows = db.execute(
        f"SELECT run_id, stopped_by, EXISTS (SELECT 1 FROM work k WHERE k.run_id = submission.run_id AND k.images > 0)"
        f" FROM submission WHERE (stopped_by <> '' OR {work_queue.DEADLINE_PASSED_SQL}) AND run_id <> ALL(?::bigint[])",
        (list(settled),),
    ).fetchall()
    for run_id, stopped_by, has_work in rows:
        if has_work:
            stop_submission(db, run_id, stopped_by or "deadline", "")
    return {run_id for run_id, _, has_work in rows if not has_work}


def cancel(url: str, schema: str, *, dry_run: bool = False) -> tuple[int, int]:
    """Cancel all submissions of a job. Returns (samples withdrawn, samples that workers finish). Raises LedgerError.

    dry_run: count them only; nothing changes.
    """

    def change(db: Connection) -> tuple[int, int]:
        db.execute("SAVEPOINT before_cancel")
        runs = db.execute("SELECT DISTINCT run_id FROM work WHERE images > 0").fetchall()
        withdrawn = sum(stop_submission(db, run_id, "cancelled", "withdrawn by batchgen cancel") for (run_id,) in runs)
        left = db.execute("SELECT coalesce(sum(images), 0) FROM work").fetchone()[0]
        if dry_run:
            db.execute("ROLLBACK TO before_cancel")
        return withdrawn, int(left)

    with contextlib.closing(open_schema(url, schema)) as database:
        if database.execute("SELECT to_regclass('work')").fetchone()[0] is None:
            return 0, 0
        migrate(url)
        withdrawn, left = database.transact([change])[0]
        return withdrawn, left
