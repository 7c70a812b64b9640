"""Looking on at work that others do: what changes in the ledger becomes the events that a run of our own would have."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.stopping import stop_what_is_over
from batchgen.engine.outcome import Ending
from batchgen.errors import LedgerError
from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    LaneCooled,
    LaneParked,
    Noted,
    SampleEnded,
    SampleSucceeded,
)
from batchgen.ledger.places import SHARED
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader
from batchgen.ledger.rows import IMAGE_COLUMNS, image_file
from batchgen.records import sample_key

LOOK_S = 0.5
MEND_S = 60.0  # between looks for work that the queue has lost
NOBODY_S = 5.0  # after which it is said that no worker is there

_ATTEMPT = "id, item_id, n, lane, number, coalesce(sent_as, ''), started_at"
_ENDED = (
    "id, item_id, n, lane, outcome, coalesce(reason, ''), coalesce(message, ''), coalesce(maybe_billed, 0), started_at"
)


class Watch:
    def __init__(self, url: str, schema: str, reader: Reader, emit: Callable[[Event], None]) -> None:
        self._db = PostgreSQL(url, schema, "batchgen watches")
        self._reader = reader
        self._emit = emit
        self._open: set[int] = set()
        self._failed: dict[str, str] = {}  # key -> model, of samples whose last request brought nothing
        self._blocked: set[tuple[str, int]] = set()
        self._parked: dict[str, float] = {}
        self._cooling: dict[str, float] = {}
        self._since = time.time()
        self._mended_s = time.monotonic()
        self._alone_s: float | None = None
        row = self._db.execute("SELECT coalesce(max(id), 0) FROM attempt").fetchone()
        self._last = int(row[0])
        self._open = {number for (number,) in self._rows("SELECT id FROM attempt WHERE outcome IS NULL")}

    def close(self) -> None:
        self._db.close()

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._db.execute(sql, values).fetchall()

    async def ended(self, stop: asyncio.Event, run_id: int) -> Ending:
        """When nothing is left but what waits for another day, or when `stop` is set."""
        while True:
            try:
                left, waits = await asyncio.to_thread(self._look)
            except LedgerError as error:
                self._emit(Noted(at=time.time(), message=str(error)))
                left, waits = 1, False
            if stop.is_set() or not left or waits:
                return await asyncio.to_thread(self._ending, run_id, left, waits)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    def _look(self) -> tuple[int, bool]:
        """(samples left in the queue, whether all of them wait for a quota of another day, or for those that do)."""
        self._db.transact([lambda db: stop_what_is_over(db, self._db.schema, time.time())])
        if time.monotonic() - self._mended_s > MEND_S:
            self._mended_s = time.monotonic()
            self._db.transact([lambda db: queue.missed(db, self._db.schema)])
        rows = self._rows(
            "SELECT lane, sum(images), count(*) FILTER (WHERE missing = 0), count(*) FILTER (WHERE claim <> '')"
            " FROM work GROUP BY lane"
        )
        left = sum(images for _, images, _, _ in rows)
        ready = {lane for lane, _, ready, _ in rows if ready}
        self._started()
        self._over()
        self._lanes()
        self._whether_anybody(left)
        parked = {lane for lane, until in self._parked.items() if until > time.time()}
        if not rows:
            return self._unplaced(), False
        return left, bool(ready) and ready <= parked and not any(taken for *_, taken in rows)

    def _unplaced(self) -> int:
        """Pictures that workers who are alive have recorded and are about to move to their names."""
        sql = (
            "SELECT count(*) FROM image i JOIN attempt a ON a.id = i.attempt_id"
            f" JOIN {SHARED}.worker w ON w.name = a.worker AND {queue.ALIVE} WHERE i.placed = 0"
        )
        return int(self._rows(sql, queue.STALE_S)[0][0])

    def _started(self) -> None:
        for number, item_id, n, lane, which, sent_as, at in self._rows(
            f"SELECT {_ATTEMPT} FROM attempt WHERE id > ? ORDER BY id", self._last
        ):
            self._last = number
            self._open.add(number)
            key, model = sample_key(item_id, n), lane.partition("/")[2]
            self._failed.pop(key, None)
            self._emit(AttemptStarted(at=at, attempt=number, key=key, model=model, number=which, sent_as=sent_as))

    def _over(self) -> None:
        if self._open:
            marks = ", ".join("?" * len(self._open))
            sql = f"SELECT {_ENDED} FROM attempt WHERE id IN ({marks}) AND outcome IS NOT NULL ORDER BY id"
            for row in self._rows(sql, *self._open):
                self._open.discard(row[0])
                self._attempt_over(*row)
        for key, model in list(self._failed.items()):
            if not self._rows("SELECT 1 FROM work WHERE key = ?", key):
                del self._failed[key]
                self._sample_over(key, model)
        since, self._since = self._since, time.time() - 5.0
        for item_id, n, model, message in self._rows(
            "SELECT item_id, n, model, message FROM sample WHERE state = 'blocked' AND updated_at > ?", since
        ):
            self._failed.pop(sample_key(item_id, n), None)
            if (item_id, n) not in self._blocked:
                self._blocked.add((item_id, n))
                self._end(sample_key(item_id, n), model, "blocked", "blocked", message)

    def _attempt_over(
        self,
        number: int,
        item_id: str,
        n: int,
        lane: str,
        outcome: str,
        reason: str,
        message: str,
        maybe: int,
        at: float,
    ) -> None:
        key, model, now = sample_key(item_id, n), lane.partition("/")[2], time.time()
        if outcome == "succeeded":
            rows = self._rows(
                f"SELECT n, (SELECT usd FROM sample s WHERE s.item_id = i.item_id AND s.n = i.n), {IMAGE_COLUMNS}"
                " FROM image i WHERE attempt_id = ? AND role = 'image' ORDER BY k",
                number,
            )
            for made, usd, *file in rows:
                picture = image_file(tuple(file))
                self._emit(
                    SampleSucceeded(
                        at=now, attempt=number, key=sample_key(item_id, made), model=model, files=(picture,), usd=usd,
                        seconds=now - at,
                    )
                )  # fmt: skip
            return
        self._failed[key] = model
        self._emit(
            AttemptFailed(
                at=now, attempt=number, key=key, model=model, outcome=outcome, reason=reason, message=message,
                retry_in_s=None, maybe_billed=bool(maybe),
            )
        )  # fmt: skip

    def _sample_over(self, key: str, model: str) -> None:
        item_id, _, n = key.partition("#")
        rows = self._rows("SELECT state, reason, message FROM sample WHERE item_id = ? AND n = ?", item_id, int(n or 1))
        for state, reason, message in rows:
            if state in ("refused", "failed", "uncertain"):
                self._end(key, model, state, reason, message)

    def _end(self, key: str, model: str, state: str, reason: str, message: str) -> None:
        self._emit(SampleEnded(at=time.time(), key=key, model=model, state=state, reason=reason, message=message))

    def _lanes(self) -> None:
        now = time.time()
        for lane, (until, message) in self._reader.parked().items():
            if until > now and self._parked.get(lane) != until:
                self._emit(LaneParked(at=now, model=lane.partition("/")[2], until=until, message=message))
            self._parked[lane] = until
        for lane, until in self._reader.cooling().items():
            if until > now + 1.0 and self._cooling.get(lane, 0.0) < until - 1.0:
                self._cooling[lane] = until
                model = lane.partition("/")[2]
                self._emit(LaneCooled(at=now, model=model, seconds=until - now, reason="rate_limited"))

    def _whether_anybody(self, left: int) -> None:
        alive = self._rows(f"SELECT count(*) FROM {SHARED}.worker w WHERE {queue.ALIVE}", queue.STALE_S)[0][0]
        if alive or not left:
            self._alone_s = None
            return
        now_s = time.monotonic()
        if self._alone_s is None:
            self._alone_s = now_s
        elif 0 < self._alone_s < now_s - NOBODY_S:
            self._alone_s = -1.0  # said
            words = f"{left} sample(s) wait and no worker is there: start `batchgen worker` on any machine that reaches the ledger"
            self._emit(Noted(at=time.time(), message=words))

    def _ending(self, run_id: int, left: int, waits: bool) -> Ending:
        row = next(iter(self._rows("SELECT stopped_by, message FROM submission WHERE run_id = ?", run_id)), ("", ""))
        stopped = dict(self._rows("SELECT lane, reason FROM stopped_lane WHERE run_id = ?", run_id))
        return Ending(stopping=row[0], message=row[1], left=left, out=left, waits=waits, stopped_lanes=stopped)
