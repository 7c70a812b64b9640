"""Compares the manifest's derivatives with the files of an image and says which are due; and counts the files for a
plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from batchgen import __version__
from batchgen.derivatives.specification import (
    WHITE_SUFFIX,
    Output,
    Provenance,
    RenderedFile,
    RenderRequest,
    needs_white,
    outputs_of,
)
from batchgen.errors import StoreError
from batchgen.ledger.derivatives import DerivativeReader, DerivativeRow, SourcePicture
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest
from batchgen.planning.plan import Step, is_selected
from batchgen.records import Post, lane_model
from batchgen.store.store import Store

CHUNK = 100  # items that are looked up in the ledger together
_SHARED = tuple(name for name in RenderedFile._fields if name in DerivativeRow._fields)
_NOT_SETTINGS = ("v", "model", "prompt", "system", "references")


@dataclass(frozen=True, slots=True)
class RenderTask:
    """The files to make of one image. present: those that exist already. made_before: sha256 of what this job has put
    under these paths, from whichever image. white: the image that shows the same on white, if needed."""

    picture: SourcePicture
    outputs: Mapping[str, Output]
    post: Post
    provenance: Provenance
    present: Sequence[RenderedFile]
    made_before: Mapping[str, str]
    white: SourcePicture | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.picture.item_id, self.picture.n

    def request(self, source: str, white: str, spool: str) -> RenderRequest:
        """The request to a worker process. source, white: where the originals can be read; spool: where the files
        go."""
        return RenderRequest(
            spool=spool,
            source=source,
            sha256=self.picture.sha256,
            embed=self.post.embed,
            source_type=self.post.source_type,
            provenance=self.provenance,
            outputs=[output.spec for output in self.outputs.values()],
            present=self.present,
            sign=self.post.sign,
            on_white=white,
            white_sha256=self.white.sha256 if self.white else "",
        )

    def rows(self, files: Iterable[RenderedFile]) -> Iterator[DerivativeRow]:
        """The rows for the ledger from a worker's answer. A file beside a copy has the copy's recipe."""
        for file in files:
            output = self.outputs[file.message if file.format == "xmp" else file.path]
            yield DerivativeRow(
                **{name: getattr(file, name) for name in _SHARED},
                item_id=self.picture.item_id,
                n=self.picture.n,
                name=output.name,
                recipe=output.recipe,
                source_sha256=self.picture.sha256,
            )

    def failed(self, why: str) -> Iterator[DerivativeRow]:
        specs = [output.spec for output in self.outputs.values()]
        return self.rows([RenderedFile(spec.path, "failed", spec.format, message=why) for spec in specs])


@dataclass(frozen=True, slots=True)
class DerivativeDiff:
    """What is due. touched: rows of files that were copied or touched without changing, with their new time."""

    due: list[RenderTask] = field(default_factory=list)
    stale: list[DerivativeRow] = field(default_factory=list)
    touched: list[DerivativeRow] = field(default_factory=list)


class DerivativeDiffer:
    """Compares manifest, ledger and store. Use it from one thread at a time."""

    def __init__(self, view: DerivativeReader, store: Store, job: str, *, emulated: bool) -> None:
        self._view = view
        self._store = store
        self._job = job
        self._emulated = emulated

    def diff(self, items: Sequence[tuple[str, Post | None]]) -> DerivativeDiff:
        """What is due for these items. items: ids, each with what to make of its images."""
        found, ids = DerivativeDiff(), [item_id for item_id, _ in items]
        pictures, rows = self._view.pictures(ids), self._view.derivatives(ids)
        whites = self._view.pictures([item_id + WHITE_SUFFIX for item_id, post in items if needs_white(post)])
        for item_id, post in items:
            white = next(iter(whites.get(item_id + WHITE_SUFFIX, ())), None)
            for picture in pictures.get(item_id, ()):
                self._compare(picture, white, post, rows.get((item_id, picture.n), []), found)
        return found

    def _compare(
        self,
        picture: SourcePicture,
        white: SourcePicture | None,
        post: Post | None,
        rows: Sequence[DerivativeRow],
        found: DerivativeDiff,
    ) -> None:
        stem = os.path.splitext(picture.path)[0]
        wanted = {output.path: output for output in outputs_of(post, stem, picture.format, self._job)}
        found.stale.extend(row for row in rows if row.path not in wanted and _copy_path_of(row) not in wanted)
        intact: dict[str, DerivativeRow] = {}
        due = dict(wanted)
        for row in rows:
            output = wanted.get(row.path)
            if output is None or (row.recipe, row.source_sha256) != (output.recipe, picture.sha256):
                continue
            if row.state == "skipped" or (row.state == "made" and self._is_intact(row, found)):
                intact[row.path] = row
                del due[row.path]
        for row in rows:  # a file beside a copy is made together with it
            owner = _copy_path_of(row)
            if row.path not in wanted and owner in intact and not self._is_intact(row, found):
                due[owner] = wanted[owner]
        if due and post is not None:
            due.update((path, output) for path, output in wanted.items() if output.name == "sidecar")
            paths = [*due, *(f"{os.path.splitext(path)[0]}.xmp" for path in due)]
            before = self._view.derivative_hashes(paths)
            kept = [row for path, row in intact.items() if path not in due and row.state == "made"]
            present = [RenderedFile(**{name: getattr(row, name) for name in _SHARED}) for row in kept]
            found.due.append(RenderTask(picture, due, post, self._provenance(picture), present, before, white))

    def _is_intact(self, row: DerivativeRow, found: DerivativeDiff) -> bool:
        """Whether a file is unchanged: by size and time, or by its bytes if the time is different."""
        there = self._store.stat(row.path)
        if there is None or there.bytes != row.bytes:
            return False
        if there.mtime_ns != row.mtime_ns:
            if self._store.verify(row.path, row.sha256) != "right":
                return False
            found.touched.append(row._replace(mtime_ns=there.mtime_ns))
        return True

    def remove(self, rows: Sequence[DerivativeRow]) -> int:
        """Delete files that no image wants any more, and return how many. A file that somebody changed is not
        deleted."""
        removed = 0
        for row in rows:
            if row.state == "made" and self._is_intact(row, DerivativeDiff()):
                with contextlib.suppress(StoreError):
                    self._store.delete_derivative(row.path)
                    removed += 1
        return removed

    def _provenance(self, picture: SourcePicture) -> Provenance:
        wire = picture.wire
        settings = {name: value for name, value in wire.items() if name not in _NOT_SETTINGS}
        return Provenance(
            generator=f"batchgen {__version__}",
            job=self._job,
            id=picture.item_id,
            sample=picture.n,
            run=picture.run,
            attempt=picture.attempt,
            model=lane_model(picture.lane),
            file=picture.path,
            sha256=picture.sha256,
            emulated=self._emulated,
            prompt=wire.get("prompt", ""),
            system=wire.get("system"),
            settings={**settings, "sent_as": picture.sent_as} if picture.sent_as else settings,
            references=wire.get("references", []),
        )


def _copy_path_of(row: DerivativeRow) -> str:
    """The path of the copy that a metadata packet belongs to; empty for any other file."""
    return "" if row.format != "xmp" else row.message


class DerivativeForecast:
    """Counts the files to make of images that do not exist yet, while a plan is made. again: samples with an image that
    will be replaced."""

    def __init__(self, job: str, on_step: Callable[[Step], None] | None) -> None:
        self.files = 0
        self.replaced: set[tuple[str, int]] = set()
        self._job = job
        self._on_step = on_step

    def __call__(self, step: Step) -> None:
        sample = step.sample
        if step.action == "generate" and sample.item.post is not None:
            self.files += sample.images * len(outputs_of(sample.item.post, "", "png", self._job))
            if sample.known:
                self.replaced.update((sample.item.id, sample.n + k) for k in range(sample.images))
        if self._on_step is not None:
            self._on_step(step)


def missing_derivatives(
    manifest: Manifest, reader: Reader, store: Store, only: Sequence[str], *, emulated: bool
) -> Iterator[RenderTask]:
    """What is missing of the existing images."""
    for found in _diffs(manifest, reader, store, only, emulated=emulated):
        yield from found.due


def pending_files(manifest: Manifest, reader: Reader, store: Store, only: Sequence[str]) -> tuple[int, int]:
    """How many files of the existing images `post` would make, and how many it would remove."""
    to_make, stale = 0, list[DerivativeRow]()
    for found in _diffs(manifest, reader, store, only, emulated=True):
        to_make += sum(len(due.outputs) for due in found.due)
        stale += found.stale
    if not only:
        stale += DerivativeReader.from_reader(reader).unwanted_derivatives()
    return to_make, sum(row.state == "made" for row in stale)


def _diffs(
    manifest: Manifest, reader: Reader, store: Store, only: Sequence[str], *, emulated: bool
) -> Iterator[DerivativeDiff]:
    view, items = DerivativeReader.from_reader(reader), manifest.items()
    differ = DerivativeDiffer(view, store, manifest.name, emulated=emulated)
    while chunk := list(islice(items, CHUNK)):
        yield differ.diff([(item.id, item.post) for item in chunk if not only or is_selected(item, only)])
