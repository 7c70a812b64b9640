"""Jobs that earlier runs have left at an API: each is waited for beside the run, which is not over before they are."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from batchgen.engine.answer import sample_from_facts
from batchgen.engine.context import RunContext
from batchgen.engine.execute import Execution
from batchgen.engine.routes import lane_key
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.requests import OpenAttempt
from batchgen.records import Sample, sample_key
from batchgen.scheduling.dispatcher import Dispatcher


class EarlierJobs:
    """An async context manager: its jobs are taken up when it is entered, and have ended, or are left to the next run, when it
    is left."""

    def __init__(self, context: RunContext, backlog: Backlog, dispatcher: Dispatcher, execution: Execution) -> None:
        self._context = context
        self._backlog = backlog
        self._dispatcher = dispatcher
        self._execution = execution
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> EarlierJobs:
        # What its vendor throws away first is asked about first.
        for taken in sorted(self._context.ledger.reader.open_attempts(), key=_expires_at):
            if taken.job is not None and taken.lane in self._dispatcher.lanes:
                self._tasks.append(asyncio.ensure_future(self._resume(taken)))
        await asyncio.sleep(0)  # each has its ticket before the dispatcher can find that nothing is left
        return self

    async def __aexit__(self, *_: object) -> None:
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in filter(None, ends):
            raise error

    async def _resume(self, taken: OpenAttempt) -> None:
        wanted = self._take_wanted(taken)
        asked_for = next((sample for sample in wanted if sample.fingerprint == taken.fingerprint), None)
        sample = sample_from_facts(taken, taken.facts)
        if asked_for is not None:
            sample, wanted = replace(asked_for, n=taken.n, images=taken.images), []
        _, waiting = self._execution.take_up(taken, sample, unwanted=asked_for is None)
        self._dispatcher.adjust_external(len(wanted))
        await waiting
        for other in wanted:  # the manifest has changed since: the job's image was paid for, and is not this one
            lane = lane_key(other.item.provider, other.item.model)
            self._backlog.add(lane, [other])
            self._dispatcher.backlog_grew(lane)
        self._dispatcher.adjust_external(-len(wanted))

    def _take_wanted(self, taken: OpenAttempt) -> list[Sample]:
        """What the manifest asks for today of the samples that the job was for."""
        keys = [sample_key(taken.item_id, n) for n in range(taken.n, taken.n + taken.images)]
        return [sample for key in keys if (sample := self._backlog.take_submitted(key)) is not None]


def _expires_at(taken: OpenAttempt) -> float:
    """When the vendor may have thrown away what the job has made, in UTC seconds."""
    kept_s = taken.job.result_kept_s if taken.job else None
    return math.inf if kept_s is None else taken.started_at + kept_s
