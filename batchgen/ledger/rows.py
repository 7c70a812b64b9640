"""How ledger rows become records, shared by the writing and the reading side."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

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


def result(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Result:
    """One `sample` row with its pictures. A sample that has no valid picture now lists none."""
    (item_id, n, state, model, usd, usd_source, reason, message, attempts, fingerprint, wire, tags, at, text, made) = (
        row
    )
    files: tuple[ImageFile, ...] = ()
    if state == "succeeded":
        files = tuple(
            image_file(image)
            for image in connection.execute(
                f"SELECT {IMAGE_COLUMNS} FROM image WHERE item_id = ? AND n = ? AND role IN ('image', 'draft') "
                "AND attempt_id = (SELECT max(attempt_id) FROM image WHERE item_id = ? AND n = ? AND fingerprint = ?) ORDER BY k",
                (item_id, n, item_id, n, made),
            )
        )
        files = tuple(sorted(files, key=lambda file: file.role != "image"))
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
    )
