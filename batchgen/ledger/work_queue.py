"""Work for the cluster, in the schema of its job: samples and the derivatives of their images, what each waits for, and
who has it."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from batchgen.errors import LedgerError
from batchgen.ledger.backlog import dump_sample
from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.records import Derivative, Post, Sample, sample_key

DERIVATIVES_LANE = "post"  # not a model's: those have a provider and a model

# missing: how many of the samples it needs are not made yet. worker: the holder, empty if nobody has it. ready_at: UTC
# seconds by the server's clock before which nobody takes it. body: a sample, or what to make of an image; images is 0
# then. due_done: files, by run.
TABLES_DDL = """
CREATE TABLE IF NOT EXISTS submission (
  run_id INTEGER PRIMARY KEY, facts TEXT NOT NULL, budget_usd REAL, spent_usd REAL NOT NULL DEFAULT 0, deadline REAL,
  stopped_by TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', made_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS work (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, key TEXT NOT NULL UNIQUE, lane TEXT NOT NULL, priority INTEGER NOT NULL,
  missing INTEGER NOT NULL, worker TEXT NOT NULL DEFAULT '', body TEXT NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  images INTEGER NOT NULL, ready_at REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_of ON work (item_id);
CREATE INDEX IF NOT EXISTS work_in_turn ON work (lane, priority DESC, id) WHERE missing = 0;
CREATE TABLE IF NOT EXISTS stopped_lane (run_id INTEGER NOT NULL, lane TEXT NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (run_id, lane));
CREATE TABLE IF NOT EXISTS need (key TEXT NOT NULL, work_id INTEGER NOT NULL, PRIMARY KEY (key, work_id));
CREATE INDEX IF NOT EXISTS need_of ON need (work_id);
CREATE TABLE IF NOT EXISTS due_done (
  run_id INTEGER PRIMARY KEY, made INTEGER NOT NULL, skipped INTEGER NOT NULL, removed INTEGER NOT NULL);
"""
# By the server's clock: a worker with a wrong clock must not end the work of all others.
DEADLINE_PASSED_SQL = "deadline <= extract(epoch FROM clock_timestamp())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a worker has to know of a job besides its samples. folder: the job folder, as the submitter sees it. bucket:
    for the images, empty if they are in the folder. lanes: requests per minute by lane. limits, models: from the
    manifest. stall_s: how long a worker keeps trying without a success."""

    name: str
    folder: str
    bucket: str
    hold_uncertain: bool
    emulator_url: str | None
    version: str
    limits: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    lanes: Mapping[str, int | None] = field(default_factory=dict)
    stall_s: float | None = 1800.0


class DerivativeOrder(NamedTuple):
    """What to make of a sample's image."""

    item_id: str
    n: int
    post: Post

    @property
    def key(self) -> str:
        return f"{DERIVATIVES_LANE}/{sample_key(self.item_id, self.n)}"  # which no sample has: their ids have no slash


def is_of_derivatives(key: str) -> bool:
    return key.startswith(f"{DERIVATIVES_LANE}/")


@dataclass(frozen=True, slots=True)
class SubmissionStatus:
    """The state of a submission. stopped_by: why nothing more of it starts, empty while it goes on. deadline_passed:
    its time is up and nobody has recorded that. stopped_lanes: reasons by lane."""

    stopped_by: str
    deadline_passed: bool
    stopped_lanes: Mapping[str, str] = field(default_factory=dict)


def load_submission(db: Connection, run_id: int) -> Submission | None:
    row = db.execute("SELECT facts FROM submission WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        return None
    facts = json.loads(row[0])
    facts.pop("recipes", None)  # from a version in which derivatives were not work like samples
    return Submission(**facts)


def submission_status(db: Connection, run_id: int) -> SubmissionStatus:
    sql = (
        f"SELECT stopped_by, stopped_by = '' AND coalesce({DEADLINE_PASSED_SQL}, false), (SELECT coalesce(json_object_agg(lane, reason),"
        " '{}') FROM stopped_lane l WHERE l.run_id = s.run_id)::text FROM submission s WHERE run_id = ?"
    )
    stopped_by, deadline_passed, lanes = db.execute(sql, (run_id,)).fetchone()
    return SubmissionStatus(stopped_by, deadline_passed, json.loads(lanes))


def add_submission(
    db: Connection, run_id: int, facts: Submission, budget_usd: float | None, deadline: float | None
) -> None:
    """Add a submission, unless it exists."""
    sql = "INSERT INTO submission (run_id, facts, budget_usd, deadline, made_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    db.execute(sql, (run_id, json.dumps(asdict(facts)), budget_usd, deadline, time.time()))


def insert_samples(db: Connection, run_id: int, rows: Sequence[tuple[str, Sample, Sequence[str]]]) -> None:
    """Insert samples, which are `submitted` from now on. rows: lane, sample, keys of the samples that it needs
    first."""
    at = time.time()
    db.executemany(
        "INSERT INTO work (run_id, key, lane, priority, missing, body, item_id, n, images) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (run_id, s.key, lane, s.item.priority, len(set(keys)), dump_sample(s), s.item.id, s.n, s.images)
            for lane, s, keys in rows
        ],
    )
    needs = [(key, sample.key) for _, sample, keys in rows for key in set(keys)]
    if needs:
        db.executemany("INSERT INTO need SELECT ?, id FROM work WHERE key = ?", needs)
    db.executemany(
        "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, attempts, updated_at)"
        " VALUES (?, ?, ?, ?, 'submitted', ?, ?, 0, ?) ON CONFLICT (item_id, n) DO UPDATE SET state = excluded.state,"
        " model = excluded.model, tags = excluded.tags, wire = excluded.wire, updated_at = excluded.updated_at,"
        " attempts = CASE WHEN sample.fingerprint = excluded.fingerprint THEN sample.attempts ELSE 0 END,"
        " fingerprint = excluded.fingerprint, reason = '', message = ''",
        [
            (s.item.id, n, s.item.model, ",".join(s.item.tags), s.fingerprint, s.wire, at)
            for _, s, _ in rows
            for n in range(s.n, s.n + s.images)
        ],
    )


def refresh_statistics(db: Connection) -> None:
    """Refresh statistics after many rows have come: autovacuum takes a minute to notice, and until then workers would
    use plans for empty tables. Tables that somebody has locked are not waited for."""
    with contextlib.suppress(LedgerError):  # everything is submitted
        db.execute("ANALYZE (SKIP_LOCKED) work, need, sample")


def insert_derivatives(db: Connection, run_id: int, orders: Sequence[DerivativeOrder], *, awaited: bool) -> None:
    """Insert derivatives. awaited: their images are still to be made. Identical work that is there already stays."""
    unless_same = "" if awaited else " WHERE work.missing <> 0 OR work.body <> excluded.body"
    db.executemany(
        "INSERT INTO work (run_id, key, lane, priority, missing, body, item_id, n, images) VALUES (?, ?, ?, 0, ?, ?, ?, ?, 0)"
        " ON CONFLICT (key) DO UPDATE SET run_id = excluded.run_id, missing = excluded.missing, body = excluded.body,"
        f" worker = '', ready_at = 0{unless_same}",
        [(run_id, o.key, DERIVATIVES_LANE, int(awaited), _dump_post(o.post), o.item_id, o.n) for o in orders],
    )
    sql = "INSERT INTO need SELECT ?, id FROM work WHERE key = ? ON CONFLICT DO NOTHING"
    if not awaited:
        sql = "DELETE FROM need WHERE key = ? AND work_id = (SELECT id FROM work WHERE key = ?)"
    db.executemany(sql, [(sample_key(o.item_id, o.n), o.key) for o in orders])


@functools.lru_cache(maxsize=64)
def _dump_post(post: Post) -> str:
    return json.dumps(asdict(post), sort_keys=True)


def load_post(body: str) -> Post:
    facts = json.loads(body)
    made = [
        Derivative(**{**one, "widths": tuple(one["widths"]), "crop": one["crop"] and tuple(one["crop"])})
        for one in facts["derivatives"]
    ]
    return Post(**{**facts, "derivatives": tuple(made)})


def submitted_samples(db: Connection) -> list[tuple[str, int]]:
    """(item, number) of all samples in the queue except those whose images are being recorded right now; they stay
    there until the transaction ends."""
    sql = "SELECT item_id, n FROM sample WHERE state = 'submitted' FOR UPDATE SKIP LOCKED"
    return db.execute(sql).fetchall()


def delete_work(db: Connection, keys: Sequence[str]) -> None:
    """Delete work that has ended, well or not."""
    for key in keys:
        db.execute("DELETE FROM need WHERE work_id IN (SELECT id FROM work WHERE key = ?)", (key,))
        db.execute("DELETE FROM work WHERE key = ?", (key,))


def cancel_work(db: Connection, keys: Iterable[str]) -> int:
    """Remove work from this submission, and what waits for it: a later run may request it again. Returns the number of
    samples."""
    left, at, withdrawn = list(keys), time.time(), 0
    while left:
        key = left.pop()
        row = db.execute("SELECT item_id, n, images FROM work WHERE key = ?", (key,)).fetchone()
        if row is None:
            continue
        item_id, first, images = row
        for n in range(first, first + images):
            left += [name for name, *_ in dependents_of(db, sample_key(item_id, n))]
            db.execute(
                "UPDATE sample SET state = 'wanted', updated_at = ? WHERE item_id = ? AND n = ? AND state = 'submitted'",
                (at, item_id, n),
            )
        withdrawn += images
        delete_work(db, [key])
    return withdrawn


def dependents_of(db: Connection, key: str) -> list[tuple[str, str, int]]:
    """(key, body, images) of all work that waits for this sample."""
    sql = "SELECT w.key, w.body, w.images FROM need d JOIN work w ON w.id = d.work_id WHERE d.key = ? ORDER BY w.id"
    return db.execute(sql, (key,)).fetchall()


def record_derivatives(
    db: Connection, run_id: int, rows: Sequence[DerivativeRow], stale: Sequence[DerivativeRow], *, removed: int
) -> None:
    """Record derivatives. removed: how many files of these, or of stale ones, were deleted."""
    upsert_derivatives(rows)(db)
    delete_derivatives(stale)(db)
    made, skipped = (sum(row.state == state for row in rows) for state in ("made", "skipped"))
    db.execute(
        "INSERT INTO due_done VALUES (?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET made = due_done.made + excluded.made,"
        " skipped = due_done.skipped + excluded.skipped, removed = due_done.removed + excluded.removed",
        (run_id, made, skipped, removed),
    )


def delete_derivative_counts(db: Connection, run_id: int) -> None:
    db.execute("DELETE FROM due_done WHERE run_id = ?", (run_id,))


def derivative_progress(db: Connection, run_id: int) -> tuple[int, tuple[int, int, int]]:
    """(images whose files may be made now, of any run; files that this run made, left out and removed)."""
    left = db.execute("SELECT count(*) FROM work WHERE images = 0 AND missing = 0").fetchone()[0]
    row = db.execute("SELECT made, skipped, removed FROM due_done WHERE run_id = ?", (run_id,)).fetchone()
    return int(left), (0, 0, 0) if row is None else (row[0], row[1], row[2])
