"""What the ledger says of a picture that has come, or of a request that brings none: whether it still counts, and where it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from batchgen.ledger.database import Connection
from batchgen.ledger.pictures import RecordedImage, SpooledPicture
from batchgen.ledger.requests import OpenAttempt
from batchgen.records import Sample
from batchgen.store.stored_files import DRAFTS, SUPERSEDED

# The others are behind links.
HAS_PICTURES_SQL = "(links IS NOT NULL AND EXISTS (SELECT 1 FROM image i WHERE i.attempt_id = attempt.id))"


def accept_picture(
    db: Connection, sample: Sample, picture: SpooledPicture, usd_source: str, text: str, at: float
) -> bool:
    """Whether the sample takes the picture: it does when it still waits for one, of just this request. The first to come is
    taken; the question and its answer are one statement, so that of two writers one is the first."""
    file = picture.file
    taken = db.execute(
        "UPDATE sample SET state = 'succeeded', path = ?, bytes = ?, made_fingerprint = fingerprint, usd = ?,"
        " usd_source = ?, reason = '', message = '', text = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        " AND fingerprint = ? AND state NOT IN ('succeeded', 'superseded') RETURNING n",
        (file.path, file.bytes, picture.usd, usd_source, text, at, sample.item.id, picture.n, sample.fingerprint),
    ).fetchone()
    return taken is not None


def classify_unaccepted(db: Connection, attempt: int, sample: Sample, picture: SpooledPicture) -> SpooledPicture:
    """The picture as it counts. A sample that has its picture by another attempt makes this one a draft; one that is asked
    for differently by now, or not at all, has it in `superseded/`, from where it may come back."""
    row = db.execute(
        "SELECT fingerprint, state FROM sample WHERE item_id = ? AND n = ?", (sample.item.id, picture.n)
    ).fetchone()
    wanted, state = row or ("", "superseded")
    if wanted != sample.fingerprint or state == "superseded":
        path = superseded_path(picture.file.path, attempt, picture.k)
        return replace(picture, file=replace(picture.file, path=path))
    if state != "succeeded":
        return picture
    stem, ending = os.path.splitext(os.path.basename(picture.file.path))
    path = f"{DRAFTS}/{stem}.{attempt}-{picture.k}{ending}"
    return replace(picture, file=replace(picture.file, path=path, role="draft"), usd=None)


def superseded_path(path: str, attempt: int, k: int) -> str:
    """The name in `superseded/` of a picture that never had its own."""
    stem, ending = os.path.splitext(os.path.basename(path))
    return f"{SUPERSEDED}/{stem}.{attempt}.{k}{ending}"


def unplaced_duplicates(db: Connection, attempt: int, pictures: Sequence[SpooledPicture]) -> Sequence[SpooledPicture]:
    """These pictures as they were recorded before, when all of them are still to be placed and these are their very bytes."""
    sql = "SELECT k, sha256, path, role FROM image WHERE attempt_id = ? AND placed = 0"
    recorded = {(k, sha256): {"path": path, "role": role} for k, sha256, path, role in db.execute(sql, (attempt,))}
    found = [
        replace(picture, file=replace(picture.file, **recorded[key]))
        for picture in pictures
        if (key := (picture.k, picture.file.sha256)) in recorded
    ]
    return found if len(found) == len(recorded) else []


def current_placement(db: Connection, image: RecordedImage) -> RecordedImage:
    """As it is to be placed now; recorded where that is somewhere else."""
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


# --- no picture


def end_sample(db: Connection, attempt: int, item_id: str, n: int, end: tuple[str, str, str], at: float) -> None:
    """An attempt has brought no picture for this sample. Its (state, reason, message) stays as it is when the sample has its
    picture from another attempt, when a later one is to bring it, and when nobody asks for this picture any more."""
    db.execute(
        "UPDATE sample SET state = ?, reason = ?, message = ?, updated_at = ? WHERE item_id = ? AND n = ?"
        " AND state NOT IN ('succeeded', 'superseded') AND fingerprint = (SELECT fingerprint FROM attempt WHERE id = ?)"
        " AND NOT EXISTS (SELECT 1 FROM attempt later WHERE later.id > ?"
        " AND later.item_id = ? AND later.n <= ? AND ? < later.n + later.images)",
        (*end, at, item_id, n, attempt, attempt, item_id, n, n),
    )


def end_attempt(db: Connection, attempt: OpenAttempt, outcome: str, reason: str, message: str) -> bool:
    """An open request ends, and so do those of its samples that have no picture; it may have been billed. One that has
    brought some of its pictures has succeeded. False when it has ended meanwhile."""
    at = time.time()
    first = db.execute(
        f"UPDATE attempt SET outcome = CASE WHEN {HAS_PICTURES_SQL} THEN 'succeeded' ELSE ? END, reason = ?, message = ?,"
        f" maybe_billed = CASE WHEN {HAS_PICTURES_SQL} THEN 0 ELSE 1 END, ended_at = ? WHERE id = ? AND outcome IS NULL RETURNING id",
        (outcome, reason, message, at, attempt.id),
    ).fetchone()
    for n in range(attempt.n, attempt.n + attempt.images) if first is not None else ():
        end_sample(db, attempt.id, attempt.item_id, n, (outcome, reason, message), at)
    return first is not None
