"""Read-only questions to a ledger, safe while a run is writing it, and after a run has died."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from batchgen.ledger.rows import RESULT_COLUMNS, image_file, result
from batchgen.ledger.schema import COOLING, ledger_path, open_for_reading
from batchgen.records import ImageFile, Known, Result, Usage, sample_key


@dataclass(frozen=True, slots=True)
class Money:
    """USD. spent: charged by usage or the vendor's word; estimated: counted from the price table because usage was not
    said; maybe: may have been charged for requests without an answer or a picture that do not say what they used;
    unknown: attempts without a price."""

    spent: float
    estimated: float
    maybe: float
    maybe_requests: int
    unknown: int


@dataclass(frozen=True, slots=True)
class RunRow:
    id: int
    started_at: float
    ended_at: float | None
    pid: int
    host: str
    exit_code: int | None
    stopped_by: str
    wanted: int  # samples that the run meant to ask for
    kept: int


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """A request that was recorded and whose end was not. links: the answer came and its pictures are still to be fetched;
    usage and text: what it said besides."""

    id: int
    item_id: str
    n: int
    images: int
    lane: str
    fingerprint: str
    stem: str
    started_at: float
    estimate_usd: float | None
    links: tuple[str, ...]
    usage: Usage | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class StoredImage:
    attempt: int
    k: int
    item_id: str
    n: int
    spool: str
    file: ImageFile


@dataclass(frozen=True, slots=True)
class Beyond:
    """A request that was or may have been billed and holds no sample's latest picture. later: who replaced its picture."""

    key: str
    run_id: int
    fingerprint: str
    outcome: str | None
    reason: str
    http_status: int
    pictures: int
    made_later: bool
    later_fingerprint: str | None
    later_run: int | None


BILLED = "(a.outcome IS NULL OR a.outcome = 'succeeded' OR a.maybe_billed)"
LATEST = (
    "i.role = 'image' AND NOT EXISTS (SELECT 1 FROM image newer WHERE newer.item_id = i.item_id AND newer.n = i.n"
    " AND newer.role = 'image' AND newer.attempt_id > i.attempt_id)"
)

RUNS_LOOKED_AT = 100  # one that was killed has no end
MODEL = "substr(a.lane, instr(a.lane, '/') + 1)"  # of a lane's key `provider/model`


class Reader:
    """Views of one ledger. Every method is one snapshot."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, job_folder: Path) -> Self:
        """Raises LedgerError when there is none, or it is damaged."""
        return cls(open_for_reading(ledger_path(job_folder)))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(sql, values)

    def meta(self, key: str) -> str | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

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
        where = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        rows = self._connection.execute(f"SELECT {RESULT_COLUMNS} FROM sample {where} ORDER BY id", tuple(states))
        for row in rows:
            yield result(self._connection, row)

    def results_in_order(self, states: Sequence[str]) -> Iterator[Result]:
        """The same with the samples of an item beside each other, items in the order of their first sample."""
        marks = ",".join("?" * len(states))
        columns = ", ".join(f"s.{column.strip()}" for column in RESULT_COLUMNS.split(","))
        rows = self._connection.execute(
            f"SELECT {columns} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id AND f.n = 1"
            f" WHERE s.state IN ({marks}) ORDER BY coalesce(f.id, s.id), s.n",
            tuple(states),
        )
        yield from (result(self._connection, row) for row in rows)

    def results_of(self, item_id: str) -> list[Result]:
        rows = self._rows(f"SELECT {RESULT_COLUMNS} FROM sample WHERE item_id = ? ORDER BY n", item_id)
        return [result(self._connection, row) for row in rows]

    def known(self, item_ids: Sequence[str]) -> dict[str, list[Known]]:
        """What the ledger has of these items, by id. At most 30,000 ids a call."""
        found: dict[str, list[Known]] = {}
        marks = ",".join("?" * len(item_ids))
        columns = "item_id, n, state, fingerprint, path, bytes, made_fingerprint, reason, attempts"
        sql = f"SELECT {columns} FROM sample WHERE item_id IN ({marks})"
        make = Known._make
        for row in self._connection.execute(sql, tuple(item_ids)):
            found.setdefault(row[0], []).append(make(row[1:]))
        return found

    def wire(self, item_id: str, n: int) -> str:
        row = self._connection.execute("SELECT wire FROM sample WHERE item_id = ? AND n = ?", (item_id, n)).fetchone()
        return "" if row is None else str(row[0])

    def current_samples(self) -> Iterator[tuple[str, int, str | None]]:
        """(item id, n, path of its picture) of every sample that is not superseded."""
        rows = self._rows("SELECT item_id, n, path FROM sample WHERE state <> 'superseded'")
        yield from ((item_id, n, path) for item_id, n, path in rows)

    def current_count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM sample WHERE state <> 'superseded'").fetchone()[0])

    def money(self, run_id: int | None = None) -> Money:
        where, values = ("", ()) if run_id is None else ("AND run_id = ?", (run_id,))
        row = self._connection.execute(
            "SELECT coalesce(sum(usd) FILTER (WHERE usd_source IN ('usage', 'vendor')), 0),"
            " coalesce(sum(usd) FILTER (WHERE usd_source = 'estimate'), 0),"
            " coalesce(sum(estimate_usd) FILTER (WHERE maybe_billed AND usd IS NULL), 0),"
            " count(*) FILTER (WHERE maybe_billed AND usd IS NULL),"
            " count(*) FILTER (WHERE outcome = 'succeeded' AND usd IS NULL)"
            f" FROM attempt WHERE (outcome IS NOT NULL OR maybe_billed) {where}",
            values,
        ).fetchone()
        return Money(*row)

    def spent_since(self, at: float, lanes: Sequence[str] | None = None) -> float:
        """USD of requests begun since then: charged, estimated, and what may have been billed without a picture.

        lanes: of these alone.
        """
        of_lanes = "" if lanes is None else f" AND lane IN ({', '.join('?' * len(lanes))})"
        row = self._connection.execute(
            "SELECT coalesce(sum(coalesce(usd, CASE WHEN maybe_billed THEN estimate_usd END)), 0)"
            f" FROM attempt WHERE started_at >= ?{of_lanes}",
            (at, *(lanes or ())),
        ).fetchone()
        return float(row[0])

    def attempts(self, run_id: int | None = None) -> dict[str, int]:
        """Requests by outcome; `open` for those not ended."""
        where, values = ("", ()) if run_id is None else ("WHERE run_id = ?", (run_id,))
        return dict(
            self._connection.execute(
                f"SELECT coalesce(outcome, 'open'), count(*) FROM attempt {where} GROUP BY 1", values
            )
        )

    def images_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, role, pictures received) in all runs."""
        return self._rows(
            f"SELECT {MODEL}, role, count(*) FROM image i JOIN attempt a ON a.id = i.attempt_id GROUP BY 1, 2"
        )

    def requests_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, outcome, requests that have ended) in all runs."""
        return self._rows(f"SELECT {MODEL}, outcome, count(*) FROM attempt a WHERE outcome IS NOT NULL GROUP BY 1, 2")

    def usd_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, source of the figure, USD) in all runs."""
        return self._rows(
            f"SELECT {MODEL}, usd_source, sum(usd) FROM attempt a WHERE outcome IS NOT NULL AND usd IS NOT NULL GROUP BY 1, 2"
        )

    def maybe_usd_by_model(self) -> Iterator[tuple[Any, ...]]:
        """(AI model, USD as `Money.maybe`) in all runs."""
        return self._rows(
            f"SELECT {MODEL}, coalesce(sum(estimate_usd) FILTER (WHERE maybe_billed AND usd IS NULL), 0) FROM attempt a GROUP BY 1"
        )

    def made_in(self, run_id: int) -> int:
        """Pictures that a run has brought, drafts not counted."""
        row = self._connection.execute(
            "SELECT count(*) FROM image JOIN attempt ON attempt.id = image.attempt_id"
            " WHERE attempt.run_id = ? AND role = 'image'",
            (run_id,),
        ).fetchone()
        return int(row[0])

    def reasons(self, most: int = 3) -> list[tuple[str, int, str]]:
        """The commonest reasons why samples have no picture: (reason, how many, one of the vendor's messages)."""
        rows = self._rows(
            "SELECT reason, count(*), max(message) FROM sample WHERE state IN ('refused', 'failed', 'uncertain', 'blocked')"
            " GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?",
            most,
        )
        return [(reason, number, message) for reason, number, message in rows]

    def open_attempts(self) -> list[OpenAttempt]:
        rows = self._rows(
            "SELECT id, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd, links FROM attempt"
            " WHERE outcome IS NULL ORDER BY id"
        )
        return [_open_attempt(row) for row in rows]

    def attempt(self, number: int) -> OpenAttempt | None:
        """The same of one request, ended or not."""
        columns = "id, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd, links"
        row = self._connection.execute(f"SELECT {columns} FROM attempt WHERE id = ?", (number,)).fetchone()
        return None if row is None else _open_attempt(row)

    def beside(self, attempt: int) -> dict[str, str]:
        """The texts that belong beside the pictures of a request, by file ending."""
        row = self._connection.execute("SELECT beside FROM attempt WHERE id = ?", (attempt,)).fetchone()
        return dict(json.loads(row[0])) if row and row[0] else {}

    def texts_beside(self) -> list[tuple[str, dict[str, str]]]:
        """(path of a picture, texts that belong beside it, by file ending) of all that have any."""
        rows = self._rows(
            "SELECT i.path, a.beside, max(i.attempt_id) FROM image i JOIN attempt a ON a.id = i.attempt_id"
            " WHERE i.role = 'image' GROUP BY i.path"
        )
        return [(path, json.loads(texts)) for path, texts, _ in rows if texts]

    def unplaced(self) -> list[StoredImage]:
        """Pictures whose settling was recorded and whose placing was not."""
        rows = self._rows(
            "SELECT attempt_id, k, item_id, n, spool, path, sha256, bytes, width, height, format, role, flags FROM image"
            " WHERE placed = 0 ORDER BY attempt_id, k"
        )
        return [_stored(row) for row in rows]

    def images(self) -> Iterator[StoredImage]:
        """Every picture that was ever recorded; of those that name one path, the later attempt's first."""
        rows = self._rows(
            "SELECT attempt_id, k, item_id, n, spool, path, sha256, bytes, width, height, format, role, flags FROM image"
            " ORDER BY attempt_id DESC, k"
        )
        return map(_stored, rows)

    def earlier_image(self, item_id: str, n: int, fingerprint: str) -> StoredImage | None:
        """A picture bought before for exactly this request, wherever it lies now."""
        row = self._connection.execute(
            "SELECT attempt_id, k, item_id, n, spool, path, sha256, bytes, width, height, format, role, flags FROM image"
            " WHERE item_id = ? AND n = ? AND fingerprint = ? AND role = 'image' AND placed = 1 ORDER BY attempt_id DESC LIMIT 1",
            (item_id, n, fingerprint),
        ).fetchone()
        return None if row is None else _stored(row)

    def picture(self, item_id: str, n: int) -> StoredImage | None:
        """The picture that a sample has now; None while it has none, or none that counts."""
        row = self._connection.execute(
            "SELECT i.attempt_id, i.k, i.item_id, i.n, i.spool, i.path, i.sha256, i.bytes, i.width, i.height, i.format,"
            " i.role, i.flags FROM sample s JOIN image i ON i.item_id = s.item_id AND i.n = s.n AND i.role = 'image'"
            " AND i.fingerprint = s.made_fingerprint WHERE s.item_id = ? AND s.n = ? AND s.state = 'succeeded'"
            " ORDER BY i.attempt_id DESC LIMIT 1",
            (item_id, n),
        ).fetchone()
        return None if row is None else _stored(row)

    def made_at(self, item_id: str, n: int, fingerprint: str) -> float:
        """UTC seconds at which the latest picture for exactly this request came; 0.0 when there is none."""
        row = self._connection.execute(
            "SELECT max(a.ended_at) FROM image i JOIN attempt a ON a.id = i.attempt_id WHERE i.item_id = ? AND i.n = ?"
            " AND i.fingerprint = ? AND i.role = 'image'",
            (item_id, n, fingerprint),
        ).fetchone()
        return float(row[0] or 0.0)

    def recent_sends(self, lane: str, since: float) -> list[float]:
        """UTC seconds at which requests of a lane were sent, or recorded when the sending was not noted."""
        rows = self._rows(
            "SELECT coalesce(sent_at, started_at) FROM attempt WHERE lane = ? AND started_at >= ? ORDER BY 1",
            lane,
            since,
        )
        return [row[0] for row in rows]

    def sent_since(self, lane: str, at: float) -> int:
        """Requests of a lane that left, or may have left, since then."""
        row = self._connection.execute(
            "SELECT count(*) FROM attempt WHERE lane = ? AND started_at >= ?"
            " AND (sent_at IS NOT NULL OR outcome IS NULL OR outcome <> 'failed')",
            (lane, at),
        ).fetchone()
        return int(row[0])

    def most_accepted(self, lane: str, since: float) -> int:
        """The most requests of a lane sent in one minute by the clock, none if any of late was refused for the quota."""
        row = self._connection.execute(
            "SELECT CASE WHEN sum(refused) THEN 0 ELSE coalesce(max(number), 0) END FROM (SELECT count(*) AS number,"
            " sum(reason = 'rate_limited') AS refused FROM attempt WHERE lane = ? AND started_at >= ?"
            " AND sent_at IS NOT NULL GROUP BY CAST(sent_at / 60 AS INTEGER))",
            (lane, since),
        ).fetchone()
        return int(row[0])

    def parked(self) -> dict[str, tuple[float, str]]:
        """Lane -> (UTC seconds until which it is parked, why)."""
        return {
            key: (until, message) for key, until, message in self._rows("SELECT key, parked_until, message FROM lane")
        }

    def cooling(self) -> dict[str, float]:
        """Lane -> UTC seconds until which it waits for its quota, as last noted; long past ones included."""
        rows = self._rows("SELECT key, value FROM meta WHERE key >= ? AND key < ?", COOLING, f"{COOLING}\U0010ffff")
        return {key.removeprefix(COOLING): float(until) for key, until in rows}

    def last_run(self) -> RunRow | None:
        return next(iter(self.runs(1)), None)

    def runs(self, most: int) -> list[RunRow]:
        """The last ones, the newest first."""
        rows = self._rows(
            "SELECT id, started_at, ended_at, pid, host, exit_code, coalesce(stopped_by, ''), coalesce(wanted, 0),"
            " coalesce(kept, 0) FROM run ORDER BY id DESC LIMIT ?",
            most,
        )
        return [RunRow(*row) for row in rows]

    def last_ended_run(self) -> RunRow | None:
        return next((run for run in self.runs(RUNS_LOOKED_AT) if run.exit_code is not None), None)

    def last_success_at(self) -> float | None:
        """UTC seconds at which a run last ended with exit code 0."""
        row = self._connection.execute("SELECT max(ended_at) FROM run WHERE exit_code = 0").fetchone()
        return None if row[0] is None else float(row[0])

    def ends_in(self, run_id: int) -> dict[str, int]:
        """How many samples a run left with which outcome of their last request."""
        # With max() SQLite takes the other columns from the row that has it.
        rows = self._rows(
            "SELECT coalesce(outcome, 'open'), count(*) FROM (SELECT outcome, max(id) FROM attempt WHERE run_id = ?"
            " GROUP BY item_id, n) GROUP BY 1",
            run_id,
        )
        return dict(rows)

    def files(self) -> Iterator[ImageFile]:
        """Every picture the ledger knows, superseded ones and drafts included."""
        for row in self._rows(
            "SELECT path, sha256, bytes, width, height, format, role, flags FROM image WHERE placed = 1"
        ):
            yield image_file(row)

    def uncertain(self, most: int) -> list[tuple[str, float | None]]:
        """(key, USD that may have been charged, None unknown) of samples whose request was never answered."""
        rows = self._rows(
            "SELECT s.item_id, s.n, (SELECT sum(a.estimate_usd / a.images) FROM attempt a WHERE a.item_id = s.item_id"
            " AND a.n <= s.n AND s.n < a.n + a.images AND a.maybe_billed AND a.fingerprint = s.fingerprint)"
            " FROM sample s WHERE s.state = 'uncertain' ORDER BY s.id LIMIT ?",
            most,
        )
        return [(sample_key(item_id, n), usd) for item_id, n, usd in rows]

    def newest_paths(self, run_id: int, most: int) -> list[str]:
        """The images that a run made last, the newest first."""
        rows = self._rows(
            "SELECT image.path FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE attempt.run_id = ?"
            " AND role = 'image' ORDER BY attempt_id DESC, k DESC LIMIT ?",
            run_id,
            most,
        )
        return [path for (path,) in rows]

    def flagged(self, run_id: int, most: int) -> list[tuple[str, tuple[str, ...]]]:
        """(path, flags) of images of a run that are other than asked for."""
        rows = self._rows(
            "SELECT image.path, flags FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE attempt.run_id = ?"
            " AND flags <> '' ORDER BY attempt_id, k LIMIT ?",
            run_id,
            most,
        )
        return [(path, tuple(flags.split(","))) for path, flags in rows]

    def flagged_count(self, run_id: int) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM image JOIN attempt ON attempt.id = image.attempt_id WHERE run_id = ? AND flags <> ''",
            (run_id,),
        ).fetchone()
        return int(row[0])

    def billed_requests(self) -> int:
        """Requests that were billed, may have been, or are not settled."""
        return int(self._connection.execute(f"SELECT count(*) FROM attempt a WHERE {BILLED}").fetchone()[0])

    def picture_requests(self) -> int:
        """Requests that hold the latest picture of a sample."""
        row = self._connection.execute(f"SELECT count(DISTINCT i.attempt_id) FROM image i WHERE {LATEST}").fetchone()
        return int(row[0])

    def beyond_requests(self) -> list[Beyond]:
        """Those of the billed ones that do not, in the order in which they were sent."""
        covers = "i.item_id = a.item_id AND i.n >= a.n AND i.n < a.n + a.images AND i.role = 'image'"
        later = f"FROM image i JOIN attempt l ON l.id = i.attempt_id WHERE {covers} AND i.attempt_id > a.id"
        rows = self._rows(
            "SELECT a.item_id, a.n, a.run_id, a.fingerprint, a.outcome, coalesce(a.reason, ''), coalesce(a.http_status, 0),"
            " (SELECT count(*) FROM image i WHERE i.attempt_id = a.id AND i.role = 'image'),"
            f" (SELECT count(*) {later}) > 0, (SELECT l.fingerprint {later} ORDER BY l.id LIMIT 1),"
            f" (SELECT l.run_id {later} ORDER BY l.id LIMIT 1) FROM attempt a WHERE {BILLED}"
            f" AND NOT EXISTS (SELECT 1 FROM image i WHERE i.attempt_id = a.id AND {LATEST}) ORDER BY a.id"
        )
        return [Beyond(sample_key(item_id, n), *facts) for item_id, n, *facts in rows]

    def stored(self) -> Iterator[tuple[str, str, int, bool]]:
        """(path, sha256, bytes, whether it is its sample's latest image) of all that should lie in the folder, by path.

        Where two rows name one path, the later attempt wrote what stands there.
        """
        rows = self._rows(
            "SELECT path, sha256, bytes, role <> 'image' OR NOT EXISTS (SELECT 1 FROM image newer WHERE newer.item_id = i.item_id"
            " AND newer.n = i.n AND newer.role = 'image' AND newer.attempt_id > i.attempt_id), max(attempt_id)"
            " FROM image i WHERE placed = 1 GROUP BY path ORDER BY path"
        )
        for path, sha256, size, latest, _ in rows:
            yield path, sha256, size, bool(latest)

    def stored_count(self) -> int:
        return int(self._connection.execute("SELECT count(DISTINCT path) FROM image WHERE placed = 1").fetchone()[0])


def _stored(row: tuple[Any, ...]) -> StoredImage:
    attempt, k, item_id, n, spool, *file = row
    return StoredImage(attempt, k, item_id, n, spool, image_file(tuple(file)))


def _open_attempt(row: tuple[Any, ...]) -> OpenAttempt:
    *facts, links = row
    attempt, item_id, n, images, lane, fingerprint, stem, started_at, estimate_usd = facts
    linked = json.loads(links) if links else []
    # A bare list was written before what an answer said besides was kept.
    said: dict[str, Any] = {"links": linked} if isinstance(linked, list) else linked
    found, usage = tuple(said["links"]), Usage(**said["usage"]) if said.get("usage") else None
    return OpenAttempt(
        attempt,
        item_id,
        n,
        images,
        lane,
        fingerprint,
        stem,
        started_at,
        estimate_usd,
        found,
        usage,
        said.get("text", ""),
    )
