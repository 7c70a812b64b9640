"""How many images are accepted, and what each has cost in money and time: for a job, and for its variants side by side
(models, tags, or the values of a variable in tags). The same figures and words in every view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from batchgen.errors import UsageError
from batchgen.ledger.acceptance import Acceptance, AcceptanceReader, CheckWarning, Rejection
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import reviewed
from batchgen.records import sample_key
from batchgen.report import formatting

MAX_REASONS = 5
MAX_REVIEWED = 10  # samples that are listed individually
BY_WHOM = {"person": "by people", "judge": "by the judge", "unknown": "for no reason given"}
Z_95 = 1.959964  # of the normal distribution: 95 % are within this many standard deviations
MAX_VARIANTS = 200  # of each kind, in the JSON of a job
MAX_BARS = 40  # of each kind, on a page
NO_TAG = "(no tag)"
HEAD = ("", "images", "accepted", "share", "95 % interval", "USD each", "minutes each")
NOTES = (
    "accepted: of the images that are there; the interval is Wilson's: where two overlap, there are too few images to tell",
    "each: for each accepted image. USD counts the rejected, the judge and what was not chosen; minutes are those of requests,"
    " from sent to answered, of which a run has several under way at once",
)
AcceptanceByVariant = Mapping[tuple[str, str], Acceptance]  # by model and tags, from `variant_acceptance`


@dataclass(frozen=True, kw_only=True)  # without slots, so that a view may have another base too
class AcceptanceView:
    """Accepted images. accepted, rejected: images. warned: of the accepted, those with a finding. rejected_for: the
    number of rejected images by reason. usd_per_accepted: everything spent for each accepted image; None if unknown, or
    if none is accepted. estimated: partly so. at_least: it leaves out something of unknown price, or maybe billed.
    minutes_per_accepted: of the runs."""

    accepted: int = 0
    warned: int = 0
    rejected: int = 0
    rejected_for: Mapping[str, int] = field(default_factory=dict)
    usd_per_accepted: float | None = None
    usd_per_accepted_estimated: bool = False
    usd_per_accepted_at_least: bool = False
    minutes_per_accepted: float | None = None


@dataclass(frozen=True, slots=True)
class ReviewedSample:
    """A sample whose image is rejected, or counts with a warning. reason: a slug, `judge` or `person`; message: in
    their words."""

    id: str
    reason: str
    message: str


def acceptance_fields(
    found: Acceptance, rejections: Sequence[Rejection] = (), warnings: Sequence[CheckWarning] = ()
) -> dict[str, Any]:
    """The fields of an AcceptanceView."""
    money = found.money
    return {
        "accepted": found.accepted,
        "warned": len({(each.item_id, each.n) for each in warnings}),
        "rejected": found.rejected,
        "rejected_for": dict(Counter(each.reason or "unknown" for each in rejections).most_common()),
        "usd_per_accepted": found.usd_per_accepted,
        "usd_per_accepted_estimated": money.estimated > 0,
        "usd_per_accepted_at_least": money.unknown + money.maybe_requests > 0,
        "minutes_per_accepted": found.minutes_per_accepted,
    }


def read_acceptance_text(reader: Reader) -> str:
    """The acceptance of a whole job in words, up to the last answer of its runs."""
    asked = AcceptanceReader.from_reader(reader)
    found = asked.job_acceptance(0.0)
    fields = acceptance_fields(found, asked.rejections() if found.rejected else (), asked.check_warnings())
    return acceptance_text(AcceptanceView(**fields), emulated=reader.meta("emulated") == "yes")


def reviewed_samples(found: Sequence[Rejection] | Sequence[CheckWarning]) -> list[ReviewedSample]:
    """The first of these samples."""
    return [
        ReviewedSample(sample_key(each.item_id, each.n), each.reason, each.message) for each in found[:MAX_REVIEWED]
    ]


def acceptance_text(found: AcceptanceView, *, emulated: bool) -> str:
    """Text such as `38 of 40 images; $0.052 and 25 s per accepted image; of 2 rejected 1 for text, 1 for blank`. Empty
    without an image."""
    if not (images := found.accepted + found.rejected):
        return ""
    warned = f", {found.warned:,} with a warning" if found.warned else ""
    parts = [f"{found.accepted:,} of {formatting.count(images, 'image')}{warned}"]
    if found.accepted:
        time = formatting.duration(60 * (found.minutes_per_accepted or 0.0))
        emulator = " (emulated)" if emulated else ""
        parts.append(f"{usd_text(found)}{emulator} and {time} per accepted image")
    if found.rejected:
        parts.append(f"of {found.rejected:,} rejected {reasons_text(found)}")
    return "; ".join(parts)


def usd_text(found: AcceptanceView) -> str:
    """The cost per accepted image: `$0.052`, `$0.052 (estimated)`, `at least $0.052`, `an unknown amount`; empty if
    none is accepted."""
    if not found.accepted:
        return ""
    if found.usd_per_accepted is None:
        return "an unknown amount"
    least = "at least " if found.usd_per_accepted_at_least else ""
    estimated = " (estimated)" if found.usd_per_accepted_estimated else ""
    return f"{least}{formatting.usd(found.usd_per_accepted)}{estimated}"


def reasons_text(found: AcceptanceView) -> str:
    """The reasons of rejections: `6 for text, 4 by people`."""
    shown = list(found.rejected_for.items())[:MAX_REASONS]
    more = ["…"] if len(found.rejected_for) > MAX_REASONS else []
    return ", ".join([*(f"{number:,} {BY_WHOM.get(why, f'for {why}')}" for why, number in shown), *more])


@dataclass(frozen=True, kw_only=True)
class VariantView(AcceptanceView):
    """A variant. share: accepted of the existing images, None without one; low, high: its 95 % interval. overlaps_best:
    there are too few images to tell it from the variant with the largest share. minutes_per_accepted: of its requests,
    from sent to answered."""

    variant: str
    images: int
    share: float | None
    low: float
    high: float
    overlaps_best: bool = False


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """Variants side by side. by: model, tag, or the name of a variable. variants: the largest share first."""

    job: str
    folder: str
    emulated: bool
    by: str
    variants: Sequence[VariantView]


def wilson_interval(accepted: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, also valid for few images and for shares near 0 and 1. From 0 to 1 without an
    image.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if not images:
        return 0.0, 1.0
    share, square = accepted / images, Z_95 * Z_95 / images
    middle = share + square / 2
    spread = Z_95 * math.sqrt(share * (1 - share) / images + square / images / 4)
    return max(0.0, (middle - spread) / (1 + square)), min(1.0, (middle + spread) / (1 + square))


def load_comparison(folder: Path, by: str) -> ComparisonView:
    """The comparison of a job's variants. Raises UsageError if no tag has such a variable, and LedgerError."""
    with reviewed(AcceptanceReader.open(folder), folder) as reader:
        found = compare(reader.variant_acceptance(), reader.rejections(), by)
        if not found:
            raise UsageError(
                f"--compare {by}: no item has a tag such as {by}=VALUE; give each variant one"
                f' (tags: ["{by}={{{{ {by} }}}}"]), or compare by model or tag'
            )
        name, emulated = reader.meta("name") or folder.name, reader.meta("emulated") == "yes"
        return ComparisonView(name, str(folder), emulated, by, found)


def load_variants(folder: Path) -> dict[str, list[VariantView]]:
    """The variants of a job by model and by tag. Raises LedgerError."""
    with reviewed(AcceptanceReader.open(folder), folder) as reader:
        return read_variants(reader)


def read_variants(reader: Reader) -> dict[str, list[VariantView]]:
    """The variants of a whole job by model and by tag."""
    asked = AcceptanceReader.from_reader(reader)
    found, rejections = asked.variant_acceptance(), asked.rejections()
    return {by: compare(found, rejections, by)[:MAX_VARIANTS] for by in ("model", "tag")}


def compare(found: AcceptanceByVariant, rejections: Sequence[Rejection], by: str) -> list[VariantView]:
    """The variants, the largest share first. An item with several tags counts for each of them. Pure."""
    sums: dict[str, Acceptance] = {}
    why: dict[str, list[Rejection]] = {}
    for (model, tags), each in sorted(found.items()):
        for name in _names(by, model, tags):
            sums[name] = sums.get(name, Acceptance()) + each
    for rejection in rejections:
        for name in _names(by, rejection.model, rejection.tags):
            why.setdefault(name, []).append(rejection)
    views = [_view(name, each, why.get(name, ())) for name, each in sums.items()]
    views.sort(key=lambda view: (-1.0 if view.share is None else -view.share, view.variant))
    return [replace(view, overlaps_best=number > 0 and view.high >= views[0].low) for number, view in enumerate(views)]


def _names(by: str, model: str, tags: str) -> Iterator[str]:
    """The variants that an item belongs to."""
    listed = tags.split(",") if tags else []
    if by == "model":
        yield model
    elif by == "tag":
        yield from listed or [NO_TAG]
    else:
        yield from (tag.removeprefix(f"{by}=") for tag in listed if tag.startswith(f"{by}="))


def _view(name: str, found: Acceptance, why: Sequence[Rejection]) -> VariantView:
    images = found.accepted + found.rejected
    low, high = wilson_interval(found.accepted, images)
    share = found.accepted / images if images else None
    fields = acceptance_fields(found, why)
    return VariantView(variant=name, images=images, share=share, low=low, high=high, **fields)


class VariantBar(NamedTuple):
    """A variant as a page draws it: shares of 1, and the figures in words."""

    variant: str
    text: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ComparedView:
    """Variants on a page. by: model or tag. conclusion: what the intervals allow to say."""

    by: str
    bars: Sequence[VariantBar]
    conclusion: str


def read_compared(reader: Reader) -> list[ComparedView]:
    """The comparisons for a job's page: nothing if there is only one variant, or if none has an image."""
    found = []
    for by, all_variants in read_variants(reader).items():
        variants = [each for each in all_variants if each.share is not None][:MAX_BARS]
        if len(variants) > 1:
            bars = [VariantBar(each.variant, _text(each), each.share or 0.0, each.low, each.high) for each in variants]
            found.append(ComparedView(by, bars, conclusion(variants)))
    return found


def _text(each: VariantView) -> str:
    """Text such as `18 of 20 accepted (70% to 97%) · $0.04 and 0.20 min each`."""
    cost = "" if not each.accepted else f" · {usd_text(each)} and {each.minutes_per_accepted or 0.0:.2f} min each"
    return f"{each.accepted:,} of {each.images:,} accepted ({_interval_text(each)}){cost}"


def _interval_text(each: VariantView) -> str:
    return f"{each.low:.0%} to {each.high:.0%}"


def comparison_rows(variants: Sequence[VariantView]) -> list[tuple[str, ...]]:
    """Rows for a table under HEAD."""
    return [
        (
            each.variant,
            f"{each.images:,}",
            f"{each.accepted:,}",
            "-" if each.share is None else f"{each.share:.0%}",
            "-" if each.share is None else _interval_text(each),
            usd_text(each) or "-",
            "-" if each.minutes_per_accepted is None else f"{each.minutes_per_accepted:.2f}",
        )
        for each in variants
    ]


def conclusion(variants: Sequence[VariantView]) -> str:
    """What the intervals allow to say. Empty if there is nothing to compare."""
    with_images = [each for each in variants if each.images]
    if len(with_images) < 2:
        return ""
    best, *others = with_images
    behind = [each.variant for each in others if not each.overlaps_best]
    level = [each.variant for each in others if each.overlaps_best]
    if not behind:
        return f"too few to tell: the interval of {best.variant} overlaps {'that of' if len(level) == 1 else 'those of'} {_list(level)}"
    words = f"{best.variant} is accepted more often than {_list(behind)}"
    return f"{words}; too few to tell it from {_list(level)}" if level else words


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {formatting.count(len(names) - 3, 'other')}" if len(names) > 3 else shown
