"""What every writer of a ledger does inside its own transaction: writes an attempt, its images and their cost as rows,
and decides whether an image that has come, or a request without one, still counts, and where the image goes."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchgen.ledger.database import Connection, upsert_sql
from batchgen.ledger.pictures import Receipt, RecordedImage, SpooledPicture
from batchgen.ledger.requests import IntendedRequest, OpenAttempt, parse_linked_answer
from batchgen.ledger.schema import IMAGE_COLUMNS
from batchgen.records import HAS_IMAGE, Reply, Sample, Usage, is_judge_id
from batchgen.store.stored_files import DRAFTS, SUPERSEDED

# The others are behind links.
HAS_PICTURES_SQL = "(links IS NOT NULL AND EXISTS (SELECT 1 FROM image i WHERE i.attempt_id = attempt.id))"
UPSERT_IMAGE = upsert_sql("image", IMAGE_COLUMNS, ("attempt_id", "k"))


ASKED_SAMPLE_COLUMNS = "item_id, n, model, tags, state, fingerprint, wire, attempts, updated_at"
ASKED_SAMPLE_CONFLICT = (
    "ON CONFLICT (item_id, n) DO UPDATE SET state = excluded.state,"
    " model = excluded.model, tags = excluded.tags, wire = excluded.wire, updated_at = excluded.updated_at,"
    " attempts = CASE WHEN sample.fingerprint = excluded.fingerprint THEN sample.attempts + 1 ELSE 1 END,"
    " fingerprint = excluded.fingerprint, reason = '', message = ''"
)


def dump_links(reply: Reply, facts: Mapping[str, Any]) -> str:
    """The links as JSON, with everything else the answer said, as whoever downloads them has nothing else of it.
    inline: the images before them, in the answer itself."""
    usage = dataclasses.asdict(reply.usage) if reply.usage else None
    said = {"links": list(reply.links), "inline": len(reply.images), "usage": usage, "text": reply.text}
    return json.dumps({**said, "facts": {name: value for name, value in facts.items() if name != "wire"}})


def record_fetched(db: Connection, attempt: int, numbers: Sequence[int]) -> None:
    """Note that these images of an answer with links are recorded; the others are downloaded later."""
    (text,) = db.execute("SELECT links FROM attempt WHERE id = ?", (attempt,)).fetchone()
    found = json.loads(text)
    said = {"links": found} if isinstance(found, list) else found
    said["recorded"] = sorted({*numbers, *parse_linked_answer(text).recorded})
    db.execute("UPDATE attempt SET links = ? WHERE id = ?", (json.dumps(said), attempt))


def dump_usage(usage: Usage | None) -> str | None:
    if usage is None:
        return None
    counts = {field.name: getattr(usage, field.name) for field in dataclasses.fields(usage)}
    return json.dumps({name: count for name, count in counts.items() if count})


def insert_attempt(
    db: Connection,
    run_id: int,
    request: IntendedRequest,
    at: float,
    *,
    chunk: int | None = None,
    worker: str | None = None,
) -> int:
    """Insert a request and its samples. chunk: the one it belongs to; worker: the sender, if it is not the run."""
    sample, item = request.sample, request.sample.item
    state = "running" if chunk is None else "submitted"
    cursor = db.execute(
        "INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, estimate_usd,"
        " sent_as, chunk, facts, worker) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            *(run_id, item.id, sample.n, sample.images, request.number, request.lane, sample.fingerprint),
            *(item.filename, at, request.estimate_usd, request.sent_as or None, chunk),
            *(json.dumps(request.facts) if request.facts else None, worker),
        ),
    )
    for n in () if is_judge_id(item.id) else range(sample.n, sample.n + sample.images):
        db.execute(
            f"INSERT INTO sample ({ASKED_SAMPLE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?) {ASKED_SAMPLE_CONFLICT}",
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
    """Insert an image that is durable in the spool and not moved into place yet."""
    file = picture.file
    db.execute(
        UPSERT_IMAGE,
        (
            *(attempt, picture.k, item_id, picture.n, file.role, fingerprint, picture.spool, file.path, 0),
            *(file.sha256, file.bytes, file.width, file.height, file.format, ",".join(file.flags)),
        ),
    )


def accept_picture(db: Connection, receipt: Receipt, picture: SpooledPicture, at: float) -> bool:
    """Whether the sample accepts an image: it does if it still waits for one of exactly this request. One whose image
    was rejected waits for none until somebody requests it again. The first to come is accepted; question and answer are
    one statement, so that of two writers one is first."""
    file = picture.file
    taken = db.execute(
        "UPDATE sample SET state = 'succeeded', path = ?, bytes = ?, made_fingerprint = fingerprint, usd = ?,"
        " usd_source = ?, reason = '', message = '', text = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        " AND fingerprint = ? AND state NOT IN ('succeeded', 'rejected', 'superseded') RETURNING n",
        (
            *(file.path, file.bytes, picture.usd, receipt.usd_source, receipt.text, at),
            *(receipt.item, picture.n, receipt.fingerprint),
        ),
    ).fetchone()
    return taken is not None


def classify_unaccepted(db: Connection, receipt: Receipt, picture: SpooledPicture) -> SpooledPicture:
    """What an image counts as. If its sample has an image from another attempt, it is a draft; if the sample now has
    another request, or none, it goes to `superseded/`, from where it may come back."""
    row = db.execute(
        "SELECT fingerprint, state FROM sample WHERE item_id = ? AND n = ?", (receipt.item, picture.n)
    ).fetchone()
    wanted, state = row or ("", "superseded")
    if wanted != receipt.fingerprint or state == "superseded":
        path = superseded_path(picture.file.path, receipt.attempt, picture.k)
        return replace(picture, file=replace(picture.file, path=path))
    if state not in HAS_IMAGE:
        return picture
    stem, ending = os.path.splitext(os.path.basename(picture.file.path))
    path = f"{DRAFTS}/{stem}.{receipt.attempt}-{picture.k}{ending}"
    return replace(picture, file=replace(picture.file, path=path, role="draft"), usd=None)


def superseded_path(path: str, attempt: int, k: int) -> str:
    """The name in `superseded/` of an image that never had its own."""
    stem, ending = os.path.splitext(os.path.basename(path))
    return f"{SUPERSEDED}/{stem}.{attempt}.{k}{ending}"


def unplaced_duplicates(db: Connection, attempt: int, pictures: Sequence[SpooledPicture]) -> Sequence[SpooledPicture]:
    """These images as they were recorded before, if all of them still have to be moved into place and have the same
    bytes."""
    sql = "SELECT k, sha256, path, role FROM image WHERE attempt_id = ? AND placed = 0"
    recorded = {(k, sha256): {"path": path, "role": role} for k, sha256, path, role in db.execute(sql, (attempt,))}
    found = [
        replace(picture, file=replace(picture.file, **recorded[key]))
        for picture in pictures
        if (key := (picture.k, picture.file.sha256)) in recorded
    ]
    return found if len(found) == len(recorded) else []


def current_placement(db: Connection, image: RecordedImage) -> RecordedImage:
    """Where an image belongs now, which is recorded if it has changed."""
    current = db.execute(
        "SELECT 1 FROM sample s WHERE s.item_id = ? AND s.n = ? AND s.state <> 'superseded' AND s.made_fingerprint ="
        " (SELECT fingerprint FROM image WHERE attempt_id = ? AND k = ?) AND NOT EXISTS (SELECT 1 FROM image later"
        " WHERE later.item_id = s.item_id AND later.n = s.n AND later.role = 'image' AND later.attempt_id > ?"
        " AND later.fingerprint = s.made_fingerprint)",
        (image.item_id, image.n, image.attempt, image.k, image.attempt),
    ).fetchone()
    if current is not None or image.file.path.startswith(f"{SUPERSEDED}/"):
        return image
    path = superseded_path(image.file.path, image.attempt, image.k)
    db.execute("UPDATE image SET path = ? WHERE attempt_id = ? AND k = ?", (path, image.attempt, image.k))
    return replace(image, file=replace(image.file, path=path))


# --- no image


def end_sample(db: Connection, attempt: int, item_id: str, n: int, end: tuple[str, str, str], at: float) -> None:
    """Record that an attempt brought no image for this sample. The sample keeps its (state, reason, message) if it has
    an image from another attempt, if a later attempt is to bring it, or if nobody asks for this image any more."""
    db.execute(
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        " AND state NOT IN ('succeeded', 'rejected', 'superseded') AND fingerprint = (SELECT fingerprint FROM attempt WHERE id = ?)"
        " AND NOT EXISTS (SELECT 1 FROM attempt later WHERE later.id > ?"
        " AND later.item_id = ? AND later.n <= ? AND ? < later.n + later.images)",
        (*end, at, item_id, n, attempt, attempt, item_id, n, n),
    )


def end_attempt(db: Connection, attempt: OpenAttempt, outcome: str, reason: str, message: str) -> bool:
    """End an open request and those of its samples that have no image; it may have been billed. A request that brought
    some of its images has succeeded. Returns False if it had already ended."""
    at = time.time()
    first = db.execute(
        f"UPDATE attempt SET outcome = CASE WHEN {HAS_PICTURES_SQL} THEN 'succeeded' ELSE ? END, reason = ?, message = ?,"
        f" maybe_billed = CASE WHEN {HAS_PICTURES_SQL} THEN 0 ELSE 1 END, ended_at = ? WHERE id = ? AND outcome IS NULL RETURNING id",
        (outcome, reason, message, at, attempt.id),
    ).fetchone()
    for n in range(attempt.n, attempt.n + attempt.images) if first is not None else ():
        end_sample(db, attempt.id, attempt.item_id, n, (outcome, reason, message), at)
    return first is not None
