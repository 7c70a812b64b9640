"""Samples that wait for their first request: in memory while they are few, in a private temporary file when they are many."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from batchgen.records import Item, Sample

_ITEM_FIELDS = tuple(field.name for field in fields(Item))
_TUPLES = ("references", "modalities", "tags")


class Backlog:
    """A first-in first-out queue per lane, higher `priority` first. A million samples take a few megabytes of memory.

    SQLite keeps a database without a name in its page cache and spills it to an anonymous file when it grows.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA cache_size=-8000")
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute(
            "CREATE TABLE queue (lane TEXT, late INTEGER, seq INTEGER, body TEXT, PRIMARY KEY (lane, late, seq)) WITHOUT ROWID"
        )
        self._left: dict[str, int] = {}
        self._added = 0

    def add(self, lane: str, samples: Iterable[Sample]) -> None:
        rows = []
        for sample in samples:
            self._added += 1
            rows.append((lane, -sample.item.priority, self._added, _dump(sample)))
        self._db.executemany("INSERT INTO queue VALUES (?, ?, ?, ?)", rows)
        self._left[lane] = self._left.get(lane, 0) + len(rows)

    def lanes(self) -> list[str]:
        return list(self._left)

    def left(self, lane: str) -> int:
        return self._left.get(lane, 0)

    def take(self, lane: str, most: int) -> list[Sample]:
        rows = self._db.execute(
            "SELECT late, seq, body FROM queue WHERE lane = ? ORDER BY late, seq LIMIT ?", (lane, most)
        ).fetchall()
        self._db.executemany(
            "DELETE FROM queue WHERE lane = ? AND late = ? AND seq = ?", [(lane, late, seq) for late, seq, _ in rows]
        )
        self._left[lane] = self.left(lane) - len(rows)
        return [_load(body) for _, _, body in rows]

    def close(self) -> None:
        self._db.close()


def _dump(sample: Sample) -> str:
    item: dict[str, Any] = {}
    for name in _ITEM_FIELDS:
        value = getattr(sample.item, name)
        if value is not None and value != () and value != {}:
            item[name] = value
    return json.dumps(
        [sample.n, sample.images, sample.known, sample.fingerprint, sample.wire, item], ensure_ascii=False, default=dict
    )


def _load(body: str) -> Sample:
    n, images, known, fingerprint, wire, item = json.loads(body)
    for name in _TUPLES:
        if name in item:
            item[name] = tuple(item[name])
    return Sample(item=Item(**item), n=n, fingerprint=fingerprint, wire=wire, images=images, known=known)
