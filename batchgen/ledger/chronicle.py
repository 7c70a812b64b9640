"""Everything a ledger knows of a job, row by row and as of one moment, for views that show all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from batchgen.ledger.reader import Reader


class SampleRow(NamedTuple):
    item_id: str
    n: int
    state: str
    model: str
    tags: str
    wire: str
    made_fingerprint: str | None
    usd: float | None
    usd_source: str
    reason: str
    message: str
    text: str
    updated_at: float


class AttemptRow(NamedTuple):
    """Times are UTC seconds. images: how many samples, from n on, the request was for. usage: JSON of what the vendor
    said was used; sent_as: how the request departed from its item, in words.
    """

    id: int
    run_id: int
    item_id: str
    n: int
    images: int
    lane: str
    started_at: float
    sent_at: float | None
    ended_at: float | None
    outcome: str | None
    reason: str | None
    message: str | None
    http_status: int | None
    maybe_billed: int | None
    estimate_usd: float | None
    usd: float | None
    usd_source: str | None
    usage: str | None = None
    sent_as: str | None = None


class PictureRow(NamedTuple):
    attempt_id: int
    item_id: str
    n: int
    role: str
    fingerprint: str
    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    flags: str
    made_at: float | None


class NightRow(NamedTuple):
    id: int
    started_at: float
    ended_at: float | None
    exit_code: int | None
    stopped_by: str | None


def _columns(row: type[Any], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{name}" for name in row._fields)


class Chronicle(Reader):
    """A reader whose answers are all of the moment of its first question, while a run may go on writing."""

    def hold_still(self) -> None:
        self._connection.execute("BEGIN")

    def samples(self) -> Iterator[SampleRow]:
        """In the order in which items first appeared, the samples of an item beside each other."""
        sql = (
            f"SELECT {_columns(SampleRow, 's.')} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id"
            " AND f.n = 1 ORDER BY coalesce(f.id, s.id), s.n"
        )
        return map(SampleRow._make, self._rows(sql))

    def all_attempts(self) -> Iterator[AttemptRow]:
        return map(AttemptRow._make, self._rows(f"SELECT {_columns(AttemptRow)} FROM attempt ORDER BY id"))

    def pictures(self) -> Iterator[PictureRow]:
        """Every picture that has its place, drafts, thoughts and earlier versions included, the newest of a sample first."""
        columns = _columns(PictureRow, "i.").replace("i.made_at", "a.ended_at")
        sql = (
            f"SELECT {columns} FROM image i LEFT JOIN attempt a ON a.id = i.attempt_id"
            " WHERE i.placed = 1 ORDER BY i.attempt_id DESC, i.k"
        )
        return map(PictureRow._make, self._rows(sql))

    def nights(self) -> Iterator[NightRow]:
        return map(NightRow._make, self._rows(f"SELECT {_columns(NightRow)} FROM run ORDER BY id"))
