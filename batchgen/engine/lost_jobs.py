"""Finds jobs whose answers were lost in their vendor's list, if it has one, before anything is called uncertain. Jobs
with the same input are interchangeable, so the oldest goes to the request that was sent first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchgen.engine.answer import bugs_as_unreadable, sample_from_facts
from batchgen.engine.routes import Route
from batchgen.errors import BatchgenError
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import JOB_INPUT, OpenAttempt
from batchgen.providers.contract import SupportsJobList
from batchgen.records import ListedJob, PendingJob

CLOCK_MARGIN_S = 120.0  # by which a vendor's clock may be slow
MAX_PAGES = 50
LOOKS, LOOK_DELAY_S = 3, 2.0  # for a job that was submitted just now


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
