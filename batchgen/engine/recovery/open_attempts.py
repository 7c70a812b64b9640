"""Settles requests, images and chunks of batches that a dead process left: what is recorded is moved into place, what is
whole is adopted, and the rest is uncertain. Chunks that were not sent are resumed or dropped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from batchgen.engine.recovery.receipts import receipt_from_json
from batchgen.engine.settle import late_message, late_pictures, move_into_place, place_recorded, record_and_place
from batchgen.ledger.chunk_writer import ChunkWriter
from batchgen.ledger.chunks import UNSENT_STEPS
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import Receipt, RecordedImage, SpooledPicture
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.planning.batchable import BatchMode
from batchgen.records import ImageFile
from batchgen.store.check import ImageError, check_file
from batchgen.store.local_folder import verify_file
from batchgen.store.spool import sync_file, sync_folder
from batchgen.store.store import Store

Note = Callable[[str], None]
CHUNK_FILE_KINDS = ("jsonl", "results", "inline")  # endings of a chunk's files that are deleted when it is over
BATCH_FOLDER = "batch"  # beside the spool: lines of chunks in progress, and results not settled yet


def move_unplaced(ledger: Ledger, store: Store, images: Sequence[RecordedImage], note: Note) -> None:
    """Move images into place that were recorded and not moved. Those that a bucket refuses now go on waiting, and are tried
    again during the run."""
    store.load_pending(images)
    for attempt, found in groupby(images, key=lambda image: image.attempt):
        recorded = list(found)
        spooled = [image for image in recorded if os.path.exists(store.spooled(image.spool))]
        in_place = [image for image in recorded if image not in spooled and is_in_place(store, image)]
        if not spooled and not in_place:
            ledger.record_placed(attempt)  # in neither place: the survey sees that it is missing
            store.discard_spooled(attempt, [(image.spool, image.file.path) for image in recorded])
        elif place_recorded(ledger, store, attempt, spooled, in_place) and spooled:
            names = ", ".join(image.file.path for image in spooled)
            note(f"{names}: moved into place; an interrupted run had not got that far")


def is_in_place(store: Store, image: RecordedImage) -> bool:
    """Whether an image is in its place. Compares the bytes: another image of the same size may have the name."""
    file = image.file
    return store.verify(file.path, file.sha256) == "right"


def settle_open_attempts(ledger: Ledger, store: Store, note: Note) -> int:
    """Settle requests that were sent and whose end was not recorded. Returns how many are now uncertain.

    Whole images in the spool are adopted, with their usage unknown and their price estimated. Answers with a link stay
    open to be downloaded, and jobs to be asked about. The rest is uncertain: it may have been billed.
    """
    uncertain = 0
    for attempt in ledger.reader.open_attempts():
        partly = attempt.answer is not None and attempt.answer.recorded  # or its receipt says nothing new
        if not partly and settle_by_receipt(ledger, store, attempt, note):
            continue
        if attempt.links:
            continue
        stranded = store.recover_stranded(attempt.id, attempt.started_at)
        if not adopt_spooled(ledger, store, attempt, note, "temporary folder" if stranded else "spool"):
            if attempt.job is not None:
                continue
            uncertain += 1
            message = "the run ended while the request was in flight"
            ledger.end_without_picture(attempt, "uncertain", "interrupted", message)
        for path in stranded:
            os.unlink(path)
    ledger.flush()
    removed = store.clean_spool({image.spool for image in ledger.reader.unplaced()})
    if removed:
        note(f"removed {removed} incomplete file(s) of an interrupted run from the spool")
    return uncertain


def adopt_spooled(ledger: Ledger, store: Store, attempt: OpenAttempt, note: Note, origin: str = "spool") -> bool:
    """Settle a request if the spool has its whole answer, and return whether it has."""
    found = complete_images(store, attempt.id)
    if found and _may_be_incomplete(ledger, store, attempt):
        _move_to_drafts(ledger, store, attempt, found, note)
        found = []
    if found:
        _adopt(ledger, store, attempt, found, note, f"was found in the {origin}")
    return bool(found)


def settle_by_receipt(ledger: Ledger, store: Store, attempt: OpenAttempt, note: Note) -> bool:
    """Settle a request by its receipt, if a process uploaded that and died before recording it. Its images are read
    again. Returns whether there was one."""
    facts = store.read_receipt(attempt.id)
    receipt = None if facts is None else receipt_from_json(facts, attempt)
    if receipt is None:
        return False
    for picture in receipt.pictures:
        file = picture.file
        if (
            verify_file(store.spooled(picture.spool), file.sha256, file.bytes) != "right"
            and store.verify(file.path, file.sha256) != "right"
        ):
            return False
    for picture in receipt.pictures:
        store.uploads.note_uploaded_elsewhere(picture.spool, picture.file.path)
    _record_and_place(ledger, store, attempt, receipt, note, "was on its way to the bucket")
    return True


def _record_and_place(
    ledger: Ledger, store: Store, attempt: OpenAttempt, receipt: Receipt, note: Note, where: str
) -> None:
    recorded, _ = record_and_place(ledger, store, receipt)
    came_late = late_pictures(receipt, recorded)
    then = f"; it {late_message(came_late)}" if came_late else " and need not be bought again"
    note(f"{attempt.item_id}: its image {where}{then}")


def _may_be_incomplete(ledger: Ledger, store: Store, attempt: OpenAttempt) -> bool:
    """Whether the images in the spool may not be the whole answer: more may follow an interim image, and an image of a
    conversation is useless without what the model said, as the next turn could not be requested."""
    wire = json.loads(ledger.reader.wire(attempt.item_id, attempt.n) or "{}")
    return "keep_thoughts" in wire or ("turn" in wire and not os.path.exists(store.turn_path(attempt.id)))


def _move_to_drafts(
    ledger: Ledger, store: Store, attempt: OpenAttempt, found: list[tuple[str, ImageFile]], note: Note
) -> None:
    """Move images to drafts/: they may have been paid for, so people can look at them."""
    drafts = [_draft(store, attempt, k, name, file) for k, (name, file) in enumerate(found)]
    _make_durable(store, found)
    ledger.record_drafts(attempt, drafts)
    move_into_place(ledger, store, attempt.id, drafts)
    names = ", ".join(draft.file.path for draft in drafts)
    note(f"{attempt.item_id}: part of an answer that an interrupted run did not finish is kept as {names}")


def _draft(store: Store, attempt: OpenAttempt, k: int, spool: str, file: ImageFile) -> SpooledPicture:
    path = store.draft_name(attempt.stem, attempt.n, k, attempt.id, file.format)
    return SpooledPicture(attempt.n, k, spool, replace(file, path=path, role="draft"), None)


def _make_durable(store: Store, found: Sequence[tuple[str, ImageFile]]) -> None:
    """Sync images that a killed process may have written and not synced."""
    for name, _ in found:
        sync_file(store.spooled(name))
    sync_folder(store.spool)


def complete_images(store: Store, attempt: int) -> list[tuple[str, ImageFile]]:
    """The spool files of an attempt that are whole images, in the order in which they came."""
    prefix = f"{attempt}."
    there = os.listdir(store.spool) if os.path.isdir(store.spool) else []
    names = sorted((entry for entry in there if entry.startswith(prefix)), key=lambda name: int(name[len(prefix) :]))
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
    ledger: Ledger, store: Store, attempt: OpenAttempt, found: list[tuple[str, ImageFile]], note: Note, where: str
) -> None:
    """Record rescued images. The last ones are the answer's own, earlier ones its drafts."""
    drafts = max(0, len(found) - attempt.images)
    usd = attempt.estimate_usd
    pictures = [_draft(store, attempt, k, name, file) for k, (name, file) in enumerate(found[:drafts])]
    for n, (name, file) in enumerate(found[drafts:], attempt.n):
        path = store.file_name(attempt.stem, n, file.format)
        pictures.append(
            SpooledPicture(
                n, len(pictures), name, replace(file, path=path), None if usd is None else usd / attempt.images
            )
        )
    _make_durable(store, found)
    receipt = Receipt(
        attempt=attempt.id,
        item=attempt.item_id,
        n=attempt.n,
        fingerprint=attempt.fingerprint,
        pictures=tuple(pictures),
        usd=usd,
        usd_source="unknown" if usd is None else "estimate",
    )
    _record_and_place(ledger, store, attempt, receipt, note, where)


def resume_unsent_chunks(ledger: Ledger, root: str, batch_mode: BatchMode, note: Callable[[str], None]) -> None:
    """Resume chunks that an earlier run left unsent, or drop them in a run without batches."""
    dropped = ChunkWriter(ledger).drop_unsent(UNSENT_STEPS if batch_mode == "online" else UNSENT_STEPS[:1])
    if dropped:
        note(f"{dropped:,} request(s) of an interrupted run were in no batch yet and are planned again")
    folder = os.path.join(root, STATE_FOLDER, BATCH_FOLDER)
    kept = {str(chunk.id) for chunk in ledger.reader.open_chunks()}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():  # of finished chunks, left by a run that died
        number, _, kind = name.partition(".")
        if kind in CHUNK_FILE_KINDS and number not in kept:
            os.unlink(os.path.join(folder, name))
