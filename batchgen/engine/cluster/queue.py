"""The queue of the cluster: procrastinate on the ledger's own server, in a schema of its own."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.errors import UsageError
from batchgen.ledger.database import Connection
from batchgen.ledger.location import SHARED_SCHEMA, lock_schema_changes
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl
from batchgen.ledger.runs import WORKER_SILENT_AFTER_S

if TYPE_CHECKING:
    from procrastinate import App
    from procrastinate.jobs import Job

SCHEMA = "batchgen_queue"
TASK = "batchgen.sample"  # and, since they are the same kind of work, of the derivatives of its pictures
HEARTBEAT_S = 5.0
LONG_AGO = datetime.fromtimestamp(0, UTC)  # whatever the clocks say
STALE_S = WORKER_SILENT_AFTER_S  # what a worker taken for dead still brings is checked

OLDEST_VERSION = (
    "03.04.00_50_post_add_retry_failed_job_procedure"  # of tables that were made before this was written down
)
_JOBS_TABLE, _VERSION_TABLE = f"{SCHEMA}.procrastinate_jobs", f"{SHARED_SCHEMA}.queue_tables"

# at: by the server's clock. A lane is a queue of procrastinate, so that none waits behind another.
TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SHARED_SCHEMA};
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.queue (lane TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS {_VERSION_TABLE} (version TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.worker (
  name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, concurrency INTEGER NOT NULL, started_at REAL NOT NULL,
  at REAL NOT NULL, post_processes INTEGER NOT NULL DEFAULT 0);
"""
_REPAIR_LOCK = 7_161_988_004  # of `pg_advisory_xact_lock`: any number that nobody else uses
SERVER_NOW = "extract(epoch FROM clock_timestamp())"
# While the server was away nobody could be heard of. ?: STALE_S.
WORKER_IS_ALIVE = f"greatest(w.at, extract(epoch FROM pg_postmaster_start_time())) > {SERVER_NOW} - ?"


class Requeue(Exception):
    """The work goes back into the queue. at: UTC seconds of this host before which nobody takes it up."""

    def __init__(self, at: float) -> None:
        super().__init__(f"again at {at}")
        self.at = at


def migrate(database: PostgreSQL) -> None:
    """Make the queue's tables where there are none, and bring older ones up to date with the procrastinate that is here.

    database: in the schema that all jobs share. Raises LedgerError, UsageError when they are of a newer one.
    """
    procrastinate = import_procrastinate()
    migrations = _migrations()

    def change(db: Connection) -> tuple[str | None, bool]:
        lock_schema_changes(db)
        for statement in to_postgresql_ddl(TABLES).split(";"):
            if statement.strip():
                db.execute(statement)
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        there = db.execute("SELECT to_regclass(?)", (_JOBS_TABLE,)).fetchone()[0] is not None
        if there:  # of a version in which derivatives were work of another kind: the job's next run asks for them again
            db.execute(f"SET LOCAL search_path = {SCHEMA}")  # for a trigger's sake
            db.execute("DELETE FROM procrastinate_jobs WHERE task_name = 'batchgen.post'")
            db.execute(f"SET LOCAL search_path = {SHARED_SCHEMA}")
        return schema_version(db), there

    version, there = database.transact([change])[0]
    if not there:
        schema = procrastinate.schema.SchemaManager.get_schema()
        _apply_once(database, f"to_regclass('{_JOBS_TABLE}') IS NULL", schema, migrations[-1][0])
        return
    version = version or OLDEST_VERSION
    if version > migrations[-1][0]:
        raise UsageError(
            f"the queue's tables were made with a newer procrastinate ({version}) than {procrastinate.__version__}, which is"
            " here: pip install --upgrade 'batchgen[cluster]'"
        )
    for step, sql in migrations:
        if step > version:
            _apply_once(
                database,
                f"coalesce((SELECT max(version) FROM {_VERSION_TABLE}), '{OLDEST_VERSION}') < '{step}'",
                sql,
                step,
            )


def schema_version(db: Connection) -> str | None:
    """The last step of procrastinate's that the queue's tables have seen; None when there is nothing about it."""
    if db.execute("SELECT to_regclass(?)", (_VERSION_TABLE,)).fetchone()[0] is None:
        return None
    found = db.execute(f"SELECT max(version) FROM {_VERSION_TABLE}").fetchone()[0]
    return None if found is None else str(found)


def latest_version() -> str:
    """Of the procrastinate that is here. Raises UsageError without one."""
    return _migrations()[-1][0]


def _apply_once(database: PostgreSQL, condition: str, sql: str, version: str) -> None:
    """Statements of procrastinate's in one transaction, unless somebody else was quicker."""
    database.execute_script(
        f"SELECT pg_advisory_xact_lock(7161988003);"
        f"SET LOCAL search_path = {SCHEMA};"
        f"DO $batchgen$ BEGIN IF {condition} THEN EXECUTE $procrastinate${sql}$procrastinate$;"
        f" DELETE FROM {_VERSION_TABLE}; INSERT INTO {_VERSION_TABLE} VALUES ('{version}'); END IF; END $batchgen$;"
    )


def _migrations() -> list[tuple[str, str]]:
    """(name, statements) of what changed procrastinate's tables from version to version, in order."""
    folder = import_procrastinate().schema.SchemaManager.get_migrations_path()
    return [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.sql"))]


def open_app(
    url: str, clock: Callable[[], float], process: Callable[[str, int, str], Coroutine[Any, Any, None]]
) -> App:
    """The queue as workers see it. clock: UTC seconds by the server, which hands the work out again. process: does a piece of
    work, named by its job's schema, its run and its key."""
    procrastinate = import_procrastinate()
    for name in ("procrastinate", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what concerns anybody is said by ourselves
    connector = procrastinate.PsycopgConnector(
        conninfo=url, kwargs={"options": f"-c search_path={SCHEMA}", "application_name": "batchgen queue"}, max_size=8
    )

    class RequeueStrategy(procrastinate.BaseRetryStrategy):  # type: ignore[misc, name-defined]
        def get_retry_decision(self, *, exception: BaseException, job: Job) -> Any:
            if isinstance(exception, Requeue):
                at = clock() + exception.at - time.time()
                return procrastinate.RetryDecision(retry_at=datetime.fromtimestamp(at, UTC))
            return None

    app = procrastinate.App(connector=connector)

    @app.task(name=TASK, retry=RequeueStrategy())  # type: ignore[untyped-decorator]
    async def work(schema: str, run: int, key: str) -> None:
        await process(schema, run, key)

    found: App = app
    return found


def defer(db: Connection, schema: str, numbers: Sequence[int]) -> None:
    """Put work of a job into the queue, by number, in the transaction that is under way."""
    if not numbers:
        return
    args = "jsonb_build_object('schema', ?::text, 'run', run_id, 'key', key)"
    db.execute(f"SET LOCAL search_path = {schema}, {SCHEMA}")
    db.execute(
        "SELECT procrastinate_defer_jobs_v1(array_agg(ROW(lane, ?, priority, NULL, NULL, "
        f"{args}, NULL)::procrastinate_job_to_defer_v1 ORDER BY priority DESC, id))"
        " FROM work JOIN unnest(?::bigint[]) AS ready (id) USING (id)",
        (TASK, schema, list(numbers)),
    )
    db.execute(f"SET LOCAL search_path = {schema}")


def defer_ready(db: Connection, schema: str) -> int:
    """Put into the queue what waits for nothing, nobody has and the queue does not: new work, and what has fallen out of it,
    for one that came back late may have ended there what was another's, and that one died. Answers how much."""
    db.execute("SELECT pg_advisory_xact_lock(?)", (_REPAIR_LOCK,))
    db.execute(f"INSERT INTO {SHARED_SCHEMA}.queue SELECT DISTINCT lane FROM {schema}.work ON CONFLICT DO NOTHING")
    # Right after a large submission the server knows nothing of its size, and would look through all of it for each row.
    db.execute("SET LOCAL enable_nestloop = off")
    rows = db.execute(
        f"SELECT k.id FROM {schema}.work k LEFT JOIN {SHARED_SCHEMA}.worker w ON w.name = k.claim AND {WORKER_IS_ALIVE}"
        f" WHERE k.missing = 0 AND w.name IS NULL AND NOT EXISTS (SELECT 1 FROM {SCHEMA}.procrastinate_jobs j"
        " WHERE j.status IN ('todo', 'doing') AND j.args ->> 'schema' = ? AND j.args ->> 'key' = k.key"
        " AND j.args ->> 'run' = k.run_id::text)",
        (STALE_S, schema),
    ).fetchall()
    db.execute("SET LOCAL enable_nestloop = on")
    defer(db, schema, [number for (number,) in rows])
    return len(rows)


def orphaned_jobs(db: Connection, name: str, is_processing: Callable[[str, int, str], bool]) -> list[int]:
    """Numbers of what nobody has who is alive. name, is_processing: the worker that asks, and whether it is at a piece of work
    still."""
    rows = db.execute(
        f"SELECT j.id, j.args FROM {SCHEMA}.procrastinate_jobs j LEFT JOIN {SCHEMA}.procrastinate_workers w"
        f" ON w.id = j.worker_id WHERE j.status = 'doing' AND j.task_name = ?"
        " AND (w.id IS NULL OR greatest(w.last_heartbeat, pg_postmaster_start_time())"
        " < clock_timestamp() - make_interval(secs => ?))",
        (TASK, STALE_S),
    ).fetchall()
    found = []
    for number, args in rows:
        facts = args if isinstance(args, dict) else json.loads(args)
        work = facts["schema"], facts["run"], facts["key"]
        held = live_holder(db, *work)
        if not held or (held == name and not is_processing(*work)):
            found.append(number)
    return found


def live_holder(db: Connection, schema: str, run: int, key: str) -> str:
    """The worker that is alive and has this work, whatever the queue makes of its silence; empty when there is none."""
    row = db.execute(
        f"SELECT w.name FROM {schema}.work k JOIN {SHARED_SCHEMA}.worker w ON w.name = k.claim WHERE k.key = ? AND k.run_id = ?"
        f" AND {WORKER_IS_ALIVE}",
        (key, run, STALE_S),
    ).fetchone()
    return "" if row is None else str(row[0])


def import_procrastinate() -> Any:
    """Raises UsageError without the package."""
    try:
        import procrastinate
        import procrastinate.schema
    except ImportError:
        raise UsageError("--engine cluster needs the extra `cluster`: pip install 'batchgen[cluster]'") from None
    return procrastinate
