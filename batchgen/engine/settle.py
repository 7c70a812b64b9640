"""From a whole answer to pictures under their names: the order of writes, in one synchronous function for a thread."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from batchgen.engine.beside import beside
from batchgen.engine.receipt import Receipt, receipt_of, to_facts
from batchgen.errors import BatchgenError, ImageError, Malformed, StoreError, Unreadable
from batchgen.ledger.ledger import Ledger, Missing, Settled
from batchgen.ledger.pictures import StoredImage
from batchgen.ledger.rows import sidecars, utc
from batchgen.machine import refusal
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

    recorded_s: when its success was durable, seconds of `time.monotonic()`.
    """

    pictures: tuple[Settled, ...]
    missing: tuple[Missing, ...]
    usd: float | None
    usd_source: str
    recorded_s: float


def settle(
    ledger: Ledger,
    store: Store,
    profile: Profile,
    attempt: int,
    sample: Sample,
    reply: Reply,
    spooled: Sequence[SpoolFile],
    sent_at: float | None,
    *,
    batch: bool = False,
) -> Stored:
    """Check, sync, record, place, sync, record. After the second step nothing that was paid for can be lost.

    spooled: the strings lifted from the answer, by number; pictures that came as bytes are written here.
    Raises Malformed when a picture is not whole and Unreadable for a bug of ours, both with `spooled` as it was;
    StoreError and LedgerError when disk or ledger refuse. batch: at the price of the batch API.
    """
    with our_bugs(BatchgenError, OSError, usage=reply.usage):
        files = _to_disk(store, attempt, reply, spooled, sample.item.keep_thoughts)
        pictures = _describe(store, profile, attempt, sample, files, reply.usage)
    pictures, unlike = _judged(store, attempt, sample, pictures)
    used = {file.name for _, file in files}
    discard([file for file in spooled if file.name not in used])  # lifted, and not wanted
    for _, file in files:
        file.sync()
    if any(file.stranded for _, file in files):
        _leave_outside(files, pictures)
    sync_folder(store.spool)
    item = sample.item
    billed = sum(picture.file.role != "thought" for picture in pictures)
    size = item.image_size or profile.default_size
    usd, source = cost_usd(profile, reply.usage, size, billed, batch=batch, tier=item.service_tier)
    texts = beside(item, reply)
    made = [picture for picture in pictures if picture.file.role == "image"]
    pictures = [_priced(picture, usd, len(made)) for picture in pictures]
    missing = (*unlike, *_missing(sample, reply, {*(picture.n for picture in made), *(left.n for left in unlike)}))
    away = None
    if isinstance(store, BucketStore):
        price = (usd, source)
        pictures = list(ledger.foreseen(attempt, sample, pictures))
        receipt = receipt_of(attempt, sample, reply, pictures, missing, price=price, sent_at=sent_at, beside=texts)
        make_room(ledger, store, pictures)
        away = deposit(store, receipt)
    pictures = list(
        ledger.attempt_succeeded(
            attempt, sample, reply, pictures, sent_at=sent_at, usd=usd, usd_source=source, missing=missing, beside=texts
        )
    )
    recorded_s = time.monotonic()
    try:
        place(ledger, store, attempt, pictures, texts, away)
    except (StoreError, OSError) as error:
        refusal = error if isinstance(error, StoreError) else disk_error(error, store.root)
        store.rescue.tell(refusal)  # it is durable and recorded: the next run moves it to its name
    return Stored(tuple(pictures), missing, usd, source, recorded_s)


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


def _leave_outside(files: Sequence[tuple[ReplyImage, SpoolFile]], pictures: Sequence[Settled]) -> None:
    """The job's disk has no room: the attempt stays open, and the next run brings its pictures back. Raises StoreError."""
    for (_, file), picture in zip(files, pictures, strict=True):
        if file.stranded:
            with contextlib.suppress(OSError):  # an ending is only for whoever wants to look at it
                named = file.path + os.path.splitext(picture.file.path)[1]
                os.rename(file.path, named)
                file.path = named
            with contextlib.suppress(StoreError):
                sync_folder(os.path.dirname(file.path))
    raise StoreError("the job's disk did not take the picture")


def place(
    ledger: Ledger,
    store: Store,
    attempt: int,
    pictures: Sequence[Settled | StoredImage],
    texts: Mapping[str, str] = EMPTY,
    away: BucketAway | None = None,
) -> bool:
    """Move durable pictures from the spool to their names, and write beside them. Safe to repeat after a crash.

    Answers False when they have to wait for their bucket. away: why it is known not to take them now.
    """
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
    ledger.placed(attempt, made_way)
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


def _to_disk(
    store: Store, attempt: int, reply: Reply, spooled: Sequence[SpoolFile], keep_thoughts: bool
) -> list[tuple[ReplyImage, SpoolFile]]:
    """Every wanted picture of the answer as a spool file."""
    files: list[tuple[ReplyImage, SpoolFile]] = []
    for number, image in enumerate(reply.images):
        if image.role == "thought" and not (keep_thoughts and _is_whole(image, spooled)):
            continue  # interim pictures are not billed, and none of them may spoil the answer
        if image.data is not None:
            file = store.spool_file(attempt, len(spooled) + number)
            file.write(image.data)
        elif image.lifted is not None and image.lifted < len(spooled):
            file = spooled[image.lifted]
        else:
            discard([other for earlier, other in files if earlier.data is not None])
            raise Malformed("the answer refers to a picture that is not in it", http_status=200, usage=reply.usage)
        files.append((image, file))
    return files


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
    files: Sequence[tuple[ReplyImage, SpoolFile]],
    usage: Usage | None,
) -> list[Settled]:
    """Check each picture and name it. The n-th `image` belongs to the n-th sample asked for; more than that are drafts."""
    item = sample.item
    expected = profile.expected_pixels(item.aspect_ratio, item.image_size)
    pictures: list[Settled] = []
    made = 0
    for k, (image, file) in enumerate(files):
        try:
            checked = _check(image, file)
        except ImageError as error:
            discard([other for image, other in files if image.data is not None])  # the envelope still holds these
            raise Malformed(str(error), reason=error.reason, http_status=200, usage=usage) from None
        except OSError as error:
            raise disk_error(error, file.path) from error
        wanted = image.role == "image" and made < sample.images
        n = sample.n + made if wanted else sample.n
        made += wanted
        path = (
            store.name(item.filename, n, checked.format)
            if wanted
            else store.draft_name(item.filename, n, k, attempt, checked.format)
        )
        pictures.append(
            Settled(
                n,
                k,
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
    reasons = list(reply.filtered) or ["the answer holds fewer pictures than were asked for"]
    absent = [n for n in range(sample.n, sample.n + sample.images) if n not in made]
    return [Missing(n, "filtered", reasons[min(number, len(reasons) - 1)]) for number, n in enumerate(absent)]


def made_result(sample: Sample, reply: Reply, stored: Stored) -> Result:
    """The result of an item with one sample, as the ledger has it."""
    item = sample.item
    made = next((picture for picture in stored.pictures if picture.file.role == "image"), None)
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
