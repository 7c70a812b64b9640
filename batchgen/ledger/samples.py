"""The samples of a ledger: their states, their results, and what stands in their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.ledger.base_reader import Connected
from batchgen.ledger.database import marks
from batchgen.ledger.rows import RESULT_COLUMNS, in_pages, results
from batchgen.records import Known, Result, sample_key

WITH_WORKERS = "with the cluster's workers"


class Samples(Connected):
    def counts(self) -> dict[str, int]:
        """Samples by state."""
        return dict(self._rows("SELECT state, count(*) FROM sample GROUP BY state"))

    def counts_by_model(self) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for model, state, number in self._rows("SELECT model, state, count(*) FROM sample GROUP BY model, state"):
            table.setdefault(model, {})[state] = number
        return table

    def results(self, states: Sequence[str] = ()) -> Iterator[Result]:
        """Samples in the order in which they first appeared, streamed; all states unless some are named."""
        where = f"WHERE state IN ({marks(states)})" if states else ""
        rows = self._many(f"SELECT {RESULT_COLUMNS} FROM sample {where} ORDER BY id", *states)
        return in_pages(self._connection, rows)

    def results_in_order(self, states: Sequence[str]) -> Iterator[Result]:
        """The same with the samples of an item beside each other, items in the order of their first sample."""
        columns = ", ".join(f"s.{column.strip()}" for column in RESULT_COLUMNS.split(","))
        rows = self._many(
            f"SELECT {columns} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id AND f.n = 1"
            f" WHERE s.state IN ({marks(states)}) ORDER BY coalesce(f.id, s.id), s.n",
            *states,
        )
        return in_pages(self._connection, rows)

    def results_of(self, item_id: str) -> list[Result]:
        rows = self._rows(f"SELECT {RESULT_COLUMNS} FROM sample WHERE item_id = ? ORDER BY n", item_id)
        return results(self._connection, list(rows))

    def known(self, item_ids: Sequence[str]) -> dict[str, list[Known]]:
        """What the ledger has of these items, by id. At most 30,000 ids a call."""
        found: dict[str, list[Known]] = {}
        columns = "item_id, n, state, fingerprint, path, bytes, made_fingerprint, reason, attempts"
        sql = f"SELECT {columns} FROM sample WHERE item_id IN ({marks(item_ids)})"
        make = Known._make
        for row in self._connection.execute(sql, tuple(item_ids)):
            found.setdefault(row[0], []).append(make(row[1:]))
        for item_id, first, images in self.at_work(item_ids):
            found[item_id] = [
                entry._replace(state="submitted", reason=WITH_WORKERS) if first <= entry.n < first + images else entry
                for entry in found.get(item_id, ())
            ]
        return found

    def at_work(self, item_ids: Sequence[str]) -> list[tuple[str, int, int]]:
        """(item id, n, images) of what of these the queue of the cluster has, in flight or not."""
        if not self.has_work():
            return []
        marks = ",".join("?" * len(item_ids))
        return list(self._rows(f"SELECT item_id, n, images FROM work WHERE item_id IN ({marks})", *item_ids))

    def wire(self, item_id: str, n: int) -> str:
        row = self._connection.execute("SELECT wire FROM sample WHERE item_id = ? AND n = ?", (item_id, n)).fetchone()
        return "" if row is None else str(row[0])

    def current_samples(self) -> Iterator[tuple[str, int, str | None]]:
        """(item id, n, path of its picture) of every sample that is not superseded."""
        rows = self._many("SELECT item_id, n, path FROM sample WHERE state <> 'superseded'")
        yield from ((item_id, n, path) for item_id, n, path in rows)

    def current_count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM sample WHERE state <> 'superseded'").fetchone()[0])

    def reasons(self, most: int = 3) -> list[tuple[str, int, str]]:
        """The commonest reasons why samples have no picture: (reason, how many, one of the vendor's messages)."""
        rows = self._rows(
            "SELECT reason, count(*), max(message) FROM sample WHERE state IN ('refused', 'failed', 'uncertain', 'blocked')"
            " GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?",
            most,
        )
        return [(reason, number, message) for reason, number, message in rows]

    def uncertain(self, most: int) -> list[tuple[str, float | None]]:
        """(key, USD that may have been charged, None unknown) of samples whose request was never answered."""
        rows = self._rows(
            "SELECT s.item_id, s.n, (SELECT CASE WHEN count(*) = count(a.estimate_usd) THEN"
            " sum(a.estimate_usd / a.images) END FROM attempt a WHERE a.item_id = s.item_id"
            " AND a.n <= s.n AND s.n < a.n + a.images AND a.maybe_billed <> 0 AND a.fingerprint = s.fingerprint)"
            " FROM sample s WHERE s.state = 'uncertain' ORDER BY s.id LIMIT ?",
            most,
        )
        return [(sample_key(item_id, n), usd) for item_id, n, usd in rows]
