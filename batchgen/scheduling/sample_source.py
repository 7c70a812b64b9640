"""Where samples that were not tried yet come from, in the order in which they shall start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from batchgen.records import Sample
from batchgen.scheduling.fallback import next_fallback_lane, sample_for_lane


class SampleSource(Protocol):
    def take(self, lane: str, max_count: int) -> list[Sample]: ...

    def backlog_count(self, lane: str) -> int: ...

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        """Move what has a fallback for this cause to the lane of that, and answer how many."""
        ...


def in_memory_samples(samples: Iterable[tuple[str, Sample]]) -> InMemorySampleSource:
    """A supply out of memory, for callers that have few."""
    return InMemorySampleSource(list(samples))


class InMemorySampleSource:
    def __init__(self, samples: Sequence[tuple[str, Sample]]) -> None:
        self._by_lane: dict[str, deque[Sample]] = {}
        for lane, sample in samples:
            self._by_lane.setdefault(lane, deque()).append(sample)

    def add(self, lane: str, sample: Sample) -> None:
        self._by_lane.setdefault(lane, deque()).append(sample)

    def take(self, lane: str, max_count: int) -> list[Sample]:
        queue = self._by_lane.get(lane, deque())
        return [queue.popleft() for _ in range(min(max_count, len(queue)))]

    def backlog_count(self, lane: str) -> int:
        return len(self._by_lane.get(lane, ()))

    def move_to_fallback(self, lane: str, cause: str, is_available: Callable[[str], bool]) -> int:
        waiting = self._by_lane.pop(lane, deque())
        others = [next_fallback_lane(sample.item, lane, cause, is_available) for sample in waiting]
        for sample, other in zip(waiting, others, strict=True):
            self._by_lane.setdefault(other or lane, deque()).append(sample_for_lane(sample, other or lane))
        return sum(other is not None for other in others)
