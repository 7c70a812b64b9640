"""Records who holds a piece of the cluster's work: claimed in blocks by a living worker, given back, and free again
when the worker falls silent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.ledger.database import Connection, placeholders
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.work_queue import DERIVATIVES_LANE

# id: in the order in which jobs came. A row exists while a job has work in the lane, and may outlast it.
QUEUE_DDL = f"""
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.queue (
  id INTEGER PRIMARY KEY, schema TEXT NOT NULL, lane TEXT NOT NULL, UNIQUE (schema, lane));
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.worker (
  name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, concurrency INTEGER NOT NULL, started_at REAL NOT NULL,
  at REAL NOT NULL, post_processes INTEGER NOT NULL DEFAULT 0);
"""
# For autoscalers, which may ask before there is any worker: everything that a worker could take now or has. Anybody
# with the right to use the schema may ask; the tables stay closed to them.
DEPTH_FUNCTION = f"{SHARED_SCHEMA}.queue_depth()"
DEPTH_FUNCTION_DDL = f"""
CREATE OR REPLACE FUNCTION {DEPTH_FUNCTION} RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  queue record;
  found bigint;
  total bigint := 0;
BEGIN
  FOR queue IN SELECT schema, lane FROM {SHARED_SCHEMA}.queue WHERE to_regclass(schema || '.work') IS NOT NULL LOOP
    EXECUTE format('SELECT count(*) FROM %I.work WHERE lane = $1 AND missing = 0 AND (worker <> $2 OR ready_at <= $3)',
                   queue.schema) INTO found USING queue.lane, '', extract(epoch FROM clock_timestamp());
    total := total + found;
  END LOOP;
  RETURN total;
END $$"""
CHANNEL = "batchgen_work"  # tells workers that there is work; missed messages are made up for by polling
SERVER_NOW = "extract(epoch FROM clock_timestamp())"
# While the server was away nobody could be heard. ?: seconds of silence after which a worker is taken for dead.
WORKER_IS_ALIVE = f"greatest(w.at, extract(epoch FROM pg_postmaster_start_time())) > {SERVER_NOW} - ?"
SOON_S = 600.0  # work that waits for longer is not waited for
# The values are those of `Holder.values`.
_FREE = (
    f"k.missing = 0 AND k.ready_at <= {SERVER_NOW} AND (k.worker = '' OR (k.worker = ? AND k.key <> ALL(?::text[]))"
    f" OR (k.worker <> ? AND k.worker <> ALL(ARRAY(SELECT w.name FROM {SHARED_SCHEMA}.worker w WHERE {WORKER_IS_ALIVE}))))"
)
_IN_TURN = "ORDER BY k.priority DESC, k.id"


class Holder(NamedTuple):
    """A worker that looks for work. keys: what it works on in a job; anything else claimed in its name was lost on the
    way. stale_s: seconds of silence after which another worker is taken for dead."""

    worker: str
    keys: Collection[str]
    stale_s: float

    @property
    def values(self) -> tuple[object, ...]:
        return (self.worker, list(self.keys), self.worker, self.stale_s)


class WaitingWork(NamedTuple):
    """The next free piece of work: its job, its run, its lane."""

    schema: str
    run_id: int
    lane: str


class ClaimedRow(NamedTuple):
    lane: str
    body: str
    item_id: str
    n: int


class QueueDepth(NamedTuple):
    """Pieces of work: ready to be taken, with a worker, and not to be taken before a later time."""

    job: str
    lane: str
    ready: int
    taken: int
    later: int


def announce(db: Connection, schema: str) -> None:
    """Tell all workers about a job's work, which the current transaction has changed."""
    # Not DO NOTHING: whoever removes an empty lane from the list waits for this, or this for them.
    db.execute(
        f"INSERT INTO {SHARED_SCHEMA}.queue (schema, lane) SELECT DISTINCT ?, lane FROM {schema}.work"
        " ON CONFLICT (schema, lane) DO UPDATE SET lane = excluded.lane",
        (schema,),
    )
    notify(db)


def notify(db: Connection) -> None:
    """Wake workers that have nothing to do, once the transaction is durable."""
    db.execute("SELECT pg_notify(?, '')", (CHANNEL,))


def next_work(
    db: Connection,
    holder: Holder,
    keys: Mapping[str, Collection[str]],
    full: Collection[str],
    closed: Collection[tuple[str, int, bool]],
) -> list[WaitingWork]:
    """The next piece of work of each job and lane, in the order in which they should be claimed.

    keys: by schema, what the holder works on, replacing its own. full: lanes for which it has no room. closed: what it
    can make nothing of now: schema, run, and whether derivatives or samples.
    """
    listed = _listed(db, full)
    values: list[object] = []
    for schema, lane in listed:
        kind = lane == DERIVATIVES_LANE
        runs = [run_id for job, run_id, of_derivatives in closed if (job, of_derivatives) == (schema, kind)]
        values += [lane, runs, *holder._replace(keys=keys.get(schema, ())).values]
    sql = " UNION ALL ".join(
        f"(SELECT {place}, k.run_id, k.priority FROM {schema}.work k"
        f" WHERE k.lane = ? AND k.run_id <> ALL(?::bigint[]) AND {_FREE} {_IN_TURN} LIMIT 1)"
        for place, (schema, _) in enumerate(listed)
    )
    rows = db.execute(sql, values).fetchall() if listed else []
    rows.sort(key=lambda row: (-row[2], row[0]))
    return [WaitingWork(listed[place][0], run_id, listed[place][1]) for place, run_id, _ in rows]


def claim(db: Connection, holder: Holder, run_id: int, lane: str, max_count: int) -> list[ClaimedRow]:
    """Claim up to this much free work of a run for the worker, in order."""
    rows = db.execute(
        f"WITH free AS MATERIALIZED (SELECT k.id FROM work k WHERE k.run_id = ? AND k.lane = ? AND {_FREE} {_IN_TURN}"
        " LIMIT ? FOR UPDATE OF k SKIP LOCKED) UPDATE work SET worker = ? FROM free WHERE work.id = free.id"
        " RETURNING work.priority, work.id, lane, body, item_id, n",
        (run_id, lane, *holder.values, max_count, holder.worker),
    ).fetchall()
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [ClaimedRow(*row[2:]) for row in rows]


def release(db: Connection, worker: str, key: str, delay_s: float) -> None:
    """Release work to whoever takes it next, but only in this many seconds by the server's clock."""
    db.execute(
        f"UPDATE work SET worker = '', ready_at = {SERVER_NOW} + ? WHERE key = ? AND worker = ?", (delay_s, key, worker)
    )
    if delay_s <= 0:
        notify(db)


def holds(db: Connection, worker: str, key: str) -> bool:
    """Whether the work still belongs to this worker; it stays so until the transaction ends."""
    row = db.execute("SELECT worker FROM work WHERE key = ? FOR UPDATE", (key,)).fetchone()
    return row is not None and row[0] == worker


def has_work(db: Connection, without: Collection[str]) -> bool:
    """Whether anything is being made, or may be soon. without: lanes that do not count."""
    found = (
        "(SELECT 1 FROM {schema}.work k WHERE k.lane = ? AND k.missing = 0"
        f" AND (k.worker <> '' OR k.ready_at < {SERVER_NOW} + {SOON_S}) LIMIT 1)"
    )
    return bool(_in_all_jobs(db, found, without))


def waiting_count(db: Connection) -> int:
    """The number of pieces of work that wait only for a worker, or are with one."""
    found = "(SELECT count(*) FROM {schema}.work k WHERE k.lane = ? AND k.missing = 0)"
    return sum(count for (count,) in _in_all_jobs(db, found, ()))


def queue_depths(db: Connection) -> list[QueueDepth]:
    """By job and lane, how much work waits only for a worker or a later time, or is with a worker. Walks the queue."""
    now = f"k.ready_at <= {SERVER_NOW}"
    found = (
        f"(SELECT (SELECT name FROM {SHARED_SCHEMA}.job WHERE schema = '{{schema}}'),"
        " min(k.lane),"
        f" count(*) FILTER (WHERE k.worker = '' AND {now}), count(*) FILTER (WHERE k.worker <> ''),"
        f" count(*) FILTER (WHERE k.worker = '' AND NOT {now}) FROM {{schema}}.work k WHERE k.lane = ? AND k.missing = 0)"
    )
    rows = _in_all_jobs(db, found, ())
    return [QueueDepth(*row) for row in rows if row[1] is not None]


def workers_alive(db: Connection, stale_s: float) -> int:
    return int(
        db.execute(f"SELECT count(*) FROM {SHARED_SCHEMA}.worker w WHERE {WORKER_IS_ALIVE}", (stale_s,)).fetchone()[0]
    )


def forget_empty_lanes(db: Connection) -> None:
    """Remove jobs and lanes without work from the list of those where workers look."""
    rows = db.execute(
        f"SELECT id, schema, lane, to_regclass(schema || '.work')::text FROM {SHARED_SCHEMA}.queue FOR UPDATE SKIP LOCKED"
    ).fetchall()
    for number, schema, lane, table in rows:
        # In a statement of its own, which sees what was submitted before the row was locked.
        there = table and db.execute(f"SELECT 1 FROM {schema}.work WHERE lane = ? LIMIT 1", (lane,)).fetchone()
        if not there:
            db.execute(f"DELETE FROM {SHARED_SCHEMA}.queue WHERE id = ?", (number,))


def _in_all_jobs(db: Connection, query: str, without: Collection[str]) -> Sequence[Any]:
    listed = _listed(db, without)
    sql = " UNION ALL ".join(query.format(schema=schema) for schema, _ in listed)
    return db.execute(sql, [lane for _, lane in listed]).fetchall() if listed else ()


def _listed(db: Connection, without: Collection[str]) -> list[tuple[str, str]]:
    """(schema, lane) of all jobs, oldest first. A schema may have been dropped by hand."""
    sql = f"SELECT schema, lane FROM {SHARED_SCHEMA}.queue WHERE to_regclass(schema || '.work') IS NOT NULL"
    if without:
        sql += f" AND lane NOT IN ({placeholders(tuple(without))})"
    return db.execute(f"{sql} ORDER BY id", tuple(without)).fetchall()
