"""Chunks as a ledger has them: samples handed to a batch API together, and how far each chunk has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from batchgen.ledger.base_reader import Connected
from batchgen.ledger.requests import MAYBE, OPEN, UNPRICED, OpenAttempt, open_attempt

Step = Literal[
    "recorded", "written", "uploaded", "asked", "created", "ended", "fetched", "collected", "done", "dropped"
]
UNSENT = ("recorded", "written", "uploaded")  # nothing was asked for yet, so nothing can have been billed
CLOSED = ("collected", "done", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """name: its display name at the vendor, unlike any other. step: the last one that is durable.

    recorded: its attempts are in the ledger. written: its lines are in a file of ours. uploaded: as `input_file`. asked: a
    batch is about to be created. created: as `batch`. ended: the vendor is through with it. fetched: its results are in a
    file of ours. collected: each of its attempts has ended. done: nothing of it is left at the vendor's. dropped: never sent.
    estimate_usd: None when a price is unknown. state, succeeded, failed: as last seen. `_at` values are UTC seconds.
    """

    id: int
    run_id: int
    lane: str
    name: str
    step: Step
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
        return self.step not in CLOSED


_COLUMNS = ", ".join(field.name for field in fields(Chunk))


@dataclass(frozen=True, slots=True)
class Submitted:
    """One request of a chunk. number: which attempt of its sample; facts: what settling its answer needs to know."""

    attempt: OpenAttempt
    chunk: int
    number: int
    ended: bool
    facts: Mapping[str, Any]


class Submissions(Connected):
    """What a ledger knows of batches."""

    def open_chunks(self) -> list[Chunk]:
        """In the order in which they were made."""
        return self._chunks(f"step NOT IN ({', '.join('?' * len(CLOSED))}) ORDER BY id", *CLOSED)

    def uncleaned_chunks(self) -> list[Chunk]:
        """Collected, and perhaps still at the vendor's."""
        return self._chunks("step = 'collected' ORDER BY id")

    def chunk_lanes(self) -> list[str]:
        """Lanes with something at the vendor's, or on its way there."""
        return [lane for (lane,) in self._rows("SELECT DISTINCT lane FROM chunk WHERE step NOT IN ('done', 'dropped')")]

    def chunk(self, number: int) -> Chunk:
        return self._chunks("id = ?", number)[0]

    def _chunks(self, where: str, *values: Any) -> list[Chunk]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM chunk WHERE {where}", *values)
        names = [field.name for field in fields(Chunk)]
        return [Chunk(**dict(zip(names, row, strict=True))) for row in rows]

    def submitted(self, number: int) -> Submitted | None:
        """The request that an attempt's number names; None when there is none, or it went out by itself."""
        sql = f"SELECT {OPEN}, chunk, number, outcome, facts FROM attempt WHERE id = ? AND chunk IS NOT NULL"
        row = next(iter(self._rows(sql, number)), None)
        if row is None:
            return None
        *attempt, chunk, which, outcome, facts = row
        return Submitted(open_attempt(tuple(attempt)), chunk, which, outcome is not None, json.loads(facts or "{}"))

    def unanswered(self, chunk: int, after: int, most: int) -> list[int]:
        """Numbers of a chunk's requests that have not ended, ascending, beyond `after`."""
        sql = "SELECT id FROM attempt WHERE chunk = ? AND outcome IS NULL AND id > ? ORDER BY id LIMIT ?"
        return [int(number) for (number,) in self._rows(sql, chunk, after, most)]

    def answered(self, chunk: int) -> int:
        """How many of a chunk's requests have got an answer that was no error of the vendor's."""
        sql = "SELECT count(*) FROM attempt WHERE chunk = ? AND http_status = 200"
        return int(next(iter(self._rows(sql, chunk)))[0])

    def chunk_usd(self, chunk: int) -> tuple[float, int]:
        """What a chunk's requests have cost so far, and how many of them have no price."""
        usd = "coalesce(sum(coalesce(usd, CASE WHEN maybe_billed <> 0 THEN estimate_usd ELSE 0 END)), 0)"
        unpriced = f"count(*) FILTER (WHERE {UNPRICED} OR ({MAYBE} AND estimate_usd IS NULL))"
        sql = f"SELECT {usd}, {unpriced} FROM attempt WHERE chunk = ? AND outcome IS NOT NULL"
        known, number = next(iter(self._rows(sql, chunk)))
        return float(known), int(number)

    def usd_by_lane(self, run_id: int) -> dict[str, float]:
        """What a run's requests have cost, by lane."""
        sql = "SELECT lane, sum(usd) FROM attempt WHERE run_id = ? AND usd IS NOT NULL GROUP BY lane"
        return dict(self._rows(sql, run_id))
