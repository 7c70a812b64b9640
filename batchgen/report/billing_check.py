"""The books of a job: every request that was or may have been billed is wanted, listed with its cause, or a bug."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
        return "again", "asked for anew, or its file was gone"
    return "unexplained", "bought twice in one run without a cause"


def billing_check(billed: int, wanted: int, beyond: Iterable[SurplusRequest]) -> dict[str, Any]:
    """billed: requests that were or may have been; wanted: those whose picture is its sample's latest. Pure.

    `holds` is false when they do not add up, or one of them has no cause: that is a bug.
    """
    counts: dict[str, int] = {}
    listed: list[dict[str, str]] = []
    for request in beyond:
        kind, cause = classify_request(request)
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "unexplained" or sum(entry["kind"] == kind for entry in listed) < MAX_LISTED:
            listed.append({"id": request.key, "kind": kind, "cause": cause})
    holds = billed == wanted + sum(counts.values()) and "unexplained" not in counts
    return {"billed": billed, "wanted": wanted, "beyond": counts, "listed": listed, "holds": holds}


def billing_lines(billing_facts: dict[str, Any]) -> list[str]:
    """For people; empty when every request was a wanted one."""
    counts: dict[str, int] = billing_facts["beyond"]
    if billing_facts["holds"] and not counts:
        return []
    terms = [f"{billing_facts['wanted']:,} wanted"]
    terms += [f"{number:,} {KIND_LABELS.get(kind, kind)}" for kind, number in counts.items()]
    lines = [
        f"billed {billing_facts['billed']:,} {'=' if billing_facts['holds'] else '≠'} {' + '.join(terms)} (requests, all runs)"
    ]
    if not billing_facts["holds"]:
        lines.append("these do not balance: this is a bug in batchgen, please report it")
    for kind, number in counts.items():
        if kind == "batch":
            continue
        entries = [f"{entry['id']} ({entry['cause']})" for entry in billing_facts["listed"] if entry["kind"] == kind]
        more = f", … and {number - len(entries):,} more" if number > len(entries) else ""
        lines.append(f"    {KIND_LABELS.get(kind, kind)}: {', '.join(entries)}{more}")
    return lines
