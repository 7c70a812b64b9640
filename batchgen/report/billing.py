"""What a job was billed for: by AI model, by run, what is uncertain, and every request that brought no wanted image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from batchgen.dataclass import dataclass
from batchgen.ledger.reader import Reader
from batchgen.report import formatting
from batchgen.report.billing_check import KIND_LABELS, UNBALANCED, BillingCheck, balance_text, read_billing
from batchgen.report.money_text import money_lines
from batchgen.report.view import MoneyView, UncertainSample, UtcTime

MAX_UNCERTAIN = 10_000


@dataclass(frozen=True, slots=True)
class RunBilling:
    """requests: that have ended, billed or not."""

    run: int
    began: UtcTime
    requests: int
    usd: MoneyView


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingView:
    """usd: of all runs, by_model and by_run parts of the same, the latest run first. account: every request beyond the wanted
    ones with its cause."""

    job: str
    folder: str
    emulated: bool
    usd: MoneyView
    by_model: Mapping[str, MoneyView]
    by_run: Sequence[RunBilling]
    account: BillingCheck
    uncertain: Sequence[UncertainSample]


def load_billing(folder: Path) -> BillingView:
    """Raises LedgerError."""
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
    """(label, its lines), the sum first. Foreign text is not cleaned yet."""
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
