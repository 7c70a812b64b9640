"""The samples that wait for their first request or for other samples: in memory if they are few, else in a private
temporary file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from batchgen.records import Item, Sample
from batchgen.scheduling.fallback import next_fallback_lane, sample_for_lane

_LATER = ("post", "checks", "judge", "on_reject")  # what is done with an existing image
_ITEM_FIELDS = tuple(field.name for field in fields(Item) if field.name not in _LATER)
_TUPLE_FIELDS = ("references", "modalities", "tags", "history", "fallback", "fallback_on")


class Backlog:
    """A first-in first-out queue for each lane, with higher `priority` first. A million samples take a few megabytes of
    memory.

    SQLite keeps a database without a name in its page cache and spills it to an anonymous file if it grows.
    """

    def __init__(self) -> None:
        # For one thread only: two that prepare the same statement at once read each other's answers.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA cache_size=-8000")
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute(
            "CREATE TABLE queue (lane TEXT, late INTEGER, seq INTEGER, body TEXT, PRIMARY KEY (lane, late, seq)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE held (seq INTEGER PRIMARY KEY, lane TEXT, missing INTEGER, body TEXT)")
        self._db.execute("CREATE TABLE need (key TEXT, seq INTEGER, PRIMARY KEY (key, seq)) WITHOUT ROWID")
        self._db.execute("CREATE TABLE lent (key TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")
        self._db.execute("CREATE TABLE kept (id TEXT PRIMARY KEY, lane TEXT, body TEXT) WITHOUT ROWID")
        self._db.execute("CREATE TABLE blocked (seq INTEGER PRIMARY KEY, why TEXT, body TEXT)")
        self.dependent_count = 0
        self._queued_counts: dict[str, int] = {}
        self._last_seq = 0

    def add(self, lane: str, samples: Iterable[Sample]) -> None:
        rows = []
        for sample in samples:
            self._last_seq += 1
            rows.append((lane, -sample.item.priority, self._last_seq, dump_sample(sample)))
        self._db.executemany("INSERT INTO queue VALUES (?, ?, ?, ?)", rows)
        self._queued_counts[lane] = self._queued_counts.get(lane, 0) + len(rows)

    def lanes(self) -> list[str]:
        return list(self._queued_counts)

    def backlog_count(self, lane: str) -> int:
        return self._queued_counts.get(lane, 0)

    def take(self, lane: str, max_count: int) -> list[Sample]:
        rows = self._db.execute(
            "SELECT late, seq, body FROM queue WHERE lane = ? ORDER BY late, seq LIMIT ?", (lane, max_count)
        ).fetchall()
        self._db.executemany(
            "DELETE FROM queue WHERE lane = ? AND late = ? AND seq = ?", [(lane, late, seq) for late, seq, _ in rows]
        )
        self._queued_counts[lane] = self.backlog_count(lane) - len(rows)
        return [sample_for_lane(load_sample(body), lane) for _, _, body in rows]

    def add_dependent(self, lane: str, sample: Sample, keys: Iterable[str]) -> None:
        """Hold a sample back until all of `keys`, which are to be made in this run, are made."""
        self._last_seq += 1
        self.dependent_count += 1
        wanted = set(keys)
        self._db.execute(
            "INSERT INTO held VALUES (?, ?, ?, ?)", (self._last_seq, lane, len(wanted), dump_sample(sample))
        )
        self._db.executemany("INSERT INTO need VALUES (?, ?)", ((key, self._last_seq) for key in wanted))

    def put_submitted(self, samples: Iterable[Sample]) -> None:
        """Keep samples that are at a batch API until their answers have come: they may have to be requested again."""
        rows = ((sample.key, dump_sample(sample)) for sample in samples)
        self._db.executemany("INSERT OR REPLACE INTO lent VALUES (?, ?)", rows)

    def take_submitted(self, key: str) -> Sample | None:
        """Remove and return the sample submitted under this key; None if this run does not want it."""
        row = self._db.execute("DELETE FROM lent WHERE key = ? RETURNING body", (key,)).fetchone()
        return None if row is None else load_sample(row[0])

    def keep(self, item: Item, lane: str) -> None:
        """Remember an item of which another image may be bought, and the lane for it. The first call counts."""
        body = dump_sample(Sample(item=item, n=1, fingerprint="", wire=""))
        self._db.execute("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", (item.id, lane, body))

    def kept(self, item_id: str) -> tuple[Item, str] | None:
        """The item and lane remembered for this id."""
        row = self._db.execute("SELECT body, lane FROM kept WHERE id = ?", (item_id,)).fetchone()
        return None if row is None else (load_sample(row[0]).item, row[1])

    def move(self, lane: str, other: str) -> int:
        """Move everything that waits in `lane`, or will wait there once what it needs is made. Returns how many wait
        now."""
        number = self._db.execute("UPDATE queue SET lane = ? WHERE lane = ?", (other, lane)).rowcount
        self._db.execute("UPDATE held SET lane = ? WHERE lane = ?", (other, lane))
        self._queued_counts[other] = self.backlog_count(other) + number
        self._queued_counts[lane] = 0
        return number

    def add_blocked(self, sample: Sample, why: str) -> None:
        self._db.execute("INSERT INTO blocked (why, body) VALUES (?, ?)", (why, dump_sample(sample)))

    def take_blocked(self, max_count: int) -> list[tuple[Sample, str]]:
        rows = self._db.execute(
            "DELETE FROM blocked WHERE seq IN (SELECT seq FROM blocked ORDER BY seq LIMIT ?) RETURNING why, body",
            (max_count,),
        ).fetchall()
        return [(load_sample(body), why) for why, body in rows]

    def release_dependents(self, key: str) -> list[tuple[str, Sample]]:
        """Remove and return the samples that waited for nothing but `key`, each with its lane."""
        if not self.dependent_count:
            return []
        waiting = self._db.execute(
            "UPDATE held SET missing = missing - 1 WHERE seq IN (SELECT seq FROM need WHERE key = ?)"
            " RETURNING seq, lane, missing, body",
            (key,),
        ).fetchall()
        self._db.execute("DELETE FROM need WHERE key = ?", (key,))
        ready = sorted((seq, lane, body) for seq, lane, missing, body in waiting if not missing)
        self._db.executemany("DELETE FROM held WHERE seq = ?", ((seq,) for seq, _, _ in ready))
        self.dependent_count -= len(ready)
        return [(lane, load_sample(body)) for _, lane, body in ready]

    def drop_dependents(self, key: str) -> list[Sample]:
        """Remove and return the samples that waited for `key`, among others."""
        if not self.dependent_count:
            return []
        rows = self._db.execute(
            "DELETE FROM held WHERE seq IN (SELECT seq FROM need WHERE key = ?) RETURNING seq, body", (key,)
        ).fetchall()
        self._db.executemany("DELETE FROM need WHERE seq = ?", ((seq,) for seq, _ in rows))
        self.dependent_count -= len(rows)
        return [load_sample(body) for _, body in sorted(rows)]

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        """Move samples with an open fallback for `cause` there, and return how many. The rest waits for another run."""
        found, json_columns = 0, "json_extract(body, '$[5].fallback'), json_extract(body, '$[5].fallback_on')"
        rows = self._db.execute(
            f"SELECT {json_columns}, min(body) FROM queue WHERE lane = ? GROUP BY 1, 2", (lane,)
        ).fetchall()
        for fallback, causes, body in rows:
            other = next_fallback_lane(load_sample(body).item, lane, cause, is_available)
            if other is not None:
                sql = f"UPDATE queue SET lane = ? WHERE lane = ? AND ({json_columns}) = (?, ?)"
                number = self._db.execute(sql, (other, lane, fallback, causes)).rowcount
                self._queued_counts[other] = self.backlog_count(other) + number
                found += number
        self._queued_counts[lane] = self.backlog_count(lane) - found
        return found

    def iter_all(self) -> Iterator[tuple[str, Sample, tuple[str, ...]]]:
        """(lane, sample, keys of what it waits for) of everything, in the order in which it should start. Nothing is
        removed."""
        for lane, body in self._db.execute("SELECT lane, body FROM queue ORDER BY late, seq"):
            yield lane, sample_for_lane(load_sample(body), lane), ()
        for seq, lane, body in self._db.execute("SELECT seq, lane, body FROM held ORDER BY seq"):
            keys = self._db.execute("SELECT key FROM need WHERE seq = ? ORDER BY key", (seq,)).fetchall()
            yield lane, load_sample(body), tuple(key for (key,) in keys)

    def close(self) -> None:
        self._db.close()


def dump_sample(sample: Sample) -> str:
    item: dict[str, Any] = {}
    for name in _ITEM_FIELDS:
        value = getattr(sample.item, name)
        if value is not None and value != () and value != {}:
            item[name] = value
    return json.dumps(
        [sample.n, sample.images, sample.known, sample.fingerprint, sample.wire, item, sample.remarks],
        ensure_ascii=False,
        default=dict,
    )


def load_sample(body: str) -> Sample:
    n, images, known, fingerprint, wire, item, *remarks = json.loads(body)  # none in an old queue
    for name in _TUPLE_FIELDS:
        if name in item:
            item[name] = tuple(item[name])
    return Sample(
        item=Item(**item), n=n, fingerprint=fingerprint, wire=wire, images=images, known=known, remarks="".join(remarks)
    )
