"""How an attempt, its images and what it costs become rows, for every writer of a ledger, inside its own transaction."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.ledger.database import Connection, upsert_sql
from batchgen.ledger.pictures import SpooledPicture
from batchgen.ledger.requests import parse_linked_answer
from batchgen.ledger.schema import IMAGE_COLUMNS
from batchgen.records import Reply, Sample, Usage

UPSERT_IMAGE = upsert_sql("image", IMAGE_COLUMNS, ("attempt_id", "k"))

_USAGE_FIELDS = (
    "prompt_tokens",
    "image_tokens",
    "text_tokens",
    "thought_tokens",
    "total_tokens",
    "credits",
    "usd",
    "queries",
    "tier",
)


def dump_links(reply: Reply, facts: Mapping[str, Any]) -> str:
    """The links, and what the answer said besides: whoever fetches them has nothing else of it. inline: pictures that came
    before them, in the answer itself."""
    usage = dataclasses.asdict(reply.usage) if reply.usage else None
    said = {"links": list(reply.links), "inline": len(reply.images), "usage": usage, "text": reply.text}
    return json.dumps({**said, "facts": {name: value for name, value in facts.items() if name != "wire"}})


def record_fetched(db: Connection, attempt: int, numbers: Sequence[int]) -> None:
    """These pictures of an answer with links are recorded; the others are fetched later."""
    (text,) = db.execute("SELECT links FROM attempt WHERE id = ?", (attempt,)).fetchone()
    found = json.loads(text)
    said = {"links": found} if isinstance(found, list) else found
    said["recorded"] = sorted({*numbers, *parse_linked_answer(text).recorded})
    db.execute("UPDATE attempt SET links = ? WHERE id = ?", (json.dumps(said), attempt))


def dump_usage(usage: Usage | None) -> str | None:
    if usage is None:
        return None
    return json.dumps({name: value for name in _USAGE_FIELDS if (value := getattr(usage, name))})


def insert_attempt(
    db: Connection,
    run_id: int,
    sample: Sample,
    lane: str,
    number: int,
    estimate_usd: float | None,
    sent_as: str,
    at: float,
    *,
    state: str = "running",
    chunk: tuple[int | None, str | None] = (None, None),
    worker: str | None = None,
) -> int:
    """A request that is about to be sent, and its samples in `state`. chunk: the one it belongs to, and its facts;
    worker: who sends it, when that is not the run."""
    item = sample.item
    cursor = db.execute(
        "INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, estimate_usd,"
        " sent_as, chunk, facts, worker) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            run_id,
            item.id,
            sample.n,
            sample.images,
            number,
            lane,
            sample.fingerprint,
            item.filename,
            at,
            estimate_usd,
            sent_as or None,
            *chunk,
            worker,
        ),
    )
    for n in range(sample.n, sample.n + sample.images):
        db.execute(
            "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, attempts, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (item_id, n) DO UPDATE SET state = excluded.state,"
            " model = excluded.model, tags = excluded.tags, wire = excluded.wire, updated_at = excluded.updated_at,"
            " attempts = CASE WHEN sample.fingerprint = excluded.fingerprint THEN sample.attempts + 1 ELSE 1 END,"
            " fingerprint = excluded.fingerprint, reason = '', message = ''",
            (item.id, n, item.model, ",".join(item.tags), state, sample.fingerprint, sample.wire, at),
        )
    return int(cursor.fetchone()[0])


def insert_blocked(db: Connection, samples: Sequence[tuple[Sample, str]]) -> None:
    at = time.time()
    for sample, why in samples:
        item = sample.item
        db.execute(
            "INSERT INTO sample (item_id, n, model, tags, state, fingerprint, wire, reason, message, updated_at)"
            " VALUES (?, ?, ?, ?, 'blocked', '', ?, 'blocked', ?, ?) ON CONFLICT (item_id, n) DO UPDATE SET"
            " state = 'blocked', reason = 'blocked', message = excluded.message, updated_at = excluded.updated_at",
            (item.id, sample.n, item.model, ",".join(item.tags), sample.wire, why, at),
        )


def insert_image(db: Connection, attempt: int, item_id: str, fingerprint: str, picture: SpooledPicture) -> None:
    """One picture that is durable in the spool and not yet placed."""
    file = picture.file
    db.execute(
        UPSERT_IMAGE,
        (
            attempt,
            picture.k,
            item_id,
            picture.n,
            file.role,
            fingerprint,
            picture.spool,
            file.path,
            0,
            file.sha256,
            file.bytes,
            file.width,
            file.height,
            file.format,
            ",".join(file.flags),
        ),
    )
