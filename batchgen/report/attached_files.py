"""Files that belong to images, as far as a page shows them: what stands beside one (thoughts, what a search found), and the reference
files that were sent along."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from batchgen.errors import UsageError
from batchgen.ledger.reader import HistoryReader
from batchgen.records import SIDECARS
from batchgen.references.local import References
from batchgen.store.store import STORE_META_KEY
from batchgen.store.stored_files import sidecar_path, with_sidecars

THOUGHTS = ".thoughts.md"
SOURCES = ".sources.json"
SOURCES_MAX_BYTES = 262_144
THOUGHTS_MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class SourcesView:
    """What a search found for a picture: its queries, and title, uri and domain of each source."""

    queries: Sequence[str]
    sources: Sequence[Mapping[str, str]]


class SidecarFiles:
    """Those of a job folder, which is listed once: most jobs have none, and then no picture is asked about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._endings: dict[str, tuple[str, ...]] = {}  # by folder

    def beside(self, picture: str) -> tuple[str, ...]:
        """Paths of what stands beside a picture."""
        return tuple(path for path in with_sidecars(picture)[1:] if self._has(path))

    def thoughts(self, picture: str) -> str:
        """What the model let see of its thinking."""
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
        """Those of the files in a folder."""
        found = set[str]()
        with suppress(OSError), os.scandir(self._folder / below) as entries:
            for entry in entries:
                found.update(ending for ending in SIDECARS if entry.name.endswith(ending))
        return tuple(found)

    def _read(self, path: str, max_bytes: int) -> bytes:
        """The first of its bytes, at most so many; none of what cannot be read."""
        if (self._folder / path).is_symlink():
            return b""
        try:
            with open(self._folder / path, "rb") as file:
                return file.read(max_bytes)
        except OSError:
            return b""


class RecordedSidecarFiles(SidecarFiles):
    """Those of a bucket, from the ledger: nothing is fetched for them."""

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
    """A source for thumbnails. folder: of the manifest, None when it is not known. paths: below it, by SHA-256."""

    folder: Path | None
    paths: Mapping[str, str]

    def open(self, sha256: str) -> IO[bytes]:
        """Raises FileNotFoundError, also when the file has changed since."""
        if self.folder is None or sha256 not in self.paths:
            raise FileNotFoundError(sha256)
        references = References(self.folder)
        path = os.path.join(references.folder, self.paths[sha256])
        references.expect_digest(path, sha256)
        try:
            return references.open_unchanged(path)
        except UsageError as error:
            raise FileNotFoundError(str(error)) from None
