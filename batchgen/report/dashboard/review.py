"""One person's word on one image, as the page sends it, on its way into the job's journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from batchgen.ledger.reviews import append_reviews, make_review
from batchgen.ledger.verdicts import VerdictReader, last_ruling, review_state
from batchgen.records import HAS_IMAGE
from batchgen.records import Verdict as Verdict
from batchgen.report.background_runs import ActionRefused
from batchgen.report.gallery_data import SampleView
from batchgen.report.picture_views import PictureView, verdict_views

SHA256_BEGINS_CHARS = 12
T = TypeVar("T", str, int)


def record_review(folder: Path, given: Mapping[str, Any], name: str) -> Verdict:
    """Durable when it answers it. given: of the page: id, n, sha, ruling, stars, comment. Raises ActionRefused with what is wrong, also
    when the image is another one by now; LedgerError, StoreError."""
    item_id, n, sha = _value(given, "id", str), _value(given, "n", int), _value(given, "sha", str)
    with closing(VerdictReader.open(folder)) as reader:
        sha256, _ = reader.reviewable([item_id]).get((item_id, n), ("", None))
    if len(sha) != SHA256_BEGINS_CHARS or not sha256.startswith(sha):
        raise ActionRefused("the image was made again or is gone: look at the page again")
    said = (_value(given, "ruling", str), _value(given, "stars", int), _value(given, "comment", str))
    try:
        review = make_review(name, item_id, n, sha256, *said)
    except ValueError as error:
        raise ActionRefused(str(error)) from None
    return append_reviews(folder, [review])[0]


def with_review(sample: SampleView, review: Verdict) -> SampleView | None:
    """A sample as it stands after this, without asking the ledger; None when it shows another image."""
    picture = next((each for each in sample.pictures if each.kind == "image"), None)
    if picture is None or picture.sha != review.sha256[:SHA256_BEGINS_CHARS]:
        return None
    others = tuple(each for each in picture.verdicts if (each.by, each.name) != (review.by, review.name))
    says = review.ruling != "none" or review.score is not None or review.message  # else it takes back what was said
    after = (*others, *(verdict_views([review], review.sha256) if says else ()))
    changed = replace(picture, verdicts=after)
    sample = replace(sample, pictures=[changed if each is picture else each for each in sample.pictures])
    before, now = _verdicts(picture, review), _verdicts(changed, review)
    if sample.state not in HAS_IMAGE or (last_ruling(before) is None and last_ruling(now) is None):
        return sample
    state = review_state(now)
    if state == (sample.state, sample.reason, sample.message):
        return sample
    return replace(sample, **state._asdict(), at=round(review.at))


def _verdicts(picture: PictureView, review: Verdict) -> list[Verdict]:
    said: Sequence[Any] = picture.verdicts  # as `Verdict` has them, without what is the same for all
    names = ("by", "name", "ruling", "reason", "message", "at")
    return [replace(review, **{name: getattr(each, name) for name in names}) for each in said]


def _value(given: Mapping[str, Any], field: str, kind: type[T]) -> T:
    value = given.get(field)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ActionRefused(f"{field}: expected {'text' if kind is str else 'a whole number'}")
    return value
