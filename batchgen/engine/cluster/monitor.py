"""Looking on at work that others do: what changes in the ledger becomes the events that a run of our own would have."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.stop import stop_expired
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
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.lease import WORKER_IS_ALIVE
from batchgen.ledger.location import SHARED_SCHEMA
from batchgen.ledger.pictures import IMAGE_COLUMNS, image_file
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader
from batchgen.records import sample_key
from batchgen.scheduling.stop_reason import StopKind, StopReason

POLL_S = 0.5
NO_WORKER_GRACE_S = 5.0  # after which it is said that no worker is there

_STARTED_COLUMNS = "id, item_id, n, lane, number, coalesce(sent_as, ''), started_at"
_ENDED_COLUMNS = (
    "id, item_id, n, lane, outcome, coalesce(reason, ''), coalesce(message, ''), coalesce(maybe_billed, 0), started_at"
)


class ClusterMonitor:
    def __init__(self, url: str, schema: str, reader: Reader, emit: Callable[[Event], None]) -> None:
        self._db = PostgreSQL(url, schema, "batchgen watches")
        self._reader = reader
        self._emit = emit
        self._open_attempts: set[int] = set()
        self._failed: dict[str, str] = {}  # key -> model, of samples whose last request brought nothing
        self._blocked: set[tuple[str, int]] = set()
        self._parked: dict[str, float] = {}
        self._cooling: dict[str, float] = {}
        self._since = time.time()
        self._no_worker_since_s: float | None = None
        self._noted_pending = False
        row = self._db.execute("SELECT coalesce(max(id), 0) FROM attempt").fetchone()
        self._last_attempt = int(row[0])
        self._open_attempts = {number for (number,) in self._rows("SELECT id FROM attempt WHERE outcome IS NULL")}

    def close(self) -> None:
        self._db.close()

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._db.execute(sql, values).fetchall()

    async def wait_until_ended(self, stop: asyncio.Event, run_id: int, deadline: float | None = None) -> RunEnding:
        """When nothing is left but what waits for another day, or when `stop` is set. Derivatives are not waited for beyond
        the deadline."""
        while True:
            try:
                left, waits_for_quota, pictures = await asyncio.to_thread(self._poll)
            except LedgerError as error:
                self._emit(Notice(at=time.time(), message=str(error)))
                left, waits_for_quota, pictures = 1, False, 0
            over = not left or waits_for_quota
            late = deadline is not None and time.time() >= deadline
            if stop.is_set() or (over and (late or not pictures)):
                return await asyncio.to_thread(self._build_ending, run_id, left, waits_for_quota, late)
            if over:
                self._note_derivatives_pending(pictures)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)

    def _poll(self) -> tuple[int, bool, int]:
        """(samples left in the queue, whether all of them wait for a quota of another day or for those that do, pictures
        whose derivatives are in the queue)."""
        self._db.transact([stop_expired])
        rows = self._rows(
            "SELECT lane, sum(images), count(*) FILTER (WHERE missing = 0), count(*) FILTER (WHERE worker <> '')"
            " FROM work WHERE images > 0 GROUP BY lane"
        )
        left = sum(images for _, images, _, _ in rows)
        ready = {lane for lane, _, ready, _ in rows if ready}
        self._emit_started()
        self._emit_ended()
        self._emit_lanes()
        pictures, _ = work_queue.derivative_progress(self._db, 0)
        self._note_if_no_worker(left, pictures)
        parked = {lane for lane, until in self._parked.items() if until > time.time()}
        if not rows:
            return self._unplaced(), False, pictures
        waits_for_quota = bool(ready) and ready <= parked and not any(taken for *_, taken in rows)
        return left, waits_for_quota, pictures

    def _unplaced(self) -> int:
        """Pictures that workers who are alive have recorded and are about to move to their names."""
        sql = (
            "SELECT count(*) FROM image i JOIN attempt a ON a.id = i.attempt_id"
            f" JOIN {SHARED_SCHEMA}.worker w ON w.name = a.worker AND {WORKER_IS_ALIVE} WHERE i.placed = 0"
        )
        return int(self._rows(sql, queue.STALE_S)[0][0])

    def _emit_started(self) -> None:
        for number, item_id, n, lane, which, sent_as, at in self._rows(
            f"SELECT {_STARTED_COLUMNS} FROM attempt WHERE id > ? ORDER BY id", self._last_attempt
        ):
            self._last_attempt = number
            self._open_attempts.add(number)
            key, model = sample_key(item_id, n), lane.partition("/")[2]
            self._failed.pop(key, None)
            self._emit(AttemptStarted(at=at, attempt=number, key=key, model=model, number=which, sent_as=sent_as))

    def _emit_ended(self) -> None:
        if self._open_attempts:
            marks = ", ".join("?" * len(self._open_attempts))
            sql = f"SELECT {_ENDED_COLUMNS} FROM attempt WHERE id IN ({marks}) AND outcome IS NOT NULL ORDER BY id"
            for row in self._rows(sql, *self._open_attempts):
                self._open_attempts.discard(row[0])
                self._emit_attempt(*row)
        for key, model in list(self._failed.items()):
            if not self._rows("SELECT 1 FROM work WHERE key = ?", key):
                del self._failed[key]
                self._emit_final_state(key, model)
        since, self._since = self._since, time.time() - 5.0
        for item_id, n, model, message in self._rows(
            "SELECT item_id, n, model, message FROM sample WHERE state = 'blocked' AND updated_at > ?", since
        ):
            self._failed.pop(sample_key(item_id, n), None)
            if (item_id, n) not in self._blocked:
                self._blocked.add((item_id, n))
                self._emit_sample_ended(sample_key(item_id, n), model, "blocked", "blocked", message)

    def _emit_attempt(self, number: int, item_id: str, n: int, lane: str, *end: Any) -> None:
        """end: outcome, reason, message, whether it may have been billed, and when it was sent."""
        outcome, reason, message, maybe_billed, sent_at = end
        key, model, now = sample_key(item_id, n), lane.partition("/")[2], time.time()
        if outcome == "succeeded":
            self._emit_pictures(number, model, now - sent_at)
            return
        self._failed[key] = model
        how = {"outcome": outcome, "reason": reason, "message": message, "maybe_billed": bool(maybe_billed)}
        self._emit(AttemptFailed(at=now, attempt=number, key=key, model=model, retry_in_s=None, **how))

    def _emit_pictures(self, attempt: int, model: str, seconds: float) -> None:
        rows = self._rows(
            f"SELECT item_id, n, (SELECT usd FROM sample s WHERE s.item_id = i.item_id AND s.n = i.n), {IMAGE_COLUMNS}"
            " FROM image i WHERE attempt_id = ? AND role = 'image' ORDER BY k",
            attempt,
        )
        for item_id, n, usd, *file in rows:
            made = {"key": sample_key(item_id, n), "files": (image_file(tuple(file)),), "usd": usd, "seconds": seconds}
            self._emit(SampleSucceeded(at=time.time(), attempt=attempt, model=model, **made))

    def _emit_final_state(self, key: str, model: str) -> None:
        item_id, _, n = key.partition("#")
        rows = self._rows("SELECT state, reason, message FROM sample WHERE item_id = ? AND n = ?", item_id, int(n or 1))
        for state, reason, message in rows:
            if state in ("refused", "failed", "uncertain"):
                self._emit_sample_ended(key, model, state, reason, message)

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

    def _note_derivatives_pending(self, pictures: int) -> None:
        if not self._noted_pending:
            self._noted_pending = True
            self._emit(Notice(at=time.time(), message=f"derivatives of {pictures} image(s) are still being made"))

    def _note_if_no_worker(self, left: int, pictures: int) -> None:
        alive, derive = self._rows(
            f"SELECT count(*), coalesce(sum(post_processes), 0) FROM {SHARED_SCHEMA}.worker w WHERE {WORKER_IS_ALIVE}",
            queue.STALE_S,
        )[0]
        if (alive or not left) and (derive or not pictures):
            self._no_worker_since_s = None
            return
        now_s = time.monotonic()
        if self._no_worker_since_s is None:
            self._no_worker_since_s = now_s
        elif 0 < self._no_worker_since_s < now_s - NO_WORKER_GRACE_S:
            self._no_worker_since_s = -1.0  # said
            what = f"{left} sample(s)" if left and not alive else f"derivatives of {pictures} image(s)"
            why = "no worker is there" if not alive else "no worker makes any"
            words = f"{what} wait and {why}: start `batchgen worker` on any machine that reaches the ledger"
            self._emit(Notice(at=time.time(), message=words))

    async def wait_until_derived(self) -> None:
        """When no derivatives are left in the queue."""
        while True:
            pictures, _ = await asyncio.to_thread(work_queue.derivative_progress, self._db, 0)
            if not pictures:
                return
            await asyncio.to_thread(self._note_if_no_worker, 0, pictures)
            await asyncio.sleep(POLL_S)

    def tally(self, run_id: int) -> DerivativeCounts:
        """What became of the derivatives that this run put into the queue."""
        pictures, counts = work_queue.derivative_progress(self._db, run_id)
        states = DerivativeReader.from_reader(self._reader).derivative_counts().values()
        return DerivativeCounts(*counts, sum(each.get("failed", 0) for each in states), not pictures, pictures)

    def _build_ending(self, run_id: int, left: int, waits_for_quota: bool, late: bool) -> RunEnding:
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
