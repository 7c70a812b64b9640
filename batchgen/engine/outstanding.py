"""What waits for a batch or is in one: the run does not end before that has."""

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
    """The samples that wait for batches or are in them. lanes: those of batches that still take samples. chunks: those
    in progress, by number. The dispatcher is given the number of samples, so that it waits for them."""

    def __init__(self, backlog: Backlog, dispatcher: Dispatcher, lanes: Iterable[str]) -> None:
        self.backlog = backlog
        self.dispatcher = dispatcher
        self.lanes = list(lanes)
        self.chunks: dict[int, Chunk] = {}
        self.fallen_back = False  # what is out is cancelled
        self.closed = False  # no more batches are made: everything that waits or is repeated goes online
        self.grown = asyncio.Event()
        self._unassigned: dict[str, list[Sample]] = {}  # by lane, from the backlog and not in a chunk yet
        self._reported = 0

    def waiting_count(self, *lanes: str) -> int:
        return sum(self.backlog.backlog_count(lane) + len(self._unassigned.get(lane, ())) for lane in lanes)

    def next_sample(self, lane: str) -> Sample | None:
        """The next sample of a lane, which stays where it is until it is taken."""
        unassigned = self._unassigned.setdefault(lane, [])
        unassigned.extend(() if unassigned else self.backlog.take(lane, TAKEN_AT_ONCE))
        return unassigned[0] if unassigned else None

    def take_next(self, lane: str) -> Sample:
        return self._unassigned[lane].pop(0)

    def put_back(self, lane: str, samples: Iterable[Sample]) -> None:
        """Put samples back in front of all others."""
        self._unassigned[lane] = [*samples, *self._unassigned[lane]]

    def backlog_grew(self, lane: str) -> None:
        """Note that the backlog has more samples for a lane of either kind."""
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
        """Report how many samples are out or waiting to go out. busy: the number is not known yet."""
        out = busy + sum(chunk.requests for chunk in self.chunks.values()) + self.waiting_count(*self.lanes)
        self.dispatcher.adjust_external(out - self._reported)
        self._reported = out

    def report_over(self) -> None:
        """Report that nobody handles batches any more in this run."""
        self.dispatcher.adjust_external(-self._reported)
        self._reported = 0


class NoBatches:
    """Stands in for the handling of batches in a run without any."""

    stopped_lanes: Mapping[str, str] = MappingProxyType({})
    unsubmitted = left = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def reserved_usd(estimate_usd: float | None) -> float:
    """What budgets must have room for while requests with this estimate are out."""
    return (estimate_usd or 0.0) * RESERVATION_FACTOR
