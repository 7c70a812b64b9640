"""The samples of a ledger: their states, their results, and what stands in their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.ledger.base_reader import BaseReader
from batchgen.ledger.database import placeholders
from batchgen.ledger.rows import RESULT_COLUMNS, results_from_rows, results_in_pages
from batchgen.records import KnownSample, Result, sample_key

WITH_WORKERS = "with_workers"  # as the reason of a sample that is submitted, when it is not in a batch


class SampleQueries(BaseReader):
    def counts(self) -> dict[str, int]:
        """Samples by state."""
        return dict(self._query("SELECT state, count(*) FROM sample GROUP BY state"))

    def counts_by_model(self) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for model, state, number in self._query("SELECT model, state, count(*) FROM sample GROUP BY model, state"):
            table.setdefault(model, {})[state] = number
        return table

    def results(self, states: Sequence[str] = ()) -> Iterator[Result]:
        """Samples in the order in which they first appeared, streamed; all states unless some are named."""
        where = f"WHERE state IN ({placeholders(states)})" if states else ""
        rows = self._stream_query(f"SELECT {RESULT_COLUMNS} FROM sample {where} ORDER BY id", *states)
        return results_in_pages(self._connection, rows)

    def results_by_item(self, states: Sequence[str]) -> Iterator[Result]:
        """The same with the samples of an item beside each other, items in the order of their first sample."""
        columns = ", ".join(f"s.{column.strip()}" for column in RESULT_COLUMNS.split(","))
        rows = self._stream_query(
            f"SELECT {columns} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id AND f.n = 1"
            f" WHERE s.state IN ({placeholders(states)}) ORDER BY coalesce(f.id, s.id), s.n",
            *states,
        )
        return results_in_pages(self._connection, rows)

    def results_of_item(self, item_id: str) -> list[Result]:
        rows = self._query(f"SELECT {RESULT_COLUMNS} FROM sample WHERE item_id = ? ORDER BY n", item_id)
        return results_from_rows(self._connection, list(rows))

    def known_samples(self, item_ids: Sequence[str]) -> dict[str, list[KnownSample]]:
        """What the ledger has of these items, by id. At most 30,000 ids a call."""
        found: dict[str, list[KnownSample]] = {}
        columns = "item_id, n, state, fingerprint, path, bytes, made_fingerprint, reason, attempts"
        sql = f"SELECT {columns} FROM sample WHERE item_id IN ({placeholders(item_ids)})"
        make = KnownSample._make
        for row in self._connection.execute(sql, tuple(item_ids)):
            found.setdefault(row[0], []).append(make(row[1:]))
        for item_id, first, images in self.queued_samples(item_ids):
            found[item_id] = [
                entry._replace(state="submitted", reason=WITH_WORKERS) if first <= entry.n < first + images else entry
                for entry in found.get(item_id, ())
            ]
        return found

    def queued_samples(self, item_ids: Sequence[str]) -> list[tuple[str, int, int]]:
        """(item id, n, images) of what of these the queue of the cluster has, in flight or not."""
        if not self.has_work_table():
            return []
        placeholders = ",".join("?" * len(item_ids))
        return list(self._query(f"SELECT item_id, n, images FROM work WHERE item_id IN ({placeholders})", *item_ids))

    def wire(self, item_id: str, n: int) -> str:
        row = self._connection.execute("SELECT wire FROM sample WHERE item_id = ? AND n = ?", (item_id, n)).fetchone()
        return "" if row is None else str(row[0])

    def current_samples(self) -> Iterator[tuple[str, int, str | None]]:
        """(item id, n, path of its picture) of every sample that is not superseded."""
        rows = self._stream_query("SELECT item_id, n, path FROM sample WHERE state <> 'superseded'")
        yield from ((item_id, n, path) for item_id, n, path in rows)

    def current_count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM sample WHERE state <> 'superseded'").fetchone()[0])

    def failure_reasons(self, max_count: int = 3) -> list[tuple[str, int, str]]:
        """The commonest reasons why samples have no picture: (reason, how many, one of the vendor's messages)."""
        rows = self._query(
            "SELECT reason, count(*), max(message) FROM sample WHERE state IN ('refused', 'failed', 'uncertain', 'blocked')"
            " GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?",
            max_count,
        )
        return [(reason, number, message) for reason, number, message in rows]

    def uncertain_samples(self, max_count: int) -> list[tuple[str, float | None]]:
        """(key, USD that may have been charged, None unknown) of samples whose request was never answered."""
        rows = self._query(
            "SELECT s.item_id, s.n, (SELECT CASE WHEN count(*) = count(a.estimate_usd) THEN"
            " sum(a.estimate_usd / a.images) END FROM attempt a WHERE a.item_id = s.item_id"
            " AND a.n <= s.n AND s.n < a.n + a.images AND a.maybe_billed <> 0 AND a.fingerprint = s.fingerprint)"
            " FROM sample s WHERE s.state = 'uncertain' ORDER BY s.id LIMIT ?",
            max_count,
        )
        return [(sample_key(item_id, n), usd) for item_id, n, usd in rows]
