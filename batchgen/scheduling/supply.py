"""Where samples that were not tried yet come from, in the order in which they shall start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from batchgen.records import Sample
from batchgen.scheduling.fallback import next_lane, served_in


class Supply(Protocol):
    def take(self, lane: str, most: int) -> list[Sample]: ...

    def left(self, lane: str) -> int: ...

    def pass_on(self, lane: str, cause: str, is_open: Callable[[str], bool]) -> int:
        """Move what has a fallback for this cause to the lane of that, and answer how many."""
        ...


def fixed_supply(samples: Iterable[tuple[str, Sample]]) -> FixedSupply:
    """A supply out of memory, for callers that have few."""
    return FixedSupply(list(samples))


class FixedSupply:
    def __init__(self, samples: Sequence[tuple[str, Sample]]) -> None:
        self._by_lane: dict[str, deque[Sample]] = {}
        for lane, sample in samples:
            self._by_lane.setdefault(lane, deque()).append(sample)

    def add(self, lane: str, sample: Sample) -> None:
        self._by_lane.setdefault(lane, deque()).append(sample)

    def take(self, lane: str, most: int) -> list[Sample]:
        queue = self._by_lane.get(lane, deque())
        return [queue.popleft() for _ in range(min(most, len(queue)))]

    def left(self, lane: str) -> int:
        return len(self._by_lane.get(lane, ()))

    def pass_on(self, lane: str, cause: str, is_open: Callable[[str], bool]) -> int:
        waiting = self._by_lane.pop(lane, deque())
        others = [next_lane(sample.item, lane, cause, is_open) for sample in waiting]
        for sample, other in zip(waiting, others, strict=True):
            self._by_lane.setdefault(other or lane, deque()).append(served_in(sample, other or lane))
        return sum(other is not None for other in others)
