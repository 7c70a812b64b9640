"""An outage in words: as it begins, while it lasts, once it is over, and in what is read of a run later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchgen.errors import BREAKER_SCOPES
from batchgen.report import formatting
from batchgen.sanitize import short_message

if TYPE_CHECKING:
    from batchgen.events import Outage
    from batchgen.report.view import OutageView


def outage_started(outage: Outage) -> str:
    """One sentence for the moment at which it was found."""
    since = formatting.local_time(outage.since, outage.at)
    what = _condition(outage.scope, outage.name)
    return f"{what} since {since} ({_cause(outage.reason, outage.message)}): retrying now and then, without using up any item's attempts"


def outage_ended(outage: Outage) -> str:
    took = formatting.duration(outage.at - outage.since)
    if outage.scope == "account":
        return f"the account at {outage.name} is below its spending limit again, after {took}"
    return f"{outage.name} answers again, after {took}"


def outage_status(outage: Outage, now: float) -> str:
    """A few words beside a model's bar."""
    retry = "" if outage.retry_at is None else f", next try {formatting.local_time(max(now, outage.retry_at), now)}"
    what = "spending limit reached" if outage.scope == "account" else "down"
    return f"{what} since {formatting.local_time(outage.since, now)}{retry}"


def outage_summary(outage: OutageView) -> str:
    """After the run, or from outside."""
    now, why = time.time(), _cause(outage.reason, outage.message)
    since = formatting.local_time(outage.since, now)
    if outage.until is None:
        return f"{_condition(outage.scope, outage.name)} since {since} ({why})"
    until = formatting.local_time(outage.until, now)
    name, account = outage.name, outage.scope == "account"
    what = f"the account at {name} was at its spending limit" if account else f"{name} was down"
    return f"{what} from {since} to {until} ({why})"


def ongoing_outage(outages: Sequence[OutageView]) -> str | None:
    """What the run ended with, in words, of the widest reach."""
    lasting = [outage for outage in outages if outage.until is None]
    widest = max(lasting, key=lambda outage: BREAKER_SCOPES.index(outage.scope), default=None)
    if widest is None:
        return None
    name = "the API" if widest.scope == "host" else widest.name
    return f"{_condition(widest.scope, name)} since {formatting.local_time(widest.since, time.time())}"


def _condition(scope: str, name: str) -> str:
    return f"the account at {name} has been at its spending limit" if scope == "account" else f"{name} has been down"


def _cause(reason: str, message: str) -> str:
    return f"{reason}: {short_message(message)}"
