"""The pages of a job's gallery, made one after another from its ledger: as many as it takes, and one for most jobs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batchgen.ledger.reader import HistoryReader, PictureRow
from batchgen.report.comparison import read_compared
from batchgen.report.gallery import page_path
from batchgen.report.gallery_data import (
    AttemptIndex,
    ManifestInfo,
    PageLink,
    PagesView,
    PageView,
    SampleBuilder,
    SampleView,
    ValueIndex,
    first_start,
    page_view,
    read_nights,
    unusual_providers,
)
from batchgen.report.gallery_index import GalleryIndex
from batchgen.report.reference_files import ReferenceFiles
from batchgen.report.sidecar_files import sidecar_files

PAGE_SAMPLES = 10_000
CHUNK = 1000  # items whose rows are in memory at once
MAX_RELATED = 10_000  # items of other pages that one page shows images of


class ThumbnailFiles(NamedTuple):
    """What a page shows small, numbered from 0: (path, sha256) of images, then the reference files by their SHA-256."""

    pictures: Sequence[tuple[str, str]]
    references: ReferenceFiles


class GalleryPages:
    """Every page is of one moment, and holds no moment of the ledger while its thumbnails are made."""

    def __init__(
        self, ledger: HistoryReader, folder: Path, manifest_info: ManifestInfo, index: GalleryIndex, now: float
    ) -> None:
        """index: with the items of the manifest. now: UTC seconds."""
        self._ledger, self._folder, self._manifest_info, self._index = ledger, folder, manifest_info, index
        with self._one_moment():
            index.read(ledger)
            self.outlines = index.outlines(PAGE_SAMPLES)
            self._files = sidecar_files(ledger, folder)
            first = [folder.name, *([] if (start := first_start(ledger)) is None else [start])]
            key = hashlib.sha256(repr(first).encode()).hexdigest()[:12]
            more = {"nights": read_nights(ledger, manifest_info), "compared": read_compared(ledger)}
            self._base = page_view(ledger, folder, self._builder(ValueIndex(), manifest_info), now, key=key, **more)
            self._sums = ledger.sums()

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        self._ledger.snapshot()
        try:
            yield
        finally:
            self._ledger.release()

    @property
    def samples(self) -> int:
        return sum(outline.samples for outline in self.outlines)

    def page(self, number: int, target: Path) -> tuple[PageView, ThumbnailFiles]:
        """The page, and the files of its thumbnails. target: the path of the first page."""
        outline, thumbnails = self.outlines[number], ValueIndex()
        builder = self._builder(thumbnails, self._index.manifest_info(self._manifest_info, outline))
        with self._one_moment():
            for ids in self._index.attempts(outline):
                for row in self._ledger.attempts_by_id(ids):
                    builder.attempts.add(row)
            samples, items = list[SampleView](), iter(self._index.items(outline))
            while chunk := list(islice(items, CHUNK)):
                samples += builder.build(self._ledger, chunk)
            related = self._related(builder, samples)
        count, settings = len(thumbnails.values), builder.settings.values
        page = replace(
            self._base,
            settings=settings,
            providers=unusual_providers(settings, self._manifest_info.catalogue),
            conversations=builder.manifest_info.conversations,
            samples=samples,
            related=related,
            references={sha256: count + place for place, sha256 in enumerate(builder.references)},
            pages=self._pages(number, target),
        )
        return page, ThumbnailFiles(thumbnails.values, ReferenceFiles(self._manifest_info.folder, builder.references))

    def _builder(self, thumbnails: ValueIndex, manifest_info: ManifestInfo) -> SampleBuilder:
        def number(picture: PictureRow) -> int:
            return thumbnails.index_of(picture.sha256, (picture.path, picture.sha256))

        return SampleBuilder(self._files, manifest_info, ValueIndex(), number, AttemptIndex())

    def _related(self, builder: SampleBuilder, samples: Sequence[SampleView]) -> list[SampleView]:
        """Those of other pages whose images were sent along."""
        here, needed = {sample.id for sample in samples}, dict[str, None]()
        for sample in samples if len(self.outlines) > 1 else ():
            names = (sample.asks or {}).get("references", ())
            needed.update((name[1:].partition("#")[0], None) for name in names if name.startswith("@"))
        ids = [item_id for item_id in needed if item_id not in here][:MAX_RELATED]
        return list(replace(builder, references={}).build(self._ledger, ids)) if ids else []

    def _pages(self, number: int, target: Path) -> PagesView | None:
        if len(self.outlines) == 1:
            return None
        links = [
            PageLink(page_path(target, each).name, outline.first, outline.last, outline.states)
            for each, outline in enumerate(self.outlines)
        ]
        return PagesView(number, links, *self._sums)
