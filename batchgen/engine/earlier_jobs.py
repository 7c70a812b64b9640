"""Jobs that earlier runs have left at an API: each is waited for beside the run, which is not over before they are."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from batchgen.engine.answer import sample_from_facts
from batchgen.engine.execute import Execution
from batchgen.engine.routes import lane_key
from batchgen.ledger.backlog import Backlog
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import OpenAttempt
from batchgen.records import Sample, sample_key
from batchgen.scheduling.dispatcher import Dispatcher


class EarlierJobs:
    """An async context manager: its jobs are taken up when it is entered, and have ended, or are left to the next run, when it
    is left."""

    def __init__(self, ledger: Ledger, backlog: Backlog, dispatcher: Dispatcher, execution: Execution) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._dispatcher = dispatcher
        self._execution = execution
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> EarlierJobs:
        for taken in self._ledger.reader.open_attempts():
            if taken.job is not None and taken.lane in self._dispatcher.lanes:
                self._tasks.append(asyncio.ensure_future(self._resume(taken)))
        await asyncio.sleep(0)  # each has its ticket before the dispatcher can find that nothing is left
        return self

    async def __aexit__(self, *_: object) -> None:
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in filter(None, ends):
            raise error

    async def _resume(self, taken: OpenAttempt) -> None:
        keys = [sample_key(taken.item_id, n) for n in range(taken.n, taken.n + taken.images)]
        wanted = [sample for key in keys if (sample := self._backlog.take_submitted(key)) is not None]
        asked_for = next((sample for sample in wanted if sample.fingerprint == taken.fingerprint), None)
        sample = sample_from_facts(taken, taken.facts)
        if asked_for is not None:
            sample = replace(asked_for, n=taken.n, images=taken.images)
        ticket = self._dispatcher.resume_job(sample, taken.lane, taken.estimate_usd, unwanted=asked_for is None)
        await self._ledger.adopt_job(taken.id)
        await self._execution.resume(ticket, taken)
        if asked_for is None:
            self._ask_again(wanted)

    def _ask_again(self, samples: list[Sample]) -> None:
        """The manifest has changed since: the job's image was paid for, and is not the one that is wanted."""
        for sample in samples:
            lane = lane_key(sample.item.provider, sample.item.model)
            self._backlog.add(lane, [sample])
            if lane in self._dispatcher.lanes:
                self._dispatcher.backlog_grew(lane)
