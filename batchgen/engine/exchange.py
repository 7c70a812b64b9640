"""One request and its whole answer over HTTP, with the pictures that the answer links to; all of it can be given up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TypeVar

from batchgen.engine.lanes import Route
from batchgen.engine.settle import discard, our_bugs
from batchgen.errors import BatchgenError, DownloadFailed, ProviderError, Unanswered
from batchgen.records import Reply, ReplyImage, Request
from batchgen.retry import RetryPolicy, backoff_s
from batchgen.store.spool import SpoolFile
from batchgen.store.store import Store
from batchgen.transport import BODY_MAX_BYTES, Answer, Transport

DOWNLOAD_TRIES = 5
T = TypeVar("T")


class Flight:
    """An attempt on its way: what has left, what has come, and the pictures of it that are on disk, by number."""

    __slots__ = ("answer", "attempt", "sent_at", "spooled")

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.sent_at: float | None = None
        self.answer: Answer | None = None
        self.spooled: list[SpoolFile] = []


class Exchange:
    def __init__(self, transport: Transport, store: Store, policy: RetryPolicy) -> None:
        self._transport = transport
        self._store = store
        self._policy = policy
        self._going: set[asyncio.Task[Answer] | asyncio.Task[None]] = set()
        self._interrupted = False
        self._rng = random.Random()

    def cancel(self) -> None:
        """Give up waiting for answers and downloads."""
        self._interrupted = True
        for task in self._going:
            task.cancel()

    async def send(
        self, flight: Flight, route: Route, request: Request, *, on_sent: Callable[[], None], signatures: bool
    ) -> Answer:
        """Raises what `Transport.send` raises. A request that is cancelled while it is in flight is uncertain."""

        def sent() -> None:
            flight.sent_at = time.time()
            on_sent()

        def open_sink(k: int) -> SpoolFile:
            flight.spooled.append(self._store.spool_file(flight.attempt, k))
            return flight.spooled[-1]

        sending = self._transport.send(
            route.base_url, request, route.auth, on_sent=sent, open_sink=open_sink, signatures=signatures
        )
        lost = Unanswered("the run was interrupted while the request was in flight", reason="interrupted")
        with our_bugs(BatchgenError, OSError, kept=False):
            flight.answer = answer = await self._wait(sending, lost)
        return answer

    async def download(self, flight: Flight, reply: Reply, route: Route) -> None:
        """Fetch what the answer links to: a stage of its own, retried by itself. Raises DownloadFailed."""
        files: list[SpoolFile] = []
        for k, link in enumerate(reply.links, len(flight.spooled)):
            for failures in range(DOWNLOAD_TRIES):
                file = self._store.spool_file(flight.attempt, k)
                try:
                    await self._fetch(link, file, route)
                except DownloadFailed as error:
                    file.discard()
                    if self._interrupted or failures + 1 == DOWNLOAD_TRIES or error.reason != "download_failed":
                        discard(files)
                        raise
                    await asyncio.sleep(backoff_s(failures, self._policy.base_s, self._policy.cap_s, self._rng))
                else:
                    files.append(file)
                    break
        flight.spooled.extend(files)

    async def _fetch(self, link: str, file: SpoolFile, route: Route) -> None:
        """A second Ctrl-C ends it too: the link is in the ledger, and the next run fetches from it."""
        fetching = self._transport.fetch(link, file.write, most_bytes=BODY_MAX_BYTES, own=route.base_url)
        await self._wait(
            fetching, DownloadFailed("the run was interrupted while the picture was fetched from its link")
        )

    async def _wait(self, going: Coroutine[object, object, T], cancelled: ProviderError) -> T:
        task = asyncio.ensure_future(going)
        self._going.add(task)  # type: ignore[arg-type]
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise cancelled from None
        finally:
            self._going.discard(task)


def with_pictures(reply: Reply, count: int) -> Reply:
    """The same answer with its links fetched: picture k is spool file k."""
    return replace(reply, links=(), images=tuple(ReplyImage("", lifted=k) for k in range(count)))
