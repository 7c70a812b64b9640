"""What a run does before it asks for anything: finish what a dead one left, and bring the folder in line with the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from batchgen.engine.receipt import from_facts, settle_by
from batchgen.engine.settle import make_room, place
from batchgen.engine.survey import Survey
from batchgen.errors import ImageError
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger, Settled
from batchgen.ledger.pictures import StoredImage
from batchgen.ledger.reader import OpenAttempt
from batchgen.profiles.catalogue import Catalogue
from batchgen.profiles.price import estimate_usd
from batchgen.records import ImageFile, Item, Reply, Sample
from batchgen.store.bucket import BucketStore
from batchgen.store.check import check_file
from batchgen.store.spool import sync_file, sync_folder
from batchgen.store.store import SUPERSEDED, Store

Change = tuple[str, tuple[Any, ...]]
Note = Callable[[str], None]


def finish_placing(ledger: Ledger, store: Store, note: Note) -> None:
    """Pictures that were recorded and not moved to their names."""
    place_left(ledger, store, ledger.reader.unplaced(), note)


def place_left(ledger: Ledger, store: Store, images: Sequence[StoredImage], note: Note) -> None:
    attempts: dict[int, list[tuple[str, str]]] = {}
    paths: list[str] = []
    if isinstance(store, BucketStore):
        _finish_uploading(ledger, store, images, note)
        return
    for image in images:
        moved = attempts.setdefault(image.attempt, [])
        if os.path.exists(store.spooled(image.spool)):
            made_way = store.place(image.spool, image.file.path)
            if made_way is not None:
                moved.append(made_way)
            note(f"{image.file.path}: finished what an interrupted run had begun")
        if store.has(image.file.path, image.file.bytes):
            paths.append(image.file.path)
            if image.file.role == "image":
                store.write_beside(image.file.path, ledger.reader.beside(image.attempt))
    store.sync(*paths, *(new for moved in attempts.values() for _, new in moved))
    for attempt, moved in attempts.items():
        ledger.placed(attempt, moved)


def _finish_uploading(ledger: Ledger, store: BucketStore, unplaced: Sequence[StoredImage], note: Note) -> None:
    """The same for a bucket. What it does not take now waits on, and is tried again while the run goes on."""
    store.take_up(unplaced)
    for attempt, found in groupby(unplaced, key=lambda image: image.attempt):
        images = list(found)
        if all(os.path.exists(store.spooled(image.spool)) or store.has(*_place_of(image)) for image in images):
            if place(ledger, store, attempt, images, ledger.reader.beside(attempt)):
                note(f"{', '.join(image.file.path for image in images)}: uploaded, as an earlier run had not")
        else:
            ledger.placed(attempt)  # gone from both: the survey sees that it is missing
            store.forget_placed(attempt, [(image.spool, image.file.path) for image in images])


def _place_of(image: StoredImage) -> tuple[str, int]:
    return image.file.path, image.file.bytes


def settle_open_attempts(ledger: Ledger, store: Store, catalogue: Catalogue, note: Note) -> int:
    """Requests that were sent and whose end was not recorded. Answers how many are uncertain now.

    Whole pictures in the spool are adopted, their usage unknown and their price estimated. Answers with a link stay open
    to be fetched. The rest is uncertain: it may have been billed.
    """
    uncertain = 0
    for attempt in ledger.reader.open_attempts():
        partly = attempt.answer is not None and attempt.answer.recorded  # else its receipt tells nothing new
        if isinstance(store, BucketStore) and not partly and settled_by_receipt(ledger, store, attempt):
            note(f"{attempt.item_id}: its picture was on its way to the bucket and needs not be bought again")
            continue
        if attempt.links:
            continue
        stranded = store.bring_back(attempt.id, attempt.started_at)
        if not adopted(ledger, store, catalogue, attempt, note, "temporary folder" if stranded else "spool"):
            uncertain += 1
            _mark_uncertain(ledger, attempt)
        for path in stranded:
            os.unlink(path)
    ledger.catch_up()
    removed = store.forget_spool({image.spool for image in ledger.reader.unplaced()})
    if removed:
        note(f"removed {removed} incomplete file(s) of an interrupted run from the spool")
    return uncertain


def adopted(
    ledger: Ledger, store: Store, catalogue: Catalogue, attempt: OpenAttempt, note: Note, place: str = "spool"
) -> bool:
    """Whether the spool has the whole answer to a request, which is settled then."""
    found = whole_pictures(store, attempt.id)
    if found and _may_be_half(ledger, store, attempt):
        _set_drafts_aside(store, attempt, found, note)
        found = []
    if found:
        _adopt(ledger, store, catalogue, attempt, found)
        note(f"{attempt.item_id}: its picture was found in the {place} and needs not be bought again")
    return bool(found)


def settled_by_receipt(ledger: Ledger, store: BucketStore, attempt: OpenAttempt) -> bool:
    """Whether a process deposited this attempt and died before the ledger heard of it. Its pictures are read again."""
    facts = store.receipt(attempt.id)
    receipt = None if facts is None else from_facts(facts, attempt)
    if receipt is None:
        return False
    for picture in receipt.pictures:
        try:
            with open(store.spooled(picture.spool), "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            try:
                found = store.sha256(picture.file.path)
            except FileNotFoundError:
                return False
        if found != picture.file.sha256:
            return False
    make_room(ledger, store, receipt.pictures)
    settle_by(receipt, ledger, bare_sample(attempt))
    place(ledger, store, attempt.id, receipt.pictures, receipt.beside)
    return True


def _may_be_half(ledger: Ledger, store: Store, attempt: OpenAttempt) -> bool:
    """Whether what is in the spool cannot be taken for the answer: the answer may go on behind an interim picture, and a
    picture of a conversation without what the model said serves nobody, for the next turn could not be asked for."""
    wire = json.loads(ledger.reader.wire(attempt.item_id, attempt.n) or "{}")
    return "keep_thoughts" in wire or ("turn" in wire and not os.path.exists(store.turn_path(attempt.id)))


def _set_drafts_aside(store: Store, attempt: OpenAttempt, found: list[tuple[str, ImageFile]], note: Note) -> None:
    """They may have been paid for, so they stay to be looked at."""
    paths = []
    for k, (name, file) in enumerate(found):
        paths.append(store.draft_name(attempt.stem, attempt.n, k, attempt.id, file.format))
        store.place(name, paths[-1])
    store.sync(*paths)
    note(f"{attempt.item_id}: part of an answer that an interrupted run did not finish is kept as {', '.join(paths)}")


def whole_pictures(store: Store, attempt: int) -> list[tuple[str, ImageFile]]:
    """Spool files of an attempt that are whole pictures, in the order in which they came."""
    prefix = f"{attempt}."
    names = sorted(
        (entry for entry in os.listdir(store.spool) if entry.startswith(prefix)),
        key=lambda name: int(name[len(prefix) :]),
    )
    found = []
    for name in names:
        path = store.spooled(name)
        try:
            checked = check_file(path)
        except ImageError:
            continue
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(
            (
                name,
                ImageFile(
                    path="",
                    sha256=digest,
                    bytes=os.path.getsize(path),
                    width=checked.width,
                    height=checked.height,
                    format=checked.format,
                ),
            )
        )
    return found


def _adopt(
    ledger: Ledger, store: Store, catalogue: Catalogue, attempt: OpenAttempt, found: list[tuple[str, ImageFile]]
) -> None:
    """Record and place rescued pictures. The last ones are the answer's own, earlier ones its drafts."""
    from dataclasses import replace

    drafts = max(0, len(found) - attempt.images)
    profile = catalogue.resolve(attempt.lane.split("/", 1)[1])
    usd = estimate_usd(profile, None, attempt.images) if attempt.estimate_usd is None else attempt.estimate_usd
    pictures: list[Settled] = []
    for k, (name, file) in enumerate(found):
        n = attempt.n + max(0, k - drafts)
        path = (
            store.draft_name(attempt.stem, attempt.n, k, attempt.id, file.format)
            if k < drafts
            else store.name(attempt.stem, n, file.format)
        )
        pictures.append(
            Settled(
                n,
                k,
                name,
                replace(file, path=path, role="draft" if k < drafts else "image"),
                None if usd is None or k < drafts else usd / attempt.images,
            )
        )
    for name, _ in found:
        sync_file(store.spooled(name))  # a process that was killed may have written and not synced it
    sync_folder(store.spool)
    make_room(ledger, store, pictures)
    ledger.attempt_succeeded(
        attempt.id, bare_sample(attempt), Reply(), pictures, sent_at=None, usd=usd, usd_source="estimate"
    )
    place(ledger, store, attempt.id, pictures)


def bare_sample(attempt: OpenAttempt) -> Sample:
    """As much of it as an attempt's own columns tell."""
    item = Item(id=attempt.item_id, prompt="", model="", provider="", filename=attempt.stem)
    return Sample(item=item, n=attempt.n, fingerprint=attempt.fingerprint, wire="", images=attempt.images)


def _mark_uncertain(ledger: Ledger, attempt: OpenAttempt) -> None:
    at = time.time()
    message = "the run ended while the request was in flight"
    changes: list[Change] = [
        (
            "UPDATE attempt SET outcome = 'uncertain', reason = 'interrupted', message = ?, maybe_billed = 1, ended_at = ? WHERE id = ?",
            (message, at, attempt.id),
        ),
    ]
    changes += [
        (
            "UPDATE sample SET state = 'uncertain', reason = 'interrupted', message = ?, updated_at = ?"
            " WHERE item_id = ? AND n = ? AND state = 'running'",
            (message, at, attempt.item_id, n),
        )
        for n in range(attempt.n, attempt.n + attempt.images)
    ]
    ledger.apply(changes)


def apply_survey(ledger: Ledger, store: Store, survey: Survey, backlog: Backlog) -> None:
    """Note what is blocked; move what the manifest no longer wants to `superseded/`, and what it wants again to its name."""
    while blocked := backlog.take_blocked(500):
        ledger.blocked(blocked)
    at = time.time()
    _set_aside(ledger, store, survey, at)
    made_way_to: dict[str, str] = {}  # two items may have swapped names
    for move in survey.moves:
        old = made_way_to.get(move.old, move.old)
        if old != move.new:
            made_way = store.supersede(move.new)
            if made_way is not None:
                made_way_to[made_way[0]] = made_way[1]
                ledger.apply(
                    [
                        ("UPDATE image SET path = ? WHERE path = ?", (made_way[1], made_way[0])),
                        ("UPDATE sample SET path = ? WHERE path = ?", (made_way[1], made_way[0])),
                    ]
                )
            store.move(old, move.new)
            store.sync(old, move.new)  # each is durable before the next takes a name that it has left
        sample = move.sample
        changes: list[Change] = [
            ("UPDATE image SET path = ? WHERE path = ?", (move.new, old)),
            (
                "UPDATE sample SET state = 'succeeded', path = ?, bytes = ?, fingerprint = ?, made_fingerprint = ?, wire = ?, model = ?,"
                " reason = '', message = '', updated_at = ? WHERE item_id = ? AND n = ?",
                (
                    move.new,
                    move.bytes,
                    sample.fingerprint,
                    sample.fingerprint,
                    sample.wire,
                    sample.item.model,
                    at,
                    sample.item.id,
                    sample.n,
                ),
            ),
        ]
        marked = (sample.fingerprint, sample.item.id, sample.n)  # what a repair without the manifest could not tell
        changes.append(("UPDATE image SET fingerprint = ? WHERE item_id = ? AND n = ? AND fingerprint = ''", marked))
        ledger.apply(changes)


def _set_aside(ledger: Ledger, store: Store, survey: Survey, at: float) -> None:
    """All are moved, then made durable, then recorded at once."""
    changes: list[Change] = []
    moved: list[str] = []
    for item_id, n, path in survey.removed:
        pair = store.supersede(path) if path and os.path.dirname(path) != SUPERSEDED else None
        moved += pair or ()
        new = pair[1] if pair else path
        changes += [
            (
                "UPDATE sample SET state = 'superseded', path = ?, updated_at = ? WHERE item_id = ? AND n = ?",
                (new, at, item_id, n),
            ),
            ("UPDATE image SET path = ? WHERE path = ? AND item_id = ?", (new, path, item_id)),
        ]
    store.sync(*moved)
    ledger.apply(changes)
