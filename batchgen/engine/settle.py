"""Turns a whole answer into images under their names. The order of writes is one synchronous function, run in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable
from batchgen.engine.recovery.receipts import receipt_to_json
from batchgen.engine.spooled_reply import demote_mismatches, describe, samples_without_image, spool_images, with_price
from batchgen.errors import BatchgenError, LedgerGone, StoreError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import Receipt, RecordedImage, SpooledPicture, UndeliveredSample
from batchgen.ledger.samples import format_utc, sidecars
from batchgen.profiles.price import cost_usd
from batchgen.providers.grounding import search_sources, search_suggestions
from batchgen.records import EMPTY_MAPPING, SIDECARS, Item, Reply, Result, Sample
from batchgen.store.blobs import BucketUnavailable
from batchgen.store.spool import SpoolFile, discard_files, sync_folder
from batchgen.store.store import Store

TEXT, THOUGHTS, SOURCES, SEARCH = SIDECARS
SET_PATH_BY_SPOOL = "UPDATE image SET path = ? WHERE spool = ?"


@dataclass(frozen=True, slots=True)
class SettledReply:
    """What became of an answer. usd: the cost of the whole attempt; missing: samples that it brought no image for.

    beside: texts that belong beside its images, by file ending. recorded_s: when its success was durable, in seconds of
    `time.monotonic()`. late: images that came too late for their sample and are kept elsewhere.
    ledger_error: why the ledger has no record of it, although its images are in their places.
    """

    pictures: tuple[SpooledPicture, ...]
    missing: tuple[UndeliveredSample, ...]
    usd: float | None
    usd_source: str
    beside: Mapping[str, str]
    recorded_s: float
    late: tuple[SpooledPicture, ...] = ()
    ledger_error: LedgerGone | None = None

    @property
    def images_made(self) -> list[SpooledPicture]:
        """The images that now belong to their samples."""
        return [picture for picture in self.pictures if picture.file.role == "image" and picture not in self.late]


def settle(
    ledger: Ledger, store: Store, attempt: AnsweredAttempt, reply: Reply, spooled: Sequence[SpoolFile]
) -> SettledReply:
    """Check, sync, record, place, sync, record. After the second step nothing that was paid for can be lost.

    spooled: the strings that were decoded to disk, by number; images that came as bytes are written here.
    Raises Malformed if an image is not whole and Unreadable for a bug in batchgen, both leaving `spooled` as it was;
    StoreError and LedgerError if the disk or the ledger refuses.
    """
    with bugs_as_unreadable(BatchgenError, OSError, usage=reply.usage):
        parts = spool_images(store, attempt, reply, spooled)
        described = describe(store, attempt, parts, reply.usage)
    judged, mismatched = demote_mismatches(store, attempt, described)
    used = {part.file.name for part in parts}
    discard_files([file for file in spooled if file.name not in used])  # decoded to disk, but not needed
    receipt = _receipt_of(attempt, reply, judged, mismatched)
    pictures = receipt.pictures
    known = (receipt.missing, receipt.usd, receipt.usd_source, receipt.beside)
    open_files = _OpenSpoolFiles(store, [part.file for part in parts], pictures)
    try:
        open_files.secure()
        recorded, recorded_s = record_and_place(ledger, store, receipt, open_files)
        return SettledReply(tuple(recorded), *known, recorded_s, tuple(late_pictures(receipt, recorded)))
    except LedgerGone as gone:
        open_files.restore()
        _place_without_ledger(store, pictures, receipt.beside)
        return SettledReply(pictures, *known, time.monotonic(), ledger_error=gone)
    finally:
        open_files.close()


def _receipt_of(
    attempt: AnsweredAttempt, reply: Reply, pictures: Sequence[SpooledPicture], mismatched: Sequence[UndeliveredSample]
) -> Receipt:
    """The receipt of an answer: its images, its price and each image's share of the price."""
    sample, item = attempt.sample, attempt.sample.item
    billed = sum(picture.file.role != "thought" for picture in pictures) + len(reply.unavailable)
    estimate_usd = None if attempt.estimate_usd is None else attempt.estimate_usd * billed / sample.images
    usd, source = cost_usd(
        attempt.profile, reply.usage, billed, estimate_usd, batch=attempt.batch, tier=item.service_tier
    )
    made = [picture for picture in pictures if picture.file.role == "image"]
    served = {*(picture.n for picture in made), *(left.n for left in mismatched)}
    return Receipt(
        attempt=attempt.id,
        item=item.id,
        n=sample.n,
        fingerprint=sample.fingerprint,
        pictures=tuple(with_price(picture, usd, len(made) + len(reply.unavailable)) for picture in pictures),
        missing=(*mismatched, *samples_without_image(sample, reply, served)),
        usage=reply.usage,
        usd=usd,
        usd_source=source,
        text=reply.text,
        reply_id=reply.reply_id,
        model_version=reply.model_version,
        sent_at=attempt.sent_at,
        beside=sidecar_texts(item, reply),
    )


def sidecar_texts(item: Item, reply: Reply) -> dict[str, str]:
    """The texts that belong beside an image, by file ending: the sources of a search, and text and thoughts if requested."""
    found = search_sources(reply.grounding)
    contents = {
        TEXT: f"{reply.text}\n" if reply.text and "text" in item.modalities else "",
        THOUGHTS: f"{reply.thoughts}\n" if reply.thoughts and item.keep_thoughts else "",
        SOURCES: json.dumps(found, ensure_ascii=False, indent=1) + "\n" if found else "",
        SEARCH: search_suggestions(reply.grounding),
    }
    return {ending: text for ending, text in contents.items() if text}


class _OpenSpoolFiles:
    """The spool files of an answer's images, kept open until the images are in their places, so that a file that somebody
    deletes from the spool before that is not lost."""

    def __init__(self, store: Store, files: Sequence[SpoolFile], pictures: Sequence[SpooledPicture]) -> None:
        self._store = store
        self._files = files
        self._pictures = pictures

    def secure(self) -> None:
        """Make the files durable in the spool. Raises StoreError if they are in the emergency spool or cannot be kept."""
        for file in self._files:
            file.sync(keep_open=True)
        self._refuse_stranded()
        try:
            sync_folder(self._store.spool)
        except StoreError:
            if not self.restore():
                raise

    def restore(self) -> bool:
        """Put files that were deleted back into the spool, and return whether there were any. Raises StoreError."""
        deleted = [file for file in self._files if file.deleted]
        for file in deleted:
            file.sync(keep_open=True)
        self._refuse_stranded()
        if deleted:
            sync_folder(self._store.spool)
        return bool(deleted)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _refuse_stranded(self) -> None:
        if any(file.is_stranded for file in self._files):
            _leave_in_emergency_spool(self._files, self._pictures)


def record_and_place(
    ledger: Ledger, store: Store, receipt: Receipt, open_files: _OpenSpoolFiles | None = None
) -> tuple[Sequence[SpooledPicture], float]:
    """Record the images of an attempt and move them where the ledger says, whichever process has them and however late they
    are. They are already durable in the spool, or where their receipt says. Returns them as recorded, and the time of
    `time.monotonic()` at which that was durable.

    open_files: given for an answer that has just come. Its images go into the bucket first, and if the disk then refuses to
    move them into place, that is reported and not raised: the next run finishes what is recorded.
    """
    supersede_waiting(ledger, store, receipt.pictures)
    away = deposit(store, receipt) if open_files is not None and store.properties.keeps_receipts else None
    recorded = ledger.attempt_succeeded(receipt)
    recorded_s = time.monotonic()
    try:
        move_into_place(ledger, store, receipt.attempt, recorded, receipt.beside, away)
    except (StoreError, OSError) as error:
        if open_files is None:
            raise
        if open_files.restore():
            with contextlib.suppress(StoreError, OSError):
                move_into_place(ledger, store, receipt.attempt, recorded, receipt.beside, away)
        store.report_trouble(error)
    return recorded, recorded_s


def late_pictures(receipt: Receipt, recorded: Sequence[SpooledPicture]) -> list[SpooledPicture]:
    """The images that were recorded under another path than their receipt says."""
    meant = {picture.file.path for picture in receipt.pictures}
    return [picture for picture in recorded if picture.file.path not in meant]


def late_message(pictures: Sequence[SpooledPicture]) -> str:
    names = ", ".join(picture.file.path for picture in pictures)
    return f"arrived after its image had been made or was no longer wanted, and is kept as {names}"


def place_recorded(
    ledger: Ledger, store: Store, attempt: int, spooled: Sequence[RecordedImage], in_place: Sequence[RecordedImage] = ()
) -> bool:
    """Move the images of an attempt that was recorded some time ago, after asking the ledger again where they belong. in_place:
    the images that are there already. Returns what `move_into_place` does."""
    due = ledger.current_placements(spooled)
    for was, now in zip(spooled, due, strict=True):
        if was.file.path != now.file.path and store.pending_uploads.get(was.file.path) == was.spool:
            store.move(was.file.path, now.file.path)
    return move_into_place(ledger, store, attempt, [*due, *in_place], ledger.reader.sidecar_texts(attempt))


def _leave_in_emergency_spool(files: Sequence[SpoolFile], pictures: Sequence[SpooledPicture]) -> None:
    """Leave the images in the emergency spool, as the job's disk has no room. The attempt stays open, and the next run fetches
    them from there. Raises StoreError."""
    for file, picture in zip(files, pictures, strict=True):
        if file.is_stranded:
            with contextlib.suppress(OSError):  # the ending only helps a person to open the file
                named = file.path + os.path.splitext(picture.file.path)[1]
                os.rename(file.path, named)
                file.path = named
            with contextlib.suppress(StoreError):
                sync_folder(os.path.dirname(file.path))
    raise StoreError("the job's disk did not take the image")


def _place_without_ledger(store: Store, pictures: Sequence[SpooledPicture], texts: Mapping[str, str]) -> None:
    """Move the images to their names: without a ledger, only the name can say later what an image is."""
    for picture in pictures:
        store.move_into_place(picture.spool, picture.file.path)
        if picture.file.role == "image":
            store.write_sidecars(picture.file.path, texts)
    store.sync(*(picture.file.path for picture in pictures))


def move_into_place(
    ledger: Ledger,
    store: Store,
    attempt: int,
    pictures: Sequence[SpooledPicture | RecordedImage],
    texts: Mapping[str, str] = EMPTY_MAPPING,
    away: BucketUnavailable | None = None,
) -> bool:
    """Move durable images to the names that the ledger has just given them, and write the texts beside them. Safe to repeat
    after a crash.

    Returns False if they have to wait for their bucket. away: why the bucket is known to refuse them now.
    """
    if not pictures:
        return True
    names = [(picture.spool, picture.file.path) for picture in pictures]
    try:
        if away is not None:
            raise away
        placed = [store.move_into_place(spool, path) for spool, path in names]
        for picture in pictures if texts else ():
            if picture.file.role == "image":
                store.write_sidecars(picture.file.path, texts)
    except BucketUnavailable as error:
        waited, moved = store.add_pending(attempt, names, error)
        by_path = "UPDATE image SET path = ? WHERE path = ? AND attempt_id <> ?"
        ledger.run_statements([(SET_PATH_BY_SPOOL, pair) for pair in waited])
        ledger.run_statements([(by_path, (*pair, attempt)) for pair in moved])
        return False
    displaced = [pair for pair in placed if pair is not None]
    store.sync(*(path for _, path in names), *(new for _, new in displaced))
    ledger.record_placed(attempt, displaced, [(path, store.stamp(spool, path)) for spool, path in names])
    store.discard_spooled(attempt, names)
    return True


def supersede_waiting(ledger: Ledger, store: Store, pictures: Sequence[SpooledPicture]) -> None:
    """Send an earlier image that still waits for one of these names in a bucket to `superseded/`."""
    names = [(picture.spool, picture.file.path) for picture in pictures]
    if displaced := store.uploads.displace_pending(names):
        ledger.run_statements([(SET_PATH_BY_SPOOL, pair) for pair in displaced])


def deposit(store: Store, receipt: Receipt) -> BucketUnavailable | None:
    """Upload the images and their receipt before the ledger records them, so that a process that continues the attempt finds
    them. Returns the reason if the bucket refused, else None."""
    try:
        store.upload_with_receipt(receipt.attempt, receipt.pictures, receipt_to_json(receipt))
    except BucketUnavailable as error:
        return error
    return None


def result_of(sample: Sample, reply: Reply, settled_reply: SettledReply) -> Result:
    """The result of a sample as the ledger has it, if it is the item's only one."""
    item = sample.item
    images_made = next(iter(settled_reply.images_made), None)
    files = tuple(sorted((picture.file for picture in settled_reply.pictures), key=lambda file: file.role != "image"))
    return Result(
        id=item.id,
        n=sample.n,
        state="succeeded",
        model=item.model,
        files=files,
        usd=images_made.usd if images_made else None,
        usd_source=settled_reply.usd_source,
        fingerprint=sample.fingerprint,
        prompt=item.prompt,
        tags=item.tags,
        updated_at=format_utc(time.time()),
        text=reply.text,
        sidecars=sidecars(files, settled_reply.beside),
    )
