"""The images of a sample on a job's page: what was said about them, the files beside them, and the reference files that
were sent along."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from batchgen.errors import UsageError
from batchgen.ledger.reader import HistoryReader, PictureRow, SampleRow
from batchgen.records import HAS_IMAGE, SIDECARS, Verdict
from batchgen.references.local import References
from batchgen.report.view import Sparse, view_of
from batchgen.store.store import STORE_META_KEY
from batchgen.store.stored_files import sidecar_path, with_sidecars

KINDS = ("image", "draft", "thought", "earlier")  # in the order in which a sample shows them
SHA256_BEGINS_CHARS = 12  # of a hash, enough for a page to recognise an image
MAX_BOXES = 300  # of one verdict
MAX_BOX_TEXT_CHARS = 200
THOUGHTS = ".thoughts.md"
SOURCES = ".sources.json"
SOURCES_MAX_BYTES = 262_144
THOUGHTS_MAX_BYTES = 65_536


class Box(NamedTuple):
    """Where something is in an image, as fractions of its width and height from the upper left corner, and the text
    there."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView(Sparse):
    """A `Verdict`. at: UTC seconds; twin: the path, or the name, of the similar image."""

    by: str
    name: str
    ruling: str
    at: int
    reason: str = ""
    message: str = ""
    score: float | None = None
    twin: str = ""
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureView(Sparse):
    """An image. kind: one of KINDS. thumbnail: how the page requests it. sha: the beginning of its SHA-256."""

    kind: str
    path: str
    thumbnail: int | str
    sha: str
    width: int
    height: int
    bytes: int
    flags: Sequence[str]
    at: int | None
    verdicts: Sequence[VerdictView] = ()


def picture_views(
    row: SampleRow,
    pictures: Sequence[PictureRow],
    said: Sequence[Verdict],
    thumbnail: Callable[[PictureRow], int | str],
) -> list[PictureView]:
    """The image that counts first, then drafts and thoughts of its answer, then earlier versions, newest first."""
    made = [each for each in pictures if each.role == "image" and each.fingerprint == row.made_fingerprint]
    current = made[0].attempt_id if made and row.state in (*HAS_IMAGE, "superseded") else None
    found = [
        view_of(
            PictureView,
            each,
            kind="earlier" if each.role == "image" and each.attempt_id != current else each.role,
            thumbnail=thumbnail(each),
            sha=each.sha256[:SHA256_BEGINS_CHARS],
            flags=tuple(each.flags.split(",")) if each.flags else (),
            at=round(each.made_at) if each.made_at else None,
            verdicts=verdict_views(said, each.sha256) if said else (),
        )
        for each in pictures
    ]
    return sorted(found, key=lambda each: KINDS.index(each.kind))


def verdict_views(said: Iterable[Verdict], sha256: str) -> tuple[VerdictView, ...]:
    """The verdicts on one image."""
    return tuple(
        view_of(
            VerdictView,
            each,
            at=round(each.at),
            twin=twin if isinstance(twin := each.details.get("twin"), str) else "",
            boxes=tuple(_boxes(each.details)),
        )
        for each in said
        if each.sha256 == sha256
    )


def _boxes(details: Mapping[str, Any]) -> Iterator[Box]:
    """The boxes that can be drawn: somebody else's check may have written anything."""
    listed = details.get("boxes")
    for each in listed[:MAX_BOXES] if isinstance(listed, list) else ():
        if isinstance(each, list) and len(each) >= 4 and all(_is_part(value) for value in each[:4]):
            text = each[4] if len(each) > 4 and isinstance(each[4], str) else ""
            x, y, width, height = (round(value, 4) for value in each[:4])
            yield Box(x, y, width, height, text[:MAX_BOX_TEXT_CHARS])


def _is_part(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 2


@dataclass(frozen=True, slots=True)
class SourcesView:
    """What a search found for an image: its queries, and title, uri and domain of each source."""

    queries: Sequence[str]
    sources: Sequence[Mapping[str, str]]


class SidecarFiles:
    """The files beside the images of a job folder, which is listed once: most jobs have none, and then no image is
    looked up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._endings: dict[str, tuple[str, ...]] = {}  # by folder

    def beside(self, picture: str) -> tuple[str, ...]:
        """The paths of the files beside an image."""
        return tuple(path for path in with_sidecars(picture)[1:] if self._has(path))

    def thoughts(self, picture: str) -> str:
        """What the model showed of its thinking."""
        path = sidecar_path(picture, THOUGHTS)
        return self._read(path, THOUGHTS_MAX_BYTES).decode("utf-8", "replace").strip() if self._has(path) else ""

    def sources(self, picture: str) -> SourcesView | None:
        if not self._has(path := sidecar_path(picture, SOURCES)):
            return None
        data = self._read(path, SOURCES_MAX_BYTES + 1)
        try:
            found = json.loads(data) if len(data) <= SOURCES_MAX_BYTES else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        lists = {name: each for name, each in found.items() if isinstance(each, list)}
        queries = [*lists.get("queries", ()), *lists.get("image_queries", ())]
        texts = [query for query in queries if isinstance(query, str)]
        links = [
            {name: text for name in ("title", "uri", "domain") if isinstance(text := source.get(name), str)}
            for source in lists.get("sources", ())
            if isinstance(source, dict)
        ]
        return SourcesView(texts, links) if texts or links else None

    def _has(self, path: str) -> bool:
        below, _, name = path.rpartition("/")
        if below not in self._endings:
            self._endings[below] = self._list_endings(below)
        if not name.endswith(self._endings[below]):
            return False
        try:
            return stat.S_ISREG(os.lstat(self._folder / path).st_mode)
        except OSError:
            return False

    def _list_endings(self, below: str) -> tuple[str, ...]:
        """The endings of the files in a folder."""
        found = set[str]()
        with suppress(OSError), os.scandir(self._folder / below) as entries:
            for entry in entries:
                found.update(ending for ending in SIDECARS if entry.name.endswith(ending))
        return tuple(found)

    def _read(self, path: str, max_bytes: int) -> bytes:
        """The beginning of a file, at most this many bytes; empty if it cannot be read."""
        if (self._folder / path).is_symlink():
            return b""
        try:
            with open(self._folder / path, "rb") as file:
                return file.read(max_bytes)
        except OSError:
            return b""


class RecordedSidecarFiles(SidecarFiles):
    """The files beside images in a bucket, from the ledger: nothing is downloaded for them."""

    def __init__(self, folder: Path, texts: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        super().__init__(folder)
        self._texts = {sidecar_path(path, ending): text for path, found in texts for ending, text in found.items()}

    def _has(self, path: str) -> bool:
        return path in self._texts

    def _read(self, path: str, max_bytes: int) -> bytes:
        return self._texts.get(path, "").encode("utf-8", "replace")[:max_bytes]


def sidecar_files(ledger: HistoryReader, folder: Path) -> SidecarFiles:
    if ledger.meta(STORE_META_KEY):
        return RecordedSidecarFiles(folder, ledger.all_sidecar_texts())
    return SidecarFiles(folder)


@dataclass(frozen=True, slots=True)
class ReferenceFiles:
    """Reference files as a source for thumbnails. folder: the manifest's, None if unknown. paths: in that folder, by
    SHA-256."""

    folder: Path | None
    paths: Mapping[str, str]

    def open(self, sha256: str) -> IO[bytes]:
        """Raises FileNotFoundError, also if the file has changed since."""
        if self.folder is None or sha256 not in self.paths:
            raise FileNotFoundError(sha256)
        references = References(self.folder)
        path = os.path.join(references.folder, self.paths[sha256])
        references.expect_digest(path, sha256)
        try:
            return references.open_unchanged(path)
        except UsageError as error:
            raise FileNotFoundError(str(error)) from None
