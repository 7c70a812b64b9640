"""What a job or a run has cost, and what of it nobody knows for sure, in words."""

from __future__ import annotations

from batchgen.report import formatting, view


def money_lines(usd: view.MoneyView, *, emulated: bool) -> list[str]:
    """Charged, estimated, perhaps charged and unknown are four things and never one sum."""
    charged = "that a vendor would have charged" if emulated else "charged, by the usage that the vendor reported"
    parts = [f"{formatting.usd(usd.spent)} {charged}"] if usd.spent else []
    if usd.estimated:
        parts.append(f"{formatting.usd(usd.estimated)} estimated ({_why_estimated(usd)})")
    if unpriced := usd.requests_of_unknown_price:
        parts.append(f"{'' if parts else 'unknown: '}{formatting.count(unpriced, 'request')} of unknown price")
    if usd.maybe_billed_requests:
        parts.append(_maybe_billed(usd, "maybe billed on top" if parts else "maybe billed"))
    if not parts:
        parts = [f"{formatting.usd(0)} charged"]
    if usd.searched_requests:
        requests = formatting.count(usd.searched_requests, "request")
        parts.append(f"searches in {requests} are priced in full; some may have been free (monthly allowance)")
    return parts


def _why_estimated(usd: view.MoneyView) -> str:
    guess = "the price of the service tier is a guess"
    if usd.guessed >= usd.estimated:
        return guess
    return f"no usage was reported, or {guess}" if usd.guessed else "no usage was reported"


def _maybe_billed(usd: view.MoneyView, words: str) -> str:
    """For requests that brought no image."""
    requests = formatting.count(usd.maybe_billed_requests, "request")
    if usd.maybe_billed is None:
        return f"an unknown amount {words} ({requests} that brought no image)"
    unpriced = usd.maybe_billed_of_unknown_price
    rest = f", {unpriced:,} of them of unknown price" if unpriced else ""
    amount = formatting.usd(usd.maybe_billed)
    return f"{amount} {words}, an estimate ({requests} that brought no image{rest})"
