"""A sample that somebody else had before: what became of the requests for it is found out before another one is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from batchgen.engine.cluster.orphan_recovery import take_over
from batchgen.engine.http_attempt import Exchange
from batchgen.engine.links import fetch
from batchgen.engine.recovery.interrupted import settled_by_receipt
from batchgen.engine.routes import Route
from batchgen.errors import DownloadFailed
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.worker_ledger import Claimed, FencedLedger
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.bucket import BucketStore
from batchgen.store.store import Store


class Redelivered:
    def __init__(
        self,
        ledger: FencedLedger,
        store: Store,
        catalogue: Catalogue,
        exchange: Exchange,
        routes: Mapping[str, Route],
        note: Callable[[str], None],
        hold_uncertain: bool,
    ) -> None:
        self._hold_uncertain = hold_uncertain
        self._ledger = ledger
        self._store = store
        self._catalogue = catalogue
        self._exchange = exchange
        self._routes = routes
        self._note = note

    async def settled(self, claimed: Claimed) -> tuple[str, str] | None:
        """(state, reason) when the sample has come to its end; None when it has to be asked for.

        Never sent costs nothing. What was sent and has no end is looked for: behind the link of its answer, else in the
        spools that no worker has any more. What is found nowhere is uncertain: it is asked for once more, or held.
        """
        end, uncertain = claimed.ended, claimed.uncertain
        for attempt in claimed.unsettled:
            if (found := await self._found(attempt)) is not None:
                end = found
            elif await self._ledger.given_up(attempt):
                end = ("uncertain", "interrupted")
                uncertain += 1
        if end is not None and end[0] == "uncertain" and uncertain == 1 and not self._hold_uncertain:
            return None  # a sample that ends its workers is not asked for without end
        return end

    async def _found(self, attempt: OpenAttempt) -> tuple[str, str] | None:
        """How it ended, when its picture exists. A link that cannot be fetched now is fetched by the next run."""
        if attempt.links:
            try:
                await fetch(self._ledger, self._store, self._exchange, self._routes.get(attempt.lane), attempt)
            except DownloadFailed as error:
                self._note(f"{attempt.item_id}: its picture exists at the vendor but could not be fetched: {error}")
                return "failed", error.reason
            return "succeeded", ""
        return ("succeeded", "") if await asyncio.to_thread(self._stored, attempt) else None

    def _stored(self, attempt: OpenAttempt) -> bool:
        """What bucket and disk hold of it; what a worker that is alive has not recorded yet, it will."""
        if isinstance(self._store, BucketStore) and settled_by_receipt(self._ledger, self._store, attempt, self._note):
            return True
        take_over(self._ledger, self._store, self._catalogue, self._note)
        return self._ledger.has_come(attempt.id)
