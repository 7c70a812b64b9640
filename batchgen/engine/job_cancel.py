"""Cancels jobs at their vendors because a person wants it. How they end is recorded here, or by the run if one is going
on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from batchgen.engine.answer import bugs_as_unreadable, sample_from_facts
from batchgen.engine.job import Job
from batchgen.engine.job_state import open_finished_job
from batchgen.engine.jobs import JOB_ENDS
from batchgen.engine.routes import Route, open_routes
from batchgen.errors import BatchgenError, JobLocked, ProviderError
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import OpenAttempt
from batchgen.os_errors import start_threads
from batchgen.providers.contract import SupportsCancel
from batchgen.records import PendingJob, Reply, Request, Response, lane_model

CONCURRENCY = 8
POLLS, POLL_DELAY_S = 5, 1.0  # how often and how long to wait for a job to be cancelled


@dataclass(frozen=True, slots=True)
class CancelledJobs:
    """What became of the jobs. cancelled: their vendor cancelled them, or said that it will. made: their images were
    finished before; the next run fetches them. going_on: the reason, by provider or job. running: another run records
    all this."""

    cancelled: int = 0
    made: int = 0
    going_on: tuple[str, ...] = ()
    running: bool = False


async def cancel_jobs(job: Job, *, dry_run: bool = False) -> CancelledJobs:
    """Cancel the jobs of a job folder. dry_run: only count those that would be cancelled; nothing is sent. Raises
    SettingsError, StoreError, LedgerError."""
    with Reader.open(job.folder) as reader:
        taken = reader.open_jobs()
    profiles = {lane: job.manifest.catalogue.resolve(lane_model(lane)) for lane in {each.lane for each in taken}}
    routes, _ = open_routes(profiles.values(), job.settings, None)
    able = [each for each in taken if isinstance(_codec(routes, each), SupportsCancel)]
    unable = [f"{each.item_id}: {each.lane.partition('/')[0]} cancels no jobs" for each in taken if each not in able]
    if dry_run or not able:
        return CancelledJobs(len(able), going_on=tuple(unable))
    with start_threads(2, "cancel") as executor:
        async with Transport(CONCURRENCY, executor) as transport:
            client = _Client(transport, routes, asyncio.Semaphore(CONCURRENCY))
            refusals = await asyncio.gather(*(client.cancel(each) for each in able))
            accepted = [each for each, refusal in zip(able, refusals, strict=True) if not refusal]
            going_on = (*unable, *filter(None, refusals))
            try:
                with open_finished_job(job.folder) as state:
                    made = await client.record_ends(state.ledger, accepted)
                    state.results.rebuild(job.manifest.item_ids)
            except JobLocked:
                return CancelledJobs(len(accepted), going_on=going_on, running=True)
    return CancelledJobs(len(accepted) - made, made, going_on)


def _codec(routes: Mapping[str, Route], taken: OpenAttempt) -> object:
    return routes[taken.lane].codec if taken.lane in routes else None


@dataclass(frozen=True, slots=True)
class _Client:
    transport: Transport
    routes: Mapping[str, Route]
    slots: asyncio.Semaphore

    async def cancel(self, taken: OpenAttempt) -> str:
        """Cancel a job. Returns why it goes on, or an empty string if its vendor agreed."""
        codec, job = cast(SupportsCancel, _codec(self.routes, taken)), cast(PendingJob, taken.job)
        try:
            with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
                codec.read_cancel(job, await self._ask(taken, codec.cancel(job)))
        except ProviderError as error:
            return f"{taken.item_id}: {error.message}"
        return ""

    async def record_ends(self, ledger: Ledger, cancelled: Sequence[OpenAttempt]) -> int:
        """Record how cancelled jobs ended, apart from those of workers, which record their own. Returns how many have
        their images."""
        ours = {each.id for each in ledger.reader.open_attempts()}
        return sum(await asyncio.gather(*(self._record(ledger, each) for each in cancelled if each.id in ours)))

    async def _record(self, ledger: Ledger, taken: OpenAttempt) -> bool:
        """Record how a job ended. One that does not end soon is left to the next run."""
        codec, job = cast(SupportsCancel, _codec(self.routes, taken)), cast(PendingJob, taken.job)
        for number in range(POLLS):
            await asyncio.sleep(POLL_DELAY_S if number else 0.0)
            try:
                with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
                    found = codec.read_poll(job, await self._ask(taken, codec.poll(job)))
            except JOB_ENDS as error:
                sample, started_at = sample_from_facts(taken, taken.facts), taken.started_at
                await ledger.attempt_failed(taken.id, sample, error, sent_at=started_at, state=error.outcome)
                return False
            except ProviderError:
                continue
            if isinstance(found, Reply):
                return True
            job = found
        return False

    async def _ask(self, taken: OpenAttempt, request: Request) -> Response:
        route = self.routes[taken.lane]
        async with self.slots:
            return await self.transport.request(route.base_url, request, route.credentials)
