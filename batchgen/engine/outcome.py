"""The options of a run, and how it ended, in figures and as an exit code."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from batchgen.errors import UsageError
from batchgen.events import RunEnded
from batchgen.ledger.acceptance import Acceptance, AcceptanceReader
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import BatchMode, BatchOptions
from batchgen.planning.plan import RETRY_STATES, Forecast, RetrySelection, forecast
from batchgen.records import WITHOUT_IMAGE
from batchgen.scheduling.stop_reason import StopKind, StopReason

STALL_S = 1800.0
EMULATED_POLL_S, LOCAL_POLL_S = 0.1, 0.4  # between polls of a batch
# `batch` and `auto` send in batches what a batch API accepts, and the rest online.
BATCH_MODES: Mapping[str, BatchMode] = {"batch": "batch", "auto": "auto"}
MAX_LISTED = 10  # discrepancies of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line or a caller asks of one run, or of its plan. None stands for what the manifest says.

    only: patterns of ids, or `tag:NAME`. limit: the most requests. max_usd: stop before more is spent. hold_uncertain:
    do not repeat requests that were never answered. by: UTC seconds by which everything should be done; each request
    then goes the cheapest way that is in time, and none starts later. Raises UsageError for an impossible value.
    """

    retry_selection: RetrySelection = field(default_factory=RetrySelection)
    only: tuple[str, ...] = ()
    limit: int | None = None
    concurrency: int | None = None
    max_usd: float | None = None
    deadline: float | None = None  # UTC seconds
    by: float | None = None
    hold_uncertain: bool = False
    stall_s: float | None = None  # stop if requests fail for this long without a success; None: `stall_limit_s`
    batches: BatchOptions = field(default_factory=BatchOptions)
    emulator_url: str | None = None
    ledger: str | None = None  # address of its PostgreSQL server; None: BATCHGEN_LEDGER, else the job folder
    install_signal_handlers: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.only, str):
            raise UsageError(f"only: must be a tuple of patterns, not the text {self.only!r}")
        for name in ("limit", "concurrency", "max_usd"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name}: must be more than 0, not {value}")
        if unknown := self.retry_selection.states.difference(RETRY_STATES):
            raise UsageError(
                f"retry: there is no state {', '.join(sorted(unknown))}; there are {', '.join(RETRY_STATES)}"
            )

    def for_engine(self, engine: str) -> RunOptions:
        """The options with what an engine sends in batches. Raises UsageError for an engine without a choice of
        ways."""
        if self.by is None:
            return replace(self, batches=replace(self.batches, batch_mode=BATCH_MODES.get(engine, "online")))
        if engine not in ("online", "auto"):
            raise UsageError(f"--by chooses between batches and single requests itself: leave --engine {engine} out")
        deadline = self.by if self.deadline is None else min(self.by, self.deadline)
        return replace(self, deadline=deadline, batches=replace(self.batches, batch_mode="auto"))

    def batch_options(self, *, local: bool) -> BatchOptions:
        """The options for batches. With an engine that sends none, batches that are out are polled once and not waited
        for. local: the server is on this machine and may be polled often."""
        options = self.batches
        if self.emulator_url is not None:  # whose batches take seconds
            grace_s = min(options.listing_grace_s, 1.0)
            options = replace(options, poll_s=min(options.poll_s, EMULATED_POLL_S), listing_grace_s=grace_s)
        elif local:
            options = replace(options, poll_s=min(options.poll_s, LOCAL_POLL_S))
        waits = options.wait and options.batch_mode != "online"
        return replace(options, wait=waits, hold_uncertain=self.hold_uncertain)

    @property
    def stall_limit_s(self) -> float | None:
        """How long requests may fail without a success: half an hour, or until the deadline if the run has one."""
        if self.stall_s is not None:
            return self.stall_s
        return STALL_S if self.deadline is None else None


@dataclass(frozen=True, slots=True)
class DerivativeCounts:
    """The derivatives of one run. failed: all that are failed now. finished: only failed ones are missing. queued:
    images whose files are left to workers elsewhere."""

    made: int = 0
    skipped: int = 0
    removed: int = 0
    failed: int = 0
    finished: bool = True
    queued: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.made or self.removed or self.failed)

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not 0."""
        return {name: n for name in ("made", "skipped", "removed", "failed") if (n := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """The images that this run has reviewed. warned: accepted with a finding. again: bought once more. left: to be
    reviewed by the next run, because the judge's answer is missing or the run is over."""

    accepted: int = 0
    warned: int = 0
    rejected: int = 0
    again: int = 0
    left: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not 0."""
        return {name: n for name in ("accepted", "warned", "rejected", "again", "left") if (n := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class Discrepancies:
    """Images in the ledger that are missing or not what was recorded, by path. check_failed: why the bucket could not
    be asked, empty if it was. checked: whether anybody compared them."""

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    check_failed: str = ""
    checked: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not 0."""
        return {name: n for name in ("missing", "changed") if (n := len(getattr(self, name)))}

    @property
    def listed(self) -> dict[str, Any]:
        """The first of each kind and their number, as a JSON value."""
        return {
            "missing": list(self.missing[:MAX_LISTED]),
            "missing_total": len(self.missing),
            "changed": list(self.changed[:MAX_LISTED]),
            "changed_total": len(self.changed),
        }


EXIT_CODE_BY_STOP_REASON = {
    "budget": 6,
    "deadline": 7,
    "stalled": 4,
    "cancelled": 3,
    "SIGINT": 130,
    "SIGTERM": 143,
    "SIGHUP": 129,
    "key_rejected": 5,
    "location_unsupported": 5,
    "account_restricted": 5,
    "billing": 5,
    "disk": 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnding:
    """How the work of a run ended. stop_reason: why nothing more was started, None if everything was tried. left:
    samples that were not tried. with_workers: how many of them workers still make. waits_for_quota: some of them wait
    for another day's quota. stopped_lanes: reasons by lane. waiting_uploads: images that the bucket refused. parked: by
    lane, UTC seconds until which it stays closed. ended_by_workers: the exit code with which workers ended the same
    submission before.

    Counted at the very end: made and tried, images and requests of this run; missing, wanted images that do not exist;
    submitted, samples in batches; rejected, images that exist but do not count.
    """

    stop_reason: StopReason | None = None
    message: str = ""
    left: int = 0
    with_workers: int = 0
    waits_for_quota: bool = False
    stopped_lanes: Mapping[str, str] = field(default_factory=dict)
    unsubmitted: int = 0
    exposed_ms: tuple[float, float] | None = None
    derived: DerivativeCounts = field(default_factory=DerivativeCounts)
    reviewed: ReviewCounts = ReviewCounts()
    rejected: int = 0
    waiting_uploads: int = 0
    parked: Mapping[str, float] = field(default_factory=dict)
    ended_by_workers: int | None = None
    made: int = 0
    tried: int = 0
    missing: int = 0
    submitted: int = 0
    discrepancies: Discrepancies = Discrepancies()

    @property
    def exit_code(self) -> int:
        """The process's exit code, as the README lists them.

        A reason to stop takes precedence, then a daily quota, then work that is out, then an image that is not what the
        ledger recorded, which no further run repairs, and then whether all, some or none of what was tried succeeded.
        """
        if self.stop_reason is not None:  # else a reason from a third party's codec
            other = 1 if self.stop_reason.kind is StopKind.BUG else EXIT_CODE_BY_STOP_REASON["key_rejected"]
            return EXIT_CODE_BY_STOP_REASON.get(self.stop_reason.slug, other)
        if self.waiting_uploads:
            return EXIT_CODE_BY_STOP_REASON["disk"]
        if self.waits_for_quota:
            return 8
        if self.submitted or self.unsubmitted or self.with_workers or self.derived.queued:
            return 9
        if self.discrepancies.changed or self.discrepancies.check_failed:
            return EXIT_CODE_BY_STOP_REASON["disk"]
        if self.missing <= 0 and not self.discrepancies.missing:
            unsettled = self.rejected or self.reviewed.left or self.derived.failed or not self.derived.finished
            return 3 if unsettled else 0
        return 4 if self.stopped_lanes or (self.tried and not self.made) else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, in figures. counts: samples by their state now; attempts: this run's requests by outcome.

    usd: charged, by usage or the vendor's word. estimated_usd: from the price table. maybe_usd: for requests that may
    have been billed without an image. left: wanted and not tried. left_out: without an image because of --only or
    --limit. exposed_ms: median and maximum of the time between an answer's last byte and its durable record, when a
    crash would lose it; None without an answer. acceptance: of the images that this run made. already_announced:
    whether a worker has ended this very run and sent its message.
    """

    run_id: int
    exit_code: int
    stop_reason: StopReason | None
    message: str
    seconds: float
    kept: int
    moved: int
    counts: Mapping[str, int]
    attempts: Mapping[str, int]
    made: int
    left: int
    usd: float
    estimated_usd: float
    maybe_usd: float
    maybe_requests: int
    unpriced: int
    folder: str
    emulated: bool
    forecast: Forecast
    parked: Mapping[str, float] = field(default_factory=dict)
    stopped_lanes: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    submitted: int = 0  # samples in batches at the vendor
    unsubmitted: int = 0  # samples for which no batch could be made yet
    saved_usd: float = 0.0  # compared with sending the same requests one by one
    exposed_ms: tuple[float, float] | None = None
    derived: DerivativeCounts = field(default_factory=DerivativeCounts)
    reviewed: ReviewCounts = ReviewCounts()
    bucket: str = ""  # where the images are, if not in the folder
    waiting: int = 0  # images in the spool that the bucket refused
    discrepancies: Discrepancies = Discrepancies()
    acceptance: Acceptance = field(default_factory=Acceptance)
    already_announced: bool = False

    @property
    def stopped_by(self) -> str:
        """What ended the run before its work was done, in one word; empty if nothing did."""
        return self.stop_reason.slug if self.stop_reason else ""

    @property
    def recorded(self) -> dict[str, Any]:
        """The part that the ledger keeps."""
        kept = {"made": self.made, "usd": self.usd, "estimated_usd": self.estimated_usd, "message": self.message}
        return {**kept, **({"discrepancies": self.discrepancies.listed} if self.discrepancies.checked else {})}

    @property
    def unreviewed(self) -> int:
        """The number of images whose review is left to the next run."""
        return self.reviewed.left

    @property
    def event(self) -> RunEnded:
        """The event for observers."""
        return RunEnded(
            at=time.time(),
            run_id=self.run_id,
            exit_code=self.exit_code,
            seconds=self.seconds,
            counts=dict(self.counts),
            derived=self.derived.counts,
            discrepancies=self.discrepancies.counts,
            accepted=self.acceptance.accepted,
            rejected=self.acceptance.rejected,
            usd_per_accepted=self.acceptance.usd_per_accepted,
            minutes_per_accepted=self.acceptance.minutes_per_accepted,
        )


def count_ending(ending: RunEnding, reader: Reader, run_id: int, wanted: int) -> RunEnding:
    """Complete the ending of a run that workers ended, with what the ledger knows. wanted: samples that it meant to
    request."""
    counts, made = reader.counts(), reader.image_count_of_run(run_id)
    not_made = sum(counts.get(state, 0) for state in WITHOUT_IMAGE)
    return replace(
        ending,
        made=made,
        tried=sum(reader.attempts(run_id).values()),
        missing=max(wanted - made, not_made),
        submitted=counts.get("submitted", 0),
        rejected=counts.get("rejected", 0),
        waiting_uploads=len(reader.unplaced_by_workers()),
    )


def read_outcome(
    reader: Reader, run_id: int, ending: RunEnding, seconds: float, *, folder: str, bucket: str
) -> Outcome:
    """Read a run's outcome from the ledger once everything is counted. seconds: how long the run took."""
    acceptance = AcceptanceReader.from_reader(reader).run_acceptance(run_id, seconds)
    money = acceptance.money
    return Outcome(
        run_id=run_id,
        exit_code=ending.exit_code,
        stop_reason=ending.stop_reason,
        message=ending.message or ending.discrepancies.check_failed,
        seconds=acceptance.seconds,
        kept=0,
        moved=0,
        counts=reader.counts(),
        attempts=reader.attempts(run_id),
        made=ending.made,
        left=ending.left,
        usd=money.spent,
        estimated_usd=money.estimated,
        maybe_usd=money.maybe,
        maybe_requests=money.maybe_requests,
        unpriced=money.unknown,
        folder=folder,
        emulated=reader.meta("emulated") == "yes",
        forecast=forecast((), 1, None),
        parked={**ending.parked, **{lane: until for lane, (until, _) in reader.parked().items()}},
        stopped_lanes=ending.stopped_lanes,
        submitted=ending.submitted,
        unsubmitted=ending.unsubmitted,
        derived=ending.derived,
        reviewed=ending.reviewed,
        bucket=bucket,
        waiting=ending.waiting_uploads,
        discrepancies=ending.discrepancies,
        exposed_ms=ending.exposed_ms,
        acceptance=acceptance,
        already_announced=ending.ended_by_workers == ending.exit_code,
    )
