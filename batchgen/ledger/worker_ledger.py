"""Writes a ledger for one worker among many: what it was given may have been given to another since."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from batchgen.ledger import lease, work_queue
from batchgen.ledger.backlog import load_sample
from batchgen.ledger.changes import end_attempt
from batchgen.ledger.database import Connection, GroupedChange, placeholders
from batchgen.ledger.derivatives import DerivativeRow, upsert_derivatives
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import open_schema
from batchgen.ledger.pictures import Receipt, SpooledPicture
from batchgen.ledger.postgresql import PostgreSQL, SharedConnection
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import OPEN_ATTEMPT_COLUMNS, Fenced, IntendedRequest, OpenAttempt, open_attempt_from_row
from batchgen.ledger.worker_changes import (
    EndedSample,
    Start,
    block_dependents,
    end_work,
    ended_samples,
    is_plain,
    made_samples,
    mark_placed,
    record_pictures,
    start_attempts,
)
from batchgen.ledger.writer import Writer
from batchgen.records import HAS_IMAGE, Sample, sample_key

_ENDS = (*HAS_IMAGE, "refused", "failed")


@dataclass(frozen=True, slots=True)
class ClaimedSample:
    """A sample that belongs to this worker now. open_attempts: requests for it by previous holders. unreported_end: how
    it ended with its last request of this submission, if what waits for it was not told. uncertain_count: requests for
    it in this submission that were never answered."""

    sample: Sample
    lane: str
    open_attempts: tuple[OpenAttempt, ...]
    unreported_end: tuple[str, str] | None
    uncertain_count: int

    @property
    def key(self) -> str:
        return self.sample.key


@dataclass(frozen=True, slots=True)
class WorkerConnections:
    """A worker's connections for all its jobs: one to write, one to read."""

    writing: PostgreSQL
    reading: PostgreSQL

    def reader(self, schema: str) -> SharedConnection:
        """A connection for queries of one job."""
        return SharedConnection(self.reading, schema)


class FencedLedger(Ledger):
    """Before an attempt begins, asks in the same transaction whether the sample still belongs to this worker.

    A request only starts under the worker's claim and within the submission's budget.
    """

    def __init__(
        self,
        url: str,
        schema: str,
        run_id: int,
        worker: str,
        reconnect_timeout_s: float | None = None,
        connections: WorkerConnections | None = None,
    ) -> None:
        """reconnect_timeout_s: see `PostgreSQL`. connections: shared and left open; None: one of its own."""
        self._url = url
        self.schema = schema
        self.worker = worker
        self.run_id = run_id
        if connections is None:
            own = open_schema(url, schema, reconnect_timeout_s)
            self.reader, self.writer = Reader(own), Writer(own)
            return
        self.reader = Reader(connections.reader(schema))
        self.writer = Writer(SharedConnection(connections.writing, schema))

    def without_waiting(self) -> FencedLedger:
        """A ledger with a connection of its own that gives up if its server goes away, for use while holding a lock.
        Has to be closed. Raises LedgerError."""
        return FencedLedger(self._url, self.schema, self.run_id, self.worker, 0.0)

    def close(self) -> None:
        self.writer.close()  # first: it writes what is queued, maybe by the reader's connection
        self.reader.close()

    # --- having work

    async def claim(self, lane: str, max_count: int, keys: Collection[str], stale_s: float) -> list[ClaimedSample]:
        """Claim samples whose turn it is. keys, stale_s: see `lease.Holder`; keys are read in another thread."""

        def change(db: Connection) -> list[ClaimedSample]:
            rows = self._claim(db, lane, max_count, keys, stale_s)
            return self._with_history(db, [(row.lane, load_sample(row.body)) for row in rows])

        return await self.writer.write(change)

    async def claim_derivatives(
        self, max_count: int, keys: Collection[str], stale_s: float
    ) -> list[work_queue.DerivativeOrder]:
        """Claim derivatives whose turn it is."""

        def change(db: Connection) -> list[work_queue.DerivativeOrder]:
            rows = self._claim(db, work_queue.DERIVATIVES_LANE, max_count, keys, stale_s)
            return [work_queue.DerivativeOrder(row.item_id, row.n, work_queue.load_post(row.body)) for row in rows]

        return await self.writer.write(change)

    def _claim(
        self, db: Connection, lane: str, max_count: int, keys: Collection[str], stale_s: float
    ) -> list[lease.ClaimedRow]:
        return lease.claim(db, lease.Holder(self.worker, keys, stale_s), self.run_id, lane, max_count)

    def _with_history(self, db: Connection, samples: Sequence[tuple[str, Sample]]) -> list[ClaimedSample]:
        """The samples with what this submission has already requested for them."""
        names = [sample.item.id for _, sample in samples]
        rows = db.execute(
            f"SELECT {OPEN_ATTEMPT_COLUMNS}, outcome FROM attempt WHERE run_id = ? AND item_id IN ({placeholders(names)}) ORDER BY id",
            (self.run_id, *names),
        ).fetchall()
        asked: dict[tuple[str, int], list[tuple[OpenAttempt, str | None]]] = {}
        for *columns, outcome in rows:
            attempt = open_attempt_from_row(columns)
            asked.setdefault((attempt.item_id, attempt.n), []).append((attempt, outcome))
        claimed = []
        for lane, sample in samples:
            before = asked.get((sample.item.id, sample.n), [])
            still_open = tuple(attempt for attempt, outcome in before if outcome is None)
            end = self._unreported_end(db, sample) if before else None
            uncertain_count = sum(outcome == "uncertain" for _, outcome in before)
            claimed.append(ClaimedSample(sample, lane, still_open, end, uncertain_count))
        return claimed

    def _unreported_end(self, db: Connection, sample: Sample) -> tuple[str, str] | None:
        row = db.execute(
            "SELECT state, reason FROM sample WHERE item_id = ? AND n = ? AND state IN ('refused', 'failed', 'uncertain')",
            (sample.item.id, sample.n),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    async def release(self, key: str, delay_s: float) -> None:
        """Release work to whoever takes it next, but not before this many seconds have passed."""
        await self.writer.write(lambda db: lease.release(db, self.worker, key, delay_s))

    async def cancel(self, sample: Sample) -> None:
        """Withdraw a sample from this submission, unless another worker has it."""

        def change(db: Connection) -> None:
            if self._holds_claim(db, sample.key):
                work_queue.cancel_work(db, [sample.key])

        await self.writer.write(change)

    def _holds_claim(self, db: Connection, key: str) -> bool:
        return lease.holds(db, self.worker, key)

    def submission(self) -> work_queue.Submission | None:
        return work_queue.load_submission(self.reader._connection, self.run_id)

    def submission_status(self) -> work_queue.SubmissionStatus:
        return work_queue.submission_status(self.reader._connection, self.run_id)

    def stop_lane(self, lane: str, reason: str) -> None:
        """Stop a lane for all workers; nobody waits for it."""
        sql = "INSERT INTO stopped_lane VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        self.writer.enqueue_lazy(lambda db: db.execute(sql, (self.run_id, lane, reason)))

    def block_dependents(self, keys: Sequence[str], state: str, reason: str) -> list[tuple[Sample, str]]:
        """End the samples of a request without images: remove them from the queue, and record as blocked everything
        that waited for them. Returns that with reasons, or nothing if another worker has the samples now."""

        def change(db: Connection) -> list[tuple[Sample, str]]:
            row = db.execute("SELECT worker FROM work WHERE key = ? FOR UPDATE", (keys[0],)).fetchone()
            if row is not None and row[0] != self.worker:
                return []
            blocked = block_dependents(db, [(key, state, reason) for key in keys])
            work_queue.delete_work(db, keys)
            return blocked

        return cast("list[tuple[Sample, str]]", self._write_now(change))

    # --- its attempts

    async def attempt_started(self, request: IntendedRequest) -> int:
        """Record that a request is about to be sent. Raises Fenced if the sample belongs to another worker now, or the
        submission has stopped or no room in its budget."""
        answer = await self.writer.write(GroupedChange(self._start, Start(request, time.time())))
        if isinstance(answer, str):
            raise Fenced(request.sample.key, answer)
        return int(answer)

    def _start(self, db: Connection, starts: Sequence[Start]) -> list[int | str]:
        return start_attempts(db, self.run_id, self.worker, starts)

    def attempt_succeeded(self, receipt: Receipt) -> Sequence[SpooledPicture]:
        """Record images. Those that come at the same time are recorded in one statement in the usual case."""
        if is_plain(receipt) and self._write_now(GroupedChange(self._record_pictures, receipt)):
            return receipt.pictures
        return super().attempt_succeeded(receipt)

    def _record_pictures(self, db: Connection, receipts: Sequence[Receipt]) -> list[bool]:
        taken = record_pictures(db, receipts)
        if made := [receipt for receipt, ok in zip(receipts, taken, strict=True) if ok]:
            self._on_attempt_end(db, {}, made_samples(made))
        return taken

    def record_placed(
        self, attempt: int, moved: Sequence[tuple[str, str]] = (), stamps: Sequence[tuple[str, str]] = ()
    ) -> None:
        if moved:
            super().record_placed(attempt, moved, stamps)
        else:
            self.writer.enqueue_lazy(GroupedChange(mark_placed, (attempt, stamps)))

    async def record_derivatives(
        self,
        key: str,
        rows: Sequence[DerivativeRow],
        stale: Sequence[DerivativeRow],
        touched: Sequence[DerivativeRow],
        *,
        removed: int,
    ) -> None:
        """Record what was made of an image, unless another worker has it or a later run wants something else now."""

        def change(db: Connection) -> None:
            upsert_derivatives(touched)(db)
            if self._holds_claim(db, key):
                work_queue.delete_work(db, [key])
                work_queue.record_derivatives(db, self.run_id, rows, stale, removed=removed)

        await self.writer.write(change)

    def _on_attempt_end(
        self, db: Connection, usd: Mapping[int, float | None], made: Sequence[EndedSample] = ()
    ) -> None:
        """Called with the end of attempts. made: samples of other attempts, whose cost is counted."""
        ends = [*made, *(ended_samples(db, usd) if usd else ())]
        pictured = [sample_key(each.item_id, each.n) for each in ends if each.state == "succeeded"]
        done = {sample_key(each.item_id, each.key_n) for each in ends}
        done -= {sample_key(each.item_id, each.key_n) for each in ends if each.state not in _ENDS}
        if (pictured or done) and end_work(db, pictured, sorted(done)):
            lease.notify(db)
        without = [
            (sample_key(each.item_id, each.n), each.state, each.reason)
            for each in ends
            if each.state in ("refused", "failed")
        ]
        block_dependents(db, without)

    def unplaced_since(self, item_id: str, n: int) -> float | None:
        """UTC seconds at which an image of the sample was recorded that is not in its place yet, None if there is
        none."""
        row = self.reader._row(
            "SELECT max(a.ended_at) FROM image i JOIN attempt a ON a.id = i.attempt_id"
            " WHERE i.item_id = ? AND i.n = ? AND i.placed = 0 AND i.role = 'image'",
            item_id,
            n,
        )
        return None if row[0] is None else float(row[0])

    # --- requests of others

    async def workers_without_open_attempts(self, attempts: Sequence[OpenAttempt]) -> list[str]:
        """The workers that sent these requests and have no unsettled request in this job any more."""
        if not attempts:
            return []
        numbers = [attempt.id for attempt in attempts]
        sql = (
            f"SELECT DISTINCT a.worker FROM attempt a WHERE a.id IN ({placeholders(numbers)}) AND a.worker <> ?"
            " AND NOT EXISTS (SELECT 1 FROM attempt o WHERE o.worker = a.worker AND o.outcome IS NULL)"
        )
        return await self.writer.write(lambda db: [name for (name,) in db.execute(sql, (*numbers, self.worker))])

    def unanswered_attempts(self, numbers: Sequence[int]) -> list[OpenAttempt]:
        """The attempts among these that have no answer, given up or not, and no link to download from."""
        unanswered = "links IS NULL AND (outcome IS NULL OR (outcome = 'uncertain' AND reason = 'interrupted'))"
        return self.reader._attempts_where(f"id IN ({placeholders(numbers)}) AND {unanswered}", *numbers)

    def attempts_behind_links(self, numbers: Sequence[int]) -> list[OpenAttempt]:
        """The attempts among these whose answers came with links and are not settled."""
        return self.reader._attempts_where(
            f"id IN ({placeholders(numbers)}) AND links IS NOT NULL AND outcome IS NULL", *numbers
        )

    def has_succeeded(self, attempt: int) -> bool:
        """Whether a request has brought its image by now."""
        sql = "SELECT 1 FROM attempt WHERE id = ? AND outcome = 'succeeded'"
        return self.reader._row(sql, attempt) is not None

    def unassign_open_attempts(self) -> None:
        """Unassign open requests whose samples are no longer in the queue: whoever runs the job next settles them as
        its own."""
        key = "CASE WHEN n = 1 THEN item_id ELSE item_id || '#' || CAST(n AS TEXT) END"
        self._write_now(
            lambda db: db.execute(
                "UPDATE attempt SET worker = NULL WHERE outcome IS NULL AND worker IS NOT NULL AND chunk IS NULL"
                f" AND NOT EXISTS (SELECT 1 FROM work w WHERE w.key = {key})"
            )
        )

    async def give_up(self, attempt: OpenAttempt) -> bool:
        """Give up a request whose worker has fallen silent; it may have been billed. Returns False if it has come back
        meanwhile."""
        message = "its worker fell silent while the request was in flight"
        return await self.writer.write(lambda db: end_attempt(db, attempt, "uncertain", "interrupted", message))
