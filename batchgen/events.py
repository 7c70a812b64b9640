"""Frozen facts of a run, one class each. `at` is UTC, seconds since 1970; observers fold over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from batchgen.records import ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """samples: how many this run wants, by AI model; kept: those that were there already; usd: estimate, None unknown.

    known_usd: of the requests whose price is known; unpriced: those whose price is not.
    """

    run_id: int
    job: str
    samples: dict[str, int]
    kept: int
    usd: float | None
    eta_s: float | None
    emulated: bool = False
    known_usd: float = 0.0
    unpriced: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(Event):
    attempt: int
    key: str
    model: str
    number: int  # which attempt of this sample, from 1
    sent_as: str = ""  # how the request departs from its item, in words
    batch: bool = False  # a line of a batch, and not in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """outcome: refused | failed | uncertain. retry_in_s: None when this ended the sample."""

    attempt: int
    key: str
    model: str
    outcome: str
    reason: str
    message: str
    retry_in_s: float | None
    maybe_billed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSucceeded(Event):
    """usd: what the attempt cost this sample, None when unknown; seconds: from sending to the picture being durable.

    exposed_ms: from the answer's last byte to its durable record; None for a picture that was fetched from a link.
    """

    attempt: int
    key: str
    model: str
    files: tuple[ImageFile, ...]
    usd: float | None
    seconds: float
    notes: tuple[str, ...] = ()
    exposed_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnded(Event):
    """A sample that ends this run without a picture: refused, failed or uncertain."""

    key: str
    model: str
    state: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCooled(Event):
    """The lane waits: 429 for a minute's window. rpm: what it will send per minute now, None when undeclared."""

    model: str
    seconds: float
    reason: str
    rpm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParked(Event):
    """No more of this AI model until `until` (UTC seconds): its daily quota is gone."""

    model: str
    until: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStopped(Event):
    """No more of this AI model in this run; left: samples that were not tried."""

    model: str
    reason: str
    message: str
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(Event):
    """A model, account or host that is down: nothing is sent there but a probe now and then, and no sample pays for it.

    scope: lane | account | host; name: the model or host; models: those that wait. since: of the first failure, UTC seconds;
    retry_at: of the next probe, None once it answers again. message: of the last failure, as the server put it.
    """

    scope: str
    name: str
    models: Sequence[str]
    since: float
    retry_at: float | None
    reason: str
    message: str


class OutageStarted(Outage):
    pass


class OutageProbeFailed(Outage):
    """A probe has failed."""


class OutageEnded(Outage):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSubmitted(Event):
    """A batch exists at the vendor's. batch: its name there; usd: estimate for all its requests, None unknown."""

    model: str
    batch: str
    requests: int
    usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUpdated(Event):
    """How a batch stands by the vendor's own counts, told when that has changed. state: pending, running, or how it ended."""

    model: str
    batch: str
    state: str
    requests: int
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCollected(Event):
    """All that a batch has brought is settled. again: requests that are asked for once more; ended: those that are not.

    usd: what it has cost as far as prices are known; unpriced: requests whose price is not.
    """

    model: str
    batch: str
    made: int
    again: int
    ended: int
    usd: float
    unpriced: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """Nothing new starts. reason: a signal's name, budget, deadline, key_rejected, billing, disk."""

    reason: str
    message: str
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something worth a line in the log: a repair at start, a server that lied about a type."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """derived: files of `post:` by what became of them; empty when there was nothing to do. discrepancies: images that are
    missing or changed; empty when all are what the ledger recorded."""

    run_id: int
    exit_code: int
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    derived: dict[str, int] = field(default_factory=dict)
    discrepancies: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunPlanned(Event):
    """due: when the job's next night begins, in UTC."""

    job: str
    manifest: str
    due: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunStarted(Event):
    """due: when it should have begun. why: on time, missed, interrupted, held, reset, batches, or made: what it submitted to workers."""

    job: str
    manifest: str
    due: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunEnded(Event):
    """again: when the job runs next, in UTC; None when the daemon ends."""

    job: str
    manifest: str
    exit_code: int
    seconds: float
    meaning: str
    again: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunSkipped(Event):
    """It is too long ago to be made up for."""

    job: str
    manifest: str
    due: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRunOutput(Event):
    """A line of the job's run."""

    job: str
    message: str


class Observer(Protocol):
    """Hears every event after the ledger has it. One that raises is logged and dropped; the run goes on."""

    def __call__(self, event: Event, /) -> None: ...
