"""The books of a job: every request that was or may have been billed is wanted, listed with its cause, or a bug."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IN_BATCH_REASON, LATE_REASON, SurplusRequest

MAX_LISTED = 10
KIND_LABELS = {
    "maybe_twice": "possibly billed twice",
    "maybe_once": "possibly billed without a picture",
    "again": "bought again",
    "no_picture": "billed without a picture",
    "open": "not settled yet",
    "link": "paid for and still behind a link",
    "batch": "in batches",
}


@dataclass(frozen=True, slots=True)
class BillingEntry:
    id: str
    kind: str
    cause: str


@dataclass(frozen=True, slots=True)
class BillingCheck:
    """billed: requests that were or may have been; wanted: those whose picture is its sample's latest; beyond: the others by
    kind, and the first of each listed. holds: whether all add up and have a cause; else that is a bug."""

    billed: int
    wanted: int
    beyond: Mapping[str, int]
    listed: Sequence[BillingEntry]
    holds: bool


def classify_request(request: SurplusRequest) -> tuple[str, str]:
    """What a request beyond the wanted ones is, as a key of LABELS and a cause; `unexplained` when the ledger has none."""
    if request.outcome is None:
        if request.reason == IN_BATCH_REASON:
            return "batch", request.reason
        return ("link", request.reason or "to be fetched") if request.linked else ("open", "in flight")
    if request.outcome != "succeeded":
        doubtful = request.outcome == "uncertain" or request.http_status >= 500
        kinds = ("maybe_twice", "maybe_once") if doubtful else ("again", "no_picture")
        return kinds[0 if request.made_later else 1], request.reason
    if request.reason == LATE_REASON:
        return "again", "arrived late; kept in drafts/"
    if not request.pictures:
        return "no_picture", request.reason or "withheld"
    if request.later_fingerprint not in (None, request.fingerprint):
        return "again", "changed"
    if request.linked:
        return "again", "its own picture arrived late, from its link"
    if request.later_run not in (None, request.run_id):
        return "again", "asked for again, or its file was gone"
    return "unexplained", "bought twice in one run without a cause"


def read_billing(reader: Reader) -> BillingCheck:
    """Requests of all runs."""
    return billing_check(reader.billed_request_count(), reader.picture_request_count(), reader.surplus_requests())


def billing_check(billed: int, wanted: int, beyond: Iterable[SurplusRequest]) -> BillingCheck:
    """Pure."""
    counts: dict[str, int] = {}
    listed: list[BillingEntry] = []
    for request in beyond:
        kind, cause = classify_request(request)
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "unexplained" or sum(entry.kind == kind for entry in listed) < MAX_LISTED:
            listed.append(BillingEntry(request.key, kind, cause))
    holds = billed == wanted + sum(counts.values()) and "unexplained" not in counts
    return BillingCheck(billed, wanted, counts, listed, holds)


def billing_lines(found: BillingCheck) -> list[str]:
    """For people; empty when every request was a wanted one."""
    counts = found.beyond
    if found.holds and not counts:
        return []
    terms = [f"{found.wanted:,} wanted"]
    terms += [f"{number:,} {KIND_LABELS.get(kind, kind)}" for kind, number in counts.items()]
    lines = [f"billed {found.billed:,} {'=' if found.holds else '≠'} {' + '.join(terms)} (requests, all runs)"]
    if not found.holds:
        lines.append("these do not balance: this is a bug in batchgen, please report it")
    for kind, number in counts.items():
        if kind == "batch":
            continue
        entries = [f"{entry.id} ({entry.cause})" for entry in found.listed if entry.kind == kind]
        more = f", … and {number - len(entries):,} more" if number > len(entries) else ""
        lines.append(f"    {KIND_LABELS.get(kind, kind)}: {', '.join(entries)}{more}")
    return lines
