"""Whose turn a night is, among all workers that were given the same manifest: rows on the server that has the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchgen.engine.cluster.queue import SERVER_NOW, STALE_S
from batchgen.ledger.database import Connection
from batchgen.ledger.location import JOB_TABLE_DDL, SHARED_SCHEMA, job_identity, lock_schema_changes, read_pointer
from batchgen.ledger.postgresql import PostgreSQL, to_postgresql_ddl
from batchgen.schedule.due import (
    EXIT_DAILY_QUOTA,
    EXIT_SUBMITTED,
    DueRun,
    ScheduledRun,
    SchedulePolicy,
    SkippedRun,
    WaitUntil,
    decide,
)

MAX_STARTS = 5  # of one night: a submitter that is killed each time is not begun for ever
EXIT_SIGKILL = 137
QUEUE_POLL_S = 5.0  # between two looks whether workers still make what a night has submitted

# at, since, began, heard, ended: by the server's clock. turn: how often the night was begun; heard: of the worker that has it;
# submitted: its samples have been in the queue, so that nothing of it is submitted again.
TABLES = f"""
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.schedule (
  job TEXT PRIMARY KEY, name TEXT NOT NULL, times TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS {SHARED_SCHEMA}.night (
  job TEXT NOT NULL, at REAL NOT NULL, turn INTEGER NOT NULL, worker TEXT NOT NULL, began REAL NOT NULL, heard REAL NOT NULL,
  ended REAL, exit_code INTEGER, stopped INTEGER NOT NULL DEFAULT 0, submitted INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job, at));
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A night that this worker, and no other, has to begin now."""

    job: str
    due: DueRun
    token: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """last_seen: UTC seconds when its worker was heard of last."""

    run: ScheduledRun
    start_count: int
    last_seen: float
    submitted: bool


class ScheduleLeases:
    """Each method is one transaction or one statement. Raises LedgerError."""

    def __init__(self, database: PostgreSQL, worker: str) -> None:
        self._database = database
        self._worker = worker

    def create_tables(self) -> None:
        def change(db: Connection) -> None:
            lock_schema_changes(db)
            for statement in to_postgresql_ddl(JOB_TABLE_DDL + TABLES).split(";"):
                if statement.strip():
                    db.execute(statement)

        self._database.transact([change])

    def job_key(self, folder: Path, output: str) -> str:
        """The job's name for all workers: that of its pictures. A folder which two hosts share is told by its ledger."""
        there = read_pointer(folder)
        if there is not None:
            row = self._database.execute(
                f"SELECT output FROM {SHARED_SCHEMA}.job WHERE id = ?", (there.job,)
            ).fetchone()
            if row is not None:
                return str(row[0])
        return job_identity(output)

    def register(self, job: str, name: str, times: str) -> None:
        """This schedule counts: from when it was first seen, anew when it is another one than before."""
        self._database.execute(
            f"INSERT INTO {SHARED_SCHEMA}.schedule AS s VALUES (?, ?, ?, {SERVER_NOW})"
            " ON CONFLICT (job) DO UPDATE SET name = excluded.name,"
            " times = excluded.times, since = CASE WHEN s.times = excluded.times THEN s.since ELSE excluded.since END",
            (job, name, times),
        )

    def claim(
        self, job: str, times: str, policy: SchedulePolicy
    ) -> tuple[Lease | SkippedRun | WaitUntil | None, float]:
        """What to do, and the server's clock. A Turn is written down as begun: nobody else gets it. None when a manifest
        that was read later, by this or another worker, has another schedule."""

        def change(db: Connection) -> tuple[Lease | SkippedRun | WaitUntil | None, float]:
            counted = db.execute(
                f"SELECT since, times FROM {SHARED_SCHEMA}.schedule WHERE job = ? FOR UPDATE", (job,)
            ).fetchone()
            now = float(db.execute(f"SELECT {SERVER_NOW}").fetchone()[0])
            if counted is None or counted[1] != times:
                return None, now
            decision = _decide_run(policy, counted[0], _last_run(db, job), now, lambda: _has_queued_work(db, job))
            if isinstance(decision, SkippedRun):
                db.execute(f"UPDATE {SHARED_SCHEMA}.schedule SET since = ? WHERE job = ?", (decision.at, job))
            if not isinstance(decision, DueRun):
                return decision, now
            (token,) = db.execute(
                f"INSERT INTO {SHARED_SCHEMA}.night AS n VALUES (?, ?, 1, ?, ?, ?, NULL, NULL, 0, 0) ON CONFLICT (job, at) DO UPDATE"
                " SET turn = n.turn + 1, worker = excluded.worker, began = excluded.began, heard = excluded.heard,"
                " ended = NULL, exit_code = NULL, stopped = 0 RETURNING turn",
                (job, decision.at, self._worker, now, now),
            ).fetchone()
            return Lease(job, decision, token), now

        found: tuple[Lease | SkippedRun | WaitUntil | None, float] = self._database.transact([change])[0]
        return found

    def renew(self, lease: Lease) -> bool:
        """This worker still has it. False when another has taken it up."""
        return self._update(lease, f"heard = {SERVER_NOW}")

    def finish(self, lease: Lease, exit_code: int, *, stopped: bool) -> None:
        """stopped: because the worker was told to."""
        submitted = int(exit_code in (EXIT_SUBMITTED, EXIT_DAILY_QUOTA))
        self._update(
            lease,
            f"ended = {SERVER_NOW}, exit_code = ?, stopped = ?, submitted = CASE WHEN submitted + ? > 0 THEN 1 ELSE 0 END",
            exit_code, int(stopped), submitted,
        )  # fmt: skip

    def _update(self, lease: Lease, change: str, *values: Any) -> bool:
        row = self._database.execute(
            f"UPDATE {SHARED_SCHEMA}.night SET {change} WHERE job = ? AND at = ? AND turn = ? RETURNING 1",
            (*values, lease.job, lease.due.at, lease.token),
        ).fetchone()
        return row is not None


def _decide_run(
    policy: SchedulePolicy, since: float, last: LastRun | None, now: float, has_queued_work: Callable[[], bool]
) -> DueRun | SkippedRun | WaitUntil:
    """has_queued_work: whether something of the job is still in the queue."""
    if last is None:
        return decide(policy, since, None, now)
    run, again = last.run, last.run.exit_code in (EXIT_SUBMITTED, EXIT_DAILY_QUOTA)
    if run.exit_code is None and now - last.last_seen <= STALE_S:
        return WaitUntil(last.last_seen + STALE_S + 1.0)  # another worker has it
    if run.exit_code is None and last.start_count >= MAX_STARTS:
        run = replace(run, ended=last.last_seen, exit_code=EXIT_SIGKILL)
    # What was submitted needs nobody any more: workers make it, whatever becomes of the submitter.
    decision = decide(policy, since, replace(run, exit_code=0) if again else run, now)
    if isinstance(decision, DueRun) and decision.at == run.at and last.submitted:
        return DueRun(run.at, "made")
    if isinstance(decision, WaitUntil) and again:
        return WaitUntil(min(decision.until, now + QUEUE_POLL_S)) if has_queued_work() else DueRun(run.at, "made")
    return decision


def _last_run(db: Connection, job: str) -> LastRun | None:
    row = db.execute(
        f"SELECT at, began, ended, exit_code, stopped, turn, heard, submitted FROM {SHARED_SCHEMA}.night WHERE job = ?"
        " ORDER BY at DESC LIMIT 1",
        (job,),
    ).fetchone()
    if row is None:
        return None
    at, began, ended, exit_code, stopped, start_count, last_seen, submitted = row
    run = ScheduledRun(at=at, began=began, ended=ended, exit_code=exit_code, stopped=bool(stopped))
    return LastRun(run, start_count, last_seen, bool(submitted))


def _has_queued_work(db: Connection, job: str) -> bool:
    row = db.execute(f"SELECT schema FROM {SHARED_SCHEMA}.job WHERE output = ?", (job,)).fetchone()
    if row is None or db.execute("SELECT to_regclass(?)", (f"{row[0]}.work",)).fetchone()[0] is None:
        return False
    return db.execute(f"SELECT 1 FROM {row[0]}.work LIMIT 1").fetchone() is not None
