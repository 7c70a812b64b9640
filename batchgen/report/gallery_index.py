"""In which order the items of a job stand in its gallery, and on which page: in a private file, for memory that does not grow."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from batchgen.ledger.reader import HistoryReader
from batchgen.report.gallery_data import JsonObject, ManifestInfo

CHUNK = 1000
CACHE_KB = 16_000  # of what was looked up last; the rest is on disk


class ItemFacts(NamedTuple):
    """What a manifest says of an item and no fingerprint holds. conversation: its id without the turn, empty outside of one; turns:
    the prompts up to this one."""

    id: str
    unfingerprinted: JsonObject
    conversation: str = ""
    turns: Sequence[str] = ()


def with_items(info: ManifestInfo, items: Iterable[ItemFacts]) -> ManifestInfo:
    """All of them in memory, as a dashboard has them."""
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
    """Which items are on a page. first, last: their ids; places: from the first to the last; states: samples by state."""

    first: str = ""
    last: str = ""
    places: tuple[int, int] = (0, 0)
    states: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(self.states.values())


class GalleryIndex:
    """Items in the order of the manifest, then those that it no longer has, each with the states of its samples and its requests.

    SQLite keeps a database without a name in its page cache and spills it to an anonymous file when it grows.
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
        """Of the manifest, in its order. What `items` raises leaves none of them here."""
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
        """Take in the samples and requests that the ledger has."""
        samples = ledger.sample_states()
        while chunk := list(islice(samples, CHUNK)):
            self._db.executemany("INSERT OR IGNORE INTO item (id) VALUES (?)", ((item_id,) for item_id, _ in chunk))
            marked = ((f"{state} ", item_id) for item_id, state in chunk)
            self._db.executemany("UPDATE item SET states = states || ? WHERE id = ?", marked)
        attempts = ledger.item_attempts()
        while requests := list(islice(attempts, CHUNK)):
            self._db.executemany("INSERT INTO attempt SELECT place, ? FROM item WHERE id = ?", requests)

    def outlines(self, max_samples: int) -> list[PageOutline]:
        """The pages, at least one: of about so many samples at most, for those of an item or of a conversation stay together."""
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
        """Ids of those on a page, in their order."""
        sql = "SELECT id FROM item WHERE place BETWEEN ? AND ? AND states <> '' ORDER BY place"
        return [item_id for (item_id,) in self._db.execute(sql, page.places)]

    def attempts(self, page: PageOutline) -> Iterator[list[int]]:
        """Ids of the requests of a page, some thousand at a time."""
        rows = self._db.execute("SELECT id FROM attempt WHERE place BETWEEN ? AND ? ORDER BY id", page.places)
        while ids := [number for (number,) in islice(rows, CHUNK)]:
            yield ids

    def manifest_info(self, info: ManifestInfo, page: PageOutline) -> ManifestInfo:
        """What the manifest says of a page's items, beside what it says of all."""
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
