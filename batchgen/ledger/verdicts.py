"""What checks, judge and people said of images, and what that makes of their samples."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

from batchgen.ledger.changes import dump_usage
from batchgen.ledger.database import Connection, placeholders, upsert_sql
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import VERDICT_COLUMNS, VERDICT_KEY
from batchgen.ledger.verdict_queries import COLUMNS, verdict_from_row
from batchgen.records import HAS_IMAGE, Answer, Verdict

PERSON = "person"  # as the reason of a sample that a person has rejected
_UPSERT = upsert_sql("verdict", VERDICT_COLUMNS, VERDICT_KEY)
# Of two rows that name one path, the later attempt wrote what stands there.
_CURRENT_SHA256 = (
    "(SELECT i.sha256 FROM image i WHERE i.item_id = {0}.item_id AND i.n = {0}.n AND i.path = {0}.path"
    " ORDER BY i.attempt_id DESC, i.k LIMIT 1)"
)


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

    def reviewable(self, item_ids: Sequence[str]) -> dict[tuple[str, int], tuple[str, ReviewState]]:
        """Hash of the image that a sample has now, and how the sample stands, of those of these items that have one. At most
        30,000 ids a call."""
        sql = (
            f"SELECT s.item_id, s.n, {_CURRENT_SHA256.format('s')}, s.state, s.reason, s.message FROM sample s"
            f" WHERE s.item_id IN ({placeholders(item_ids)}) AND s.state IN ({placeholders(HAS_IMAGE)})"
        )
        rows = self._query(sql, *item_ids, *HAS_IMAGE)
        return {(row[0], row[1]): (row[2], ReviewState(*row[3:])) for row in rows}

    def all_verdicts(self) -> Iterator[Verdict]:
        """In the order of items and samples."""
        rows = self._stream_query(f"SELECT {COLUMNS} FROM verdict v ORDER BY v.item_id, v.n, v.at")
        return map(verdict_from_row, rows)


def upsert_verdicts(verdicts: Sequence[Verdict]) -> Callable[[Connection], None]:
    """The change that writes these, each in place of what the same check, judge or person had said of the same image."""

    def change(db: Connection) -> None:
        db.executemany(_UPSERT, [verdict_row(verdict) for verdict in verdicts])

    return change


def set_review_state(
    item_id: str, n: int, sha256: str, state: Literal["succeeded", "rejected"], reason: str = "", message: str = ""
) -> Callable[[Connection], bool]:
    """The change that makes a sample's image count, or not. It returns whether anything changed, and leaves alone a sample
    whose image is another one by now, or which is asked for again or ended without an image."""
    sql = (
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        f" AND state IN ({placeholders(HAS_IMAGE)}) AND (state <> ? OR reason <> ? OR message <> ?)"
        f" AND {_CURRENT_SHA256.format('sample')} = ? RETURNING n"
    )
    end = (state, reason, message)

    def change(db: Connection) -> bool:
        row = db.execute(sql, (*end, time.time(), item_id, n, *HAS_IMAGE, *end, sha256)).fetchone()
        return row is not None

    return change


def record_answer(answer: Answer, verdict: Verdict, usd_source: str, sent_at: float) -> Callable[[Connection], None]:
    """The change that ends a request to a judge, with what it says of the image."""

    def change(db: Connection) -> None:
        db.execute(
            "UPDATE attempt SET outcome = 'succeeded', reason = '', message = '', http_status = 200, maybe_billed = 0,"
            " sent_at = ?, ended_at = ?, usd = ?, usd_source = ?, usage = ?, reply_id = ?, model_version = ? WHERE id = ?",
            (
                *(sent_at, verdict.at, verdict.usd, usd_source, dump_usage(answer.usage)),
                *(answer.reply_id, answer.model_version, verdict.attempt),
            ),
        )
        db.execute(_UPSERT, verdict_row(verdict))

    return change


class ReviewState(NamedTuple):
    """What is said of an image makes this of its sample."""

    state: Literal["succeeded", "rejected"]
    reason: str = ""
    message: str = ""


def last_ruling(verdicts: Iterable[Verdict]) -> Verdict | None:
    """By which people accept or reject one image: of two people the later word counts, of two of the same time the one that stands
    later. None when nobody rules."""
    rulings = [each for each in verdicts if each.by == "person" and each.ruling in ("accept", "reject")]
    return max(reversed(rulings), key=lambda each: each.at, default=None)


def review_state(verdicts: Sequence[Verdict]) -> ReviewState:
    """All verdicts on one image: a person outranks the judge and the checks, of which each may reject."""
    ruling = last_ruling(verdicts) or next((each for each in verdicts if each.ruling == "reject"), None)
    if ruling is None or ruling.ruling == "accept":
        return ReviewState("succeeded")
    if ruling.by != "person":
        return ReviewState("rejected", ruling.reason, ruling.message)
    said = f"{ruling.name}: {ruling.message}" if ruling.message else f"rejected by {ruling.name}"
    return ReviewState("rejected", PERSON, said)


def remarks_on(verdicts: Iterable[Verdict]) -> str:
    """What people and the judge find wrong with an image, in the order in which they said it."""
    found = [each for each in verdicts if each.by == "person" or (each.by == "judge" and each.ruling == "reject")]
    return "; ".join(dict.fromkeys(" ".join(each.message.split()) for each in found if each.message))


def verdict_row(verdict: Verdict) -> tuple[Any, ...]:
    values = {name: getattr(verdict, name) for name in VERDICT_COLUMNS}
    return tuple({**values, "details": json.dumps(dict(verdict.details), ensure_ascii=False)}.values())
