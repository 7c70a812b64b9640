"""What the ledger knows about derivatives: which exist, which images they are made from, and what became of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchgen.ledger.database import Connection, column_list, placeholders, upsert_sql
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import DERIVATIVE_COLUMNS


class DerivativeRow(NamedTuple):
    """A file, by its path in the job folder. state: made | skipped (larger than the image) | failed."""

    path: str
    item_id: str
    n: int
    name: str
    state: str
    recipe: str
    source_sha256: str
    format: str
    sha256: str
    bytes: int
    width: int
    height: int
    mtime_ns: int
    message: str


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """The image that a sample has now, and what is known about its making. lane: of the model that served."""

    item_id: str
    n: int
    path: str
    sha256: str
    format: str
    attempt: int
    run: int | None
    lane: str
    sent_as: str
    wire: Mapping[str, Any]


class DerivativeReader(Reader):
    def pictures(self, item_ids: Sequence[str]) -> dict[str, list[SourcePicture]]:
        """The images of these items' samples, by item. At most 30,000 ids a call."""
        sql = (
            "SELECT s.item_id, s.n, i.path, i.sha256, i.format, i.attempt_id, a.run_id, coalesce(a.lane, s.model),"
            " coalesce(a.sent_as, ''), s.wire FROM sample s JOIN image i ON i.item_id = s.item_id AND i.n = s.n"
            " AND i.role = 'image' AND i.fingerprint = s.made_fingerprint LEFT JOIN attempt a ON a.id = i.attempt_id"
            f" WHERE s.item_id IN ({placeholders(item_ids)}) AND s.state = 'succeeded'"
            " ORDER BY s.item_id, s.n, i.attempt_id, i.k"
        )
        rows = self._query(sql, *item_ids)
        latest = {(row[0], row[1]): row for row in rows}
        found: dict[str, list[SourcePicture]] = {}
        for row in latest.values():
            found.setdefault(row[0], []).append(SourcePicture(*(*row[:9], json.loads(row[9] or "{}"))))
        return found

    def derivatives(self, item_ids: Sequence[str]) -> dict[tuple[str, int], list[DerivativeRow]]:
        """The derivatives of these items, by item and sample."""
        found: dict[tuple[str, int], list[DerivativeRow]] = {}
        sql = f"SELECT {column_list(DERIVATIVE_COLUMNS)} FROM derivative WHERE item_id IN ({placeholders(item_ids)})"
        for row in self._query(sql, *item_ids):
            found.setdefault((row[1], row[2]), []).append(DerivativeRow(*row))
        return found

    def derivative_hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """By path, the sha256 of what was made, for whichever sample."""
        sql = f"SELECT path, sha256 FROM derivative WHERE state = 'made' AND path IN ({placeholders(paths)})"
        return dict(self._query(sql, *paths))

    def unwanted_derivatives(self) -> list[DerivativeRow]:
        """The derivatives of samples that the manifest no longer wants, or whose image was rejected."""
        sql = (
            f"SELECT {column_list(DERIVATIVE_COLUMNS, 'd')} FROM derivative d LEFT JOIN sample s ON s.item_id = d.item_id AND s.n = d.n"
            " WHERE s.state IS NULL OR s.state IN ('superseded', 'rejected')"
        )
        return [DerivativeRow(*row) for row in self._query(sql)]

    def expected_derivatives(self) -> Iterable[tuple[str, str, int]]:
        """(path, sha256, bytes) of everything that should be in the folder."""
        return self._stream_query("SELECT path, sha256, bytes FROM derivative WHERE state = 'made' ORDER BY path")

    def derivative_counts(self) -> dict[str, dict[str, int]]:
        """The number of derivatives by name and state."""
        found: dict[str, dict[str, int]] = {}
        for name, state, number in self._query("SELECT name, state, count(*) FROM derivative GROUP BY name, state"):
            found.setdefault(name, {})[state] = number
        return found

    def derivative_failures(self, max_count: int) -> list[tuple[str, str]]:
        """(path, reason) of some that could not be made."""
        sql = "SELECT path, message FROM derivative WHERE state = 'failed' ORDER BY path LIMIT ?"
        return list(self._query(sql, max_count))


def upsert_derivatives(rows: Sequence[DerivativeRow]) -> Callable[[Connection], None]:
    """The change that writes these rows, each replacing the one with its path."""
    sql = upsert_sql("derivative", DERIVATIVE_COLUMNS, ("path",))

    def change(db: Connection) -> None:
        db.executemany(sql, rows)

    return change


def delete_derivatives(rows: Sequence[DerivativeRow]) -> Callable[[Connection], None]:
    """The change that deletes these rows, unless their paths now belong to another sample."""
    keys = [(row.path, row.item_id, row.n) for row in rows]

    def change(db: Connection) -> None:
        db.executemany("DELETE FROM derivative WHERE path = ? AND item_id = ? AND n = ?", keys)

    return change
