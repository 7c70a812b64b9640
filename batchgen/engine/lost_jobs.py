"""Requests for jobs whose answers were lost: found again in the list of their vendor, where it has one, before anything is called
uncertain. Jobs of the same input are as good as each other, so the oldest goes to the request that was sent first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.engine.answer import sample_from_facts
from batchgen.engine.routes import Route
from batchgen.errors import BatchgenError
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import OpenAttempt
from batchgen.providers.contract import Provider, SupportsJobList
from batchgen.records import ListedJob, PendingJob, Request

CLOCK_MARGIN_S = 120.0  # by which a vendor's clock may be behind
MAX_PAGES = 50
LOOKS, LOOK_DELAY_S = 3, 2.0  # for a job that was submitted just now
JOB_INPUT = "job_input"  # among the facts of a request


def job_facts(codec: Provider, request: Request) -> dict[str, Any]:
    """What has to be known of a request to find its job again; empty where its vendor has no list."""
    return {JOB_INPUT: codec.job_input(request)} if isinstance(codec, SupportsJobList) else {}


def match_jobs(
    lost: Iterable[OpenAttempt], listed: Iterable[ListedJob], known: frozenset[str]
) -> dict[int, PendingJob]:
    """By the attempt's number. known: ids of jobs that have their attempts already. Pure."""
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
    """Looks for the jobs of a lane. Answers of a vendor that cannot be had find nothing."""

    ledger: Ledger
    transport: Transport

    async def find(self, route: Route, lost: Sequence[OpenAttempt]) -> dict[int, PendingJob]:
        """What was found, durable by now, by the attempt's number."""
        if not isinstance(route.codec, SupportsJobList) or not lost:
            return {}
        try:
            listed = await self._list(route, route.codec, min(attempt.started_at for attempt in lost) - CLOCK_MARGIN_S)
        except BatchgenError:
            return {}
        found = match_jobs(lost, listed, frozenset(self.ledger.reader.job_ids()))
        for attempt in lost:
            if attempt.id in found:
                sample = sample_from_facts(attempt, attempt.facts)
                self.ledger.job_taken(attempt.id, sample, found[attempt.id], attempt.facts)
        return found

    async def find_one(self, route: Route, attempt: int) -> PendingJob | None:
        """Of a request whose answer was lost just now; a list may have it a little late."""
        for number in range(LOOKS if isinstance(route.codec, SupportsJobList) else 0):
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
