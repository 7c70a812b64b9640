"""The samples in a ledger: their states, their results, and what prevents them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from batchgen.ledger.database import BaseReader, column_list, placeholders
from batchgen.ledger.pictures import FILE_COLUMNS, image_file
from batchgen.ledger.schema import VERDICT_COLUMNS
from batchgen.records import HAS_IMAGE, ImageFile, KnownSample, Result, Verdict, sample_key

PAGE_ROWS = 200
_RESULT_COLUMNS = (  # for `_result`
    *("item_id", "n", "state", "model", "usd", "usd_source", "reason", "message", "attempts", "fingerprint", "wire"),
    *("tags", "updated_at", "text", "made_fingerprint"),
)
_RESULT_SQL = column_list(_RESULT_COLUMNS)
VERDICT_SQL = column_list(VERDICT_COLUMNS, "v")

_NOTABLE = (  # also what was read in an image that is as it should be
    "(v.by <> 'check' OR v.ruling <> 'accept' OR v.details LIKE '%\"boxes\"%')"
    " AND (v.ruling <> 'none' OR v.score IS NOT NULL OR v.message <> '')"
)
ItemIds = Callable[[], Iterable[str]]  # the ids of a manifest, in its order, from the first at each call
AT_VENDOR = "at_vendor"  # the reason of a submitted sample: its API has accepted the request and answers later
WITH_WORKERS = "with_workers"  # the reason of a submitted sample that is not in a batch


class SampleQueries(BaseReader):
    def counts(self) -> dict[str, int]:
        """The number of samples by state."""
        return dict(self._query("SELECT state, count(*) FROM sample GROUP BY state"))

    def counts_by_model(self) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for model, state, number in self._query("SELECT model, state, count(*) FROM sample GROUP BY model, state"):
            table.setdefault(model, {})[state] = number
        return table

    def results(self, states: Sequence[str] = ()) -> Iterator[Result]:
        """The samples in the order in which they first appeared, streamed; of all states unless some are given."""
        where = f"WHERE state IN ({placeholders(states)})" if states else ""
        rows = self._stream_query(f"SELECT {_RESULT_SQL} FROM sample {where} ORDER BY id", *states)
        return self._results_in_pages(rows)

    def results_by_item(self, states: Sequence[str], item_ids: ItemIds = tuple) -> Iterator[Result]:
        """The samples grouped by item: items in the order of `item_ids`, then the others in the order of their first
        sample. Memory does not grow with the items if it contains all."""
        in_states, found, ids = f"state IN ({placeholders(states)})", 0, iter(item_ids())
        while page := list(islice(ids, PAGE_ROWS)):
            place = {item_id: number for number, item_id in enumerate(page)}
            sql = f"SELECT {_RESULT_SQL} FROM sample WHERE {in_states} AND item_id IN ({placeholders(page)}) ORDER BY n"
            rows = sorted(self._query(sql, *states, *page), key=lambda row: place[row[0]])
            found += len(rows)
            yield from self._results(rows)
        if found == self._row(f"SELECT count(*) FROM sample WHERE {in_states}", *states)[0]:
            return
        named = frozenset(item_ids()) if found else frozenset()
        sql = (
            f"SELECT {column_list(_RESULT_COLUMNS, 's')} FROM sample s LEFT JOIN sample f ON s.n > 1 AND f.item_id = s.item_id AND f.n = 1"
            f" WHERE s.state IN ({placeholders(states)}) ORDER BY coalesce(f.id, s.id), s.n"
        )
        yield from self._results_in_pages(row for row in self._stream_query(sql, *states) if row[0] not in named)

    def results_of_item(self, item_id: str) -> list[Result]:
        rows = self._query(f"SELECT {_RESULT_SQL} FROM sample WHERE item_id = ? ORDER BY n", item_id)
        return self._results(list(rows))

    def _results_in_pages(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[Result]:
        """The results of `sample` rows, with their images, some hundreds per query: a server may be far away."""
        while page := list(islice(rows, PAGE_ROWS)):
            yield from self._results(page)

    def _results(self, rows: Sequence[tuple[Any, ...]]) -> list[Result]:
        """The results of a few rows. A sample without a valid image lists none."""
        made = sorted({row[0] for row in rows if row[2] in HAS_IMAGE})
        pictures: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        derivatives: dict[tuple[str, int, str], list[str]] = {}
        if made:
            sql = (
                f"SELECT item_id, n, attempt_id, fingerprint, {column_list(FILE_COLUMNS)}, (SELECT beside FROM attempt WHERE attempt.id ="
                f" attempt_id) FROM image WHERE item_id IN ({placeholders(made)}) ORDER BY attempt_id, k"
            )
            for item_id, n, *picture in self._query(sql, *made):
                pictures.setdefault((item_id, n), []).append(tuple(picture))
            sql = (
                f"SELECT item_id, n, source_sha256, path FROM derivative WHERE item_id IN ({placeholders(made)})"
                " AND state = 'made' ORDER BY path"
            )
            for item_id, n, sha256, path in self._query(sql, *made):
                derivatives.setdefault((item_id, n, sha256), []).append(path)
        said = self.notable_verdicts(made) if made else {}
        return [
            _result(row, pictures.get((row[0], row[1]), ()), derivatives, said.get((row[0], row[1]), ()))
            for row in rows
        ]

    def known_samples(self, item_ids: Sequence[str]) -> dict[str, list[KnownSample]]:
        """What the ledger has of these items, by id. At most 30,000 ids a call."""
        found: dict[str, list[KnownSample]] = {}
        columns = "item_id, n, state, fingerprint, path, bytes, made_fingerprint, reason, attempts"
        sql = f"SELECT {columns} FROM sample WHERE item_id IN ({placeholders(item_ids)})"
        make = KnownSample._make
        for row in self._query(sql, *item_ids):
            found.setdefault(row[0], []).append(make(row[1:]))
        for item_id, first, images in self.queued_samples(item_ids):
            found[item_id] = [
                entry._replace(state="submitted", reason=WITH_WORKERS) if first <= entry.n < first + images else entry
                for entry in found.get(item_id, ())
            ]
        return found

    def queued_samples(self, item_ids: Sequence[str]) -> list[tuple[str, int, int]]:
        """(item id, n, images) of these items' samples in the cluster's queue, in flight or not."""
        if not self.has_work_table():
            return []
        sql = f"SELECT item_id, n, images FROM work WHERE item_id IN ({placeholders(item_ids)})"
        return list(self._query(sql, *item_ids))

    def notable_verdicts(self, item_ids: Sequence[str] | None = None) -> dict[tuple[str, int], list[Verdict]]:
        """Verdicts by item and sample, oldest first, without checks that found nothing, of which every image has
        several, and without withdrawals that left neither stars nor words. item_ids: only these items, at most
        30,000."""
        of_items = "" if item_ids is None else f" AND v.item_id IN ({placeholders(item_ids)})"
        sql = f"SELECT {VERDICT_SQL} FROM verdict v WHERE {_NOTABLE}{of_items} ORDER BY v.at"
        return verdicts_by_sample(self._query(sql, *(item_ids or ())))

    def wire(self, item_id: str, n: int) -> str:
        row = self._row("SELECT wire FROM sample WHERE item_id = ? AND n = ?", item_id, n)
        return "" if row is None else str(row[0])

    def current_samples(self) -> Iterator[tuple[str, int, str | None]]:
        """(item id, n, path of its image) of every sample that is not superseded."""
        return self._stream_query("SELECT item_id, n, path FROM sample WHERE state <> 'superseded'")

    def current_count(self) -> int:
        return int(self._row("SELECT count(*) FROM sample WHERE state <> 'superseded'")[0])

    def failure_reasons(self, max_count: int = 3) -> list[tuple[str, int, str]]:
        """The most common reasons for samples without an image: (reason, how many, one of the vendor's messages)."""
        sql = (
            "SELECT reason, count(*), max(message) FROM sample WHERE state IN ('refused', 'failed', 'uncertain', 'blocked')"
            " GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?"
        )
        return list(self._query(sql, max_count))

    def blocked_samples(self, max_count: int) -> list[tuple[str, str]]:
        """(key, what it waits for in words) of samples that need another one's image."""
        sql = "SELECT item_id, n, message FROM sample WHERE state = 'blocked' ORDER BY id LIMIT ?"
        return [(sample_key(item_id, n), message) for item_id, n, message in self._query(sql, max_count)]

    def uncertain_samples(self, max_count: int) -> list[tuple[str, float | None]]:
        """(key, USD that may have been charged, None if unknown) of samples whose request was never answered."""
        sql = (
            "SELECT s.item_id, s.n, (SELECT CASE WHEN count(*) = count(a.estimate_usd) THEN"
            " sum(a.estimate_usd / a.images) END FROM attempt a WHERE a.item_id = s.item_id"
            " AND a.n <= s.n AND s.n < a.n + a.images AND a.maybe_billed <> 0 AND a.fingerprint = s.fingerprint)"
            " FROM sample s WHERE s.state = 'uncertain' ORDER BY s.id LIMIT ?"
        )
        return [(sample_key(item_id, n), usd) for item_id, n, usd in self._query(sql, max_count)]


def format_utc(at: float | None) -> str:
    """ISO 8601 in UTC to the second, empty for None."""
    if at is None:
        return ""
    year, month, day, hour, minute, second, *_ = time.gmtime(at)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"


def _result(
    row: tuple[Any, ...],
    pictures: Sequence[tuple[Any, ...]],
    derivatives: Mapping[tuple[str, int, str], Sequence[str]],
    said: Sequence[Verdict],
) -> Result:
    item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, at, text, made = row
    files: tuple[ImageFile, ...] = ()
    texts: str | None = None
    if state in HAS_IMAGE:
        by = max((each[0] for each in pictures if each[1] == made and each[8] == "image"), default=None)
        latest = [each for each in pictures if each[0] == by]
        texts = next((each[-1] for each in latest), None)
        files = tuple(sorted((image_file(each[2:-1]) for each in latest), key=lambda file: file.role != "image"))
    return Result(
        id=item_id,
        n=n,
        state=state,
        model=model,
        files=files,
        usd=usd,
        usd_source=usd_source,
        reason=reason,
        message=message,
        attempts=attempts,
        fingerprint=fingerprint,
        prompt=json.loads(wire).get("prompt", ""),
        tags=tuple(tags.split(",")) if tags else (),
        updated_at=format_utc(at),
        text=text,
        sidecars=sidecars(files, json.loads(texts) if texts else ()),
        derivatives=tuple(derivatives.get((item_id, n, files[0].sha256), ())) if files else (),
        verdicts=tuple(each for each in said if files and each.sha256 == files[0].sha256),
    )


def sidecars(files: Sequence[ImageFile], endings: Iterable[str]) -> tuple[str, ...]:
    """The paths of the files beside a sample's image, which is the first of its files."""
    return tuple(os.path.splitext(files[0].path)[0] + ending for ending in endings) if files else ()


def verdicts_by_sample(rows: Iterable[Sequence[Any]]) -> dict[tuple[str, int], list[Verdict]]:
    found: dict[tuple[str, int], list[Verdict]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), []).append(verdict_from_row(row))
    return found


def verdict_from_row(row: Sequence[Any]) -> Verdict:
    values = dict(zip(VERDICT_COLUMNS, row, strict=True))
    return Verdict(**{**values, "details": json.loads(values["details"])})
