"""How many images are accepted and what each has cost, in money and time: the same figures and words in every view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from batchgen.ledger.acceptance import Acceptance, AcceptanceReader, CheckWarning, Rejection
from batchgen.ledger.reader import Reader
from batchgen.records import sample_key
from batchgen.report import formatting
from batchgen.report.view import AcceptanceView, ReviewedSample

MAX_REASONS = 5
BY_WHOM = {"person": "by people", "judge": "by the judge", "unknown": "for no reason given"}


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
    """Of a whole job, to the last answer of its runs."""
    asked = AcceptanceReader.from_reader(reader)
    found = asked.job_acceptance(0.0)
    fields = acceptance_fields(found, asked.rejections() if found.rejected else (), asked.check_warnings())
    return acceptance_text(AcceptanceView(**fields), emulated=reader.meta("emulated") == "yes")


def reviewed_samples(found: Sequence[Rejection] | Sequence[CheckWarning], max_count: int) -> list[ReviewedSample]:
    return [ReviewedSample(sample_key(each.item_id, each.n), each.reason, each.message) for each in found[:max_count]]


def acceptance_text(found: AcceptanceView, *, emulated: bool) -> str:
    """`38 of 40 images; $0.052 and 25 s per accepted image; of 2 rejected 1 for text, 1 for blank`. Empty without an image."""
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
    """`$0.052`, `$0.052 (estimated)`, `at least $0.052`, `an unknown amount`; empty when none is accepted."""
    if not found.accepted:
        return ""
    if found.usd_per_accepted is None:
        return "an unknown amount"
    least = "at least " if found.usd_per_accepted_at_least else ""
    estimated = " (estimated)" if found.usd_per_accepted_estimated else ""
    return f"{least}{formatting.usd(found.usd_per_accepted)}{estimated}"


def reasons_text(found: AcceptanceView) -> str:
    """`6 for text, 4 by people`."""
    shown = list(found.rejected_for.items())[:MAX_REASONS]
    more = ["…"] if len(found.rejected_for) > MAX_REASONS else []
    return ", ".join([*(f"{number:,} {BY_WHOM.get(why, f'for {why}')}" for why, number in shown), *more])
