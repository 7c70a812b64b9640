"""Asks about jobs that an API has accepted and answers later, without a place in flight, until they end. Jobs that an
earlier run left are resumed where they stood. No job is requested again because a question about it failed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from batchgen.errors import (
    BadRequest,
    BatchLost,
    BatchLostMaybeBilled,
    InputRejected,
    JobCancelled,
    JobFailed,
    Malformed,
    NoImage,
    OutputRefused,
    ProviderError,
    Refused,
    Unreadable,
)
from batchgen.records import PendingJob
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
