"""Downloads images behind the links of answers that an earlier process received. Every run tries again, none buys
them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from batchgen.engine.answer import AnsweredAttempt, sample_from_facts
from batchgen.engine.http_attempt import Exchange, merge_fetched
from batchgen.engine.recovery.open_attempts import complete_images
from batchgen.engine.routes import Route
from batchgen.engine.settle import settle
from batchgen.errors import DownloadFailed, ProviderError
from batchgen.http.transport import Transport
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.requests import LinkedAnswer, OpenAttempt
from batchgen.profiles.catalogue import Catalogue
from batchgen.profiles.price import cost_without_picture_usd
from batchgen.profiles.profile import Profile
from batchgen.records import Reply
from batchgen.store.spool import SpoolFile, discard_files
from batchgen.store.store import Store

LINK_TRIES = 3  # tries of a link in each run that finds it
CONCURRENCY = 8
STALL_TIMEOUT_S = 60.0  # without an image from any link; the rest is left to the next run
# A link that gets one of these answers is dead, but not on its first day: hosts may have an image late, or have faults.
GONE_STATUSES, GONE_AFTER_S = (403, 404, 410), 86400.0
GIVE_UP_AFTER_S = 30 * 86400.0  # whatever it answers; no vendor documents how long links live


def is_link_dead(error: DownloadFailed, age_s: float) -> bool:
    """Whether a link is not worth another try. age_s: time since its answer was requested. Pure."""
    return age_s > (GONE_AFTER_S if error.http_status in GONE_STATUSES else GIVE_UP_AFTER_S)


def settle_downloaded(ledger: Ledger, store: Store, catalogue: Catalogue, attempts: Iterable[OpenAttempt]) -> None:
    """Settle images that a process had downloaded to this spool before it died, as their links may be dead by now."""
    for attempt in attempts:
        if not attempt.links:
            continue
        stranded = store.recover_stranded(attempt.id, attempt.started_at)
        if fetched := dict(_spooled_images(store, attempt)):
            left = DownloadFailed("the run ended before the image was fetched from its link")
            failed = dict.fromkeys(attempt.links.keys() - fetched.keys(), left)
            with suppress(DownloadFailed):  # a bug in batchgen: its link is downloaded again
                _settle(ledger, store, catalogue.resolve(attempt.lane.split("/", 1)[1]), attempt, fetched, failed)
        for path in stranded:
            os.unlink(path)


def _spooled_images(store: Store, attempt: OpenAttempt) -> Iterable[tuple[int, SpoolFile]]:
    """The whole images of an answer that are not recorded, by number."""
    left = set(range(attempt.answer.pictures)) - attempt.answer.recorded if attempt.answer else set[int]()
    for name, _ in complete_images(store, attempt.id):
        if (k := int(name.partition(".")[2])) in left:
            yield k, SpoolFile(store.spool, name, existing=True)


async def fetch_pending_links(
    ledger: Ledger, store: Store, transport: Transport, routes: Mapping[str, Route], note: Callable[[str], None]
) -> None:
    """Download everything left by earlier runs, several at once. Raises StoreError and LedgerError."""
    exchange = Exchange(transport, store, LINK_TRIES)
    slots, loop = asyncio.Semaphore(CONCURRENCY), asyncio.get_running_loop()
    waiting = [attempt for attempt in ledger.reader.open_attempts() if attempt.links]
    random.shuffle(waiting)  # gives each its turn, even if many others are slow
    failures: list[str] = []

    async def one(attempt: OpenAttempt) -> bool:
        async with slots:
            try:
                await fetch_attempt_links(ledger, store, exchange, routes.get(attempt.lane), attempt)
            except DownloadFailed as error:
                failures.append(f"{attempt.item_id} ({error})")
                return False
        note(f"{attempt.item_id}: fetched from the link of an earlier run")
        return True

    tasks = {asyncio.create_task(one(attempt)) for attempt in waiting}
    came_s = loop.time()
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, timeout=STALL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if sum(task.result() for task in done):
                came_s = loop.time()
            elif loop.time() - came_s >= STALL_TIMEOUT_S:
                exchange.cancel(f"no link has given an image for {STALL_TIMEOUT_S:.0f} s")
    finally:
        exchange.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        note(
            f"{len(failures)} paid answer(s) could not be downloaded from their links yet, for example {failures[0]};"
            " the next run tries again"
        )


async def fetch_attempt_links(
    ledger: Ledger, store: Store, exchange: Exchange, route: Route | None, attempt: OpenAttempt
) -> None:
    """Download the missing images of an answer, and settle those that come. route: None if its API no longer has an
    address.

    Raises DownloadFailed if an image is still missing, after recording that.
    """
    fetched: dict[int, SpoolFile] = {}
    failed: dict[int, DownloadFailed] = {}
    if route is None:
        failed = dict.fromkeys(attempt.links, DownloadFailed(f"no address is set for {attempt.lane}"))
    else:
        fetched, failed = await exchange.fetch_links(attempt.id, attempt.links, route)
        if fetched:
            await asyncio.to_thread(_settle, ledger, store, route.profile, attempt, fetched, failed)
    if not failed:
        return
    error = next(iter(failed.values()))
    sample = sample_from_facts(attempt, attempt.answer.facts if attempt.answer else {})
    tried = route is not None and not exchange.is_cancelled
    if tried and all(is_link_dead(each, time.time() - attempt.started_at) for each in failed.values()):
        await asyncio.to_thread(ledger.end_without_picture, attempt, "failed", "link_gone", error.message)
    elif not fetched:
        usage = attempt.answer.usage if attempt.answer else None
        cost = (
            (None, "")
            if route is None
            else cost_without_picture_usd(route.profile, usage, attempt.images, tier=sample.item.service_tier)
        )
        await ledger.download_failed(attempt.id, sample, error, cost)
    raise error


def _settle(
    ledger: Ledger,
    store: Store,
    profile: Profile,
    attempt: OpenAttempt,
    fetched: Mapping[int, SpoolFile],
    failed: Mapping[int, DownloadFailed],
) -> None:
    """Settle the images of an answer. Raises DownloadFailed for a bug in batchgen: the links stay, and a newer version
    may succeed."""
    spooled: list[SpoolFile] = []
    answer = attempt.answer or LinkedAnswer({}, frozenset(), 0)
    reply = merge_fetched(Reply(usage=answer.usage, text=answer.text), spooled, answer.pictures, fetched, failed)
    try:
        settle(ledger, store, AnsweredAttempt.from_record(attempt, profile, answer.facts), reply, spooled)
    except ProviderError as error:
        discard_files(spooled)
        raise DownloadFailed(error.message) from error
