"""Moves samples whose lane cannot serve them to the lanes that the manifest names for that cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from batchgen.errors import ProviderError
from batchgen.records import Sample
from batchgen.scheduling.fallback import fallback_cause, next_fallback_lane, sample_for_lane
from batchgen.scheduling.lane import Lane, Pending
from batchgen.scheduling.retry import GivenUp, MovedToFallback
from batchgen.scheduling.sample_source import SampleSource


class FallbackRouter:
    """moved: samples that went on with a fallback, by the lane they left."""

    def __init__(self, lanes: Mapping[str, Lane], source: SampleSource) -> None:
        self.moved: Counter[str] = Counter()
        self._lanes = lanes
        self._source = source

    def accepts_work(self, key: str) -> bool:
        return key in self._lanes and self._lanes[key].accepts_work

    def is_available(self, key: str) -> bool:
        return self.accepts_work(key) and not self._lanes[key].is_down

    def lane_for(self, sample: Sample, error: ProviderError) -> str | None:
        """Where a sample that a batch has failed at goes on; None when no other lane is to make it."""
        item = sample.item
        return next_fallback_lane(item, f"{item.provider}/{item.model}", fallback_cause(error), self.accepts_work)

    def move_one(self, lane: Lane, sample: Sample, error: ProviderError) -> MovedToFallback | GivenUp:
        other = next_fallback_lane(sample.item, lane.key, fallback_cause(error), self.accepts_work)
        if other is None:
            return GivenUp()
        self._add(other, lane, sample)
        return MovedToFallback(other)

    def empty_closed(self, lane: Lane) -> None:
        """Of what waits in a lane that has closed, all that has a fallback goes on there."""
        self.move_all(lane, "quota" if lane.parked else "outage", self.accepts_work)

    def move_all(self, lane: Lane, cause: str, is_available: Callable[[str], bool]) -> None:
        for pending in lane.drain():
            # What may have been billed is not bought from another model as well.
            billed = pending.retry_state.maybe_billed_count > 0
            other = None if billed else next_fallback_lane(pending.sample.item, lane.key, cause, is_available)
            if other is None:
                lane.ready.append(pending)
            else:
                self._add(other, lane, pending.sample)
        self.moved[lane.key] += self._source.move_to_fallback(lane.key, cause, is_available)
        for key, each in self._lanes.items():
            each.backlog_count = self._source.backlog_count(key)

    def _add(self, other: str, origin: Lane, sample: Sample) -> None:
        self._lanes[other].ready.append(Pending(sample_for_lane(sample, other), other))
        self.moved[origin.key] += 1
