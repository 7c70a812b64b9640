"""Finds out what became of earlier requests for a sample, which another worker had before, before a new one is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from batchgen.engine.cluster.orphan_recovery import adopt_orphans
from batchgen.engine.links import fetch_attempt_links
from batchgen.engine.receive import Receiver
from batchgen.engine.recovery.open_attempts import settle_by_receipt
from batchgen.engine.routes import Route
from batchgen.errors import DownloadFailed
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.worker_ledger import ClaimedSample, FencedLedger
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.store import Store


class PreviousAttempts:
    def __init__(
        self,
        ledger: FencedLedger,
        store: Store,
        catalogue: Catalogue,
        receiver: Receiver,
        routes: Mapping[str, Route],
        note: Callable[[str], None],
        hold_uncertain: bool,
    ) -> None:
        self._hold_uncertain = hold_uncertain
        self._ledger = ledger
        self._store = store
        self._catalogue = catalogue
        self._exchange, self._lost_jobs = receiver.exchange, receiver.lost_jobs
        self._routes = routes
        self._note = note

    async def resolve(self, claimed: ClaimedSample) -> tuple[str, str] | OpenAttempt | None:
        """(state, reason) if the sample has ended; its request if the API accepted that as a job, which has to be asked
        about; None if it has to be requested.

        A request that was never sent costs nothing. One that was sent and has no end is looked for behind the link of
        its answer, in the spools that no worker holds any more, and in its vendor's list of jobs. If it is found
        nowhere it is uncertain: the sample is requested once more, or held.
        """
        end, uncertain_count = claimed.unreported_end, claimed.uncertain_count
        for attempt in claimed.open_attempts:
            if (found := await self._find_result(attempt)) is not None:
                end = found
            elif (taken := await self._find_job(attempt)) is not None:
                return taken
            elif await self._ledger.give_up(attempt):
                end = ("uncertain", "interrupted")
                uncertain_count += 1
        if end is not None and end[0] == "uncertain" and uncertain_count == 1 and not self._hold_uncertain:
            return None  # a sample that kills its workers is not requested endlessly
        return end

    async def _find_result(self, attempt: OpenAttempt) -> tuple[str, str] | None:
        """How a request ended, if its image exists. If a link cannot be downloaded now, the next run does it."""
        if attempt.links:
            try:
                await fetch_attempt_links(
                    self._ledger, self._store, self._exchange, self._routes.get(attempt.lane), attempt
                )
            except DownloadFailed as error:
                self._note(f"{attempt.item_id}: its image exists at the vendor but could not be fetched: {error}")
                return "failed", error.reason
            return "succeeded", ""
        return ("succeeded", "") if await asyncio.to_thread(self._recover_stored, attempt) else None

    async def _find_job(self, attempt: OpenAttempt) -> OpenAttempt | None:
        if attempt.job is None and (route := self._routes.get(attempt.lane)) is not None:
            job = (await self._lost_jobs.find(route, [attempt])).get(attempt.id)
            attempt = replace(attempt, job=job)
        return attempt if attempt.job is not None else None

    def _recover_stored(self, attempt: OpenAttempt) -> bool:
        """Settle what the bucket and the disk hold of a request. What a living worker has not recorded yet, it will."""
        if settle_by_receipt(self._ledger, self._store, attempt, self._note):
            return True
        adopt_orphans(self._ledger, self._store, self._catalogue, self._note)
        return self._ledger.has_succeeded(attempt.id)
