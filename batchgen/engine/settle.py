"""From a whole answer to pictures under their names: the order of writes, in one synchronous function for a thread."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from batchgen.engine.recovery.receipts import Receipt, receipt_of, settle_by, to_facts
from batchgen.engine.sidecars import beside
from batchgen.errors import BatchgenError, ImageError, LedgerGone, Malformed, StoreError, Unreadable
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.pictures import Missing, Settled, StoredImage
from batchgen.ledger.rows import sidecars, utc
from batchgen.os_errors import refusal
from batchgen.profiles.price import cost_usd
from batchgen.profiles.profile import Profile
from batchgen.records import EMPTY, ImageFile, Reply, ReplyImage, Result, Sample, Usage
from batchgen.store.bucket import BucketStore
from batchgen.store.check import PIECE_BYTES, Checked, check_bytes, check_file, mismatch
from batchgen.store.objects import BucketAway
from batchgen.store.spool import SpoolFile, disk_error, sync_folder
from batchgen.store.store import Store

BY_SPOOL = "UPDATE image SET path = ? WHERE spool = ?"


@dataclass(frozen=True, slots=True)
class Stored:
    """What an answer became. usd: of the whole attempt; missing: samples it brought no picture for.

    recorded_s: when its success was durable, seconds of `time.monotonic()`. late: those of its pictures that no sample took.
    unrecorded: why the ledger does not have it, although its pictures stand under their names.
    """

    pictures: tuple[Settled, ...]
    missing: tuple[Missing, ...]
    usd: float | None
    usd_source: str
    recorded_s: float
    late: tuple[Settled, ...] = ()
    unrecorded: LedgerGone | None = None

    @property
    def made(self) -> list[Settled]:
        """The pictures that are their samples' now."""
        return [picture for picture in self.pictures if picture.file.role == "image" and picture not in self.late]


def settle(
    ledger: Ledger,
    store: Store,
    profile: Profile,
    attempt: int,
    sample: Sample,
    reply: Reply,
    spooled: Sequence[SpoolFile],
    sent_at: float | None,
    estimate_usd: float | None,
    *,
    batch: bool = False,
) -> Stored:
    """Check, sync, record, place, sync, record. After the second step nothing that was paid for can be lost.

    spooled: the strings lifted from the answer, by number; pictures that came as bytes are written here. estimate_usd: of
    the request as it was sent, which is what it cost when the answer does not say.
    Raises Malformed when a picture is not whole and Unreadable for a bug of ours, both with `spooled` as it was;
    StoreError and LedgerError when disk or ledger refuse. batch: at the price of the batch API.
    """
    with our_bugs(BatchgenError, OSError, usage=reply.usage):
        parts = _to_disk(store, attempt, sample, reply, spooled)
        pictures = _describe(store, profile, attempt, sample, parts, reply.usage)
    pictures, unlike = _judged(store, attempt, sample, pictures)
    used = {part.file.name for part in parts}
    discard([file for file in spooled if file.name not in used])  # lifted, and not wanted
    item = sample.item
    billed = sum(picture.file.role != "thought" for picture in pictures) + len(reply.absent)
    estimate_usd = None if estimate_usd is None else estimate_usd * billed / sample.images
    usd, source = cost_usd(profile, reply.usage, billed, estimate_usd, batch=batch, tier=item.service_tier)
    made = [picture for picture in pictures if picture.file.role == "image"]
    pictures = [_priced(picture, usd, len(made) + len(reply.absent)) for picture in pictures]
    missing = (*unlike, *_missing(sample, reply, {*(picture.n for picture in made), *(left.n for left in unlike)}))
    receipt = receipt_of(
        attempt, sample, reply, pictures, missing, price=(usd, source), sent_at=sent_at, beside=beside(item, reply)
    )
    held = _Held(store, [part.file for part in parts], pictures)
    try:
        held.secure()
        recorded, recorded_s = conclude(ledger, store, sample, receipt, held)
        return Stored(tuple(recorded), missing, usd, source, recorded_s, tuple(late(receipt, recorded)))
    except LedgerGone as gone:
        held.restore()
        _place_unrecorded(store, pictures, receipt.beside)
        return Stored(tuple(pictures), missing, usd, source, time.monotonic(), unrecorded=gone)
    finally:
        held.close()


class _Held:
    """The files of an answer's pictures, open until these stand under their names: what somebody deletes from the spool
    before that is not lost."""

    def __init__(self, store: Store, files: Sequence[SpoolFile], pictures: Sequence[Settled]) -> None:
        self._store = store
        self._files = files
        self._pictures = pictures

    def secure(self) -> None:
        """Durable in the spool. Raises StoreError when they lie elsewhere or cannot be kept."""
        for file in self._files:
            file.sync(keep_open=True)
        self._refuse_stranded()
        try:
            sync_folder(self._store.spool)
        except StoreError:
            if not self.restore():
                raise

    def restore(self) -> bool:
        """Whether some were deleted, and are in the spool again. Raises StoreError."""
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
        if any(file.stranded for file in self._files):
            _leave_outside(self._files, self._pictures)


def conclude(
    ledger: Ledger, store: Store, sample: Sample, receipt: Receipt, held: _Held | None = None
) -> tuple[Sequence[Settled], float]:
    """Record what an attempt has brought, and do with its pictures what the ledger answers: whoever has them, and however
    late. Durable in the spool they are already, or where their receipt says. Answers them as they were recorded, and when
    (`time.monotonic()`).

    held: of an answer that has just come. It goes into the bucket first; and a disk that does not let its pictures have
    their names is told of and not raised, for the next run finishes what is recorded.
    """
    make_room(ledger, store, receipt.pictures)
    away = deposit(store, receipt) if held is not None and isinstance(store, BucketStore) else None
    recorded = settle_by(receipt, ledger, sample)
    recorded_s = time.monotonic()
    try:
        place(ledger, store, receipt.attempt, recorded, receipt.beside, away)
    except (StoreError, OSError) as error:
        if held is None:
            raise
        if held.restore():
            with contextlib.suppress(StoreError, OSError):
                place(ledger, store, receipt.attempt, recorded, receipt.beside, away)
        store.rescue.tell(error if isinstance(error, StoreError) else disk_error(error, store.root))
    return recorded, recorded_s


def late(receipt: Receipt, recorded: Sequence[Settled]) -> list[Settled]:
    """Pictures that go elsewhere than whoever brought them had meant."""
    meant = {picture.file.path for picture in receipt.pictures}
    return [picture for picture in recorded if picture.file.path not in meant]


def late_words(pictures: Sequence[Settled]) -> str:
    names = ", ".join(picture.file.path for picture in pictures)
    return f"arrived after its image had been made or was no longer wanted, and is kept as {names}"


def finish(
    ledger: Ledger, store: Store, attempt: int, spooled: Sequence[StoredImage], stands: Sequence[StoredImage] = ()
) -> bool:
    """Place what of an attempt was recorded some time ago: the ledger is asked again where its spooled pictures go. stands:
    those that are in their places. Answers as `place` does."""
    due = ledger.to_place(spooled)
    for was, now in zip(spooled, due, strict=True):
        if was.file.path != now.file.path and store.waiting.get(was.file.path) == was.spool:
            store.move(was.file.path, now.file.path)
    return place(ledger, store, attempt, [*due, *stands], ledger.reader.beside(attempt))


@contextlib.contextmanager
def our_bugs(*foreseen: type[Exception], usage: Usage | None = None, kept: bool = True) -> Iterator[None]:
    """Any exception but the foreseen ones costs one sample and not the run. Raises Unreadable.

    kept: whether the caller keeps the answer.
    """
    try:
        yield
    except foreseen:
        raise
    except Exception as error:
        rest = "; the answer is kept and can be read again without buying it" if kept else ""
        why = refusal(error) or "a bug of batchgen or of its codec"
        message = f"{type(error).__name__} in reading the answer: {why}{rest}"
        raise Unreadable(message, http_status=200, usage=usage) from error


def _leave_outside(files: Sequence[SpoolFile], pictures: Sequence[Settled]) -> None:
    """The job's disk has no room: the attempt stays open, and the next run brings its pictures back. Raises StoreError."""
    for file, picture in zip(files, pictures, strict=True):
        if file.stranded:
            with contextlib.suppress(OSError):  # an ending is only for whoever wants to look at it
                named = file.path + os.path.splitext(picture.file.path)[1]
                os.rename(file.path, named)
                file.path = named
            with contextlib.suppress(StoreError):
                sync_folder(os.path.dirname(file.path))
    raise StoreError("the job's disk did not take the picture")


def _place_unrecorded(store: Store, pictures: Sequence[Settled], texts: Mapping[str, str]) -> None:
    """There is no ledger that could say later what lies in the spool: under its name a picture says so itself."""
    for picture in pictures:
        store.place(picture.spool, picture.file.path)
        if picture.file.role == "image":
            store.write_beside(picture.file.path, texts)
    store.sync(*(picture.file.path for picture in pictures))


def place(
    ledger: Ledger,
    store: Store,
    attempt: int,
    pictures: Sequence[Settled | StoredImage],
    texts: Mapping[str, str] = EMPTY,
    away: BucketAway | None = None,
) -> bool:
    """Move durable pictures to the names that the ledger has just given them, and write beside them. Safe to repeat after a
    crash.

    Answers False when they have to wait for their bucket. away: why it is known not to take them now.
    """
    if not pictures:
        return True
    names = [(picture.spool, picture.file.path) for picture in pictures]
    try:
        if away is not None:
            raise away
        placed = [store.place(spool, path) for spool, path in names]
        for picture in pictures if texts else ():
            if picture.file.role == "image":
                store.write_beside(picture.file.path, texts)
    except BucketAway as error:
        if isinstance(store, BucketStore):
            waited, moved = store.wait(attempt, names, error)
            by_path = "UPDATE image SET path = ? WHERE path = ? AND attempt_id <> ?"
            ledger.apply([(BY_SPOOL, pair) for pair in waited])
            ledger.apply([(by_path, (*pair, attempt)) for pair in moved])
        return False
    made_way = [pair for pair in placed if pair is not None]
    store.sync(*(path for _, path in names), *(new for _, new in made_way))
    ledger.placed(attempt, made_way, [(path, store.stamp(spool, path)) for spool, path in names])
    store.forget_placed(attempt, names)
    return True


def make_room(ledger: Ledger, store: Store, pictures: Sequence[Settled]) -> None:
    """An earlier picture that still waits for one of these names in a bucket will go to `superseded/`."""
    names = [(picture.spool, picture.file.path) for picture in pictures]
    if isinstance(store, BucketStore) and (made_way := store.make_room(names)):
        ledger.apply([(BY_SPOOL, pair) for pair in made_way])


def deposit(store: BucketStore, receipt: Receipt) -> BucketAway | None:
    """Into the bucket before the ledger hears of it: whoever takes the attempt up finds it there. Answers why it did not go."""
    try:
        store.deposit(receipt.attempt, receipt.pictures, to_facts(receipt))
    except BucketAway as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class _Part:
    """A picture of an answer, on disk. k: its number in the answer; n: its sample; wanted: whether it is that sample's
    picture, else it is a draft of it."""

    k: int
    n: int
    wanted: bool
    image: ReplyImage
    file: SpoolFile


def _to_disk(store: Store, attempt: int, sample: Sample, reply: Reply, spooled: Sequence[SpoolFile]) -> list[_Part]:
    """Every wanted picture of the answer as a spool file. The n-th `image` belongs to the n-th sample asked for; more than
    that are drafts."""
    parts: list[_Part] = []
    k = made = 0
    for number, image in enumerate(reply.images):
        if image.role == "thought" and not (sample.item.keep_thoughts and _is_whole(image, spooled)):
            continue  # interim pictures are not billed, and none of them may spoil the answer
        wanted = image.role == "image" and made < sample.images
        if number not in reply.absent:
            file = _file_of(store, attempt, number, image, spooled)
            if file is None:
                discard([part.file for part in parts if part.image.data is not None])
                raise Malformed("the answer refers to a picture that is not in it", http_status=200, usage=reply.usage)
            parts.append(_Part(k, sample.n + made if wanted else sample.n, wanted, image, file))
        k, made = k + 1, made + wanted
    return parts


def _file_of(
    store: Store, attempt: int, number: int, image: ReplyImage, spooled: Sequence[SpoolFile]
) -> SpoolFile | None:
    """None when the picture is in neither place."""
    if image.data is not None:
        file = store.spool_file(attempt, len(spooled) + number)
        file.write(image.data)
        return file
    return spooled[image.lifted] if image.lifted is not None and image.lifted < len(spooled) else None


def _is_whole(image: ReplyImage, spooled: Sequence[SpoolFile]) -> bool:
    try:
        if image.data is not None:
            check_bytes(image.data)
            return True
        if image.lifted is None or image.lifted >= len(spooled):
            return False
        check_file(spooled[image.lifted].path)
    except ImageError:
        return False
    return True


def _describe(
    store: Store,
    profile: Profile,
    attempt: int,
    sample: Sample,
    parts: Sequence[_Part],
    usage: Usage | None,
) -> list[Settled]:
    """Check each picture and name it."""
    item = sample.item
    expected = profile.expected_pixels(item.aspect_ratio, item.image_size)
    pictures: list[Settled] = []
    for part in parts:
        image, file, wanted = part.image, part.file, part.wanted
        try:
            checked = _check(image, file)
        except ImageError as error:
            discard([other.file for other in parts if other.image.data is not None])  # the envelope still holds these
            raise Malformed(str(error), reason=error.reason, http_status=200, usage=usage) from None
        except OSError as error:
            raise disk_error(error, file.path) from error
        path = (
            store.name(item.filename, part.n, checked.format)
            if wanted
            else store.draft_name(item.filename, part.n, part.k, attempt, checked.format)
        )
        pictures.append(
            Settled(
                part.n,
                part.k,
                file.name,
                ImageFile(
                    path=path,
                    sha256=file.sha256,
                    bytes=file.bytes,
                    width=checked.width,
                    height=checked.height,
                    format=checked.format,
                    role="thought" if image.role == "thought" else "image" if wanted else "draft",
                    flags=mismatch(checked, item.aspect_ratio, expected) if wanted else (),
                ),
                None,
            )
        )
    return pictures


def _check(image: ReplyImage, file: SpoolFile) -> Checked:
    if image.data is not None:
        return check_bytes(image.data)
    return check_bytes(file.read()) if file.bytes <= PIECE_BYTES else check_file(file.path)


def _priced(picture: Settled, usd: float | None, made: int) -> Settled:
    share = usd / made if usd is not None and made and picture.file.role == "image" else None
    return Settled(picture.n, picture.k, picture.spool, picture.file, share)


def _judged(
    store: Store, attempt: int, sample: Sample, pictures: list[Settled]
) -> tuple[list[Settled], tuple[Missing, ...]]:
    """Under `on_mismatch: fail`, pictures that are not as asked for become drafts: paid for, so kept, and no result."""
    item, judged, unlike = sample.item, list(pictures), list[Missing]()
    for number, picture in enumerate(pictures):
        file = picture.file
        if item.on_mismatch == "warn" or not file.flags:
            continue
        path = store.draft_name(item.filename, picture.n, picture.k, attempt, file.format)
        judged[number] = replace(picture, file=replace(file, path=path, role="draft"))
        asked = " ".join(text for text in (item.aspect_ratio, item.image_size) if text)
        message = f"{file.width} x {file.height} is another {file.flags[0]} than asked for ({asked}); kept as {path}"
        unlike.append(Missing(picture.n, "mismatch", message, "failed"))
    return judged, tuple(unlike)


def _missing(sample: Sample, reply: Reply, made: set[int]) -> list[Missing]:
    """Samples without a picture: those behind a link that failed, and those that the answer withheld."""
    asked = range(sample.n, sample.n + sample.images)
    behind = {sample.n + place: why for place, why in reply.absent.items() if sample.n + place in asked}
    reasons = list(reply.filtered) or ["the answer holds fewer pictures than were asked for"]
    withheld = [n for n in asked if n not in made and n not in behind]
    return [
        *(Missing(n, *why, "failed") for n, why in behind.items() if why is not None),
        *(Missing(n, "filtered", reasons[min(number, len(reasons) - 1)]) for number, n in enumerate(withheld)),
    ]


def made_result(sample: Sample, reply: Reply, stored: Stored) -> Result:
    """The result of an item with one sample, as the ledger has it."""
    item = sample.item
    made = next(iter(stored.made), None)
    files = tuple(sorted((picture.file for picture in stored.pictures), key=lambda file: file.role != "image"))
    return Result(
        id=item.id,
        n=sample.n,
        state="succeeded",
        model=item.model,
        files=files,
        usd=made.usd if made else None,
        usd_source=stored.usd_source,
        fingerprint=sample.fingerprint,
        prompt=item.prompt,
        tags=item.tags,
        updated_at=utc(time.time()),
        text=reply.text,
        sidecars=sidecars(files, beside(item, reply)),
    )


def discard(spooled: Sequence[SpoolFile]) -> None:
    for file in spooled:
        if os.path.exists(file.path):
            file.discard()
