"""The images of a ledger: where they are, what belongs beside them, and which of them are the latest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from batchgen.ledger.database import MODEL_SQL, BaseReader, column_list, placeholders
from batchgen.records import HAS_IMAGE, ImageFile, Usage

FILE_COLUMNS = ("path", "sha256", "bytes", "width", "height", "format", "role", "flags")  # for `image_file`
_RECORDED_COLUMNS = ("attempt_id", "k", "item_id", "n", "spool", *FILE_COLUMNS)  # for `_recorded_image`
LATEST_OF_PATH_SQL = "row_number() OVER (PARTITION BY i.path ORDER BY i.attempt_id DESC) AS place"


@dataclass(frozen=True, slots=True)
class SpooledPicture:
    """A checked image of an attempt, in the spool or on its way. n: the sample it belongs to; k: its number in the
    answer."""

    n: int
    k: int
    spool: str
    file: ImageFile
    usd: float | None


@dataclass(frozen=True, slots=True)
class UndeliveredSample:
    """A sample for which an answer with images brought none, and how it ends."""

    n: int
    reason: str
    message: str
    state: Literal["refused", "failed"] = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What an attempt has brought, in the form that the ledger records. missing: withheld, not as requested, or still
    behind a link. sent_at: UTC seconds. usd: of the attempt. beside: texts that belong beside the images, by file
    ending."""

    attempt: int
    item: str
    n: int
    fingerprint: str
    pictures: tuple[SpooledPicture, ...]
    missing: tuple[UndeliveredSample, ...] = ()
    usage: Usage | None = None
    usd: float | None = None
    usd_source: str = ""
    text: str = ""
    reply_id: str = ""
    model_version: str = ""
    sent_at: float | None = None
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedImage:
    attempt: int
    k: int
    item_id: str
    n: int
    spool: str
    file: ImageFile


class CurrentPicture(NamedTuple):
    """The image that a sample shows. stamp: of its file when it was put in place or last read, None: never."""

    attempt: int
    k: int
    path: str
    sha256: str
    bytes: int
    stamp: str | None


class ImageQueries(BaseReader):
    def sidecar_texts(self, attempt: int) -> dict[str, str]:
        """The texts that belong beside the images of a request, by file ending."""
        row = self._row("SELECT beside FROM attempt WHERE id = ?", attempt)
        return dict(json.loads(row[0])) if row and row[0] else {}

    def all_sidecar_texts(self) -> list[tuple[str, dict[str, str]]]:
        """(path of an image, texts that belong beside it, by file ending) of all images that have any."""
        sql = (
            f"SELECT path, beside FROM (SELECT i.path, a.beside, {LATEST_OF_PATH_SQL} FROM image i JOIN attempt a"
            " ON a.id = i.attempt_id WHERE i.role = 'image') last WHERE place = 1"
        )
        return [(path, json.loads(texts)) for path, texts in self._stream_query(sql) if texts]

    def unplaced(self) -> list[RecordedImage]:
        """Images of runs that were recorded as settled but not as in place."""
        return self._unplaced_where("a.worker IS NULL")

    def unplaced_by_workers(self) -> list[RecordedImage]:
        """Images of workers that were recorded as settled but not as in place. They may be about to be moved."""
        return self._unplaced_where("a.worker IS NOT NULL")

    def _unplaced_where(self, condition: str) -> list[RecordedImage]:
        sql = (
            f"SELECT {column_list(_RECORDED_COLUMNS)} FROM image"
            f" WHERE placed = 0 AND EXISTS (SELECT 1 FROM attempt a WHERE a.id = attempt_id AND {condition})"
            " ORDER BY attempt_id, k"
        )
        return [_recorded_image(row) for row in self._query(sql)]

    def images(self) -> Iterator[RecordedImage]:
        """Every image that was ever recorded; of those with the same path, the later attempt's first."""
        sql = f"SELECT {column_list(_RECORDED_COLUMNS)} FROM image ORDER BY attempt_id DESC, k"
        return map(_recorded_image, self._stream_query(sql))

    def recorded_files(self) -> Iterator[tuple[str, int]]:
        """(path, bytes) of every image that was ever recorded, with its last path."""
        return self._stream_query("SELECT path, bytes FROM image")

    def earlier_image(self, item_id: str, n: int, fingerprint: str) -> RecordedImage | None:
        """An image bought before for exactly this request, wherever it is now."""
        sql = (
            f"SELECT {column_list(_RECORDED_COLUMNS)} FROM image"
            " WHERE item_id = ? AND n = ? AND fingerprint = ? AND role = 'image' AND placed = 1 ORDER BY attempt_id DESC LIMIT 1"
        )
        row = self._row(sql, item_id, n, fingerprint)
        return None if row is None else _recorded_image(row)

    def current_picture(self, item_id: str, n: int) -> RecordedImage | None:
        """The image that a sample has now; None if it has none that counts, such as one that was rejected."""
        sql = (
            f"SELECT {column_list(_RECORDED_COLUMNS, 'i')} FROM sample s JOIN image i"
            " ON i.item_id = s.item_id AND i.n = s.n AND i.role = 'image'"
            " AND i.fingerprint = s.made_fingerprint WHERE s.item_id = ? AND s.n = ? AND s.state = 'succeeded'"
            " ORDER BY i.attempt_id DESC LIMIT 1"
        )
        row = self._row(sql, item_id, n)
        return None if row is None else _recorded_image(row)

    def current_pictures(self) -> Iterator[CurrentPicture]:
        """The images of all samples that have one, in place or not, in the order of the samples."""
        sql = (
            "SELECT i.attempt_id, i.k, i.path, i.sha256, i.bytes, i.stamp FROM sample s JOIN image i ON i.item_id = s.item_id"
            f" AND i.n = s.n AND i.role = 'image' AND i.path = s.path WHERE s.state IN ({placeholders(HAS_IMAGE)})"
            " ORDER BY s.id, i.attempt_id"
        )
        rows = self._stream_query(sql, *HAS_IMAGE)
        latest: CurrentPicture | None = None
        for picture in map(CurrentPicture._make, rows):
            if latest is not None and latest.path != picture.path:
                yield latest
            latest = picture
        if latest is not None:
            yield latest

    def received_at(self, item_id: str, n: int, fingerprint: str) -> float:
        """UTC seconds at which the latest image for exactly this request came; 0.0 if there is none."""
        sql = (
            "SELECT max(a.ended_at) FROM image i JOIN attempt a ON a.id = i.attempt_id WHERE i.item_id = ? AND i.n = ?"
            " AND i.fingerprint = ? AND i.role = 'image'"
        )
        return float(self._row(sql, item_id, n, fingerprint)[0] or 0.0)

    def images_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, role, images received) in all runs."""
        sql = f"SELECT {MODEL_SQL}, role, count(*) FROM image i JOIN attempt a ON a.id = i.attempt_id GROUP BY 1, 2"
        return self._query(sql)

    def image_count_of_run(self, run_id: int) -> int:
        """The number of images that a run has brought, without drafts."""
        sql = (
            "SELECT count(*) FROM image JOIN attempt ON attempt.id = image.attempt_id"
            " WHERE attempt.run_id = ? AND role = 'image'"
        )
        return int(self._row(sql, run_id)[0])

    def newest_paths(self, run_id: int, max_count: int) -> list[str]:
        """The paths of the images that a run made last, newest first."""
        sql = (
            "SELECT image.path FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE attempt.run_id = ?"
            " AND role = 'image' ORDER BY attempt_id DESC, k DESC LIMIT ?"
        )
        return [path for (path,) in self._query(sql, run_id, max_count)]

    def flagged(self, run_id: int, max_count: int) -> list[tuple[str, tuple[str, ...]]]:
        """(path, flags) of a run's images that are not as requested."""
        sql = (
            "SELECT image.path, flags FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE attempt.run_id = ?"
            " AND flags <> '' ORDER BY attempt_id, k LIMIT ?"
        )
        return [(path, tuple(flags.split(","))) for path, flags in self._query(sql, run_id, max_count)]

    def flagged_count(self, run_id: int) -> int:
        sql = (
            "SELECT count(*) FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE run_id = ? AND flags <> ''"
        )
        return int(self._row(sql, run_id)[0])

    def expected_files(self) -> Iterator[tuple[str, str, int, bool]]:
        """(path, sha256, bytes, whether it is its sample's latest image) of everything that should be in the folder, by
        path.

        If two rows have the same path, the later attempt wrote the file.
        """
        sql = (
            "SELECT path, sha256, bytes, role <> 'image' OR NOT EXISTS (SELECT 1 FROM image newer WHERE newer.item_id = last.item_id"
            " AND newer.n = last.n AND newer.role = 'image' AND newer.attempt_id > last.attempt_id)"
            f" FROM (SELECT i.*, {LATEST_OF_PATH_SQL} FROM image i WHERE placed = 1) last WHERE place = 1 ORDER BY path"
        )
        for path, sha256, size, latest in self._stream_query(sql):
            yield path, sha256, size, bool(latest)

    def expected_file_count(self) -> int:
        return int(self._row("SELECT count(DISTINCT path) FROM image WHERE placed = 1")[0])


def image_file(row: Sequence[Any]) -> ImageFile:
    *columns, flags = row
    facts = dict(zip(FILE_COLUMNS, columns, strict=False))
    return ImageFile(**facts, flags=tuple(flags.split(",")) if flags else ())


def _recorded_image(row: tuple[Any, ...]) -> RecordedImage:
    attempt, k, item_id, n, spool, *file = row
    return RecordedImage(attempt, k, item_id, n, spool, image_file(file))
