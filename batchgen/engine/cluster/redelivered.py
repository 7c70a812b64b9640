"""A sample that somebody else had before: what became of the requests for it is found out before another one is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from batchgen.engine.lanes import Route
from batchgen.engine.recover import adopted, fetch_link, settled_by_receipt
from batchgen.errors import DownloadFailed, ProviderError
from batchgen.ledger.fenced import Claimed, FencedLedger
from batchgen.ledger.requests import OpenAttempt
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.profiles.catalogue import Catalogue
from batchgen.store.bucket import BucketStore
from batchgen.store.store import SPOOL, Store
from batchgen.store.whereabouts import open_store
from batchgen.transport import Transport


class Redelivered:
    def __init__(
        self,
        ledger: FencedLedger,
        store: Store,
        catalogue: Catalogue,
        transport: Transport,
        routes: Mapping[str, Route],
        note: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._catalogue = catalogue
        self._transport = transport
        self._routes = routes
        self._note = note

    async def settled(self, claimed: Claimed) -> tuple[str, str] | None:
        """(state, reason) when the sample has come to its end; None when it has to be asked for.

        Never sent costs nothing. What was sent and has no end is looked for: behind the link of its answer, else in the
        spools of all workers. What is found nowhere is uncertain, and held for whoever decides about it.
        """
        end = claimed.ended
        for attempt in claimed.unsettled:
            if await self._found(attempt):
                end = ("succeeded", "")
            elif await self._ledger.given_up(attempt):
                end = ("uncertain", "interrupted")
        return end

    async def _found(self, attempt: OpenAttempt) -> bool:
        if attempt.links and (route := self._routes.get(attempt.lane)) is not None:
            try:
                await fetch_link(self._ledger, self._store, self._transport, route, attempt)
            except (DownloadFailed, ProviderError) as error:
                self._note(f"{attempt.item_id}: its picture exists at the vendor but could not be fetched: {error}")
                return False
            return True
        return await asyncio.to_thread(self._stored, attempt)

    def _stored(self, attempt: OpenAttempt) -> bool:
        if isinstance(self._store, BucketStore) and settled_by_receipt(self._ledger, self._store, attempt):
            self._note(f"{attempt.item_id}: its picture was on its way to the bucket and needs not be bought again")
            return True
        return self._in_a_spool(attempt)

    def _in_a_spool(self, attempt: OpenAttempt) -> bool:
        state = os.path.join(self._store.root, STATE_FOLDER)
        for entry in sorted(os.listdir(state)):
            if entry.startswith(f"{SPOOL}-"):
                store = open_store(self._store.folder, self._store.url, entry)
                if adopted(self._ledger, store, self._catalogue, attempt, self._note, f"spool of {entry[6:]}"):
                    return True
        return False
