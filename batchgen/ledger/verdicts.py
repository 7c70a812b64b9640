"""What checks, judge and people said of images, what that makes of their samples, and the images made for one sample as it is asked
for now, of which one has its name; the others lie in drafts/."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from batchgen.ledger.changes import dump_usage
from batchgen.ledger.database import Connection, column_list, placeholders, upsert_sql
from batchgen.ledger.pictures import FILE_COLUMNS, image_file
from batchgen.ledger.reader import Reader
from batchgen.ledger.samples import VERDICT_SQL, verdict_from_row, verdicts_by_sample
from batchgen.ledger.schema import VERDICT_COLUMNS, VERDICT_KEY
from batchgen.records import HAS_IMAGE, Answer, ImageFile, Verdict, judge_id

PERSON = "person"  # as the reason of a sample that a person has rejected
_UPSERT = upsert_sql("verdict", VERDICT_COLUMNS, VERDICT_KEY)
# Of two rows that name one path, the later attempt wrote what stands there.
_CURRENT_SHA256 = (
    "(SELECT i.sha256 FROM image i WHERE i.item_id = {0}.item_id AND i.n = {0}.n AND i.path = {0}.path"
    " ORDER BY i.attempt_id DESC, i.k LIMIT 1)"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """attempt, k: the request that brought it, and its number in the answer. verdicts: all that was said of it."""

    item_id: str
    n: int
    attempt: int
    k: int
    file: ImageFile
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of one sample, the earliest first. state, fingerprint, wire, lane: of the sample, and by which lane its image came. current:
    the one that has the sample's name, None while another one is being made."""

    state: str
    fingerprint: str
    wire: str
    lane: str
    images: tuple[Candidate, ...]
    current: Candidate | None

    def with_verdicts(self, verdicts: Sequence[Verdict]) -> Candidates:
        """The same, once these are said of the current one too."""
        if self.current is None:
            return self
        current = replace(self.current, verdicts=(*self.current.verdicts, *verdicts))
        images = tuple(current if image is self.current else image for image in self.images)
        return replace(self, images=images, current=current)


class VerdictReader(Reader):
    """A reader's questions about verdicts, and about the images they are on."""

    def verdicts(self, item_ids: Sequence[str]) -> dict[tuple[str, int], list[Verdict]]:
        """All that was said of any image of these items' samples, by item and sample, the earliest first. At most 30,000 ids a call."""
        sql = f"SELECT {VERDICT_SQL} FROM verdict v WHERE v.item_id IN ({placeholders(item_ids)}) ORDER BY v.at"
        return verdicts_by_sample(self._query(sql, *item_ids))

    def reviewable(self, item_ids: Sequence[str]) -> dict[tuple[str, int], tuple[str, ReviewState]]:
        """Hash of the image that a sample has now, and how the sample stands, of those of these items that have one. At most
        30,000 ids a call."""
        sql = (
            f"SELECT s.item_id, s.n, {_CURRENT_SHA256.format('s')}, s.state, s.reason, s.message FROM sample s"
            f" WHERE s.item_id IN ({placeholders(item_ids)}) AND s.state IN ({placeholders(HAS_IMAGE)})"
        )
        return {(row[0], row[1]): (row[2], ReviewState(*row[3:])) for row in self._query(sql, *item_ids, *HAS_IMAGE)}

    def all_verdicts(self) -> Iterator[Verdict]:
        """In the order of items and samples."""
        rows = self._stream_query(f"SELECT {VERDICT_SQL} FROM verdict v ORDER BY v.item_id, v.n, v.at")
        return map(verdict_from_row, rows)

    def candidates(self, item_id: str, n: int) -> Candidates:
        """Without images for a sample that has none by now. A draft of which nobody has said anything is none: it came for
        another reason."""
        sample = self._row("SELECT state, path, fingerprint, wire FROM sample WHERE item_id = ? AND n = ?", item_id, n)
        if sample is None:
            return Candidates("superseded", "", "{}", "", (), None)
        state, path, fingerprint, wire = sample
        said: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts([item_id]).get((item_id, n), ()):
            said.setdefault(verdict.sha256, []).append(verdict)
        sql = (
            f"SELECT i.attempt_id, i.k, a.lane, {column_list(FILE_COLUMNS, 'i')} FROM image i"
            " JOIN attempt a ON a.id = i.attempt_id WHERE i.item_id = ? AND i.n = ? AND i.fingerprint = ?"
            " AND i.role IN ('image', 'draft') ORDER BY i.attempt_id, i.k"
        )
        images, lane, latest = list[Candidate](), "", None
        for attempt, k, by, *columns in self._query(sql, item_id, n, fingerprint):
            file = image_file(columns)
            verdicts = tuple(said.get(file.sha256, ()))
            if file.role == "image" or verdicts:
                images.append(Candidate(item_id, n, attempt, k, file, verdicts))
                lane = by
                if file.role == "image" and file.path == path:  # one that has made way may not be noted elsewhere yet
                    latest = images[-1]
        current = None if latest is None or state not in HAS_IMAGE else latest
        return Candidates(state, fingerprint, wire, lane, tuple(images), current)

    def current_images(self, item_ids: Sequence[str]) -> Iterator[tuple[str, int, str, str, str]]:
        """(item id, n, state, wire, sha256) of the images that these items' samples have. At most 30,000 ids a call."""
        sql = (
            "SELECT s.item_id, s.n, s.state, s.wire, i.sha256 FROM sample s JOIN image i ON i.item_id = s.item_id AND i.n = s.n"
            f" AND i.path = s.path AND i.role = 'image' WHERE s.item_id IN ({placeholders(item_ids)})"
            f" AND s.state IN ({placeholders(HAS_IMAGE)}) ORDER BY s.item_id, s.n"
        )
        return self._query(sql, *item_ids, *HAS_IMAGE)

    def twin_verdicts(self) -> Iterator[Verdict]:
        """What the check `twin` has said of the images that samples have."""
        sql = (
            f"SELECT {VERDICT_SQL} FROM verdict v JOIN sample s ON s.item_id = v.item_id AND s.n = v.n JOIN image i"
            " ON i.item_id = s.item_id AND i.n = s.n AND i.path = s.path AND i.sha256 = v.sha256"
            " WHERE v.by = 'check' AND v.name = 'twin' ORDER BY v.at"
        )
        return map(verdict_from_row, self._stream_query(sql))

    def was_maybe_judged(self, image: Candidate, basis: str) -> bool:
        """Whether the judge was asked and nobody knows what it answered."""
        sql = "SELECT 1 FROM attempt WHERE item_id = ? AND n = ? AND fingerprint = ? AND maybe_billed <> 0 LIMIT 1"
        return self._row(sql, judge_id(image.item_id), image.n, basis) is not None

    def unreviewed(self, run_id: int) -> list[tuple[str, int]]:
        """Samples whose image came in the run before this one, and of which no check, judge or person has said anything."""
        sql = (
            "SELECT s.item_id, s.n FROM attempt a JOIN image i ON i.attempt_id = a.id AND i.role = 'image'"
            " JOIN sample s ON s.item_id = i.item_id AND s.n = i.n AND s.path = i.path"
            " WHERE a.run_id = (SELECT max(id) FROM run WHERE id < ?) AND s.state = 'succeeded' AND NOT EXISTS"
            " (SELECT 1 FROM verdict v WHERE v.item_id = s.item_id AND v.n = s.n AND v.sha256 = i.sha256)"
        )
        return [(item_id, n) for item_id, n in self._query(sql, run_id)]


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


# --- which image a sample has


def set_aside(image: Candidate, path: str, reason: str, message: str) -> Callable[[Connection], None]:
    """The change that makes a sample's image, which lies at `path` by now, a draft, and the sample one that is wanted again."""

    def change(db: Connection) -> None:
        _make_draft(db, image, path)
        db.execute(
            "UPDATE sample SET state = 'wanted', path = NULL, bytes = NULL, made_fingerprint = NULL, reason = ?, message = ?,"
            " updated_at = ? WHERE item_id = ? AND n = ? AND path = ?",
            (reason, message, time.time(), image.item_id, image.n, image.file.path),
        )

    return change


def replace_current(image: Candidate, draft_path: str, chosen: Candidate) -> Callable[[Connection], None]:
    """The change that makes another candidate the sample's image. It still lies where it was made a draft: `move_image` goes
    with its move. image: the sample's until now, which lies at `draft_path`."""

    def change(db: Connection) -> None:
        _make_draft(db, image, draft_path)
        db.execute(
            "UPDATE image SET role = 'image' WHERE attempt_id = ? AND k = ?",
            (chosen.attempt, chosen.k),
        )
        db.execute(
            "UPDATE sample SET path = ?, bytes = ? WHERE item_id = ? AND n = ? AND path = ?",
            (chosen.file.path, chosen.file.bytes, image.item_id, image.n, image.file.path),
        )

    return change


def move_image(image: Candidate, old: str, new: str) -> Callable[[Connection], None]:
    """The change that notes where a sample's image lies by now."""

    def change(db: Connection) -> None:
        db.execute("UPDATE image SET path = ? WHERE attempt_id = ? AND k = ?", (new, image.attempt, image.k))
        db.execute(
            "UPDATE sample SET path = ? WHERE item_id = ? AND n = ? AND path = ?", (new, image.item_id, image.n, old)
        )

    return change


def _make_draft(db: Connection, image: Candidate, path: str) -> None:
    db.execute(
        "UPDATE image SET role = 'draft', path = ? WHERE attempt_id = ? AND k = ?", (path, image.attempt, image.k)
    )
