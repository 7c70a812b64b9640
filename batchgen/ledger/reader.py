"""Read-only questions to a ledger, safe while a run is writing it, and after a run has died."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from batchgen.ledger.chunks import ChunkQueries
from batchgen.ledger.database import column_list, placeholders
from batchgen.ledger.location import open_for_reading
from batchgen.ledger.pictures import ImageQueries, RecordedImage
from batchgen.ledger.requests import AttemptQueries, Money, OpenAttempt, SurplusRequest
from batchgen.ledger.runs import RunQueries, RunRow
from batchgen.ledger.samples import SampleQueries
from batchgen.records import HAS_IMAGE

RECENT_ATTEMPTS = 2000  # requests

__all__ = ["Money", "OpenAttempt", "Reader", "RecordedImage", "RunRow", "SurplusRequest"]


class Reader(SampleQueries, AttemptQueries, ImageQueries, RunQueries, ChunkQueries):
    """Views of one ledger. Every method is one snapshot."""

    @classmethod
    def open(cls, job_folder: Path, url: str | None = None) -> Self:
        """url: of the server that has it, by default what BATCHGEN_LEDGER says. Raises LedgerError when there is none, or
        it is damaged."""
        return cls(open_for_reading(job_folder, url))

    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        """On the same connection, which stays the reader's to close."""
        return cls(reader._connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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

    @property
    def begun_at(self) -> float:
        """When it was sent; when it was recorded, where that was not noted."""
        return self.sent_at or self.started_at

    @property
    def seconds(self) -> float | None:
        """From sent to answered; None when there is no end."""
        return self.ended_at - self.begun_at if self.ended_at else None


class LaneSpan(NamedTuple):
    """When a run asked of a lane, in UTC seconds: first and last, also of an answer, and the last answer of all, 0.0 without one."""

    lane: str
    first: float
    last: float
    answered: float


class PictureRow(NamedTuple):
    attempt_id: int
    k: int
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


class DerivativeFileRow(NamedTuple):
    """A file that was made of a sample's picture. width: 0 when it is none itself."""

    path: str
    item_id: str
    n: int
    sha256: str
    bytes: int
    width: int
    height: int


def _in_condition(column: str, values: Sequence[str] | None) -> tuple[str, Sequence[str]]:
    """A condition, and what is bound in it; none for None. At most 30,000 values."""
    return ("", ()) if values is None else (f"{column} IN ({placeholders(values)})", values)


_PLACED_PICTURES = (
    f"SELECT {column_list(PictureRow._fields, 'i').replace('i.made_at', 'a.ended_at')}"
    " FROM image i LEFT JOIN attempt a ON a.id = i.attempt_id WHERE i.placed = 1"
)
_NEWEST_FIRST = "ORDER BY i.attempt_id DESC, i.k"


class HistoryReader(Reader):
    """A reader whose answers are all of the moment of its first question, while a run may go on writing."""

    def snapshot(self) -> None:
        self._connection.execute("BEGIN")

    def release(self) -> None:
        """The end of a snapshot: what is asked from here on is of another moment."""
        self._connection.execute("ROLLBACK")

    def samples(self, item_ids: Sequence[str] | None = None) -> Iterator[SampleRow]:
        """In the order in which items first appeared, the samples of an item beside each other. item_ids: these items alone."""
        where, ids = _in_condition("WHERE s.item_id", item_ids)
        sql = (
            f"SELECT {column_list(SampleRow._fields, 's')} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id"
            f" AND f.n = 1 {where} ORDER BY coalesce(f.id, s.id), s.n"
        )
        return map(SampleRow._make, self._stream_query(sql, *ids))

    def sample_states(self) -> Iterator[tuple[str, str]]:
        """(item id, state) of every sample, in the order in which they first appeared."""
        return (
            (item_id, state) for item_id, state in self._stream_query("SELECT item_id, state FROM sample ORDER BY id")
        )

    def sums(self) -> tuple[int, int, float, float, int]:
        """Samples that the manifest wants, those that have an image; and of these what they cost in USD, how much of that is
        estimated, and how many have no price."""
        has_image = f"state IN ({placeholders(HAS_IMAGE)})"
        sql = (
            f"SELECT count(*), count(*) FILTER (WHERE {has_image}), coalesce(sum(usd) FILTER (WHERE {has_image}), 0),"
            f" coalesce(sum(usd) FILTER (WHERE {has_image} AND usd_source IN ('estimate', 'guess')), 0),"
            f" count(*) FILTER (WHERE {has_image} AND usd IS NULL) FROM sample WHERE state <> 'superseded'"
        )
        wanted, made, usd, estimated, unpriced = self._row(sql, *HAS_IMAGE * 4)
        return wanted, made, float(usd), float(estimated), unpriced

    def changed_since(self, at: float) -> set[str]:
        """Items of samples that were asked for, or ended, or of whose pictures something was made or said, since then."""
        sql = (
            "SELECT item_id FROM sample WHERE updated_at >= ? UNION SELECT item_id FROM derivative WHERE mtime_ns >= ?"
            " UNION SELECT item_id FROM verdict WHERE at >= ?"
        )
        return {item for (item,) in self._query(sql, at, int(at * 1e9), at)}

    def ended_count_since(self, at: float) -> int:
        """Samples that came to an end, a good or a bad one, since then."""
        sql = "SELECT count(*) FROM sample WHERE updated_at >= ? AND state NOT IN ('running', 'submitted', 'wanted', 'superseded')"
        return int(self._row(sql, at)[0])

    def attempts_after(self, after_id: int = 0, also_ids: Iterable[int] = ()) -> Iterator[AttemptRow]:
        """Those begun after attempt `after_id`, and these; by default all."""
        where, ids = _in_condition("OR id", [str(number) for number in also_ids])
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE id > ? {where} ORDER BY id"
        return map(AttemptRow._make, self._stream_query(sql, after_id, *map(int, ids)))

    def attempts_by_id(self, ids: Sequence[int]) -> Iterator[AttemptRow]:
        """At most 30,000."""
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE id IN ({placeholders(ids)}) ORDER BY id"
        return map(AttemptRow._make, self._query(sql, *ids))

    def attempts_of_run(self, run_id: int) -> Iterator[AttemptRow]:
        """In the order of their start."""
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE run_id = ? ORDER BY id"
        return map(AttemptRow._make, self._stream_query(sql, run_id))

    def lane_spans(self, run_id: int) -> list[LaneSpan]:
        """Of the lanes that a run asked."""
        sql = (
            "SELECT lane, min(started_at), max(coalesce(ended_at, started_at)), coalesce(max(ended_at), 0) FROM attempt"
            " WHERE run_id = ? GROUP BY lane"
        )
        return list(map(LaneSpan._make, self._query(sql, run_id)))

    def item_attempts(self) -> Iterator[tuple[int, str]]:
        """(id, item id) of every request."""
        rows = self._stream_query("SELECT id, item_id FROM attempt ORDER BY id")
        return ((number, item_id) for number, item_id in rows)

    def last_unsuccessful_attempt(self, run_id: int) -> AttemptRow | None:
        """The last request of a run that brought no picture, of those that it sent lately."""
        sql = (
            f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE run_id = ? AND outcome IN ('failed', 'refused', 'uncertain')"
            f" AND id > (SELECT max(id) FROM attempt) - {RECENT_ATTEMPTS} ORDER BY id DESC LIMIT 1"
        )
        return next(map(AttemptRow._make, self._query(sql, run_id)), None)

    def placed_picture(self, attempt: int, k: int) -> tuple[str, str] | None:
        """(path in the job folder, sha256) of one picture that has its place."""
        sql = "SELECT path, sha256 FROM image WHERE attempt_id = ? AND k = ? AND placed = 1"
        row = self._row(sql, attempt, k)
        return None if row is None else (row[0], row[1])

    def pictures(self, item_ids: Sequence[str] | None = None) -> Iterator[PictureRow]:
        """Every picture that has its place, drafts, thoughts and earlier versions included, the newest of a sample first."""
        where, ids = _in_condition("AND i.item_id", item_ids)
        return map(PictureRow._make, self._stream_query(f"{_PLACED_PICTURES} {where} {_NEWEST_FIRST}", *ids))

    def newest_pictures(self, max_count: int) -> list[PictureRow]:
        """The images that were made last, the newest first, without drafts and thoughts."""
        sql = f"{_PLACED_PICTURES} AND i.role = 'image' {_NEWEST_FIRST} LIMIT ?"
        return list(map(PictureRow._make, self._query(sql, max_count)))

    def derivatives(self, item_ids: Sequence[str] | None = None) -> Iterator[DerivativeFileRow]:
        """What `post:` has made, by path."""
        where, ids = _in_condition("AND item_id", item_ids)
        sql = f"SELECT {column_list(DerivativeFileRow._fields)} FROM derivative WHERE state = 'made' {where} ORDER BY path"
        return map(DerivativeFileRow._make, self._stream_query(sql, *ids))

    def derivative_path(self, item_id: str, n: int, sha: str) -> str | None:
        """The path of what was made of a sample's picture. sha: how its SHA-256 begins."""
        sql = "SELECT path FROM derivative WHERE item_id = ? AND n = ? AND state = 'made' AND substr(sha256, 1, ?) = ?"
        row = self._row(sql, item_id, n, len(sha), sha)
        return None if row is None else str(row[0])
