"""Waits for jobs that earlier runs left at an API, beside the run, which does not end before they do."""

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
    """Resumes the jobs of earlier runs. An async context manager: on exit each job has ended or is left to the next
    run."""

    def __init__(self, context: RunContext, backlog: Backlog, dispatcher: Dispatcher, execution: Execution) -> None:
        self._context = context
        self._backlog = backlog
        self._dispatcher = dispatcher
        self._execution = execution
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> EarlierJobs:
        # Jobs whose vendor deletes the result first are asked about first.
        for taken in sorted(self._context.ledger.reader.open_attempts(), key=_expires_at):
            if taken.job is not None and taken.lane in self._dispatcher.lanes:
                self._tasks.append(asyncio.ensure_future(self._resume(taken)))
        await asyncio.sleep(0)  # each has its ticket before the dispatcher can find nothing left
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
        for other in wanted:  # the manifest has changed: this image was paid for, but is not wanted
            lane = lane_key(other.item.provider, other.item.model)
            self._backlog.add(lane, [other])
            self._dispatcher.backlog_grew(lane)
        self._dispatcher.adjust_external(-len(wanted))

    def _take_wanted(self, taken: OpenAttempt) -> list[Sample]:
        """The samples of a job that the manifest still asks for."""
        keys = [sample_key(taken.item_id, n) for n in range(taken.n, taken.n + taken.images)]
        return [sample for key in keys if (sample := self._backlog.take_submitted(key)) is not None]


def _expires_at(taken: OpenAttempt) -> float:
    """When the vendor may delete what the job made, in UTC seconds."""
    kept_s = taken.job.result_kept_s if taken.job else None
    return math.inf if kept_s is None else taken.started_at + kept_s
