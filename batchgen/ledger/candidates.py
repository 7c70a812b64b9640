"""The images that were made for one sample as it is asked for now, of which one has its name; the others lie in drafts/."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self

from batchgen.dataclass import dataclass
from batchgen.ledger.database import Connection, placeholders
from batchgen.ledger.pictures import IMAGE_COLUMNS, image_file
from batchgen.ledger.reader import Reader
from batchgen.ledger.verdict_queries import COLUMNS, verdict_from_row
from batchgen.ledger.verdicts import VerdictReader
from batchgen.records import HAS_IMAGE, ImageFile, Verdict, judge_id

_COLUMNS = ", ".join(f"i.{name}" for name in IMAGE_COLUMNS.split(", "))


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


class CandidateReader(VerdictReader):
    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        return cls(reader._connection)

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
            f"SELECT i.attempt_id, i.k, a.lane, {_COLUMNS} FROM image i JOIN attempt a ON a.id = i.attempt_id WHERE i.item_id = ?"
            " AND i.n = ? AND i.fingerprint = ? AND i.role IN ('image', 'draft') ORDER BY i.attempt_id, i.k"
        )
        images, lane, latest = list[Candidate](), "", None
        for attempt, k, by, *columns in self._query(sql, item_id, n, fingerprint):
            file = image_file(tuple(columns))
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
            f"SELECT {COLUMNS} FROM verdict v JOIN sample s ON s.item_id = v.item_id AND s.n = v.n JOIN image i"
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
