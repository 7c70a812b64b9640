"""Watches work that others do, and turns changes in the ledger into the events that a run in this process would
emit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.engine.cluster import queue
from batchgen.engine.outcome import DerivativeCounts, RunEnding
from batchgen.errors import LedgerError
from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    LaneCooled,
    LaneParked,
    Notice,
    SampleEnded,
    SampleSucceeded,
)
from batchgen.ledger import work_queue
from batchgen.ledger.database import column_list
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.lease import WORKER_IS_ALIVE
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.pictures import FILE_COLUMNS, image_file
from batchgen.ledger.postgresql import PostgreSQL, SharedConnection
from batchgen.ledger.reader import Reader
from batchgen.records import sample_key
from batchgen.scheduling.stop_reason import StopKind, StopReason

POLL_S = 0.5
NO_WORKER_GRACE_S = 5.0  # then it is reported that there is no worker
BLOCKED_LOOK_S = 5.0  # between looks for blocked samples, if no request has ended without an image
MAX_MISSING = 10_000  # numbers before a new row that are waited for; more were never given out one by one

_STARTED_COLUMNS = "id, item_id, n, lane, number, coalesce(sent_as, ''), started_at"
_ENDED_COLUMNS = (
    "id, item_id, n, lane, outcome, coalesce(reason, ''), coalesce(message, ''), coalesce(maybe_billed, 0), started_at"
)
# An index finds these however many samples wait. For EXISTS, PostgreSQL would walk the table, including everything
# deleted since its last vacuum.
_FIRST = f"(SELECT lane FROM work WHERE missing = 0 AND lane {{}} '{work_queue.DERIVATIVES_LANE}' ORDER BY lane LIMIT 1) IS NOT NULL"
# Returns the columns of `Look`. ?: seconds of silence; submissions that are known to have ended.
_LOOK = (
    "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint,"
    f" {_FIRST.format('<')} OR {_FIRST.format('>')} OR EXISTS (SELECT 1 FROM need d JOIN work k ON k.id = d.work_id WHERE k.images > 0),"
    f" {_FIRST.format('=')}, w.alive, w.derive,"
    f" EXISTS (SELECT 1 FROM submission WHERE (stopped_by <> '' OR {work_queue.DEADLINE_PASSED_SQL})"
    " AND run_id <> ALL(?::bigint[])) FROM pg_current_snapshot() s,"
    " (SELECT count(*) AS alive, coalesce(sum(post_processes), 0) AS derive"
    f" FROM {SHARED_SCHEMA}.worker w WHERE {WORKER_IS_ALIVE}) w"
)
_LANES_WITH_READY_SAMPLES = (
    "WITH RECURSIVE found AS ((SELECT lane FROM work WHERE missing = 0 ORDER BY lane LIMIT 1) UNION ALL SELECT (SELECT k.lane"
    " FROM work k WHERE k.missing = 0 AND k.lane > found.lane ORDER BY k.lane LIMIT 1) FROM found WHERE found.lane IS NOT NULL)"
    f" SELECT lane FROM found WHERE lane <> '{work_queue.DERIVATIVES_LANE}'"
)


class Look(NamedTuple):
    """The state of the queue. xmin, xmax: bounds of its snapshot. samples, derivatives: whether there are any. workers:
    alive. renderers: their processes for derivatives. stopped: whether samples may have to be withdrawn."""

    xmin: int
    xmax: int
    samples: bool
    derivatives: bool
    workers: int
    renderers: int
    stopped: bool


class IdCursor:
    """How far a growing table has been read.

    Its rows get their numbers before they are committed, so a row may appear after others with higher numbers.

    The rows to read next are those after `last` and those among `missing`: skipped numbers, whose transactions may still be
    under way. A number is given up when every transaction that could have it has ended, and it was not there then.

    Source: PostgreSQL, `pg_snapshot_xmin` and `pg_snapshot_xmax`: a transaction below the first has ended, one from the second on
    has not begun. Whoever inserts here has changed other rows before, so its transaction has its number when the row has one.
    """

    def __init__(self, last: int, present: Iterable[int]) -> None:
        """present: the rows that are there, of the last MAX_MISSING numbers up to `last`."""
        self.last = last
        absent = set(range(max(1, last - MAX_MISSING), last)).difference(present)
        self._ended_by: dict[int, int | None] = dict.fromkeys(sorted(absent))

    @property
    def missing(self) -> list[int]:
        return list(self._ended_by)

    def advance(self, ids: Sequence[int], xmin: int, xmax: int) -> None:
        """ids: of the rows that were read after the snapshot with these bounds, ascending."""
        for id_ in ids:
            self._ended_by.pop(id_, None)
        waited_for = {id_: xmax if by is None else by for id_, by in self._ended_by.items()}
        self._ended_by = {id_: by for id_, by in waited_for.items() if by > xmin}
        for id_ in ids:
            if id_ > self.last:
                self._ended_by.update(dict.fromkeys(range(max(self.last + 1, id_ - MAX_MISSING), id_)))
                self.last = id_


class ClusterMonitor:
    """Reads what has changed. The cost of a look does not grow with the number of waiting samples."""

    def __init__(
        self, server: str | SharedConnection, schema: str, reader: Reader, emit: Callable[[Event], None]
    ) -> None:
        """server: its address, or a shared connection to the job, which is left open."""
        self._db = PostgreSQL(server, schema, "batchgen watches") if isinstance(server, str) else server
        self._reader = reader
        self._emit = emit
        self._failed: dict[str, str] = {}  # by key, the models of samples whose last request failed
        self._parked: dict[str, float] = {}
        self._cooling: dict[str, float] = {}
        self._settled: set[int] = set()  # submissions that were stopped and have nothing left
        self._no_worker_since_s: float | None = None
        self._noted_pending = False
        last = int(self._rows("SELECT coalesce(max(id), 0) FROM attempt")[0][0])
        recent = self._rows("SELECT id FROM attempt WHERE id > ?", last - MAX_MISSING)
        self._attempts = IdCursor(last, (number for (number,) in recent))
        self._open_attempts = {number for (number,) in self._rows("SELECT id FROM attempt WHERE outcome IS NULL")}
        self._blocked = {(item_id, n) for item_id, n, *_ in self._blocked_samples()}
        self._looked_for_blocked_s = time.monotonic()

    def close(self) -> None:
        self._db.close()

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._db.execute(sql, values).fetchall()

    async def wait_until_ended(self, stop: asyncio.Event, run_id: int, deadline: float | None = None) -> RunEnding:
        """Wait until nothing is left except what waits for another day, or until `stop` is set. Derivatives are not
        waited for beyond the deadline."""
        while True:
            try:
                left, waits_for_quota, derivatives = await asyncio.to_thread(self._poll)
            except LedgerError as error:
                self._emit(Notice(at=time.time(), message=str(error)))
                left, waits_for_quota, derivatives = True, False, False
            over = not left or waits_for_quota
            late = deadline is not None and time.time() >= deadline
            if stop.is_set() or (over and (late or not derivatives)):
                return await asyncio.to_thread(self.ending_of, run_id, waits_for_quota=waits_for_quota, late=late)
            if over:
                await asyncio.to_thread(self._note_derivatives_pending)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)

    def _look(self) -> Look:
        return Look(*self._rows(_LOOK, list(self._settled), queue.STALE_S)[0])

    def _poll(self) -> tuple[bool, bool, bool]:
        """Look once. Returns (whether samples are left in the queue, whether all of them wait, directly or through
        others, for a quota of another day, whether derivatives are in the queue)."""
        look = self._look()
        if look.stopped:
            (settled,) = self._db.transact([lambda db: queue.stop_expired(db, self._settled)])
            self._settled |= settled
            look = self._look()
        self._emit_started(look)
        failed = self._emit_ended()
        self._emit_blocked(at_once=failed or not look.samples)
        self._emit_lanes()
        self._note_if_no_worker(look)
        if not look.samples:
            return self._unplaced() > 0, False, look.derivatives
        parked = {lane for lane, until in self._parked.items() if until > time.time()}
        return True, bool(parked) and self._waits_for(parked), look.derivatives

    def _waits_for(self, parked: set[str]) -> bool:
        """Whether everything that is left waits for these lanes, directly or through others, and nothing is being
        made."""
        ready = {lane for (lane,) in self._rows(_LANES_WITH_READY_SAMPLES)}
        sent = "SELECT 1 FROM attempt WHERE outcome IS NULL AND worker IS NOT NULL AND chunk IS NULL LIMIT 1"
        return bool(ready) and ready <= parked and not self._rows(sent)

    def _unplaced(self) -> int:
        """How many images living workers have recorded and are about to move into place."""
        sql = (
            "SELECT count(*) FROM image i JOIN attempt a ON a.id = i.attempt_id"
            f" JOIN {SHARED_SCHEMA}.worker w ON w.name = a.worker AND {WORKER_IS_ALIVE} WHERE i.placed = 0"
        )
        return int(self._rows(sql, queue.STALE_S)[0][0])

    def _emit_started(self, look: Look) -> None:
        missing = self._attempts.missing
        late = " OR id = ANY(?::bigint[])" if missing else ""
        values = (self._attempts.last, missing) if missing else (self._attempts.last,)
        rows = self._rows(f"SELECT {_STARTED_COLUMNS} FROM attempt WHERE id > ?{late} ORDER BY id", *values)
        self._attempts.advance([row[0] for row in rows], look.xmin, look.xmax)
        for number, item_id, n, lane, which, sent_as, at in rows:
            self._open_attempts.add(number)
            key, model = sample_key(item_id, n), lane.partition("/")[2]
            self._failed.pop(key, None)
            self._emit(AttemptStarted(at=at, attempt=number, key=key, model=model, number=which, sent_as=sent_as))

    def _emit_ended(self) -> bool:
        """Emit what ended. Returns whether a request ended without an image."""
        rows, made = list[Any](), dict[int, tuple[str, float]]()
        if self._open_attempts:
            sql = (
                f"SELECT {_ENDED_COLUMNS} FROM attempt WHERE id = ANY(?::bigint[]) AND outcome IS NOT NULL ORDER BY id"
            )
            rows = self._rows(sql, list(self._open_attempts))
        for number, item_id, n, lane, outcome, *end, sent_at in rows:
            self._open_attempts.discard(number)
            if outcome == "succeeded":
                made[number] = (lane.partition("/")[2], time.time() - sent_at)
            else:
                self._emit_failed(number, sample_key(item_id, n), lane.partition("/")[2], outcome, *end)
        self._emit_pictures(made)
        if self._failed:
            there = {
                key for (key,) in self._rows("SELECT key FROM work WHERE key = ANY(?::text[])", list(self._failed))
            }
            for key in self._failed.keys() - there:
                self._emit_final_state(key, self._failed.pop(key))
        return len(made) < len(rows)

    def _emit_failed(self, number: int, key: str, model: str, outcome: str, *end: Any) -> None:
        """Emit a failed request."""
        reason, message, maybe_billed = end
        self._failed[key] = model
        how = {"outcome": outcome, "reason": reason, "message": message, "maybe_billed": bool(maybe_billed)}
        self._emit(AttemptFailed(at=time.time(), attempt=number, key=key, model=model, retry_in_s=None, **how))

    def _emit_pictures(self, made: Mapping[int, tuple[str, float]]) -> None:
        """Emit new images. made: model and seconds, by attempt."""
        if not made:
            return
        rows = self._rows(
            f"SELECT attempt_id, item_id, n, (SELECT usd FROM sample s WHERE s.item_id = i.item_id AND s.n = i.n),"
            f" {column_list(FILE_COLUMNS)}"
            " FROM image i WHERE attempt_id = ANY(?::bigint[]) AND role = 'image' ORDER BY attempt_id, k",
            list(made),
        )
        for attempt, item_id, n, usd, *file in rows:
            model, seconds = made[attempt]
            what = {"key": sample_key(item_id, n), "files": (image_file(file),), "usd": usd, "seconds": seconds}
            self._emit(SampleSucceeded(at=time.time(), attempt=attempt, model=model, **what))

    def _emit_final_state(self, key: str, model: str) -> None:
        item_id, _, n = key.partition("#")
        rows = self._rows("SELECT state, reason, message FROM sample WHERE item_id = ? AND n = ?", item_id, int(n or 1))
        for state, reason, message in rows:
            if state in ("refused", "failed", "uncertain"):
                self._emit_sample_ended(key, model, state, reason, message)

    def _blocked_samples(self) -> list[Any]:
        return self._rows("SELECT item_id, n, model, message FROM sample WHERE state = 'blocked'")

    def _emit_blocked(self, *, at_once: bool) -> None:
        """Emit blocked samples. Most are blocked when a request ends without an image, a few later, by whoever takes
        over from a dead worker."""
        if not at_once and time.monotonic() - self._looked_for_blocked_s < BLOCKED_LOOK_S:
            return
        self._looked_for_blocked_s = time.monotonic()
        count = self._rows("SELECT count(*) FROM sample WHERE state = 'blocked'")[0][0]
        if count == len(self._blocked):
            return
        rows, before = self._blocked_samples(), self._blocked
        self._blocked = {(item_id, n) for item_id, n, *_ in rows}
        for item_id, n, model, message in rows:
            self._failed.pop(sample_key(item_id, n), None)
            if (item_id, n) not in before:
                self._emit_sample_ended(sample_key(item_id, n), model, "blocked", "blocked", message)

    def _emit_sample_ended(self, key: str, model: str, state: str, reason: str, message: str) -> None:
        self._emit(SampleEnded(at=time.time(), key=key, model=model, state=state, reason=reason, message=message))

    def _emit_lanes(self) -> None:
        now = time.time()
        for lane, (until, message) in self._reader.parked().items():
            if until > now and self._parked.get(lane) != until:
                self._emit(LaneParked(at=now, model=lane.partition("/")[2], until=until, message=message))
            self._parked[lane] = until
        for lane, until in self._reader.cooling_lanes().items():
            if until > now + 1.0 and self._cooling.get(lane, 0.0) < until - 1.0:
                self._cooling[lane] = until
                model = lane.partition("/")[2]
                self._emit(LaneCooled(at=now, model=model, seconds=until - now, reason="rate_limited"))

    def _note_derivatives_pending(self) -> None:
        if not self._noted_pending:
            self._noted_pending = True
            pictures, _ = work_queue.derivative_progress(self._db, 0)
            self._emit(Notice(at=time.time(), message=f"derivatives of {pictures} image(s) are still being made"))

    def _note_if_no_worker(self, look: Look) -> None:
        if (look.workers or not look.samples) and (look.renderers or not look.derivatives):
            self._no_worker_since_s = None
            return
        now_s = time.monotonic()
        if self._no_worker_since_s is None:
            self._no_worker_since_s = now_s
        elif 0 < self._no_worker_since_s < now_s - NO_WORKER_GRACE_S:
            self._no_worker_since_s = -1.0  # reported
            pictures, _ = work_queue.derivative_progress(self._db, 0)
            no_worker = look.samples and not look.workers
            what = f"{self._samples_left()} sample(s)" if no_worker else f"derivatives of {pictures} image(s)"
            why = "no worker is there" if not look.workers else "no worker makes any"
            words = f"{what} wait and {why}: start `batchgen worker` on any machine that reaches the ledger"
            self._emit(Notice(at=time.time(), message=words))

    def _samples_left(self) -> int:
        """The number of samples in the queue. Walks the whole queue."""
        return int(self._rows("SELECT coalesce(sum(images), 0) FROM work WHERE images > 0")[0][0])

    async def wait_until_derived(self) -> None:
        """Wait until no derivatives are left in the queue."""
        while (look := await asyncio.to_thread(self._look)).derivatives:
            await asyncio.to_thread(self._note_if_no_worker, look._replace(samples=False))
            await asyncio.sleep(POLL_S)

    def tally(self, run_id: int) -> DerivativeCounts:
        """What became of the derivatives that this run put into the queue."""
        pictures, counts = work_queue.derivative_progress(self._db, run_id)
        states = DerivativeReader.from_reader(self._reader).derivative_counts().values()
        return DerivativeCounts(*counts, sum(each.get("failed", 0) for each in states), not pictures, pictures)

    def ending_of(self, run_id: int, *, waits_for_quota: bool = False, late: bool = False) -> RunEnding:
        """How the run ended, as far as the queue knows. late: the run's time is up."""
        left = self._samples_left() or self._unplaced()
        row = next(iter(self._rows("SELECT stopped_by, message FROM submission WHERE run_id = ?", run_id)), ("", ""))
        derived = self.tally(run_id)
        expired = StopReason(StopKind.DEADLINE) if late and derived.queued else None
        stopped = dict(self._rows("SELECT lane, reason FROM stopped_lane WHERE run_id = ?", run_id))
        return RunEnding(
            stop_reason=StopReason.from_record(*row) or expired,
            message=row[1],
            left=left,
            with_workers=left,
            waits_for_quota=waits_for_quota,
            stopped_lanes=stopped,
            derived=derived,
        )
