"""What is due for a picture: the manifest's derivatives minus those that are there and are what they should be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchgen import __version__
from batchgen.derivatives.specification import Output, outputs_of
from batchgen.errors import StoreError
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, SourcePicture
from batchgen.records import Post
from batchgen.store.store import Store

CHUNK = 100  # items looked up in the ledger at once
_NOT_SETTINGS = ("v", "model", "prompt", "system", "references")


@dataclass(frozen=True, slots=True)
class RenderTask:
    """The files to make of one picture. payload: what its worker process is told, but for source and spool. made_before:
    sha256 of what this job has put under these paths, of whichever picture."""

    picture: SourcePicture
    outputs: Mapping[str, Output]
    payload: Mapping[str, Any]
    made_before: Mapping[str, str]

    @property
    def key(self) -> tuple[str, int]:
        return self.picture.item_id, self.picture.n

    def rows(self, made: Sequence[Mapping[str, Any]]) -> Iterator[DerivativeRow]:
        """A worker's answer as the ledger keeps it. A file beside a copy is of the copy's recipe."""
        for facts in made:
            output = self.outputs[facts["message"] if facts["format"] == "xmp" else facts["path"]]
            yield DerivativeRow(
                facts["path"], *self.key, output.name, facts["state"], output.recipe, self.picture.sha256, facts["format"],
                facts["sha256"], facts["bytes"], facts["width"], facts["height"], facts["mtime_ns"], facts["message"],
            )  # fmt: skip

    def failed(self, why: str) -> Iterator[DerivativeRow]:
        for path, output in self.outputs.items():
            kind = str(output.spec["format"])
            yield DerivativeRow(
                path, *self.key, output.name, "failed", output.recipe, self.picture.sha256, kind, "", 0, 0, 0, 0, why
            )


@dataclass(frozen=True, slots=True)
class DerivativeDiff:
    """touched: rows of files that were copied or touched and are still what they were, with their time as it is now."""

    due: list[RenderTask] = field(default_factory=list)
    stale: list[DerivativeRow] = field(default_factory=list)
    touched: list[DerivativeRow] = field(default_factory=list)


class DerivativeDiffer:
    """Compares manifest, ledger and store. Safe in one thread at a time."""

    def __init__(self, view: DerivativeReader, store: Store, job: str, *, emulated: bool) -> None:
        self._view = view
        self._store = store
        self._job = job
        self._emulated = emulated

    def diff(self, items: Sequence[tuple[str, Post | None]]) -> DerivativeDiff:
        """items: ids, each with what is to be made of its pictures."""
        found, ids = DerivativeDiff(), [item_id for item_id, _ in items]
        pictures, rows = self._view.pictures(ids), self._view.derivatives(ids)
        for item_id, post in items:
            for picture in pictures.get(item_id, ()):
                self._compare(picture, post, rows.get((item_id, picture.n), []), found)
        return found

    def _compare(
        self, picture: SourcePicture, post: Post | None, rows: Sequence[DerivativeRow], found: DerivativeDiff
    ) -> None:
        stem = os.path.splitext(picture.path)[0]
        wanted = {output.path: output for output in outputs_of(post, stem, picture.format, self._job)}
        found.stale.extend(row for row in rows if row.path not in wanted and _copy_path_of(row) not in wanted)
        present: dict[str, DerivativeRow] = {}
        due = dict(wanted)
        for row in rows:
            output = wanted.get(row.path)
            if output is None or (row.recipe, row.source_sha256) != (output.recipe, picture.sha256):
                continue
            if row.state == "skipped" or (row.state == "made" and self._is_intact(row, found)):
                present[row.path] = row
                del due[row.path]
        for row in rows:  # what stands beside a copy is made with it
            owner = _copy_path_of(row)
            if row.path not in wanted and owner in present and not self._is_intact(row, found):
                due[owner] = wanted[owner]
        if due and post is not None:
            due.update((path, output) for path, output in wanted.items() if output.name == "sidecar")
            paths = [*due, *(f"{os.path.splitext(path)[0]}.xmp" for path in due)]
            before = self._view.derivative_hashes(paths)
            found.due.append(RenderTask(picture, due, self._payload(picture, post, due, present), before))

    def _is_intact(self, row: DerivativeRow, found: DerivativeDiff) -> bool:
        """By size and time; by its bytes where the time is another one."""
        there = self._store.stat(row.path)
        if there is None or there.bytes != row.bytes:
            return False
        if there.mtime_ns != row.mtime_ns:
            if self._store.verify(row.path, row.sha256) != "right":
                return False
            found.touched.append(row._replace(mtime_ns=there.mtime_ns))
        return True

    def remove(self, rows: Sequence[DerivativeRow]) -> int:
        """Delete files that no picture wants any more, and answer how many. One that was changed since is not ours to delete."""
        removed = 0
        for row in rows:
            if row.state == "made" and self._is_intact(row, DerivativeDiff()):
                with contextlib.suppress(StoreError):
                    self._store.delete_derivative(row.path)
                    removed += 1
        return removed

    def _payload(
        self, picture: SourcePicture, post: Post, due: Mapping[str, Output], present: Mapping[str, DerivativeRow]
    ) -> dict[str, Any]:
        kept = [row for path, row in present.items() if path not in due and row.state == "made"]
        return {
            "sha256": picture.sha256,
            "embed": post.embed,
            "source_type": post.source_type,
            "outputs": [output.spec for output in due.values()],
            "present": [{name: getattr(row, name) for name in ("path", "format", "width", "height", "bytes", "sha256")} for row in kept],
            "facts": self._metadata(picture),
        }  # fmt: skip

    def _metadata(self, picture: SourcePicture) -> dict[str, Any]:
        """What is known of a picture's making. settings: all else that reached the wire."""
        wire = picture.wire
        settings = {name: value for name, value in wire.items() if name not in _NOT_SETTINGS}
        return {
            "generator": f"batchgen {__version__}",
            "job": self._job,
            "id": picture.item_id,
            "sample": picture.n,
            "run": picture.run,
            "attempt": picture.attempt,
            "model": picture.lane.partition("/")[2] or picture.lane,
            "file": picture.path,
            "sha256": picture.sha256,
            "emulated": self._emulated,
            "prompt": wire.get("prompt", ""),
            "system": wire.get("system"),
            "settings": {**settings, "sent_as": picture.sent_as} if picture.sent_as else settings,
            "references": wire.get("references", []),
        }


def _copy_path_of(row: DerivativeRow) -> str:
    """The path of the copy that a packet of metadata stands beside; empty for any other file."""
    return "" if row.format != "xmp" else row.message
