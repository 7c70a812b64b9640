"""What waits for a batch or is in one: the run is not over before that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Self

from batchgen.ledger.backlog import Backlog
from batchgen.ledger.chunks import Chunk
from batchgen.planning.batchable import is_batch, online_lane
from batchgen.records import Sample
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.lane import RESERVATION_FACTOR

TAKEN_AT_ONCE = 64


class OutstandingBatches:
    """lanes: those of batches that still take samples. chunks: those that are on their way, by number. The dispatcher is told
    how many samples all that is, so that it waits for them."""

    def __init__(self, backlog: Backlog, dispatcher: Dispatcher, lanes: Iterable[str]) -> None:
        self.backlog = backlog
        self.dispatcher = dispatcher
        self.lanes = list(lanes)
        self.chunks: dict[int, Chunk] = {}
        self.fallen_back = False  # what is out is cancelled
        self.closed = False  # no batch is made any more: everything that waits or is asked for again goes online
        self.grown = asyncio.Event()
        self._unassigned: dict[str, list[Sample]] = {}  # taken from the backlog and not in a chunk yet, by lane
        self._reported = 0

    def waiting_count(self, *lanes: str) -> int:
        return sum(self.backlog.backlog_count(lane) + len(self._unassigned.get(lane, ())) for lane in lanes)

    def next_sample(self, lane: str) -> Sample | None:
        """It stays where it is until it is taken."""
        unassigned = self._unassigned.setdefault(lane, [])
        unassigned.extend(() if unassigned else self.backlog.take(lane, TAKEN_AT_ONCE))
        return unassigned[0] if unassigned else None

    def take_next(self, lane: str) -> Sample:
        return self._unassigned[lane].pop(0)

    def put_back(self, lane: str, samples: Iterable[Sample]) -> None:
        """In front of all others."""
        self._unassigned[lane] = [*samples, *self._unassigned[lane]]

    def backlog_grew(self, lane: str) -> None:
        """The backlog has got more for a lane, of either kind."""
        if not is_batch(lane):
            self.dispatcher.backlog_grew(lane)
        elif self.closed:
            self.move_online(lane)
        else:
            self.report()
            self.grown.set()

    def move_online(self, lane: str) -> None:
        other = online_lane(lane)
        self.backlog.add(lane, self._unassigned.pop(lane, []))
        if self.backlog.move(lane, other):
            self.dispatcher.backlog_grew(other)

    def close(self) -> None:
        self.closed = True
        for lane in self.lanes:
            self.move_online(lane)

    def report(self, *, busy: bool = False) -> None:
        """How many samples are out, or wait to go out. busy: that is not known yet."""
        out = busy + sum(chunk.requests for chunk in self.chunks.values()) + self.waiting_count(*self.lanes)
        self.dispatcher.adjust_external(out - self._reported)
        self._reported = out

    def report_over(self) -> None:
        """Nobody looks after any of it any more in this run."""
        self.dispatcher.adjust_external(-self._reported)
        self._reported = 0


class NoBatches:
    """In place of what looks after batches, for a run that has no lane for any."""

    stopped_lanes: Mapping[str, str] = MappingProxyType({})
    unsubmitted = left = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def reserved_usd(estimate_usd: float | None) -> float:
    """What budgets must have room for while requests of this estimate are out."""
    return (estimate_usd or 0.0) * RESERVATION_FACTOR
