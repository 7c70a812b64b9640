"""The state of a run from its events: the facts that progress and plain lines show."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    BatchCollected,
    BatchSubmitted,
    BatchUpdated,
    Event,
    ImageJudged,
    LaneCooled,
    LaneParked,
    LaneStopped,
    LaneWaiting,
    Outage,
    OutageEnded,
    RunEnded,
    RunStarted,
    SampleEnded,
    SampleSucceeded,
    Stopping,
)
from batchgen.scheduling.stop_reason import StopReason


@dataclass(slots=True)
class ModelProgress:
    """The progress of one AI model. ended: samples that got no image in this run. exposed_s: the longest time for which
    an answer was received and not yet durable. `until` values are UTC seconds."""

    wanted: int = 0
    made: int = 0
    ended: int = 0
    retries: int = 0
    open: dict[int, float] = field(default_factory=dict)  # attempts in flight, and since when
    waiting_until: float = 0.0
    waiting_for: str = ""  # see `LaneWaiting.reason`
    cooling_until: float = 0.0
    parked_until: float = 0.0
    stopped: str = ""
    exposed_s: float = 0.0

    @property
    def done(self) -> int:
        return self.made + self.ended

    @property
    def in_flight(self) -> int:
        return len(self.open)

    def oldest_s(self, now: float) -> float:
        """How long the oldest attempt has been in flight."""
        return now - min(self.open.values(), default=now)


@dataclass(slots=True)
class RunProgress:
    """The progress of the whole run. usd: of the images made so far; unpriced: images whose price is unknown."""

    job: str = ""
    run_id: int = 0
    emulated: bool = False
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # see `RunStarted`
    started_at: float = 0.0
    estimate_usd: float | None = None
    eta_s: float | None = None
    usd: float = 0.0
    unpriced: int = 0
    stopping: StopReason | None = None
    ended: bool = False
    batches: dict[str, tuple[int, int]] = field(default_factory=dict)  # those that are out: requests answered, and all
    models: dict[str, ModelProgress] = field(default_factory=dict)
    outages: dict[tuple[str, str], Outage] = field(default_factory=dict)  # those that last, by scope and name

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started(event)
            case AttemptStarted(batch=True):
                self._model(event.model)
            case BatchSubmitted():
                self.batches[event.batch] = (0, event.requests)
            case BatchUpdated():
                self.batches[event.batch] = (event.succeeded + event.failed, event.requests)
            case BatchCollected():
                self.batches.pop(event.batch, None)
            case AttemptStarted():
                self._model(event.model).open[event.attempt] = event.at
            case AttemptFailed():
                model = self._model(event.model)
                model.open.pop(event.attempt, None)
                model.retries += event.retry_in_s is not None
            case SampleSucceeded():
                model = self._model(event.model)
                model.open.pop(event.attempt, None)
                model.made += 1
                model.exposed_s = max(model.exposed_s, (event.exposed_ms or 0.0) / 1000)
                self.usd += event.usd or 0.0
                self.unpriced += event.usd is None
            case ImageJudged():
                self._model(event.model).open.pop(event.attempt, None)
                self.usd += event.usd or 0.0
            case SampleEnded():
                self._model(event.model).ended += 1
            case LaneCooled():
                self._model(event.model).cooling_until = event.at + event.seconds
            case LaneWaiting():
                model = self._model(event.model)
                model.waiting_until, model.waiting_for = event.until, event.reason
            case LaneParked():
                self._model(event.model).parked_until = event.until
            case LaneStopped():
                self._model(event.model).stopped = event.reason
            case OutageEnded():
                self.outages.pop((event.scope, event.name), None)
            case Outage():
                self.outages[event.scope, event.name] = event
            case Stopping():
                self.stopping = self.stopping or StopReason.from_record(event.reason)
            case RunEnded():
                self.ended = True

    def _started(self, event: RunStarted) -> None:
        self.job, self.run_id, self.emulated = event.job, event.run_id, event.emulated
        self.kept, self.started_at, self.estimate_usd, self.eta_s = event.kept, event.at, event.usd, event.eta_s
        self.left_out = event.left_out
        for model, wanted in event.samples.items():
            self._model(model).wanted = wanted

    def outage_for(self, model: str) -> Outage | None:
        """The outage that keeps a model from being used."""
        return next((outage for outage in self.outages.values() if model in outage.models), None)

    def _model(self, name: str) -> ModelProgress:
        return self.models.setdefault(name, ModelProgress())

    @property
    def wanted(self) -> int:
        return sum(model.wanted for model in self.models.values())

    @property
    def made(self) -> int:
        return sum(model.made for model in self.models.values())

    @property
    def done(self) -> int:
        return sum(model.done for model in self.models.values())

    @property
    def in_flight(self) -> int:
        return sum(model.in_flight for model in self.models.values())

    def oldest_s(self, now: float) -> float:
        """How long the oldest attempt has been in flight."""
        return max((model.oldest_s(now) for model in self.models.values()), default=0.0)

    def remaining_s(self, now: float) -> float | None:
        """The seconds left for the models that are neither parked nor stopped; None if unknown, as in an outage.

        This is the slowest of the forecast, which considers quota and cap, the pace so far, and what a model waits for
        now. An emulator answers faster than the forecast's latencies, so there the forecast does not count.
        """
        if self.outages:
            return None
        moving = [model for model in self.models.values() if not model.stopped and model.parked_until <= now]
        left, elapsed = sum(model.wanted - model.done for model in moving), now - self.started_at
        if left <= 0:
            return 0.0
        pace_s = elapsed / self.done * left if self.done else 0.0
        wait_s = max(model.waiting_until - now if model.done < model.wanted else 0.0 for model in moving)
        forecast_s = 0.0 if self.emulated or self.eta_s is None else self.eta_s - elapsed
        return max(forecast_s, pace_s, wait_s, 0.0) or None
