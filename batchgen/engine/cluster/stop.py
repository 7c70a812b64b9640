"""Ends a submission before its work is done, because of its budget, its deadline, a refused key, or a person."""

from __future__ import annotations

from collections.abc import Collection

from batchgen.engine.cluster import queue
from batchgen.ledger import work_queue
from batchgen.ledger.database import Connection
from batchgen.ledger.lease import WORKER_IS_ALIVE
from batchgen.ledger.location import SHARED_SCHEMA, open_schema


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
        (run_id, queue.STALE_S),
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
    database = open_schema(url, schema)

    def change(db: Connection) -> tuple[int, int]:
        db.execute("SAVEPOINT before_cancel")
        runs = db.execute("SELECT DISTINCT run_id FROM work WHERE images > 0").fetchall()
        withdrawn = sum(stop_submission(db, run_id, "cancelled", "withdrawn by batchgen cancel") for (run_id,) in runs)
        left = db.execute("SELECT coalesce(sum(images), 0) FROM work").fetchone()[0]
        if dry_run:
            db.execute("ROLLBACK TO before_cancel")
        return withdrawn, int(left)

    try:
        if database.execute("SELECT to_regclass('work')").fetchone()[0] is None:
            return 0, 0
        queue.migrate(url)
        withdrawn, left = database.transact([change])[0]
        return withdrawn, left
    finally:
        database.close()
