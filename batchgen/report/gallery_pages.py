"""The pages of a job's gallery, made one after another from its ledger; most jobs need only one. The order of the items
is in a private file, so that memory does not grow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batchgen.ledger.reader import HistoryReader, PictureRow
from batchgen.report.acceptance import read_compared
from batchgen.report.gallery import page_path
from batchgen.report.gallery_data import (
    AttemptIndex,
    JsonObject,
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
from batchgen.report.picture_views import ReferenceFiles, sidecar_files

CACHE_KB = 16_000  # for recent lookups; the rest is on disk
PAGE_SAMPLES = 10_000
CHUNK = 1000  # items whose rows are in memory at once
MAX_RELATED = 10_000  # items of other pages whose images one page shows


class ItemFacts(NamedTuple):
    """What a manifest says about an item and no fingerprint contains. conversation: its id without the turn, empty
    outside a conversation. turns: the prompts up to this one."""

    id: str
    unfingerprinted: JsonObject
    conversation: str = ""
    turns: Sequence[str] = ()


def with_items(info: ManifestInfo, items: Iterable[ItemFacts]) -> ManifestInfo:
    """The manifest's information with all items in memory, for a dashboard."""
    order, unfingerprinted, conversations = dict[str, int](), dict[str, JsonObject](), dict[str, Sequence[str]]()
    for number, item in enumerate(items):
        order[item.id] = number
        if item.unfingerprinted:
            unfingerprinted[item.id] = item.unfingerprinted
        if item.conversation:
            conversations[item.conversation] = item.turns
    return replace(info, order=order, unfingerprinted=unfingerprinted, conversations=conversations)


@dataclass(frozen=True, slots=True)
class PageOutline:
    """The items of a page. first, last: their ids; places: from the first to the last; states: the number of samples by
    state."""

    first: str = ""
    last: str = ""
    places: tuple[int, int] = (0, 0)
    states: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(self.states.values())


class GalleryIndex:
    """The items in the order of the manifest, then those that it no longer has, each with the states of its samples and
    its requests.

    SQLite keeps a database without a name in its page cache and spills it to an anonymous file if it grows.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size=-{CACHE_KB}",
            "PRAGMA journal_mode=OFF",
            "CREATE TABLE item (place INTEGER PRIMARY KEY, id TEXT UNIQUE, asks TEXT, talk TEXT, states TEXT NOT NULL DEFAULT '')",
            "CREATE TABLE talk (name TEXT PRIMARY KEY, turns TEXT) WITHOUT ROWID",
            "CREATE TABLE attempt (place INTEGER, id INTEGER, PRIMARY KEY (place, id)) WITHOUT ROWID",
            "BEGIN",
        ):
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    def add_items(self, items: Iterable[ItemFacts]) -> None:
        """Add the items of the manifest, in its order; none of them if `items` raises."""
        rest = iter(items)
        try:
            while chunk := list(islice(rest, CHUNK)):
                rows = [
                    (each.id, json.dumps(each.unfingerprinted) if each.unfingerprinted else None, each.conversation)
                    for each in chunk
                ]
                self._db.executemany("INSERT OR IGNORE INTO item (id, asks, talk) VALUES (?, ?, ?)", rows)
                talks = [(each.conversation, json.dumps(each.turns)) for each in chunk if each.conversation]
                self._db.executemany("INSERT OR REPLACE INTO talk VALUES (?, ?)", talks)
        except BaseException:
            for table in ("item", "talk"):
                self._db.execute(f"DELETE FROM {table}")
            raise

    def read(self, ledger: HistoryReader) -> None:
        """Add the samples and requests in the ledger."""
        samples = ledger.sample_states()
        while chunk := list(islice(samples, CHUNK)):
            self._db.executemany("INSERT OR IGNORE INTO item (id) VALUES (?)", ((item_id,) for item_id, _ in chunk))
            marked = ((f"{state} ", item_id) for item_id, state in chunk)
            self._db.executemany("UPDATE item SET states = states || ? WHERE id = ?", marked)
        attempts = ledger.item_attempts()
        while requests := list(islice(attempts, CHUNK)):
            self._db.executemany("INSERT INTO attempt SELECT place, ? FROM item WHERE id = ?", requests)

    def outlines(self, max_samples: int) -> list[PageOutline]:
        """The pages, at least one, of at most about this many samples: those of an item or of a conversation stay
        together."""
        found: list[PageOutline] = []
        states, first, last, place, talk = Counter[str](), (0, ""), "", 0, ""
        sql = "SELECT place, id, coalesce(talk, ''), states FROM item WHERE states <> '' ORDER BY place"
        for row in self._db.execute(sql):
            more = Counter(row[3].split())
            if states and states.total() + more.total() > max_samples and not (talk and row[2] == talk):
                found.append(PageOutline(first[1], last, (first[0], place), states))
                states = Counter()
            if not states:
                first = (row[0], row[1])
            place, last, talk, _ = row
            states += more
        return [*found, PageOutline(first[1], last, (first[0], place), states)]

    def items(self, page: PageOutline) -> list[str]:
        """The ids of the items on a page, in order."""
        sql = "SELECT id FROM item WHERE place BETWEEN ? AND ? AND states <> '' ORDER BY place"
        return [item_id for (item_id,) in self._db.execute(sql, page.places)]

    def attempts(self, page: PageOutline) -> Iterator[list[int]]:
        """The ids of a page's requests, some thousand at a time."""
        rows = self._db.execute("SELECT id FROM attempt WHERE place BETWEEN ? AND ? ORDER BY id", page.places)
        while ids := [number for (number,) in islice(rows, CHUNK)]:
            yield ids

    def manifest_info(self, info: ManifestInfo, page: PageOutline) -> ManifestInfo:
        """What the manifest says about a page's items, besides what it says about all."""
        order, unfingerprinted, conversations = dict[str, int](), dict[str, JsonObject](), dict[str, Sequence[str]]()
        sql = "SELECT place, id, asks FROM item WHERE place BETWEEN ? AND ?"
        for place, item_id, asks in self._db.execute(sql, page.places):
            order[item_id] = place - 1
            if asks:
                unfingerprinted[item_id] = json.loads(asks)
        sql = "SELECT name, turns FROM talk WHERE name IN (SELECT talk FROM item WHERE place BETWEEN ? AND ?)"
        for name, turns in self._db.execute(sql, page.places):
            conversations[name] = json.loads(turns)
        return replace(info, order=order, unfingerprinted=unfingerprinted, conversations=conversations)


class ThumbnailFiles(NamedTuple):
    """The files of a page's thumbnails, numbered from 0: (path, sha256) of images, then the reference files by their
    SHA-256."""

    pictures: Sequence[tuple[str, str]]
    references: ReferenceFiles


class GalleryPages:
    """Makes the pages. Each shows one moment, but no snapshot of the ledger is held while its thumbnails are made."""

    def __init__(
        self, ledger: HistoryReader, folder: Path, manifest_info: ManifestInfo, index: GalleryIndex, now: float
    ) -> None:
        """index: with the items of the manifest. now: UTC seconds."""
        self._ledger, self._manifest_info, self._index = ledger, manifest_info, index
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
    def job(self) -> str:
        return self._base.job

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
        """The samples of other pages whose images were sent along."""
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
