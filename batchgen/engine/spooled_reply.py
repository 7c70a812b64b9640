"""Writes the images of a reply to the spool, checks and describes them. Nothing is recorded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchgen.engine.answer import AnsweredAttempt
from batchgen.errors import Malformed
from batchgen.ledger.pictures import SpooledPicture, UndeliveredSample
from batchgen.records import ImageFile, Reply, ReplyImage, Sample, Usage
from batchgen.store.check import PIECE_BYTES, ImageError, ImageInfo, check_bytes, check_file, mismatch_flags
from batchgen.store.spool import SpoolFile, discard_files, disk_error
from batchgen.store.store import Store


@dataclass(frozen=True, slots=True)
class SpooledImage:
    """An image of an answer, on disk. k: its number in the answer; n: its sample; wanted: whether it is that sample's
    image rather than a draft of it."""

    k: int
    n: int
    wanted: bool
    image: ReplyImage
    file: SpoolFile


def spool_images(
    store: Store, attempt: AnsweredAttempt, reply: Reply, spooled: Sequence[SpoolFile]
) -> list[SpooledImage]:
    """Every wanted image of the answer as a spool file. The n-th `image` belongs to the n-th sample of the request;
    further ones are drafts."""
    parts, sample = list[SpooledImage](), attempt.sample
    k = made = 0
    for number, image in enumerate(reply.images):
        if image.role == "thought" and not (sample.item.keep_thoughts and _is_complete(image, spooled)):
            continue  # interim images are free, and none of them may spoil the answer
        wanted = image.role == "image" and made < sample.images
        if number not in reply.unavailable:
            file = _spool_file_of(store, attempt.id, number, image, spooled)
            if file is None:
                discard_files([part.file for part in parts if part.image.data is not None])
                raise Malformed("the answer refers to an image that is not in it", http_status=200, usage=reply.usage)
            parts.append(SpooledImage(k, sample.n + made if wanted else sample.n, wanted, image, file))
        k, made = k + 1, made + wanted
    return parts


def _spool_file_of(
    store: Store, attempt: int, number: int, image: ReplyImage, spooled: Sequence[SpoolFile]
) -> SpoolFile | None:
    """The spool file of an image, None if it is in neither place."""
    if image.data is not None:
        file = store.spool_file(attempt, len(spooled) + number)
        file.write(image.data)
        return file
    return spooled[image.decoded] if image.decoded is not None and image.decoded < len(spooled) else None


def _is_complete(image: ReplyImage, spooled: Sequence[SpoolFile]) -> bool:
    try:
        if image.data is not None:
            check_bytes(image.data)
            return True
        if image.decoded is None or image.decoded >= len(spooled):
            return False
        check_file(spooled[image.decoded].path)
    except ImageError:
        return False
    return True


def describe(
    store: Store, attempt: AnsweredAttempt, parts: Sequence[SpooledImage], usage: Usage | None
) -> list[SpooledPicture]:
    """Check each image and give it its name."""
    item = attempt.sample.item
    expected = attempt.profile.expected_pixels(item.aspect_ratio, item.image_size)
    pictures: list[SpooledPicture] = []
    for part in parts:
        image, file, wanted = part.image, part.file, part.wanted
        try:
            checked = _check(image, file)
        except ImageError as error:
            # The envelope still holds these.
            discard_files([other.file for other in parts if other.image.data is not None])
            raise Malformed(str(error), reason=error.reason, http_status=200, usage=usage) from None
        except OSError as error:
            raise disk_error(error, file.path) from error
        path = (
            store.file_name(item.filename, part.n, checked.format)
            if wanted
            else store.draft_name(item.filename, part.n, part.k, attempt.id, checked.format)
        )
        pictures.append(
            SpooledPicture(
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
                    flags=mismatch_flags(checked, item.aspect_ratio, expected) if wanted else (),
                ),
                None,
            )
        )
    return pictures


def _check(image: ReplyImage, file: SpoolFile) -> ImageInfo:
    if image.data is not None:
        return check_bytes(image.data)
    return check_bytes(file.read()) if file.is_in_memory or file.bytes <= PIECE_BYTES else check_file(file.path)


def with_price(picture: SpooledPicture, usd: float | None, made: int) -> SpooledPicture:
    share = usd / made if usd is not None and made and picture.file.role == "image" else None
    return SpooledPicture(picture.n, picture.k, picture.spool, picture.file, share)


def demote_mismatches(
    store: Store, attempt: AnsweredAttempt, pictures: list[SpooledPicture]
) -> tuple[list[SpooledPicture], tuple[UndeliveredSample, ...]]:
    """Turn images that are not as requested into drafts if the item says `on_mismatch: fail`: they are paid for, so
    they are kept, but do not count."""
    item, judged, mismatched = attempt.sample.item, list(pictures), list[UndeliveredSample]()
    for number, picture in enumerate(pictures):
        file = picture.file
        if item.on_mismatch == "warn" or not file.flags:
            continue
        path = store.draft_name(item.filename, picture.n, picture.k, attempt.id, file.format)
        judged[number] = replace(picture, file=replace(file, path=path, role="draft"))
        asked = " ".join(text for text in (item.aspect_ratio, item.image_size) if text)
        message = f"{file.width} x {file.height} is another {file.flags[0]} than asked for ({asked}); kept as {path}"
        mismatched.append(UndeliveredSample(picture.n, "mismatch", message, "failed"))
    return judged, tuple(mismatched)


def samples_without_image(sample: Sample, reply: Reply, made: set[int]) -> list[UndeliveredSample]:
    """The samples without an image: those behind a link that failed, and those that the answer withheld."""
    asked = range(sample.n, sample.n + sample.images)
    behind = {sample.n + offset: why for offset, why in reply.unavailable.items() if sample.n + offset in asked}
    reasons = list(reply.filtered) or ["the answer holds fewer images than were asked for"]
    withheld = [n for n in asked if n not in made and n not in behind]
    return [
        *(UndeliveredSample(n, *why, "failed") for n, why in behind.items() if why is not None),
        *(
            UndeliveredSample(n, "filtered", reasons[min(number, len(reasons) - 1)])
            for number, n in enumerate(withheld)
        ),
    ]
