"""What a job was billed for: by AI model, by run, and what is uncertain. The account has to balance: every request that
was or may have been billed is wanted, listed with its cause, or a bug."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import IN_BATCH_REASON, LATE_REASON, SurplusRequest
from batchgen.report import formatting
from batchgen.report.view import BillingCheck, BillingEntry, MoneyView, UncertainSample, UtcTime

MAX_LISTED = 10
MAX_UNCERTAIN = 10_000
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


def classify_request(request: SurplusRequest) -> tuple[str, str]:
    """What a request beyond the wanted ones is, as a key of KIND_LABELS and a cause; `unexplained` if the ledger has
    none."""
    if request.outcome is None:
        if request.reason == IN_BATCH_REASON:
            return "batch", request.reason
        return ("link", request.reason or "to be fetched") if request.linked else ("open", "in flight")
    if request.outcome != "succeeded":
        kinds = ("maybe_twice", "maybe_once") if request.doubtful else ("again", "no_picture")
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
    """The account of one run, or of all. max_listed: of each kind; None: all."""
    counts = reader.billed_request_count(run_id), reader.picture_request_count(run_id)
    return billing_check(*counts, reader.surplus_requests(run_id), max_listed)


def billing_check(
    billed: int, wanted: int, beyond: Iterable[SurplusRequest], max_listed: int | None = MAX_LISTED
) -> BillingCheck:
    """The account of these requests. Pure."""
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
    """Text such as `12 requests billed: 9 for images, 3 billed without an image`."""
    terms = [f"{found.wanted:,} for images"]
    terms += [f"{number:,} {KIND_LABELS.get(kind, kind)}" for kind, number in found.beyond.items()]
    return f"{formatting.count(found.billed, 'request')} billed: {', '.join(terms)}"


def billing_lines(of_run: BillingCheck, of_all: BillingCheck, folder: str) -> list[str]:
    """A line about what the last run was billed for, unless it was all for images, and a second one if it does not
    balance."""
    details = f"`batchgen status {formatting.shell_path(folder)} --billing` has the details"
    lines = [f"{balance_text(of_run)}; {details}"] if of_run.beyond else []
    return lines if of_all.holds else [*lines, UNBALANCED]


@dataclass(frozen=True, slots=True)
class RunBilling:
    """The billing of one run. requests: those that have ended, billed or not."""

    run: int
    began: UtcTime
    requests: int
    usd: MoneyView


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingView:
    """The billing of a job. usd: of all runs; by_model, by_run: parts of it, the latest run first. account: every
    request beyond the wanted ones with its cause."""

    job: str
    folder: str
    emulated: bool
    usd: MoneyView
    by_model: Mapping[str, MoneyView]
    by_run: Sequence[RunBilling]
    account: BillingCheck
    uncertain: Sequence[UncertainSample]


def load_billing(folder: Path) -> BillingView:
    """The billing of a job. Raises LedgerError."""
    with Reader.open(folder) as reader:
        by_run = reader.money_by_run()
        return BillingView(
            job=reader.meta("name") or folder.name,
            folder=str(folder),
            emulated=reader.meta("emulated") == "yes",
            usd=MoneyView.of(reader.money()),
            by_model={model: MoneyView.of(money) for model, money in reader.money_by_model().items()},
            by_run=[
                RunBilling(run.id, UtcTime(run.started_at), requests, MoneyView.of(money))
                for run in reader.runs()
                if run.id in by_run
                for requests, money in [by_run[run.id]]
            ],
            account=read_billing(reader, max_listed=None),
            uncertain=[UncertainSample(key, usd) for key, usd in reader.uncertain_samples(MAX_UNCERTAIN)],
        )


def billing_blocks(found: BillingView) -> Iterator[tuple[str, list[str]]]:
    """(label, lines), the sum first. Text from others is not sanitized yet."""
    yield "money", money_lines(found.usd, emulated=found.emulated)
    yield "requests", [balance_text(found.account), *([] if found.account.holds else [UNBALANCED])]
    if found.by_model:
        yield "by model", [f"{model}: {_money(usd, found)}" for model, usd in found.by_model.items()]
    if found.by_run:
        yield "by run", [_run_line(run, found) for run in found.by_run]
    if found.uncertain:
        lines = [f"{sample.id}  {formatting.usd(sample.maybe_usd)}" for sample in found.uncertain]
        yield "uncertain", ["sent and never answered; each may have been billed:", *lines]
    for kind in found.account.beyond:
        entries = [f"{entry.id}  {entry.cause}" for entry in found.account.listed if entry.kind == kind]
        yield "beyond", [f"{KIND_LABELS.get(kind, kind)}:", *entries]


def _run_line(run: RunBilling, found: BillingView) -> str:
    return f"run {run.run}, {run.began.iso}: {formatting.count(run.requests, 'request')}, {_money(run.usd, found)}"


def _money(usd: MoneyView, found: BillingView) -> str:
    return " · ".join(money_lines(usd, emulated=found.emulated))


def money_lines(usd: MoneyView, *, emulated: bool) -> list[str]:
    """Charged, estimated, possibly charged and unknown amounts, which are never added up."""
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


def _why_estimated(usd: MoneyView) -> str:
    guess = "the price of the service tier is a guess"
    if usd.guessed >= usd.estimated:
        return guess
    return f"no usage was reported, or {guess}" if usd.guessed else "no usage was reported"


def _maybe_billed(usd: MoneyView, words: str) -> str:
    """The amount for requests that brought no image."""
    requests = formatting.count(usd.maybe_billed_requests, "request")
    if usd.maybe_billed is None:
        return f"an unknown amount {words} ({requests} that brought no image)"
    unpriced = usd.maybe_billed_of_unknown_price
    rest = f", {unpriced:,} of them of unknown price" if unpriced else ""
    amount = formatting.usd(usd.maybe_billed)
    return f"{amount} {words}, an estimate ({requests} that brought no image{rest})"
