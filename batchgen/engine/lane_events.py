"""What observers are told when a failure has changed its lane or the run: parked, stopped, cooled, stopping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchgen.errors import ProviderError
from batchgen.events import Event, LaneCooled, LaneParked, LaneStopped, Notice, Stopping
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.stop_reason import StopKind
from batchgen.scheduling.window import daily_quota_reset


@dataclass(frozen=True, slots=True)
class LaneState:
    """Of the lane and the run before dispatch hears of the failure. cooled_until_s: loop seconds."""

    key: str
    accepts_work: bool
    cooled_until_s: float
    stopping: bool


def lane_state(dispatcher: Dispatcher, key: str) -> LaneState:
    lane = dispatcher.lanes[key]
    return LaneState(key, lane.accepts_work, lane.cooled_until_s, dispatcher.stop_reason is not None)


def lane_events(
    dispatcher: Dispatcher, before: LaneState, model: str, error: ProviderError, *, now: float, now_s: float
) -> Iterator[Event]:
    """What is different from `before`. now: UTC seconds; now_s: loop seconds."""
    lane = dispatcher.lanes[before.key]
    closed = before.accepts_work and not lane.accepts_work
    if closed and lane.parked:
        yield LaneParked(at=now, model=model, until=daily_quota_reset(now, error.retry_after_s), message=error.message)
    elif closed:
        yield LaneStopped(at=now, model=model, reason=lane.stopped, message=error.message, left=lane.waiting)
    if closed and (number := dispatcher.fallbacks.moved[before.key]):
        yield Notice(at=now, message=f"{number:,} request(s) meant for {model} go on with their fallbacks")
    elif lane.cooled_until_s > before.cooled_until_s and lane.cooled_until_s > now_s:
        rpm = None if lane.window is None else float(lane.window.rate(now_s))
        yield LaneCooled(at=now, model=model, seconds=lane.cooled_until_s - now_s, reason=error.reason, rpm=rpm)
    stop = dispatcher.stop_reason
    if stop is not None and stop.kind is StopKind.ERROR and not before.stopping:
        yield Stopping(at=now, reason=stop.slug, message=stop.message, in_flight=dispatcher.in_flight)
