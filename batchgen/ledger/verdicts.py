"""What checks, the judge and people said about images, what that means for their samples, and the candidates of a
sample: the images made for its current request, of which one has its name and the others are in drafts/."""

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

PERSON = "person"  # the reason of a sample that a person has rejected
_UPSERT = upsert_sql("verdict", VERDICT_COLUMNS, VERDICT_KEY)
# If two rows have the same path, the later attempt wrote the file.
_CURRENT_SHA256 = (
    "(SELECT i.sha256 FROM image i WHERE i.item_id = {0}.item_id AND i.n = {0}.n AND i.path = {0}.path"
    " ORDER BY i.attempt_id DESC, i.k LIMIT 1)"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image made for a sample. attempt, k: the request that brought it, and its number in the answer. verdicts:
    everything said about it."""

    item_id: str
    n: int
    attempt: int
    k: int
    file: ImageFile
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of one sample, oldest first. state, fingerprint, wire: the sample's. lane: the one its image came
    from. current: the one that has the sample's name, None while another is being made."""

    state: str
    fingerprint: str
    wire: str
    lane: str
    images: tuple[Candidate, ...]
    current: Candidate | None

    def with_verdicts(self, verdicts: Sequence[Verdict]) -> Candidates:
        """The candidates with these verdicts added to the current one."""
        if self.current is None:
            return self
        current = replace(self.current, verdicts=(*self.current.verdicts, *verdicts))
        images = tuple(current if image is self.current else image for image in self.images)
        return replace(self, images=images, current=current)


class VerdictReader(Reader):
    """Queries about verdicts, and about the images they are on."""

    def verdicts(self, item_ids: Sequence[str]) -> dict[tuple[str, int], list[Verdict]]:
        """Everything said about any image of these items' samples, by item and sample, oldest first. At most 30,000 ids
        a call."""
        sql = f"SELECT {VERDICT_SQL} FROM verdict v WHERE v.item_id IN ({placeholders(item_ids)}) ORDER BY v.at"
        return verdicts_by_sample(self._query(sql, *item_ids))

    def reviewable(self, item_ids: Sequence[str]) -> dict[tuple[str, int], tuple[str, ReviewState]]:
        """For those of these items' samples that have an image, its hash, and the sample's state. At most 30,000 ids a
        call."""
        sql = (
            f"SELECT s.item_id, s.n, {_CURRENT_SHA256.format('s')}, s.state, s.reason, s.message FROM sample s"
            f" WHERE s.item_id IN ({placeholders(item_ids)}) AND s.state IN ({placeholders(HAS_IMAGE)})"
        )
        return {(row[0], row[1]): (row[2], ReviewState(*row[3:])) for row in self._query(sql, *item_ids, *HAS_IMAGE)}

    def all_verdicts(self) -> Iterator[Verdict]:
        """All verdicts, in the order of items and samples."""
        rows = self._stream_query(f"SELECT {VERDICT_SQL} FROM verdict v ORDER BY v.item_id, v.n, v.at")
        return map(verdict_from_row, rows)

    def candidates(self, item_id: str, n: int) -> Candidates:
        """The candidates of a sample, without images if it has none now. A draft that nobody has said anything about is
        not one: it came for another reason."""
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
                if file.role == "image" and file.path == path:  # not yet noted elsewhere
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
        """What the check `twin` said about the images that samples have."""
        sql = (
            f"SELECT {VERDICT_SQL} FROM verdict v JOIN sample s ON s.item_id = v.item_id AND s.n = v.n JOIN image i"
            " ON i.item_id = s.item_id AND i.n = s.n AND i.path = s.path AND i.sha256 = v.sha256"
            " WHERE v.by = 'check' AND v.name = 'twin' ORDER BY v.at"
        )
        return map(verdict_from_row, self._stream_query(sql))

    def was_maybe_judged(self, image: Candidate, basis: str) -> bool:
        """Whether the judge was asked and its answer is unknown."""
        sql = "SELECT 1 FROM attempt WHERE item_id = ? AND n = ? AND fingerprint = ? AND maybe_billed <> 0 LIMIT 1"
        return self._row(sql, judge_id(image.item_id), image.n, basis) is not None

    def unreviewed(self, run_id: int) -> list[tuple[str, int]]:
        """Samples whose image came in the previous run, and about which no check, judge or person has said anything."""
        sql = (
            "SELECT s.item_id, s.n FROM attempt a JOIN image i ON i.attempt_id = a.id AND i.role = 'image'"
            " JOIN sample s ON s.item_id = i.item_id AND s.n = i.n AND s.path = i.path"
            " WHERE a.run_id = (SELECT max(id) FROM run WHERE id < ?) AND s.state = 'succeeded' AND NOT EXISTS"
            " (SELECT 1 FROM verdict v WHERE v.item_id = s.item_id AND v.n = s.n AND v.sha256 = i.sha256)"
        )
        return list(self._query(sql, run_id))


def upsert_verdicts(verdicts: Sequence[Verdict]) -> Callable[[Connection], None]:
    """The change that writes these verdicts, each replacing the previous one of the same check, judge or person on the
    same image."""

    def change(db: Connection) -> None:
        db.executemany(_UPSERT, [verdict_row(verdict) for verdict in verdicts])

    return change


def set_review_state(
    item_id: str, n: int, sha256: str, state: Literal["succeeded", "rejected"], reason: str = "", message: str = ""
) -> Callable[[Connection], bool]:
    """The change that makes a sample's image count, or not. It returns whether anything changed, and leaves a sample
    alone that has another image by now, is requested again, or ended without an image."""
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
    """The change that ends a request to a judge, with its verdict."""

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
    """The state of a sample that follows from what was said about its image."""

    state: Literal["succeeded", "rejected"]
    reason: str = ""
    message: str = ""


def last_ruling(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The last ruling of people on one image: of two people the later one counts, at the same time the one that comes
    later. None if nobody ruled."""
    rulings = [each for each in verdicts if each.by == "person" and each.ruling in ("accept", "reject")]
    return max(reversed(rulings), key=lambda each: each.at, default=None)


def review_state(verdicts: Sequence[Verdict]) -> ReviewState:
    """The state from all verdicts on one image: a person outranks the judge and the checks, each of which may
    reject."""
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
    """The change that makes a sample's image, which is now at `path`, a draft, and lets the sample be wanted again."""

    def change(db: Connection) -> None:
        _make_draft(db, image, path)
        db.execute(
            "UPDATE sample SET state = 'wanted', path = NULL, bytes = NULL, made_fingerprint = NULL, reason = ?, message = ?,"
            " updated_at = ? WHERE item_id = ? AND n = ? AND path = ?",
            (reason, message, time.time(), image.item_id, image.n, image.file.path),
        )

    return change


def replace_current(image: Candidate, draft_path: str, chosen: Candidate) -> Callable[[Connection], None]:
    """The change that makes another candidate the sample's image. It is still in drafts/: `move_image` records its
    move. image: the sample's previous image, now at `draft_path`."""

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
    """The change that records where a sample's image is now."""

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
