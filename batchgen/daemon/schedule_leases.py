"""Whose turn a night is, among all workers that were given the same manifest: rows on the server that has the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchgen.engine.cluster.queue import NOW, STALE_S
from batchgen.ledger.database import Connection
from batchgen.ledger.location import JOBS, SHARED, known_as, one_at_a_time, pointer
from batchgen.ledger.postgresql import PostgreSQL, tables
from batchgen.schedule.due import DAILY_QUOTA, SUBMITTED, Due, Night, Rule, Skipped, Wait, decide

TURNS_MOST = 5  # of one night: a submitter that is killed each time is not begun for ever
KILLED = 137
LEFT_S = 5.0  # between two looks whether workers still make what a night has submitted

# at, since, began, heard, ended: by the server's clock. turn: how often the night was begun; heard: of the worker that has it;
# submitted: its samples have been in the queue, so that nothing of it is submitted again.
TABLES = f"""
CREATE TABLE IF NOT EXISTS {SHARED}.schedule (
  job TEXT PRIMARY KEY, name TEXT NOT NULL, times TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS {SHARED}.night (
  job TEXT NOT NULL, at REAL NOT NULL, turn INTEGER NOT NULL, worker TEXT NOT NULL, began REAL NOT NULL, heard REAL NOT NULL,
  ended REAL, exit_code INTEGER, stopped INTEGER NOT NULL DEFAULT 0, submitted INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job, at));
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """A night that this worker, and no other, has to begin now."""

    job: str
    due: Due
    number: int


@dataclass(frozen=True, slots=True)
class Row:
    """heard: UTC seconds when its worker was heard of last."""

    night: Night
    turn: int
    heard: float
    submitted: bool


class Rota:
    """Each method is one transaction or one statement. Raises LedgerError."""

    def __init__(self, database: PostgreSQL, worker: str) -> None:
        self._database = database
        self._worker = worker

    def prepare(self) -> None:
        def change(db: Connection) -> None:
            one_at_a_time(db)
            for statement in tables(JOBS + TABLES).split(";"):
                if statement.strip():
                    db.execute(statement)

        self._database.transact([change])

    def known(self, folder: Path, output: str) -> str:
        """The job's name for all workers: that of its pictures. A folder which two hosts share is told by its ledger."""
        there = pointer(folder)
        if there is not None:
            row = self._database.execute(f"SELECT output FROM {SHARED}.job WHERE id = ?", (there.job,)).fetchone()
            if row is not None:
                return str(row[0])
        return known_as(output)

    def declare(self, job: str, name: str, times: str) -> None:
        """This schedule counts: from when it was first seen, anew when it is another one than before."""
        self._database.execute(
            f"INSERT INTO {SHARED}.schedule AS s VALUES (?, ?, ?, {NOW}) ON CONFLICT (job) DO UPDATE SET name = excluded.name,"
            " times = excluded.times, since = CASE WHEN s.times = excluded.times THEN s.since ELSE excluded.since END",
            (job, name, times),
        )

    def claim(self, job: str, times: str, rule: Rule) -> tuple[Turn | Skipped | Wait | None, float]:
        """What to do, and the server's clock. A Turn is written down as begun: nobody else gets it. None when a manifest
        that was read later, by this or another worker, has another schedule."""

        def change(db: Connection) -> tuple[Turn | Skipped | Wait | None, float]:
            counted = db.execute(
                f"SELECT since, times FROM {SHARED}.schedule WHERE job = ? FOR UPDATE", (job,)
            ).fetchone()
            now = float(db.execute(f"SELECT {NOW}").fetchone()[0])
            if counted is None or counted[1] != times:
                return None, now
            verdict = _verdict(rule, counted[0], _last(db, job), now, lambda: _left(db, job))
            if isinstance(verdict, Skipped):
                db.execute(f"UPDATE {SHARED}.schedule SET since = ? WHERE job = ?", (verdict.at, job))
            if not isinstance(verdict, Due):
                return verdict, now
            (number,) = db.execute(
                f"INSERT INTO {SHARED}.night AS n VALUES (?, ?, 1, ?, ?, ?, NULL, NULL, 0, 0) ON CONFLICT (job, at) DO UPDATE"
                " SET turn = n.turn + 1, worker = excluded.worker, began = excluded.began, heard = excluded.heard,"
                " ended = NULL, exit_code = NULL, stopped = 0 RETURNING turn",
                (job, verdict.at, self._worker, now, now),
            ).fetchone()
            return Turn(job, verdict, number), now

        found: tuple[Turn | Skipped | Wait | None, float] = self._database.transact([change])[0]
        return found

    def heard(self, turn: Turn) -> bool:
        """This worker still has it. False when another has taken it up."""
        return self._set(turn, f"heard = {NOW}")

    def ended(self, turn: Turn, exit_code: int, *, stopped: bool) -> None:
        """stopped: because the worker was told to."""
        submitted = int(exit_code in (SUBMITTED, DAILY_QUOTA))
        self._set(
            turn,
            f"ended = {NOW}, exit_code = ?, stopped = ?, submitted = CASE WHEN submitted + ? > 0 THEN 1 ELSE 0 END",
            exit_code, int(stopped), submitted,
        )  # fmt: skip

    def _set(self, turn: Turn, change: str, *values: Any) -> bool:
        row = self._database.execute(
            f"UPDATE {SHARED}.night SET {change} WHERE job = ? AND at = ? AND turn = ? RETURNING 1",
            (*values, turn.job, turn.due.at, turn.number),
        ).fetchone()
        return row is not None


def _verdict(rule: Rule, since: float, last: Row | None, now: float, left: Callable[[], bool]) -> Due | Skipped | Wait:
    """left: whether something of the job is still in the queue."""
    if last is None:
        return decide(rule, since, None, now)
    night, again = last.night, last.night.exit_code in (SUBMITTED, DAILY_QUOTA)
    if night.exit_code is None and now - last.heard <= STALE_S:
        return Wait(last.heard + STALE_S + 1.0)  # another worker has it
    if night.exit_code is None and last.turn >= TURNS_MOST:
        night = replace(night, ended=last.heard, exit_code=KILLED)
    # What was submitted needs nobody any more: workers make it, whatever becomes of the submitter.
    verdict = decide(rule, since, replace(night, exit_code=0) if again else night, now)
    if isinstance(verdict, Due) and verdict.at == night.at and last.submitted:
        return Due(night.at, "made")
    if isinstance(verdict, Wait) and again:
        return Wait(min(verdict.until, now + LEFT_S)) if left() else Due(night.at, "made")
    return verdict


def _last(db: Connection, job: str) -> Row | None:
    row = db.execute(
        f"SELECT at, began, ended, exit_code, stopped, turn, heard, submitted FROM {SHARED}.night WHERE job = ?"
        " ORDER BY at DESC LIMIT 1",
        (job,),
    ).fetchone()
    if row is None:
        return None
    at, began, ended, exit_code, stopped, turn, heard, submitted = row
    night = Night(at=at, began=began, ended=ended, exit_code=exit_code, stopped=bool(stopped))
    return Row(night, turn, heard, bool(submitted))


def _left(db: Connection, job: str) -> bool:
    row = db.execute(f"SELECT schema FROM {SHARED}.job WHERE output = ?", (job,)).fetchone()
    if row is None or db.execute("SELECT to_regclass(?)", (f"{row[0]}.work",)).fetchone()[0] is None:
        return False
    return db.execute(f"SELECT 1 FROM {row[0]}.work LIMIT 1").fetchone() is not None
