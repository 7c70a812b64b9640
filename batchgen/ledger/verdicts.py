"""What checks, judge and people said of images, and what that makes of their samples."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

from batchgen.ledger.database import Connection, placeholders, upsert_sql
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import VERDICT_COLUMNS
from batchgen.ledger.verdict_queries import COLUMNS, verdict_from_row
from batchgen.records import HAS_IMAGE, Verdict

_UPSERT = upsert_sql("verdict", VERDICT_COLUMNS, ("item_id", "n", "sha256", "by", "name"))


class VerdictReader(Reader):
    """A reader's questions about verdicts."""

    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        """On the same connection, which stays the reader's to close."""
        return cls(reader._connection)

    def verdicts(self, item_ids: Sequence[str]) -> dict[tuple[str, int], list[Verdict]]:
        """All that was said of any image of these items' samples, by item and sample, the earliest first. At most 30,000 ids a call."""
        sql = f"SELECT {COLUMNS} FROM verdict v WHERE v.item_id IN ({placeholders(item_ids)}) ORDER BY v.at"
        found: dict[tuple[str, int], list[Verdict]] = {}
        for row in self._query(sql, *item_ids):
            found.setdefault((row[0], row[1]), []).append(verdict_from_row(row))
        return found

    def all_verdicts(self) -> Iterator[Verdict]:
        """In the order of items and samples."""
        rows = self._stream_query(f"SELECT {COLUMNS} FROM verdict v ORDER BY v.item_id, v.n, v.at")
        return map(verdict_from_row, rows)


def upsert_verdicts(verdicts: Sequence[Verdict]) -> Callable[[Connection], None]:
    """The change that writes these, each in place of what the same check, judge or person had said of the same image."""

    def change(db: Connection) -> None:
        db.executemany(_UPSERT, [_row(verdict) for verdict in verdicts])

    return change


def set_review_state(
    item_id: str, n: int, sha256: str, state: Literal["succeeded", "rejected"], reason: str = "", message: str = ""
) -> Callable[[Connection], bool]:
    """The change that makes a sample's image count, or not. It returns whether anything changed, and leaves alone a sample
    whose image is another one by now, or which is asked for again or ended without an image."""
    sql = (
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        f" AND state IN ({placeholders(HAS_IMAGE)}) AND (state <> ? OR reason <> ? OR message <> ?)"
        " AND (SELECT i.sha256 FROM image i WHERE i.item_id = sample.item_id AND i.n = sample.n AND i.path = sample.path"
        " ORDER BY i.attempt_id DESC, i.k LIMIT 1) = ? RETURNING n"
    )
    end = (state, reason, message)

    def change(db: Connection) -> bool:
        row = db.execute(sql, (*end, time.time(), item_id, n, *HAS_IMAGE, *end, sha256)).fetchone()
        return row is not None

    return change


def _row(verdict: Verdict) -> tuple[Any, ...]:
    values = {name: getattr(verdict, name) for name in VERDICT_COLUMNS}
    return tuple({**values, "details": json.dumps(dict(verdict.details), ensure_ascii=False)}.values())
