"""How ledger rows become records, shared by the writing and the reading side."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from batchgen.ledger.database import Connection
from batchgen.records import ImageFile, Result

IMAGE_COLUMNS = "path, sha256, bytes, width, height, format, role, flags"
RESULT_COLUMNS = (
    "item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, updated_at, text, "
    "made_fingerprint"
)


def utc(at: float | None) -> str:
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


def result(connection: Connection, row: tuple[Any, ...]) -> Result:
    """One `sample` row with its pictures. A sample that has no valid picture now lists none."""
    (item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, at, text, made) = (
        row
    )
    files: tuple[ImageFile, ...] = ()
    texts: str | None = None
    derivatives: tuple[str, ...] = ()
    if state == "succeeded":
        made_by = "SELECT max(attempt_id) FROM image WHERE item_id = ? AND n = ? AND fingerprint = ? AND role = 'image'"
        rows = list(
            connection.execute(
                f"SELECT {IMAGE_COLUMNS}, (SELECT beside FROM attempt WHERE attempt.id = attempt_id) FROM image"
                f" WHERE item_id = ? AND n = ? AND attempt_id = ({made_by}) ORDER BY k",
                (item_id, n, item_id, n, made),
            )
        )
        texts = next((row[-1] for row in rows), None)
        files = tuple(sorted((image_file(row[:-1]) for row in rows), key=lambda file: file.role != "image"))
        made_of = "SELECT path FROM derivative WHERE item_id = ? AND n = ? AND state = 'made' AND source_sha256 = ? ORDER BY path"
        derivatives = tuple(
            path for (path,) in connection.execute(made_of, (item_id, n, files[0].sha256 if files else ""))
        )
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
        updated_at=utc(at),
        text=text,
        sidecars=sidecars(files, json.loads(texts) if texts else ()),
        derivatives=derivatives,
    )


def sidecars(files: Sequence[ImageFile], endings: Iterable[str]) -> tuple[str, ...]:
    """Paths of what stands beside a sample's picture, the first of its files."""
    return tuple(os.path.splitext(files[0].path)[0] + ending for ending in endings) if files else ()
