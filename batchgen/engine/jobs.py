"""Asks about jobs that an API has accepted and answers later, without a place in flight, until they end. Jobs that an
earlier run left are resumed where they stood. No job is requested again because a question about it failed.

Jobs whose answers were lost are found in their vendor's list, if it has one, before anything is called uncertain. Jobs
with the same input are interchangeable, so the oldest goes to the request that was sent first.

When a person cancels jobs at their vendors, how they end is recorded here, or by the run if one is going on."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from batchgen.engine.answer import bugs_as_unreadable, sample_from_facts
from batchgen.engine.job import Job
from batchgen.engine.job_state import open_finished_job
from batchgen.engine.routes import Route, open_routes
from batchgen.errors import (
    BadRequest,
    BatchgenError,
    BatchLost,
    BatchLostMaybeBilled,
    InputRejected,
    JobCancelled,
    JobFailed,
    JobLocked,
    Malformed,
    NoImage,
    OutputRefused,
    ProviderError,
    Refused,
    Unreadable,
)
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import JOB_INPUT, OpenAttempt
from batchgen.os_errors import start_threads
from batchgen.providers.contract import SupportsCancel, SupportsJobList
from batchgen.records import ListedJob, PendingJob, Reply, Request, Response, lane_model
from batchgen.scheduling.dispatcher import Dispatcher
from batchgen.scheduling.retry import backoff_s
from batchgen.scheduling.stop_reason import StopKind, StopReason

# These errors say how a job has ended; any other error of a question is about the question itself.
JOB_ENDS = (Refused, OutputRefused, NoImage, InputRejected, BadRequest, Unreadable, JobFailed, JobCancelled, BatchLost)
# For all jobs of a lane together. Replicate answers 50 a second; Black Forest Labs wants each of up to 24 tasks asked
# about every 0.5 to 1.5 seconds. Measured with 24 tasks of 2 s each: 4 polls a second gave 4 images a second, 16 gave
# 8, for 1 ms more CPU an image.
POLLS_PER_S = 10.0
FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 1.0, 60.0
MAX_MALFORMED = 5  # answers in a row that cannot be read; the last one is believed
WAIT_S = 3600.0  # for one job in one run, far more than any job takes; the next run goes on
GIVE_UP_AFTER_S = 2 * 86400.0  # no vendor keeps a result for longer
CLOCK_MARGIN_S = 120.0  # by which a vendor's clock may be slow
MAX_PAGES = 50
LOOKS, LOOK_DELAY_S = 3, 2.0  # for a job that was submitted just now
CANCELS_AT_ONCE = 8
CANCEL_POLLS, CANCEL_POLL_DELAY_S = 5, 1.0  # how often and how long to wait for a job to be cancelled


class JobLeft(Exception):
    """The job is left to the next run, which asks about it."""


@dataclass(slots=True)
class JobProgress:
    """What is known about waiting for a job: how many questions in a row have failed. started_at: when its request
    began, in UTC seconds. waiting_since_s: since when this run waits, in seconds of `time.monotonic()`. is_unasked: an
    earlier run left it, and even a run that does not wait asks once. was_ready: the last question did not have to
    wait."""

    lane: str
    started_at: float
    is_unasked: bool = False
    failures: int = 0
    was_ready: bool = False
    waiting_since_s: float = field(default_factory=time.monotonic)

    def absorb(self, error: ProviderError) -> None:
        """Count a failed question. Raises the error if it says how the job has ended."""
        self.failures += 1
        if isinstance(error, JOB_ENDS) or (isinstance(error, Malformed) and self.failures >= MAX_MALFORMED):
            raise error

    def check_age(self) -> None:
        """Raises BatchLostMaybeBilled for a job that will never end, and JobLeft for one that takes longer than the run
        waits."""
        if time.time() - self.started_at > GIVE_UP_AFTER_S:
            raise BatchLostMaybeBilled("the job has not ended after two days", reason="job_lost")
        if time.monotonic() - self.waiting_since_s > WAIT_S:
            raise JobLeft


class JobPolls:
    """Decides when to ask about each job: as often as its API wants, but for all jobs of a lane together at most
    `POLLS_PER_S`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._waiting = Counter[str]()
        self._rng = random.Random()

    async def wait_turn(self, job: PendingJob, progress: JobProgress) -> None:
        """Wait until the job may be asked about. Raises JobLeft if the run stops first, and what `check_age` raises."""
        progress.check_age()
        self._waiting[progress.lane] += 1
        try:
            # The last question took its turn: a result that is ready is fetched at once.
            is_ready, progress.was_ready = job.poll_after_s == 0 and not progress.was_ready, job.poll_after_s == 0
            delay_s = 0.0 if is_ready else max(job.poll_after_s, self._waiting[progress.lane] / POLLS_PER_S)
            if progress.failures:
                delay_s += backoff_s(progress.failures - 1, FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S, self._rng)
            wait = self._dispatcher.limits.wait_for_jobs or progress.is_unasked or is_ready
            progress.is_unasked = False
            if wait and not self._dispatcher.stop_reason:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._dispatcher.stopping.wait(), delay_s)
            if not wait or self._dispatcher.stop_reason:
                raise JobLeft
        finally:
            self._waiting[progress.lane] -= 1

    def stop_if_nobody_may_ask(self, error: ProviderError) -> None:
        """End the run if the key or account is refused; the job stays."""
        if error.scope == "run":
            self._dispatcher.stop(StopReason(StopKind.ERROR, error.reason, error.message))


# --- jobs whose answers were lost


def match_jobs(
    lost: Iterable[OpenAttempt], listed: Iterable[ListedJob], known: frozenset[str]
) -> dict[int, PendingJob]:
    """Match lost requests with listed jobs, and return these by the attempt's number. known: ids of jobs that belong to
    attempts already. Pure."""
    free = sorted((each for each in listed if each.job.id not in known), key=lambda each: each.created_at)
    found: dict[int, PendingJob] = {}
    for attempt in sorted(lost, key=lambda each: each.started_at):
        for candidate in free:
            is_late_enough = candidate.created_at >= attempt.started_at - CLOCK_MARGIN_S
            if is_late_enough and candidate.input == attempt.facts.get(JOB_INPUT):
                found[attempt.id] = candidate.job
                free.remove(candidate)
                break
    return found


@dataclass(frozen=True, slots=True)
class LostJobs:
    """Looks for the jobs of a lane. If a vendor's list cannot be fetched or read, nothing is found."""

    ledger: Ledger
    transport: Transport

    async def find(self, route: Route, lost: Sequence[OpenAttempt]) -> dict[int, PendingJob]:
        """Find jobs, and record them before returning them by the attempt's number. Nothing is looked for while a
        request with the same input is being answered: the job in the list may be that one's."""
        if route.job_list is None or not lost:
            return {}
        since = min(attempt.started_at for attempt in lost) - CLOCK_MARGIN_S
        try:
            with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
                listed = await self._list(route, route.job_list, since)
        except BatchgenError:
            return {}
        numbers, reader = {attempt.id for attempt in lost}, self.ledger.reader
        others = [each for each in reader.unanswered_requests(lost[0].lane) if each.id not in numbers]
        taken = {each.facts.get(JOB_INPUT) for each in others}
        sure = [attempt for attempt in lost if attempt.facts.get(JOB_INPUT) not in taken]
        found = match_jobs(sure, listed, frozenset(reader.job_ids(since)))
        for attempt in sure:
            if attempt.id in found:
                sample = sample_from_facts(attempt, attempt.facts)
                self.ledger.job_taken(attempt.id, sample, found[attempt.id], attempt.facts)
        return found

    async def find_one(self, route: Route, attempt: int) -> PendingJob | None:
        """Find the job of a request whose answer was just lost. A list may show it a little late."""
        for number in range(LOOKS if route.job_list is not None else 0):
            await asyncio.sleep(LOOK_DELAY_S * number)
            lost = self.ledger.reader.attempt(attempt)
            if found := await self.find(route, [lost] if lost else []):
                return found[attempt]
        return None

    async def _list(self, route: Route, codec: SupportsJobList, since: float) -> list[ListedJob]:
        listed, page = list[ListedJob](), ""
        for _ in range(MAX_PAGES):
            response = await self.transport.request(
                route.base_url, codec.list_jobs(since, page), route.credentials, max_bytes=16 * 1024 * 1024
            )
            jobs, page = codec.read_jobs(response)
            listed += jobs
            if not page:
                break
        return listed


# --- cancelling


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
        async with Transport(CANCELS_AT_ONCE, executor) as transport:
            client = _CancelClient(transport, routes, asyncio.Semaphore(CANCELS_AT_ONCE))
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
class _CancelClient:
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
        for number in range(CANCEL_POLLS):
            await asyncio.sleep(CANCEL_POLL_DELAY_S if number else 0.0)
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
