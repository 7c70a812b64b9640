"""The books of a job: every request that was or may have been billed is wanted, listed with its cause, or a bug."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from batchgen.dataclass import dataclass
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IN_BATCH_REASON, LATE_REASON, SurplusRequest
from batchgen.report import formatting

MAX_LISTED = 10
UNBALANCED = "the requests that were billed do not balance: this is a bug in batchgen, please report it"
KIND_LABELS = {
    "maybe_twice": "possibly billed twice",
    "maybe_once": "possibly billed without an image",
    "again": "bought again",
    "set_aside": "for images that were rejected or not chosen",
    "no_picture": "billed without an image",
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
    if request.set_aside:
        return "set_aside", "rejected or not chosen; kept in drafts/"
    if not request.pictures:
        return "no_picture", request.reason or "withheld"
    if request.later_fingerprint not in (None, request.fingerprint):
        return "again", "changed"
    if request.linked:
        return "again", "its own image arrived late, from its link"
    if request.later_run not in (None, request.run_id):
        return "again", "asked for again, or its file was gone"
    return "unexplained", "bought twice in one run without a cause"


def read_billing(reader: Reader, run_id: int | None = None, max_listed: int | None = MAX_LISTED) -> BillingCheck:
    """Requests of one run, or of all. max_listed: of each kind; None: all."""
    counts = reader.billed_request_count(run_id), reader.picture_request_count(run_id)
    return billing_check(*counts, reader.surplus_requests(run_id), max_listed)


def billing_check(
    billed: int, wanted: int, beyond: Iterable[SurplusRequest], max_listed: int | None = MAX_LISTED
) -> BillingCheck:
    """Pure."""
    counts: dict[str, int] = {}
    listed: list[BillingEntry] = []
    for request in beyond:
        kind, cause = classify_request(request)
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "unexplained" or max_listed is None or counts[kind] <= max_listed:
            listed.append(BillingEntry(request.key, kind, cause))
    holds = billed == wanted + sum(counts.values()) and "unexplained" not in counts
    return BillingCheck(billed, wanted, counts, listed, holds)


def balance_text(found: BillingCheck) -> str:
    """`12 requests billed: 9 for images, 3 billed without an image`."""
    terms = [f"{found.wanted:,} for images"]
    terms += [f"{number:,} {KIND_LABELS.get(kind, kind)}" for kind, number in found.beyond.items()]
    return f"{formatting.count(found.billed, 'request')} billed: {', '.join(terms)}"


def billing_lines(of_run: BillingCheck, of_all: BillingCheck) -> list[str]:
    """One line on what the last run was billed for, none when it was all for images; and a second when it does not balance."""
    lines = [f"{balance_text(of_run)}; `batchgen status --billing` has the details"] if of_run.beyond else []
    return lines if of_all.holds else [*lines, UNBALANCED]
