"""The events of a run, one frozen class each. `at` is in UTC seconds since 1970.

A field with `Logged` appears in the event's line of the log, whose name is `log_name`. The log's JSON Schema is made from these
classes, and describes an event by the first line of the docstring of the class that names it. Other people's programs read
these names, so names are only ever added, never changed or given another meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol

from batchgen.errors import BREAKER_SCOPES
from batchgen.log_fields import (
    COUNTS,
    DURATION,
    ESTIMATE,
    MESSAGE,
    REASON,
    USD,
    Attempt,
    Batch,
    Due,
    ExitCode,
    Job,
    Key,
    Logged,
    Manifest,
    Message,
    Model,
    Reason,
    Requests,
    State,
    Unpriced,
    VendorCount,
    count,
)
from batchgen.records import ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    log_name: ClassVar[str] = ""
    level: ClassVar[str] = "info"  # of its line in the log; any event with an exit code other than 0 is a warning
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """What this run wants to make.

    usd: an estimate, None if unknown. known_usd: for the requests whose price is known; unpriced: how many have no known price.
    The run's number and the job's name are in every line of the log.
    """

    log_name: ClassVar[str] = "run.started"
    run_id: int
    job: str
    emulated: Annotated[bool, Logged("A local emulator answers: no image is real.")] = False
    samples: Annotated[dict[str, int], Logged("Images to make, by model.", "wanted", schema=COUNTS)]
    kept: Annotated[int, count("Images that were there already.")]
    left_out: Annotated[
        dict[str, int],
        Logged("Images that the manifest asks for and this run does not make, by why: limit, only, not_asked.",
               schema=COUNTS, left_out=True),
    ] = field(default_factory=dict)  # fmt: skip
    usd: Annotated[float | None, ESTIMATE]
    known_usd: float = 0.0
    unpriced: Unpriced = 0
    eta_s: Annotated[float | None, Logged("How long the run takes at best; null is unknown.", unit="s")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(Event):
    """A request is about to leave."""

    log_name: ClassVar[str] = "attempt.started"
    attempt: Attempt
    key: Key
    model: Model
    number: Annotated[int, count("Which request for this sample it is, from 1.", least=1)]
    sent_as: Annotated[str, Logged("How the request departs from its item, in words; most often empty.")] = ""
    batch: bool = False  # a line of a batch, rather than a request in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """A request ended without an image."""

    log_name: ClassVar[str] = "attempt.failed"
    level: ClassVar[str] = "warning"
    attempt: Attempt
    key: Key
    model: Model
    outcome: Annotated[str, Logged(schema={"enum": ("refused", "failed", "uncertain")})]
    reason: Reason
    message: Message
    retry_in_s: Annotated[float | None, Logged("null: this ended the sample.", unit="s")]
    maybe_billed: Annotated[bool, Logged("The vendor may charge for it all the same.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult(Event):
    """An image is durable, or this run gives it up."""

    log_name: ClassVar[str] = "sample.ended"
    key: Key
    model: Model
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSucceeded(SampleResult):
    """usd: what the attempt cost this sample, None if unknown; seconds: from sending until the image is durable."""

    state: State = field(default="succeeded", init=False)
    attempt: Attempt
    files: Annotated[tuple[ImageFile, ...], Logged("The image, and drafts of the same answer.", unit="files")]
    notes: Annotated[tuple[str, ...], Logged("What was unexpected in the answer.")] = ()
    usd: Annotated[float | None, USD]
    seconds: Annotated[float, DURATION]
    exposed_ms: Annotated[
        float | None,
        Logged("From the answer's last byte to its durable record; null for an image that a link gave.", unit="ms"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnded(SampleResult):
    """A sample that ends this run without an image: refused, failed or uncertain."""

    level: ClassVar[str] = "warning"
    reason: Reason
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageJudged(Event):
    """The judge has answered how well an image meets its rubric."""

    log_name: ClassVar[str] = "image.judged"
    attempt: Attempt
    key: Key
    model: Model
    score: Annotated[float, Logged("Points out of 10.", schema={"minimum": 0, "maximum": 10})]
    least: Annotated[float, Logged("Points that the manifest asks for.")]
    message: Message
    usd: Annotated[float | None, USD]
    seconds: Annotated[float, DURATION]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReviewed(Event):
    """Checks, judge or a person have ruled on an image: it is accepted, rejected, or made again."""

    log_name: ClassVar[str] = "image.reviewed"
    key: Key
    model: Model
    ruling: Annotated[str, Logged("What becomes of it.", schema={"enum": ("accepted", "warned", "rejected", "again")})]
    reason: Reason
    message: Message

    @property
    def is_accepted(self) -> bool:
        return self.ruling in ("accepted", "warned")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCooled(Event):
    """A model waits for its quota."""

    log_name: ClassVar[str] = "lane.cooled"
    level: ClassVar[str] = "warning"
    model: Model
    seconds: Annotated[float, Logged("How long the model waits.", "wait_s", "s")]
    reason: Reason
    rpm: Annotated[float | None, Logged("Requests a minute from now on; null: none declared.", unit="rate")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWaiting(Event):
    """A model starts nothing until then, for a reason of its own: quota, spend, cooling, outage or backoff."""

    log_name: ClassVar[str] = "lane.waiting"
    model: Model
    until: Annotated[float, Logged("UTC.", unit="utc")]
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParked(Event):
    """A model's daily quota is used up."""

    log_name: ClassVar[str] = "lane.parked"
    level: ClassVar[str] = "warning"
    model: Model
    until: Annotated[float, Logged("UTC.", unit="utc")]
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStopped(Event):
    """No more of a model in this run."""

    log_name: ClassVar[str] = "lane.stopped"
    level: ClassVar[str] = "warning"
    model: Model
    reason: Reason
    message: Message
    left: Annotated[int, count("Samples that were not tried.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(Event):
    """A model, account or host that is down: only a probe is sent now and then, and no image loses an attempt to it."""

    scope: Annotated[str, Logged("How far an outage reaches; lane: one model.", schema={"enum": tuple(BREAKER_SCOPES)})]
    name: Annotated[str, Logged("Name of the model, or host of the API.")]
    models: Annotated[Sequence[str], Logged("AI models that wait for it.")]
    since: Annotated[float, Logged("When its first request failed; UTC.", unit="utc")]
    retry_at: Annotated[float | None, Logged("When the next probe is sent, UTC; null: it answers again.", unit="utc")]
    reason: Reason
    message: Message


class OutageStarted(Outage):
    """A model, account or host is down: only a probe is sent now and then."""

    log_name = "outage.started"
    level = "warning"


class OutageProbeFailed(Outage):
    """A probe has failed."""

    log_name = "outage.probe_failed"
    level = "warning"


class OutageEnded(Outage):
    """The model, account or host answers again."""

    log_name = "outage.ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSubmitted(Event):
    """A batch exists at the vendor's."""

    log_name: ClassVar[str] = "batch.submitted"
    model: Model
    batch: Batch
    requests: Requests
    usd: Annotated[float | None, ESTIMATE]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUpdated(Event):
    """How a batch stands there, when that has changed."""

    log_name: ClassVar[str] = "batch.updated"
    model: Model
    batch: Batch
    state: State
    requests: Requests
    succeeded: VendorCount
    failed: VendorCount


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCollected(Event):
    """What a batch has brought is settled."""

    log_name: ClassVar[str] = "batch.collected"
    model: Model
    batch: Batch
    made: Annotated[int, count("Pictures.")]
    again: Annotated[int, count("Requests that are asked for once more.")]
    ended: Annotated[int, count("Requests that this run gives up.")]
    usd: Annotated[float, USD]
    unpriced: Unpriced = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """Nothing new starts.

    reason: a signal's name, budget, deadline, key_rejected, billing, disk.
    """

    log_name: ClassVar[str] = "run.stopping"
    level: ClassVar[str] = "warning"
    reason: Reason
    message: Message
    in_flight: Annotated[int, count("Requests without an answer yet.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something worth a line: a repair at start, a warning, a message that was not sent."""

    log_name: ClassVar[str] = "run.notice"
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """The run is over."""

    log_name: ClassVar[str] = "run.ended"
    run_id: int
    exit_code: ExitCode
    seconds: Annotated[float, DURATION]
    counts: Annotated[dict[str, int], Logged("Wanted samples by state.", schema=COUNTS)] = field(default_factory=dict)
    derived: Annotated[
        dict[str, int],
        Logged("Files of `post:`: made, left out, removed; failed are all that stand so now.", "derivatives",
               schema=COUNTS, left_out=True),
    ] = field(default_factory=dict)  # fmt: skip
    discrepancies: Annotated[
        dict[str, int],
        Logged("Images that are missing, and that are not what the ledger recorded.", schema=COUNTS, left_out=True),
    ] = field(default_factory=dict)
    accepted: Annotated[int, Logged("Images of this run that are accepted.")] = 0
    rejected: Annotated[int, Logged("Images of this run that are rejected.", left_out=True)] = 0
    usd_per_accepted: Annotated[
        float | None, Logged("All that this run has cost for each of those; null: not known, or none is.", unit="usd")
    ] = None
    minutes_per_accepted: Annotated[float | None, Logged("How long this run took for each of those.", unit="rate")] = (
        None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunPlanned(Event):
    """`daemon`: when a job's next night begins."""

    log_name: ClassVar[str] = "scheduled_run.planned"
    job: Job
    manifest: Manifest
    due: Due


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunStarted(Event):
    """`daemon`: a run of the job begins.

    why: on time, missed, interrupted, held, reset, batches, or made: what it submitted to workers.
    """

    log_name: ClassVar[str] = "scheduled_run.started"
    job: Job
    manifest: Manifest
    due: Due
    why: Annotated[str, Logged(REASON, "reason")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunEnded(Event):
    """`daemon`: that run is over."""

    log_name: ClassVar[str] = "scheduled_run.ended"
    job: Job
    manifest: Manifest
    exit_code: ExitCode
    seconds: Annotated[float, DURATION]
    meaning: Annotated[str, Logged(MESSAGE, "message")]
    again: Annotated[str | None, Logged("When the job runs next, UTC; null: the daemon ends.", "next")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunSkipped(Event):
    """`daemon`: a missed run is too long ago to be made up for."""

    log_name: ClassVar[str] = "scheduled_run.skipped"
    job: Job
    manifest: Manifest
    due: Due


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunOutput(Event):
    """`daemon`: output of that run that is not a line of its log."""

    log_name: ClassVar[str] = "scheduled_run.output"
    job: Job
    message: Message


class Observer(Protocol):
    """Receives every event after the ledger has recorded it. An observer that raises is logged and dropped; the run goes on."""

    def __call__(self, event: Event, /) -> None: ...
