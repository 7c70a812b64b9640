"""Exchanges one request for its whole answer over HTTP, and downloads the images that the answer links to. All of it
can be cancelled."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit

from batchgen.engine.answer import bugs_as_unreadable
from batchgen.engine.routes import Route
from batchgen.errors import BatchgenError, DownloadFailed, ProviderError, Unanswered
from batchgen.http.answer import HttpAnswer
from batchgen.http.transport import BODY_MAX_BYTES, Transport
from batchgen.records import Reply, ReplyImage, Request
from batchgen.scheduling.retry import backoff_s
from batchgen.store.check import ImageError, check_file
from batchgen.store.spool import SpoolFile, discard_files
from batchgen.store.store import Store

DOWNLOAD_TRIES = 7  # for a new link, about half a minute: some hosts have the image only then
FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S = 1.0, 32.0
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class InFlight:
    """An attempt in flight: what was sent, what was received, and its images that are on disk, by number."""

    attempt: int
    sent_at: float | None = None
    answer: HttpAnswer | None = None
    spooled: list[SpoolFile] = field(default_factory=list)


class Exchange:
    """Sends requests and downloads images. tries: for each link, with growing pauses; None: as many as a new link
    deserves."""

    def __init__(self, transport: Transport, store: Store, tries: int | None = None) -> None:
        self._transport = transport
        self._store = store
        self._tries = tries
        self._tasks: set[asyncio.Task[HttpAnswer] | asyncio.Task[None]] = set()
        self._cancel_reason = ""
        self._rng = random.Random()

    @property
    def is_cancelled(self) -> bool:
        return bool(self._cancel_reason)

    def cancel(self, why: str = "the run was interrupted") -> None:
        """Stop waiting for answers and downloads."""
        self._cancel_reason = why
        for task in self._tasks:
            task.cancel()

    async def send(
        self, in_flight: InFlight, route: Route, request: Request, *, on_sent: Callable[[], None], signatures: bool
    ) -> HttpAnswer:
        """Send a request and receive its whole answer. Raises what `Transport.send` raises. A request that is cancelled
        in flight is uncertain."""

        def sent() -> None:
            in_flight.sent_at = time.time()
            on_sent()

        def open_sink(k: int) -> SpoolFile:
            in_flight.spooled.append(self._store.spool_file(in_flight.attempt, k))
            return in_flight.spooled[-1]

        sending = self._transport.send(
            route.base_url, request, route.credentials, on_sent=sent, open_sink=open_sink, signatures=signatures
        )
        lost = Unanswered("the run was interrupted while the request was in flight", reason="interrupted")
        with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
            in_flight.answer = answer = await self._wait(sending, lost)
        return answer

    # --- links: a stage of its own, which costs nothing and is never a reason to request an image again.

    def spool_inline_images(self, in_flight: InFlight, reply: Reply) -> Reply:
        """Write the images in a reply to disk under their numbers, before files from its links take the numbers after
        them, and return the reply. Other things decoded from the answer, such as a preview, are deleted."""
        decoded, in_flight.spooled = in_flight.spooled, []
        numbers = {image.decoded for image in reply.images}
        discard_files([file for number, file in enumerate(decoded) if number not in numbers])
        images = sorted(reply.images, key=lambda image: math.inf if image.decoded is None else image.decoded)
        for k, image in enumerate(images):
            if image.decoded is not None and image.decoded < len(decoded):
                file = decoded[image.decoded]
                file.rename(f"{in_flight.attempt}.{k}")
            elif image.data is not None:
                file = self._store.spool_file(in_flight.attempt, k)
                file.write(image.data)
            else:
                continue
            images[k] = replace(image, data=None, decoded=len(in_flight.spooled))
            in_flight.spooled.append(file)
        return replace(reply, images=tuple(images))

    async def download_images(self, in_flight: InFlight, reply: Reply, route: Route) -> Reply:
        """Download the images behind a reply's links, and return the reply with its images on disk; `unavailable` lists
        those whose links gave none. reply: as `spool_inline_images` returns it.

        Raises DownloadFailed if there is no image at all.
        """
        links = dict(enumerate(reply.links, len(reply.images)))
        fetched, failed = await self.fetch_links(in_flight.attempt, links, route)
        if not reply.images and not fetched:
            error = next(iter(failed.values()))
            error.usage = reply.usage
            raise error
        return merge_fetched(reply, in_flight.spooled, len(reply.images) + len(links), fetched, failed)

    async def fetch_links(
        self, attempt: int, links: Mapping[int, str], route: Route
    ) -> tuple[dict[int, SpoolFile], dict[int, DownloadFailed]]:
        """Download the images behind links. Returns those that came, each whole, and why the others did not, by
        number."""
        fetched: dict[int, SpoolFile] = {}
        failed: dict[int, DownloadFailed] = {}

        async def one(k: int, link: str) -> None:
            try:
                fetched[k] = await self._fetch_with_retries(attempt, k, link, route)
            except DownloadFailed as error:
                failed[k] = error

        ends = await asyncio.gather(*(one(k, link) for k, link in links.items()), return_exceptions=True)
        for error in filter(None, ends):  # the disk refuses: the next run finds what came
            raise error
        return fetched, dict(sorted(failed.items()))

    async def _fetch_with_retries(self, attempt: int, k: int, link: str, route: Route) -> SpoolFile:
        """Download an image with retries. Raises DownloadFailed, naming the link's host, if no try gave a whole
        image."""
        tries = self._tries or DOWNLOAD_TRIES
        error = DownloadFailed(f"{self._cancel_reason}: its link was not tried")
        tried = 0
        while tried < tries and not self._cancel_reason:
            try:
                if tried:
                    await self._wait(
                        asyncio.sleep(backoff_s(tried - 1, FIRST_RETRY_DELAY_S, MAX_RETRY_DELAY_S, self._rng)), error
                    )
                tried += 1
                return await self._fetch_once(attempt, k, link, route)
            except DownloadFailed as failure:
                error = failure
                if error.reason == "link_refused":
                    break
        times = f" (tried {tried} times)" if tried > 1 else ""
        raise DownloadFailed(
            f"{_host_prefix(link)}{error.message}{times}", reason=error.reason, http_status=error.http_status
        )

    async def _fetch_once(self, attempt: int, k: int, link: str, route: Route) -> SpoolFile:
        file = self._store.spool_file(attempt, k)
        try:
            fetching = self._transport.download_link(link, file.write, max_bytes=BODY_MAX_BYTES, api_url=route.base_url)
            lost = DownloadFailed("the run was interrupted while the image was fetched from its link")
            await self._wait(fetching, lost)
            if not file.bytes:
                raise DownloadFailed("the image's link answered 200 and sent nothing", http_status=200)
            await asyncio.to_thread(check_file, file.path)
        except ImageError as error:
            file.discard()
            raise DownloadFailed(f"the image's link answered 200, but {error}", http_status=200) from None
        except BaseException:
            file.discard()
            raise
        return file

    async def _wait(self, going: Coroutine[object, object, T], cancelled: ProviderError) -> T:
        task = asyncio.ensure_future(going)
        self._tasks.add(task)  # type: ignore[arg-type]
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise cancelled from None
        finally:
            self._tasks.discard(task)


def merge_fetched(
    reply: Reply,
    spooled: list[SpoolFile],
    pictures: int,
    fetched: Mapping[int, SpoolFile],
    failed: Mapping[int, DownloadFailed],
) -> Reply:
    """The reply as if all its images had come with it. pictures: how many it has in all, the ones at hand first.
    fetched, failed: the others, by number; one in neither is recorded already. The downloaded files are added to
    `spooled`."""
    images, unavailable = list(reply.images), dict[int, tuple[str, str] | None]()
    for k in range(len(images), pictures):
        if k in fetched:
            images.append(ReplyImage("", decoded=len(spooled)))
            spooled.append(fetched[k])
        else:
            images.append(ReplyImage(""))
            unavailable[k] = (failed[k].reason, failed[k].message) if k in failed else None
    return replace(reply, images=tuple(images), links=(), unavailable=unavailable)


def _host_prefix(link: str) -> str:
    """The host of a link, for messages: its query may contain a signature, and its host may not be one at all."""
    try:
        return f"{urlsplit(link).hostname or ''}: ".removeprefix(": ")
    except ValueError:
        return ""
