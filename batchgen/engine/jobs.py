"""Jobs that an API has taken and answers later: asked about beside everything else, holding no place in flight, until they end;
and those that an earlier run has left, taken up where it stood. None is ever asked for again because a question failed."""

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

# These say how a job has ended; any other error of a question about it is about the asking.
JOB_ENDS = (Refused, OutputRefused, NoImage, InputRejected, BadRequest, Unreadable, JobFailed, JobCancelled, BatchLost)
# Of all jobs of a lane together. Replicate answers 50 a second, Black Forest Labs wants each task asked about every half second to
# second and a half, of 24. Measured: 24 tasks of 2 s each gave 4 images a second at 4, and 8 at 16, for 1 ms of CPU more an image.
POLLS_PER_S = 10.0
FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 1.0, 60.0
MAX_MALFORMED = 5  # answers in a row that are no answers; the last one is believed
WAIT_S = 3600.0  # of one run for one job, which is far more than any takes; the next run goes on asking
GIVE_UP_AFTER_S = 2 * 86400.0  # after which no vendor has a result any more


class JobLeft(Exception):
    """The job is left to the next run, which asks about it."""


@dataclass(slots=True)
class JobProgress:
    """How often in a row the question about a job has failed. started_at: of its request, UTC seconds; waiting_since_s: in this
    run, seconds of `time.monotonic()`. is_unasked: an earlier run has left it, and even a run that does not wait asks once.
    was_ready: the question before did not wait."""

    lane: str
    started_at: float
    is_unasked: bool = False
    failures: int = 0
    was_ready: bool = False
    waiting_since_s: float = field(default_factory=time.monotonic)

    def absorb(self, error: ProviderError) -> None:
        """Count a failed question. Raises the error when it is how the job has ended."""
        self.failures += 1
        if isinstance(error, JOB_ENDS) or (isinstance(error, Malformed) and self.failures >= MAX_MALFORMED):
            raise error

    def check_age(self) -> None:
        """Raises BatchLostMaybeBilled for a job that will not end any more, JobLeft for one that outlasts the run's patience."""
        if time.time() - self.started_at > GIVE_UP_AFTER_S:
            raise BatchLostMaybeBilled("the job has not ended after two days", reason="job_lost")
        if time.monotonic() - self.waiting_since_s > WAIT_S:
            raise JobLeft


class JobPolls:
    """When to ask about each job: as often as its API wants, and all of a lane together no more than `POLLS_PER_S`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._waiting = Counter[str]()
        self._rng = random.Random()

    async def wait_turn(self, job: PendingJob, progress: JobProgress) -> None:
        """Returns when the job may be asked about. Raises JobLeft when the run stops first, and as `check_age`."""
        progress.check_age()
        self._waiting[progress.lane] += 1
        try:
            # Its turn was the question before: a result is fetched when it is there.
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
        """A key or an account that is refused ends the run; the job stays."""
        if error.scope == "run":
            self._dispatcher.stop(StopReason(StopKind.ERROR, error.reason, error.message))
