"""Where a job is, and its state on one card: what `status` knows, and lanes, budgets, pace, the last failure and
runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from batchgen.errors import LedgerError
from batchgen.ledger.quota_store import read_spent
from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.records import lane_model, sample_key
from batchgen.report.acceptance import acceptance_text
from batchgen.report.gallery_data import ManifestInfo, thumbnail_path
from batchgen.report.queries import read_lanes, read_run, read_status
from batchgen.report.run_state import exit_words, run_state, stop_words
from batchgen.report.totals import totals_text
from batchgen.report.view import JobStatus, LaneView, RunView, view_of
from batchgen.scheduling.window import period_start

MAX_RUNS = 14
MAX_NEWEST = 6
MAX_IN_FLIGHT = 10
MAX_BATCHES = 10


@dataclass(frozen=True, slots=True)
class JobLocation:
    """Where a job is. folder: absolute; it need not exist yet. manifest: as it was named, empty if only the folder is
    known."""

    folder: Path
    manifest: str = ""

    @property
    def id(self) -> str:
        """An id that is the same in every address and after every start."""
        return hashlib.sha256(str(self.folder).encode("utf-8", "surrogateescape")).hexdigest()[:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class NightView(RunView):
    """A run in words. end: how it ended; why: what stopped it."""

    end: str
    why: str


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget in the manifest, in USD. spent: None if it cannot be read. unpriced: requests of this job that were or
    may have been billed and are not included, for lack of a price."""

    span: str
    limit: float
    spent: float | None
    unpriced: int


@dataclass(frozen=True, slots=True)
class FailureView:
    """The last failure in the last run, in the vendor's words."""

    id: str
    model: str
    outcome: str | None
    reason: str
    message: str
    status: int | None
    at: float | None


class NewestImage(NamedTuple):
    """thumbnail: how its page requests it."""

    id: str
    thumbnail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryView:
    """The last retry that was started on the page. end: in words; log: the end of its output."""

    states: Sequence[str]
    pid: int
    exit_code: int | None
    end: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemCard:
    """A job that has not begun, or whose ledger cannot be read."""

    id: str
    action: RetryView | None
    job: str
    folder: str
    at: float
    problem: str
    begun: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCard(JobStatus):
    """The state of a job, with its manifest's name without a folder and only the first of what is out. id: in
    addresses. files: of `post:`, by state. words, accepted_words: how much of the manifest is made, and how much of
    that accepted. newest: images, newest first. left_s: to the end of the run, None if unknown. at: UTC seconds."""

    id: str
    action: RetryView | None
    files: Mapping[str, int]
    words: str
    accepted_words: str
    newest: Sequence[NewestImage]
    lanes: Sequence[LaneView]
    budgets: Sequence[BudgetView]
    left_s: float | None
    trouble: FailureView | None
    nights: Sequence[NightView]
    at: float


Card = JobCard | ProblemCard
EndedRuns = dict[tuple[int, float | None], NightView]


def card_of(
    ledger: HistoryReader,
    location: JobLocation,
    manifest_info: ManifestInfo,
    alive: bool | None,
    action: RetryView | None,
    ended_runs: EndedRuns,
    now: float,
) -> JobCard:
    """The card of a job. alive: from `is_process_alive`. ended_runs: remembered from card to card. now: UTC seconds."""
    status, last = read_status(ledger, str(location.folder), now, alive), ledger.last_run()
    newest = ledger.newest_pictures(MAX_NEWEST)
    in_flight = Counter(request.model for request in status.in_flight)
    lanes = read_lanes(ledger, status.by_model, in_flight, status.running, now)
    return view_of(
        JobCard,
        status,
        manifest=Path(status.manifest).name,  # its folder is nobody else's business
        in_flight=status.in_flight[:MAX_IN_FLIGHT],
        batches=status.batches[:MAX_BATCHES],
        id=location.id,
        action=action,
        files=derivative_counts(status.derivatives),
        words=totals_text(status.totals),
        accepted_words=acceptance_text(status, emulated=status.emulated),
        newest=[NewestImage(sample_key(each.item_id, each.n), thumbnail_path(each)) for each in newest],
        lanes=[lane for lane in lanes if lane.busy],
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
    """The files of `post:`, by state, such as made or failed."""
    return dict(sum((Counter(states) for states in derivatives.values()), Counter[str]()))


def budgets(
    ledger: HistoryReader, manifest_info: ManifestInfo, last: RunRow | None, now: float, *, emulated: bool
) -> list[BudgetView]:
    """The budgets: spent in the last run by this job, in the day and month by all jobs of the user."""
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
    """The seconds left at the pace of the run so far; None if that says nothing, or if something waits for another
    day."""
    done = min(run.wanted, ledger.ended_count_since(run.started_at))
    if not done or any(until > now for until, _ in ledger.parked().values()):
        return None
    return round((now - run.started_at) / done * (run.wanted - done), 1)


def last_failure(ledger: HistoryReader, last: RunRow | None) -> FailureView | None:
    row = ledger.last_unsuccessful_attempt(last.id) if last else None
    if row is None:
        return None
    return view_of(
        FailureView,
        row,
        id=sample_key(row.item_id, row.n),
        model=lane_model(row.lane),
        reason=row.reason or "",
        message=row.message or "",
        status=row.http_status,
        at=row.ended_at,
    )


def _night(ledger: HistoryReader, run: RunRow, state: str, known: EndedRuns) -> NightView:
    key = (run.id, run.ended_at)
    if key in known:
        return known[key]
    end, why = exit_words(run.exit_code), stop_words(run.stopped_by)
    night = read_run(NightView, ledger, run, state, end=end, why=why)
    if run.ended_at is not None:
        known[key] = night
    return night
