"""How a job stands, on one card: what `status` knows, and beside it lanes, budgets, pace, the last trouble and the last nights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import LedgerError
from batchgen.ledger.quota_store import read_spent
from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.records import sample_key
from batchgen.report.gallery_data import ManifestInfo
from batchgen.report.liveness import run_state
from batchgen.report.queries import read_lanes, read_run, read_status
from batchgen.report.summary import STOP_REASONS
from batchgen.report.view import (
    BatchView,
    LaneView,
    LastRun,
    MoneyView,
    OpenRequest,
    RunView,
    UncertainSample,
    UnreadAnswers,
    lane_model,
)
from batchgen.scheduling.window import period_start

MAX_RUNS = 14
MAX_IN_FLIGHT = 10
MAX_BATCHES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NightView(RunView):
    """why: what stopped it, in words."""

    why: str


@dataclass(frozen=True, slots=True)
class BudgetView:
    """USD of a budget that the manifest sets. spent: None when it cannot be read; unpriced: requests of this job that were or
    may have been billed and are not in it, for want of a price."""

    span: str
    limit: float
    spent: float | None
    unpriced: int


@dataclass(frozen=True, slots=True)
class FailureView:
    """What last went wrong in the last run, in the vendor's words."""

    id: str
    model: str
    outcome: str | None
    reason: str
    message: str
    status: int | None
    at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCard:
    """files: what `post:` asks for, by state; left_s: to the end of the run, None while that is not known; at: UTC seconds."""

    job: str
    folder: str
    emulated: bool
    samples: Mapping[str, int]
    usd: MoneyView
    uncertain: Sequence[UncertainSample]
    unread: UnreadAnswers
    run: LastRun | None
    files: Mapping[str, int]
    manifest: str
    total: int
    lanes: Sequence[LaneView]
    batches: Sequence[BatchView]
    in_flight: Sequence[OpenRequest]
    budgets: Sequence[BudgetView]
    left_s: float | None
    trouble: FailureView | None
    nights: Sequence[NightView]
    at: float


EndedRuns = dict[tuple[int, float | None], NightView]


def card_of(
    ledger: HistoryReader,
    folder: Path,
    manifest_info: ManifestInfo,
    alive: bool | None,
    ended_runs: EndedRuns,
    now: float,
) -> JobCard:
    """alive: as `is_process_alive` says it. ended_runs: remembered from card to card; now: UTC seconds."""
    status, last = read_status(ledger, str(folder), now, alive), ledger.last_run()
    in_flight = Counter(request.model for request in status.in_flight)
    lanes = read_lanes(ledger, status.by_model, in_flight, status.running, now)
    return JobCard(
        job=status.job,
        folder=status.folder,
        emulated=status.emulated,
        samples=status.samples,
        usd=status.usd,
        uncertain=status.uncertain,
        unread=status.unread,
        run=status.run,
        files=derivative_counts(status.derivatives),
        manifest=Path(status.manifest).name,
        total=status.total,
        lanes=[lane for lane in lanes if lane.busy],
        batches=status.batches[:MAX_BATCHES],
        in_flight=status.in_flight[:MAX_IN_FLIGHT],
        budgets=budgets(ledger, manifest_info, last, now, emulated=status.emulated),
        left_s=remaining_s(ledger, last, now) if last is not None and status.running else None,
        trouble=last_failure(ledger, last),
        nights=[
            _night(ledger, run, run_state(run, alive if last and run.id == last.id else False), ended_runs)
            for run in reversed(ledger.runs(MAX_RUNS))
        ],
        at=now,
    )


def derivative_counts(derivatives: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """What `post:` asks for, by state, such as made or failed."""
    return dict(sum((Counter(states) for states in derivatives.values()), Counter[str]()))


def budgets(
    ledger: HistoryReader, manifest_info: ManifestInfo, last: RunRow | None, now: float, *, emulated: bool
) -> list[BudgetView]:
    """Spent in the last run by this job, in the day and month by all jobs of the user."""
    found: list[BudgetView] = []
    for span, limit in manifest_info.budgets.items():
        if span == "run":
            money = ledger.money(last.id) if last else Money()
            spent: float | None = money.spent + money.estimated + money.maybe
            unpriced = money.unknown + money.maybe_unknown
        else:
            since = period_start("day" if span == "day" else "month", now)
            unpriced = ledger.unpriced_count_since(since)
            try:
                spent = max(ledger.spent_since(since), 0.0 if emulated else read_spent(manifest_info.state, since))
            except LedgerError:
                spent = None
        found.append(BudgetView(span, limit, None if spent is None else round(spent, 6), unpriced))
    return found


def remaining_s(ledger: HistoryReader, run: RunRow, now: float) -> float | None:
    """Seconds to go at the pace of the run so far; None while that says nothing, or something waits for another day."""
    done = min(run.wanted, ledger.ended_count_since(run.started_at))
    if not done or any(until > now for until, _ in ledger.parked().values()):
        return None
    return round((now - run.started_at) / done * (run.wanted - done), 1)


def last_failure(ledger: HistoryReader, last: RunRow | None) -> FailureView | None:
    row = ledger.last_unsuccessful_attempt(last.id) if last else None
    if row is None:
        return None
    return FailureView(
        id=sample_key(row.item_id, row.n),
        model=lane_model(row.lane),
        outcome=row.outcome,
        reason=row.reason or "",
        message=row.message or "",
        status=row.http_status,
        at=row.ended_at,
    )


def _night(ledger: HistoryReader, run: RunRow, state: str, known: EndedRuns) -> NightView:
    key = (run.id, run.ended_at)
    if key in known:
        return known[key]
    night = read_run(NightView, ledger, run, state, why=STOP_REASONS.get(run.stopped_by, run.stopped_by))
    if run.ended_at is not None:
        known[key] = night
    return night
