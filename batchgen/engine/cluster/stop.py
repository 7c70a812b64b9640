"""Ending a submission before its work is done: by its budget, its deadline, a refused key, or a person."""

from __future__ import annotations

from batchgen.engine.cluster import queue
from batchgen.ledger import work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.location import SHARED_SCHEMA, open_schema


def stop_submission(db: Connection, schema: str, run_id: int, reason: str, message: str) -> int:
    """No more requests of a submission start, on no machine. The first reason stays. Answers how many samples are withdrawn;
    what a worker has that is alive is finished, and so are files of pictures that are there. May be repeated for those who
    have died since."""
    db.execute(f"SET LOCAL search_path = {schema}, {queue.SCHEMA}")
    db.execute(
        "UPDATE submission SET stopped_by = ?, message = ? WHERE run_id = ? AND stopped_by = ''",
        (reason, message, run_id),
    )
    rows = db.execute(
        f"SELECT key FROM work WHERE run_id = ? AND images > 0 AND claim NOT IN (SELECT w.name FROM {SHARED_SCHEMA}.worker w"
        f" WHERE {queue.WORKER_IS_ALIVE}) ORDER BY id FOR UPDATE",
        (run_id, queue.STALE_S),
    ).fetchall()
    withdrawn = work_queue.cancel_work(db, [key for (key,) in rows])
    db.execute(
        f"DELETE FROM {queue.SCHEMA}.procrastinate_jobs j WHERE status = 'todo' AND task_name = ? AND args ->> 'schema' = ?"
        " AND args ->> 'run' = ? AND NOT EXISTS (SELECT 1 FROM work k WHERE k.key = j.args ->> 'key')",
        (queue.TASK, schema, str(run_id)),
    )
    db.execute(f"SET LOCAL search_path = {schema}")
    return withdrawn


def stop_expired(db: Connection, schema: str) -> None:
    """Submissions whose time is up, and what is left of stopped ones with workers that have died."""
    db.execute(f"SET LOCAL search_path = {schema}")
    rows = db.execute(
        f"SELECT run_id, stopped_by FROM submission WHERE (stopped_by <> '' OR {work_queue.DEADLINE_PASSED_SQL})"
        " AND EXISTS (SELECT 1 FROM work k WHERE k.run_id = submission.run_id AND k.images > 0)"
    ).fetchall()
    for run_id, stopped_by in rows:
        stop_submission(db, schema, run_id, stopped_by or "deadline", "")


def cancel(url: str, schema: str) -> tuple[int, int]:
    """(samples withdrawn, samples that workers finish) of all submissions of a job. Raises LedgerError."""
    database = open_schema(url, schema)

    def change(db: Connection) -> tuple[int, int]:
        if db.execute("SELECT to_regclass('work')").fetchone()[0] is None:
            return 0, 0
        runs = db.execute("SELECT DISTINCT run_id FROM work WHERE images > 0").fetchall()
        withdrawn = sum(
            stop_submission(db, schema, run_id, "cancelled", "withdrawn by batchgen cancel") for (run_id,) in runs
        )
        left = db.execute("SELECT coalesce(sum(images), 0) FROM work").fetchone()[0]
        return withdrawn, int(left)

    try:
        withdrawn, left = database.transact([change])[0]
        return withdrawn, left
    finally:
        database.close()
