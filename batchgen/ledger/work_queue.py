"""Work for the cluster, in the schema of its job: which samples are handed over, what they wait for, and who has them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from batchgen.ledger.backlog import dump_sample, load_sample
from batchgen.ledger.database import Connection
from batchgen.records import Sample, sample_key

# missing: how many of the samples it needs are not made yet; claim: of the worker that has it, empty while nobody has.
TABLES_DDL = """
CREATE TABLE IF NOT EXISTS submission (
  run_id INTEGER PRIMARY KEY, facts TEXT NOT NULL, budget_usd REAL, spent_usd REAL NOT NULL DEFAULT 0, deadline REAL,
  stopped_by TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', made_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS work (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, key TEXT NOT NULL UNIQUE, lane TEXT NOT NULL, priority INTEGER NOT NULL,
  missing INTEGER NOT NULL, claim TEXT NOT NULL DEFAULT '', body TEXT NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL,
  images INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS work_of ON work (item_id);
CREATE TABLE IF NOT EXISTS stopped_lane (run_id INTEGER NOT NULL, lane TEXT NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (run_id, lane));
CREATE TABLE IF NOT EXISTS need (key TEXT NOT NULL, work_id INTEGER NOT NULL, PRIMARY KEY (key, work_id));
CREATE INDEX IF NOT EXISTS need_of ON need (work_id);
"""
# By the server's clock: a worker whose own is wrong by hours must not end the work of all others.
DEADLINE_PASSED_SQL = "deadline <= extract(epoch FROM clock_timestamp())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a worker has to know of a job beside its samples. folder: the job folder, as the submitter sees it; bucket: of
    the pictures, empty when they are in it; lanes: requests a minute by lane; limits, models: as the manifest says;
    recipes: of derivatives, by the names that `derivative_work.dump_recipe` gives; stall_s: how long a worker asks without a success."""

    name: str
    folder: str
    bucket: str
    limits: Mapping[str, Any]
    models: Mapping[str, Any]
    lanes: Mapping[str, int | None]
    hold_uncertain: bool
    emulator_url: str | None
    version: str
    recipes: Mapping[str, Any] = field(default_factory=dict)
    stall_s: float | None = 1800.0


@dataclass(frozen=True, slots=True)
class SubmissionStatus:
    """How a submission stands. stopped_by: why nothing more of it starts, empty while it goes on; deadline_passed: whether its time is
    up and nobody has said so."""

    stopped_by: str
    deadline_passed: bool


def load_submission(db: Connection, run_id: int) -> Submission | None:
    row = db.execute("SELECT facts FROM submission WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else Submission(**json.loads(row[0]))


def submission_status(db: Connection, run_id: int) -> SubmissionStatus:
    sql = f"SELECT stopped_by, stopped_by = '' AND coalesce({DEADLINE_PASSED_SQL}, false) FROM submission WHERE run_id = ?"
    return SubmissionStatus(*db.execute(sql, (run_id,)).fetchone())


def last_submitting_run(db: Connection) -> int | None:
    """The last run that has work in the queue; None when nothing is there."""
    if db.execute("SELECT to_regclass('work')").fetchone()[0] is None:
        return None
    row = db.execute(
        "SELECT max(run_id) FROM (SELECT run_id FROM work UNION ALL"
        " SELECT run_id FROM due WHERE state = 'queued' AND run_id > 0) going"  # 0: of `batchgen post`, which is no run
    ).fetchone()
    return None if row[0] is None else int(row[0])


def insert_submission(
    db: Connection, run_id: int, facts: Submission, budget_usd: float | None, deadline: float | None
) -> None:
    sql = "INSERT INTO submission (run_id, facts, budget_usd, deadline, made_at) VALUES (?, ?, ?, ?, ?)"
    db.execute(sql, (run_id, json.dumps(asdict(facts)), budget_usd, deadline, time.time()))


def add_recipes(db: Connection, run_id: int, recipes: Mapping[str, Any]) -> None:
    """To a submission that goes on."""
    facts = json.loads(db.execute("SELECT facts FROM submission WHERE run_id = ?", (run_id,)).fetchone()[0])
    facts["recipes"] = {**facts["recipes"], **recipes}
    db.execute("UPDATE submission SET facts = ? WHERE run_id = ?", (json.dumps(facts), run_id))


def insert_work(db: Connection, run_id: int, rows: Sequence[tuple[str, Sample, Sequence[str]]]) -> None:
    """rows: lane, sample, keys of the samples that it needs first. The samples are `submitted` from here on."""
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


def submitted_samples(db: Connection) -> list[tuple[str, int]]:
    """(item, number) of all samples in the queue but those whose pictures are being recorded this very moment; they stay so
    until the transaction ends."""
    sql = "SELECT item_id, n FROM sample WHERE state = 'submitted' FOR UPDATE SKIP LOCKED"
    return [(item_id, n) for item_id, n in db.execute(sql).fetchall()]


def release_dependents(db: Connection, keys: Iterable[str]) -> list[int]:
    """These samples have their pictures: the work that waited for nothing else, by number."""
    ready: list[int] = []
    for key in keys:
        rows = db.execute(
            "UPDATE work SET missing = missing - 1 WHERE id IN (SELECT work_id FROM need WHERE key = ?) RETURNING id, missing",
            (key,),
        ).fetchall()
        db.execute("DELETE FROM need WHERE key = ?", (key,))
        ready += [number for number, missing in rows if not missing]
    return ready


def delete_work(db: Connection, keys: Sequence[str]) -> None:
    """What has come to its end, a good or a bad one."""
    for key in keys:
        db.execute("DELETE FROM need WHERE work_id IN (SELECT id FROM work WHERE key = ?)", (key,))
        db.execute("DELETE FROM work WHERE key = ?", (key,))


def cancel_work(db: Connection, keys: Iterable[str]) -> int:
    """Not to be made in this submission any more, nor what waits for it: a later run may ask for it again. Answers how
    many samples these are."""
    left, at, withdrawn = list(keys), time.time(), 0
    while left:
        key = left.pop()
        row = db.execute("SELECT body FROM work WHERE key = ?", (key,)).fetchone()
        if row is None:
            continue
        sample = load_sample(row[0])
        numbers = range(sample.n, sample.n + sample.images)
        for n in numbers:
            left += [name for name, _ in dependents_of(db, sample_key(sample.item.id, n))]
            db.execute(
                "UPDATE sample SET state = 'wanted', updated_at = ? WHERE item_id = ? AND n = ? AND state = 'submitted'",
                (at, sample.item.id, n),
            )
        withdrawn += len(numbers)
        delete_work(db, [key])
    return withdrawn


def dependents_of(db: Connection, key: str) -> list[tuple[str, str]]:
    """(key, body) of all work that waits for this sample."""
    sql = "SELECT w.key, w.body FROM need d JOIN work w ON w.id = d.work_id WHERE d.key = ? ORDER BY w.id"
    return [(name, body) for name, body in db.execute(sql, (key,)).fetchall()]
