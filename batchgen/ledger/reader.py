"""Read-only queries of a ledger, safe while a run is writing it, and after a run has died."""

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
    """Queries of one ledger. Every method is one snapshot."""

    @classmethod
    def open(cls, job_folder: Path, url: str | None = None) -> Self:
        """Open a ledger. url: of its server, by default from BATCHGEN_LEDGER. Raises LedgerError if there is none, or
        it is damaged."""
        return cls(open_for_reading(job_folder, url))

    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        """A reader on the same connection, which the given reader still has to close."""
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
    """A request. Times are UTC seconds. images: how many samples it was for, from n on. usage: JSON of what the vendor
    said was used. sent_as: how the request differed from its item, in words."""

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
        """When it was sent, or recorded if that was not noted."""
        return self.sent_at or self.started_at

    @property
    def seconds(self) -> float | None:
        """The time from sent to answered; None without an end."""
        return self.ended_at - self.begun_at if self.ended_at else None


class LaneSpan(NamedTuple):
    """When a run used a lane, in UTC seconds: the first and the last time, including answers, and the last answer, 0.0
    if there is none."""

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
    """A file made from a sample's image. width: 0 if it is not an image itself."""

    path: str
    item_id: str
    n: int
    sha256: str
    bytes: int
    width: int
    height: int


def _in_condition(column: str, values: Sequence[str] | None) -> tuple[str, Sequence[str]]:
    """A condition and its values; none for None. At most 30,000 values."""
    return ("", ()) if values is None else (f"{column} IN ({placeholders(values)})", values)


_PLACED_PICTURES = (
    f"SELECT {column_list(PictureRow._fields, 'i').replace('i.made_at', 'a.ended_at')}"
    " FROM image i LEFT JOIN attempt a ON a.id = i.attempt_id WHERE i.placed = 1"
)
_NEWEST_FIRST = "ORDER BY i.attempt_id DESC, i.k"


class HistoryReader(Reader):
    """A reader whose answers all show the moment of its first query, while a run may go on writing."""

    def snapshot(self) -> None:
        self._connection.execute("BEGIN")

    def release(self) -> None:
        """End a snapshot: later queries show another moment."""
        self._connection.execute("ROLLBACK")

    def samples(self, item_ids: Sequence[str] | None = None) -> Iterator[SampleRow]:
        """The samples in the order in which items first appeared, those of an item together. item_ids: only these
        items."""
        where, ids = _in_condition("WHERE s.item_id", item_ids)
        sql = (
            f"SELECT {column_list(SampleRow._fields, 's')} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id"
            f" AND f.n = 1 {where} ORDER BY coalesce(f.id, s.id), s.n"
        )
        return map(SampleRow._make, self._stream_query(sql, *ids))

    def sample_states(self) -> Iterator[tuple[str, str]]:
        """(item id, state) of every sample, in the order in which they first appeared."""
        return self._stream_query("SELECT item_id, state FROM sample ORDER BY id")

    def sums(self) -> tuple[int, int, float, float, int]:
        """The number of samples that the manifest wants, and of those with an image; what the latter cost in USD, how
        much of that is estimated, and how many have no price."""
        has_image = f"state IN ({placeholders(HAS_IMAGE)})"
        sql = (
            f"SELECT count(*), count(*) FILTER (WHERE {has_image}), coalesce(sum(usd) FILTER (WHERE {has_image}), 0),"
            f" coalesce(sum(usd) FILTER (WHERE {has_image} AND usd_source IN ('estimate', 'guess')), 0),"
            f" count(*) FILTER (WHERE {has_image} AND usd IS NULL) FROM sample WHERE state <> 'superseded'"
        )
        wanted, made, usd, estimated, unpriced = self._row(sql, *HAS_IMAGE * 4)
        return wanted, made, float(usd), float(estimated), unpriced

    def changed_since(self, at: float) -> set[str]:
        """The items of samples that were requested or ended since then, or whose images something was made from or said
        about."""
        sql = (
            "SELECT item_id FROM sample WHERE updated_at >= ? UNION SELECT item_id FROM derivative WHERE mtime_ns >= ?"
            " UNION SELECT item_id FROM verdict WHERE at >= ?"
        )
        return {item for (item,) in self._query(sql, at, int(at * 1e9), at)}

    def ended_count_since(self, at: float) -> int:
        """The number of samples that ended since then, well or not."""
        sql = "SELECT count(*) FROM sample WHERE updated_at >= ? AND state NOT IN ('running', 'submitted', 'wanted', 'superseded')"
        return int(self._row(sql, at)[0])

    def attempts_after(self, after_id: int = 0, also_ids: Iterable[int] = ()) -> Iterator[AttemptRow]:
        """The attempts begun after attempt `after_id`, and these; by default all."""
        where, ids = _in_condition("OR id", [str(number) for number in also_ids])
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE id > ? {where} ORDER BY id"
        return map(AttemptRow._make, self._stream_query(sql, after_id, *map(int, ids)))

    def attempts_by_id(self, ids: Sequence[int]) -> Iterator[AttemptRow]:
        """These attempts, at most 30,000."""
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE id IN ({placeholders(ids)}) ORDER BY id"
        return map(AttemptRow._make, self._query(sql, *ids))

    def attempts_of_run(self, run_id: int) -> Iterator[AttemptRow]:
        """The attempts of a run, in the order of their start."""
        sql = f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE run_id = ? ORDER BY id"
        return map(AttemptRow._make, self._stream_query(sql, run_id))

    def lane_spans(self, run_id: int) -> list[LaneSpan]:
        """The lanes that a run has used."""
        sql = (
            "SELECT lane, min(started_at), max(coalesce(ended_at, started_at)), coalesce(max(ended_at), 0) FROM attempt"
            " WHERE run_id = ? GROUP BY lane"
        )
        return list(map(LaneSpan._make, self._query(sql, run_id)))

    def item_attempts(self) -> Iterator[tuple[int, str]]:
        """(id, item id) of every request."""
        return self._stream_query("SELECT id, item_id FROM attempt ORDER BY id")

    def last_unsuccessful_attempt(self, run_id: int) -> AttemptRow | None:
        """The last request of a run that brought no image, among the recent ones."""
        sql = (
            f"SELECT {column_list(AttemptRow._fields)} FROM attempt WHERE run_id = ? AND outcome IN ('failed', 'refused', 'uncertain')"
            f" AND id > (SELECT max(id) FROM attempt) - {RECENT_ATTEMPTS} ORDER BY id DESC LIMIT 1"
        )
        return next(map(AttemptRow._make, self._query(sql, run_id)), None)

    def placed_picture(self, attempt: int, k: int) -> tuple[str, str] | None:
        """(path in the job folder, sha256) of one image that is in its place."""
        sql = "SELECT path, sha256 FROM image WHERE attempt_id = ? AND k = ? AND placed = 1"
        row = self._row(sql, attempt, k)
        return None if row is None else (row[0], row[1])

    def pictures(self, item_ids: Sequence[str] | None = None) -> Iterator[PictureRow]:
        """Every image that is in its place, including drafts, thoughts and earlier versions, the newest of a sample
        first."""
        where, ids = _in_condition("AND i.item_id", item_ids)
        return map(PictureRow._make, self._stream_query(f"{_PLACED_PICTURES} {where} {_NEWEST_FIRST}", *ids))

    def newest_pictures(self, max_count: int) -> list[PictureRow]:
        """The newest images, without drafts and thoughts."""
        sql = f"{_PLACED_PICTURES} AND i.role = 'image' {_NEWEST_FIRST} LIMIT ?"
        return list(map(PictureRow._make, self._query(sql, max_count)))

    def derivatives(self, item_ids: Sequence[str] | None = None) -> Iterator[DerivativeFileRow]:
        """What `post:` has made, by path."""
        where, ids = _in_condition("AND item_id", item_ids)
        sql = f"SELECT {column_list(DerivativeFileRow._fields)} FROM derivative WHERE state = 'made' {where} ORDER BY path"
        return map(DerivativeFileRow._make, self._stream_query(sql, *ids))

    def derivative_path(self, item_id: str, n: int, sha: str) -> str | None:
        """The path of a file made from a sample's image. sha: the beginning of its SHA-256."""
        sql = "SELECT path FROM derivative WHERE item_id = ? AND n = ? AND state = 'made' AND substr(sha256, 1, ?) = ?"
        row = self._row(sql, item_id, n, len(sha), sha)
        return None if row is None else str(row[0])
