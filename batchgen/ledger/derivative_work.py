"""Derivatives as work for the cluster, in the schema of its job: of which pictures files are to be made, and by which recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from batchgen.ledger.database import Connection
from batchgen.ledger.derivatives import DerivativeRow, delete_derivatives, upsert_derivatives
from batchgen.records import Derivative, Post

# state: waits (for its picture) | ready (to be put into the queue in this very transaction) | queued. Counters: files.
TABLES_DDL = """
CREATE TABLE IF NOT EXISTS due (
  id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL, item_id TEXT NOT NULL, n INTEGER NOT NULL, recipe TEXT NOT NULL,
  state TEXT NOT NULL, UNIQUE (item_id, n));
CREATE INDEX IF NOT EXISTS due_ready ON due (id) WHERE state = 'ready';
CREATE TABLE IF NOT EXISTS due_done (
  run_id INTEGER PRIMARY KEY, made INTEGER NOT NULL, skipped INTEGER NOT NULL, removed INTEGER NOT NULL);
"""
DerivativeOrder = tuple[str, int, str]  # item, sample, recipe


def dump_recipe(post: Post) -> tuple[str, dict[str, Any]]:
    """A recipe's name, which no other has, and the recipe as a submission's facts keep it."""
    facts = asdict(post)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16], facts


def load_recipe(facts: Mapping[str, Any]) -> Post:
    """What `named` gave, after its way through JSON."""
    made = [
        Derivative(**{**one, "widths": tuple(one["widths"]), "crop": one["crop"] and tuple(one["crop"])})
        for one in facts["derivatives"]
    ]
    return Post(**{**facts, "derivatives": tuple(made)})


def add_waiting(db: Connection, run_id: int, rows: Sequence[DerivativeOrder]) -> None:
    """These samples are asked for: what is to be made of their pictures waits for them."""
    db.executemany(
        "INSERT INTO due (run_id, item_id, n, recipe, state) VALUES (?, ?, ?, ?, 'waits') ON CONFLICT (item_id, n)"
        " DO UPDATE SET run_id = excluded.run_id, recipe = excluded.recipe, state = 'waits'",
        [(run_id, *row) for row in rows],
    )


def add_ready(db: Connection, run_id: int, rows: Sequence[DerivativeOrder]) -> None:
    """These have their pictures already. What is in the queue by the same recipe stays there."""
    db.executemany(
        "INSERT INTO due (run_id, item_id, n, recipe, state) VALUES (?, ?, ?, ?, 'ready') ON CONFLICT (item_id, n)"
        " DO UPDATE SET run_id = excluded.run_id, recipe = excluded.recipe, state = 'ready'"
        " WHERE due.state <> 'queued' OR due.recipe <> excluded.recipe",
        [(run_id, *row) for row in rows],
    )


def mark_ready(db: Connection, item_id: str, numbers: Iterable[int]) -> bool:
    """These samples have their pictures. Answers whether anything is to be made of them."""
    sql = "UPDATE due SET state = 'ready' WHERE item_id = ? AND n = ? AND state = 'waits'"
    return sum(db.execute(sql, (item_id, n)).rowcount for n in numbers) > 0


def queued_recipe(db: Connection, run_id: int, item_id: str, n: int) -> str | None:
    """By which recipe this run wants files of the sample's picture; None when it wants none, or has them."""
    sql = "SELECT recipe FROM due WHERE run_id = ? AND item_id = ? AND n = ? AND state = 'queued'"
    row = db.execute(sql, (run_id, item_id, n)).fetchone()
    return None if row is None else str(row[0])


def unplaced_since(db: Connection, item_id: str, n: int) -> float | None:
    """When a picture of the sample was recorded that does not stand under its name yet; UTC seconds."""
    row = db.execute(
        "SELECT max(a.ended_at) FROM image i JOIN attempt a ON a.id = i.attempt_id"
        " WHERE i.item_id = ? AND i.n = ? AND i.placed = 0 AND i.role = 'image'",
        (item_id, n),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def record_result(
    db: Connection, run_id: int, key: tuple[str, int], rows: Sequence[DerivativeRow], stale: Sequence[DerivativeRow], *, removed: int
) -> None:  # fmt: skip
    """Record what was made of a picture, unless a later run wants it otherwise or somebody else was quicker."""
    gone = db.execute(
        "DELETE FROM due WHERE run_id = ? AND item_id = ? AND n = ? AND state = 'queued' RETURNING id", (run_id, *key)
    ).fetchone()
    if gone is None:
        return
    upsert_derivatives(rows)(db)
    delete_derivatives(stale)(db)
    add_counts(db, run_id, _count_state(rows, "made"), _count_state(rows, "skipped"), removed)


def _count_state(rows: Sequence[DerivativeRow], state: str) -> int:
    return sum(row.state == state for row in rows)


def add_counts(db: Connection, run_id: int, made: int, skipped: int, removed: int) -> None:
    db.execute(
        "INSERT INTO due_done VALUES (?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET made = due_done.made + excluded.made,"
        " skipped = due_done.skipped + excluded.skipped, removed = due_done.removed + excluded.removed",
        (run_id, made, skipped, removed),
    )


def delete_counts(db: Connection, run_id: int) -> None:
    db.execute("DELETE FROM due_done WHERE run_id = ?", (run_id,))


def progress(db: Connection, run_id: int) -> tuple[int, tuple[int, int, int]]:
    """(pictures in the queue, of whichever run; files that this run made, left out and removed)."""
    left = db.execute("SELECT count(*) FROM due WHERE state = 'queued'").fetchone()[0]
    row = db.execute("SELECT made, skipped, removed FROM due_done WHERE run_id = ?", (run_id,)).fetchone()
    return int(left), (0, 0, 0) if row is None else (row[0], row[1], row[2])
