"""Reads chunks from a ledger: samples handed to a batch API together, and how far each chunk has come."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from batchgen.ledger.database import BaseReader, column_list, placeholders
from batchgen.ledger.requests import (
    MAYBE_BILLED_SQL,
    OPEN_ATTEMPT_COLUMNS,
    UNPRICED_SQL,
    OpenAttempt,
    open_attempt_from_row,
)

ChunkStep = Literal[
    "recorded", "written", "uploaded", "asked", "created", "ended", "fetched", "collected", "done", "dropped"
]
UNSENT_STEPS = ("recorded", "written", "uploaded")  # nothing was requested yet, so nothing can have been billed
CLOSED_STEPS = ("collected", "done", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk. name: its unique display name at the vendor. step: the last one that is durable.

    recorded: its attempts are in the ledger. written: its lines are in a local file. uploaded: as `input_file`. asked:
    a batch is about to be created. created: as `batch`. ended: the vendor has finished it. fetched: its results are in
    a local file. collected: each of its attempts has ended. done: nothing is left at the vendor. dropped: never sent.
    estimate_usd: None if a price is unknown. state, succeeded, failed: as last seen. Values whose names end in `at` are
    UTC seconds.
    """

    id: int
    run_id: int
    lane: str
    name: str
    step: ChunkStep
    requests: int
    estimate_usd: float | None
    upload_url: str = ""
    input_file: str = ""
    batch: str = ""
    results_file: str = ""
    state: str = ""
    succeeded: int = 0
    failed: int = 0
    message: str = ""
    made_at: float = 0.0
    asked_at: float = 0.0
    created_at: float = 0.0
    ended_at: float = 0.0

    @property
    def open(self) -> bool:
        return self.step not in CLOSED_STEPS


_NAMES = [field.name for field in fields(Chunk)]


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """One request of a chunk. number: which attempt of its sample it is."""

    attempt: OpenAttempt
    chunk: int
    number: int
    ended: bool


class ChunkQueries(BaseReader):
    def open_chunks(self) -> list[Chunk]:
        """The open chunks, in the order in which they were created."""
        return self._chunks(f"step NOT IN ({placeholders(CLOSED_STEPS)}) ORDER BY id", *CLOSED_STEPS)

    def uncleaned_chunks(self) -> list[Chunk]:
        """The chunks that are collected and may still be at the vendor."""
        return self._chunks("step = 'collected' ORDER BY id")

    def chunk_lanes(self) -> list[str]:
        """The lanes with a batch at the vendor, or about to be there."""
        sql = "SELECT DISTINCT lane FROM chunk WHERE step NOT IN ('done', 'dropped')"
        return [lane for (lane,) in self._query(sql)]

    def batch_durations(self, lane: str, max_count: int) -> list[float]:
        """For each of the last batches of a lane, the seconds from its creation until all answers had come, or until
        they were collected if nobody waited for them. Batches that were cancelled or failed are left out; one that
        expired counts."""
        sql = (
            "SELECT (SELECT max(ended_at) FROM attempt WHERE chunk = c.id) - c.created_at FROM chunk c"
            " WHERE c.lane = ? AND c.created_at > 0 AND c.step IN ('collected', 'done')"
            " AND c.state IN ('succeeded', 'expired') ORDER BY c.id DESC LIMIT ?"
        )
        return [float(seconds) for (seconds,) in self._query(sql, lane, max_count) if seconds is not None]

    def chunk(self, number: int) -> Chunk:
        return self._chunks("id = ?", number)[0]

    def _chunks(self, where: str, *values: Any) -> list[Chunk]:
        rows = self._query(f"SELECT {column_list(_NAMES)} FROM chunk WHERE {where}", *values)
        return [Chunk(**dict(zip(_NAMES, row, strict=True))) for row in rows]

    def chunk_request(self, number: int) -> ChunkRequest | None:
        """The request with an attempt's number; None if there is none, or if it was not part of a chunk."""
        sql = f"SELECT {OPEN_ATTEMPT_COLUMNS}, chunk, number, outcome FROM attempt WHERE id = ? AND chunk IS NOT NULL"
        row = self._row(sql, number)
        if row is None:
            return None
        *attempt, chunk, which, outcome = row
        return ChunkRequest(open_attempt_from_row(attempt), chunk, which, outcome is not None)

    def unanswered_ids(self, chunk: int, after: int, max_count: int) -> list[int]:
        """The numbers of a chunk's requests that have not ended, ascending, greater than `after`."""
        sql = "SELECT id FROM attempt WHERE chunk = ? AND outcome IS NULL AND id > ? ORDER BY id LIMIT ?"
        return [int(number) for (number,) in self._query(sql, chunk, after, max_count)]

    def answered_count(self, chunk: int) -> int:
        """How many of a chunk's requests have an answer that was not a vendor's error."""
        sql = "SELECT count(*) FROM attempt WHERE chunk = ? AND http_status = 200"
        return int(self._row(sql, chunk)[0])

    def chunk_usd(self, chunk: int) -> tuple[float, int]:
        """What a chunk's requests have cost so far, and how many of them have no price."""
        usd = "coalesce(sum(coalesce(usd, CASE WHEN maybe_billed <> 0 THEN estimate_usd ELSE 0 END)), 0)"
        unpriced = f"count(*) FILTER (WHERE {UNPRICED_SQL} OR ({MAYBE_BILLED_SQL} AND estimate_usd IS NULL))"
        sql = f"SELECT {usd}, {unpriced} FROM attempt WHERE chunk = ? AND outcome IS NOT NULL"
        known, number = self._row(sql, chunk)
        return float(known), int(number)

    def usd_by_lane(self, run_id: int) -> dict[str, float]:
        """What a run's requests have cost, by lane."""
        sql = "SELECT lane, sum(usd) FROM attempt WHERE run_id = ? AND usd IS NOT NULL GROUP BY lane"
        return dict(self._query(sql, run_id))
