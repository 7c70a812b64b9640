"""The state of a job and the end of a run, as frozen data: what every view shows. `queries` fills it from the ledger.

A field's name is its key in the JSON of `status`, `run`, `history` and the dashboard: a new column is one field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from batchgen.ledger.requests import Money
from batchgen.ledger.runs import QueueStatus
from batchgen.report import formatting
from batchgen.report.acceptance import AcceptanceView, ReviewedSample
from batchgen.report.view_json import Sparse, UtcTime, as_json, utc_time, view_of

__all__ = ["Sparse", "UtcTime", "as_json", "utc_time", "view_of"]


@dataclass(frozen=True, slots=True)
class MoneyView:
    """USD. None is unknown: nothing with a known price was or may have been spent. Otherwise the sum of what is known,
    and how many requests it leaves out."""

    spent: float | None
    estimated: float
    guessed: float
    requests_of_unknown_price: int
    maybe_billed: float | None
    maybe_billed_requests: int
    maybe_billed_of_unknown_price: int
    searched_requests: int

    @classmethod
    def of(cls, money: Money) -> Self:
        spent = formatting.known_amount(money.spent, 0 if money.estimated else money.unknown)
        maybe = formatting.known_amount(money.maybe, money.maybe_unknown)
        return cls(
            spent=spent,
            estimated=money.estimated,
            guessed=money.guessed,
            requests_of_unknown_price=money.unknown,
            maybe_billed=maybe,
            maybe_billed_requests=money.maybe_requests,
            maybe_billed_of_unknown_price=money.maybe_unknown,
            searched_requests=money.searched,
        )

    @property
    def known(self) -> float:
        return (self.spent or 0.0) + self.estimated


@dataclass(frozen=True, slots=True)
class BillingEntry:
    id: str
    kind: str
    cause: str


@dataclass(frozen=True, slots=True)
class BillingCheck:
    """The account of requests. billed: those that were or may have been. wanted: those with their sample's latest
    image. beyond: the others by kind, with the first of each. holds: whether all add up and have a cause; otherwise it
    is a bug."""

    billed: int
    wanted: int
    beyond: Mapping[str, int]
    listed: Sequence[BillingEntry]
    holds: bool


@dataclass(frozen=True, slots=True)
class DiscrepancyView:
    """Images that are missing, or not what the ledger recorded: the first of each by path, and their number."""

    missing: Sequence[str] = ()
    missing_total: int = 0
    changed: Sequence[str] = ()
    changed_total: int = 0


@dataclass(frozen=True, slots=True)
class UncertainSample:
    id: str
    maybe_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsView:
    """What the manifest asks for, as a run read it, and how much of it is made. images: in total. rejected: of those
    made. not_made: by state. left_out: by reason: limit, only or not_asked. outdated: made for an earlier version of
    their item and left out. not_in_manifest: what the ledger has besides. read_by_run: 0 if only what was tried is
    known. manifest: same | changed | gone | unknown since."""

    images: int
    made: int
    not_made: Mapping[str, int]
    not_tried: int
    not_in_manifest: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None
    outdated: int = 0
    rejected: int = 0
    read_by_run: int = 0
    read_at: UtcTime | None = None
    manifest: str = "unknown"

    @property
    def complete(self) -> bool:
        return self.made == self.images


@dataclass(frozen=True, slots=True)
class BlockedSample:
    """A sample that needs the image of another item. message: which one, and why that does not exist."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ReasonView:
    """A reason for samples without an image, their number, and what to do about it."""

    reason: str
    samples: int
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class OutageView:
    """An outage in the last run. until: None while it lasts, then retry_at says when the next probe is sent."""

    scope: str
    name: str
    models: Sequence[str]
    since: UtcTime
    until: UtcTime | None
    retry_at: UtcTime | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch that is out, or about to be. state: the vendor's term; `not created yet` if the vendor does not know
    it."""

    batch: str
    model: str
    state: str
    requests: int
    succeeded: int
    failed: int
    since: UtcTime
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """An open request. to_fetch: answered with links, and paid for; the images are still to be downloaded."""

    id: str
    model: str
    images: int
    since: UtcTime
    estimate_usd: float | None
    to_fetch: bool


@dataclass(frozen=True, slots=True)
class Parked:
    until: UtcTime
    message: str


@dataclass(frozen=True, slots=True)
class LaneView:
    """One AI model now. until: UTC seconds; 0 if it does not wait. A model only waits while a run is going on, or if it
    is parked."""

    model: str
    samples: Mapping[str, int]
    in_flight: int
    cooling_until: float
    parked_until: float
    retry_at: float
    message: str

    @property
    def busy(self) -> bool:
        """Whether there is anything to say about it."""
        return bool(self.samples or self.in_flight or self.cooling_until or self.parked_until or self.retry_at)


@dataclass(frozen=True, slots=True)
class UnreadAnswers:
    answers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run. state: from `run_state`."""

    id: int
    state: str
    started_at: UtcTime
    ended_at: UtcTime | None
    pid: int
    host: str
    exit_code: int | None
    stopped_by: str
    message: str
    remedy: str
    wanted: int
    kept: int

    @property
    def running(self) -> bool:
        """Whether it is running, as far as can be seen from here."""
        return self.state in ("running", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run in figures. state: from `run_state`; made: images; not_made: samples by how they ended."""

    run: int
    state: str
    began: UtcTime
    ended: UtcTime | None
    seconds: float | None
    made: int
    not_made: Mapping[str, int]
    usd: MoneyView
    exit_code: int | None
    stopped_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(AcceptanceView):
    """What every view of a job shows. samples and requests: their number, by state and by outcome. account: requests of
    all runs that were or may have been billed, and what each was for; account_of_run: of the last run. cluster: what is
    with workers, None for a job that was never submitted. rejected_samples, warned_samples: the first of them."""

    job: str
    manifest: str
    folder: str
    bucket: str
    waiting: int
    discrepancies: DiscrepancyView
    emulated: bool
    samples: Mapping[str, int]
    totals: TotalsView
    requests: Mapping[str, int]
    usd: MoneyView
    cluster: QueueStatus | None
    uncertain: Sequence[UncertainSample]
    blocked: Sequence[BlockedSample]
    account: BillingCheck
    account_of_run: BillingCheck
    outages: Sequence[OutageView]
    reasons: Sequence[ReasonView]
    rejected_samples: Sequence[ReviewedSample] = ()
    warned_samples: Sequence[ReviewedSample] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(JobView):
    """The state of a job. usd and requests: of all runs. jobs: requests that an API has accepted and answers later.
    derivatives: files of `post:`, by kind and state. total: images that are wanted, including those not tried."""

    by_model: Mapping[str, Mapping[str, int]]
    in_flight: Sequence[OpenRequest]
    jobs: Sequence[OpenRequest]
    batches: Sequence[BatchView]
    derivatives: Mapping[str, Mapping[str, int]]
    parked: Mapping[str, Parked]
    unread: UnreadAnswers
    run: LastRun | None
    total: int

    @property
    def running(self) -> bool:
        return self.run is not None and self.run.running


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Counts of images. left: wanted and not tried; left_out: without an image because of --only or --limit."""

    made: int
    kept: int
    moved: int
    left: int
    left_out: int


@dataclass(frozen=True, slots=True)
class ExposedView:
    """How long answers were only in memory or unrecorded, in ms."""

    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class LimitView:
    """What limits a run, what helps, and what it would take at best."""

    binding: str
    remedy: str
    seconds_at_best: float
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """The totals of batches. submitted, unsubmitted: samples; saved_usd: compared with the same requests one by one."""

    submitted: int
    unsubmitted: int
    saved_usd: float
    out: Sequence[BatchView]


@dataclass(frozen=True, slots=True)
class FailedDerivative:
    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivativeView:
    """What was made from the images, see `DerivativeCounts`, and why some files could not be."""

    made: int = 0
    skipped: int = 0
    removed: int = 0
    failed: int = 0
    finished: bool = True
    queued: int = 0
    failures: Sequence[FailedDerivative] = ()


@dataclass(frozen=True, slots=True)
class FlaggedImage:
    """An image that was kept although it is not as requested."""

    path: str
    flags: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(JobView):
    """How a run ended. usd, requests, account_of_run and acceptance: this run's; samples: the job's as it is now.
    own_folder: it differs from the manifest's default, so `--output` has to be typed again. retried: the states that a
    `retry` was to request again. unreviewed: images whose review is left to the next run."""

    run_id: int
    exit_code: int
    stopped_by: str
    message: str
    remedy: str
    seconds: float
    exposed_ms: ExposedView | None
    own_folder: bool
    engine: str
    results: str
    images: ImageCounts
    limit: LimitView
    parked: Mapping[str, UtcTime]
    stopped_models: Mapping[str, str]
    batches: BatchTotals
    derivatives: DerivativeView
    flagged: Sequence[FlaggedImage]
    flagged_total: int
    newest: Sequence[str]
    retried: Sequence[str] = ()
    unreviewed: int = 0
