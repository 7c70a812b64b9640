"""How ledger rows become records, shared by the writing and the reading side."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from batchgen.ledger.database import Connection, placeholders
from batchgen.records import ImageFile, Result

PAGE_ROWS = 200
IMAGE_COLUMNS = "path, sha256, bytes, width, height, format, role, flags"
RESULT_COLUMNS = (
    "item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, updated_at, text, "
    "made_fingerprint"
)


def format_utc(at: float | None) -> str:
    """ISO 8601 in UTC to the second, empty for None."""
    if at is None:
        return ""
    year, month, day, hour, minute, second, *_ = time.gmtime(at)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"


def image_file(row: tuple[Any, ...]) -> ImageFile:
    path, sha256, size, width, height, kind, role, flags = row
    return ImageFile(
        path=path,
        sha256=sha256,
        bytes=size,
        width=width,
        height=height,
        format=kind,
        role=role,
        flags=tuple(flags.split(",")) if flags else (),
    )


def results_in_pages(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """`sample` rows with their pictures, some hundreds to a question: a server may be far away."""
    rows = iter(rows)
    while page := list(islice(rows, PAGE_ROWS)):
        yield from results_from_rows(connection, page)


def results_from_rows(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Result]:
    """The same of a few. A sample that has no valid picture now lists none."""
    made = sorted({row[0] for row in rows if row[2] == "succeeded"})
    pictures: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    derivatives: dict[tuple[str, int, str], list[str]] = {}
    if made:
        for item_id, n, *picture in connection.execute(
            f"SELECT item_id, n, attempt_id, fingerprint, {IMAGE_COLUMNS}, (SELECT beside FROM attempt WHERE attempt.id ="
            f" attempt_id) FROM image WHERE item_id IN ({placeholders(made)}) ORDER BY attempt_id, k",
            made,
        ):
            pictures.setdefault((item_id, n), []).append(tuple(picture))
        for *key, path in connection.execute(
            f"SELECT item_id, n, source_sha256, path FROM derivative WHERE item_id IN ({placeholders(made)}) AND state = 'made'"
            " ORDER BY path",
            made,
        ):
            derivatives.setdefault(tuple(key), []).append(path)
    return [_result(row, pictures.get((row[0], row[1]), ()), derivatives) for row in rows]


def _result(
    row: tuple[Any, ...],
    pictures: Sequence[tuple[Any, ...]],
    derivatives: Mapping[tuple[str, int, str], Sequence[str]],
) -> Result:
    (item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, at, text, made) = (
        row
    )
    files: tuple[ImageFile, ...] = ()
    texts: str | None = None
    if state == "succeeded":
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
    )


def sidecars(files: Sequence[ImageFile], endings: Iterable[str]) -> tuple[str, ...]:
    """Paths of what stands beside a sample's picture, the first of its files."""
    return tuple(os.path.splitext(files[0].path)[0] + ending for ending in endings) if files else ()
