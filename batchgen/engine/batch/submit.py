"""From waiting samples to a batch at the vendor's, in steps that each are durable before the next begins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from typing import IO

from batchgen.engine.batch.context import Means, reserved_usd
from batchgen.engine.batch.outcomes import Endings
from batchgen.engine.prepare import as_sent, prepare
from batchgen.engine.recovery.replay import request_facts
from batchgen.errors import (
    ConnectFailed,
    DailyQuotaReached,
    Malformed,
    NotTheApi,
    ProviderError,
    RateLimited,
    ServerFault,
    Unanswered,
)
from batchgen.events import AttemptStarted, BatchSubmitted
from batchgen.ledger.reader import Reader
from batchgen.ledger.submissions import Chunk
from batchgen.planning.batchable import ChunkLimits, Load
from batchgen.providers.gemini_batch import MIME_TYPE, RemoteBatch
from batchgen.records import Sample
from batchgen.scheduling.lane import MARKUP
from batchgen.scheduling.window import BudgetReached, Reserved
from batchgen.store.spool import NO_FOLLOW, sync_folder

OURS = ("jsonl", "results", "inline")  # endings of a chunk's files that go when it is over
WRITE_BYTES = 1 << 20
PAGES_MOST = 200  # of the list of batches, a hundred each


class Full(Exception):
    """The quota for enqueued work has no room for a chunk. for_size: a smaller one might fit.

    retry_after_s: as the vendor says, 0 when it does not.
    """

    def __init__(self, error: RateLimited | DailyQuotaReached) -> None:
        super().__init__(error.message)
        self.for_size = isinstance(error, RateLimited)
        self.retry_after_s = (error.retry_after_s or 0.0) if isinstance(error, RateLimited) else 0.0


class Submission:
    """Makes chunks of what waits in batch lanes, and takes each chunk on to its batch."""

    def __init__(self, means: Means, endings: Endings) -> None:
        self._means = means
        self._endings = endings
        self._over: dict[str, list[Sample]] = {}  # taken from the backlog and not in a chunk yet, by lane
        self.places: dict[int, int | None] = {}  # of each chunk's money in the log of all processes
        self._renewed: set[int] = set()  # chunks whose uploaded file was asked for, and may be uploaded anew once
        self.short = ""  # whose budget had no room: run, day, month

    def waiting(self, lane: str) -> int:
        return self._means.backlog.left(lane) + len(self._over.get(lane, ()))

    def give_back(self, lane: str) -> None:
        """What was taken and not sent waits in the backlog again."""
        self._means.backlog.add(lane, self._over.pop(lane, []))

    # --- recorded: the samples of a chunk and their money

    async def record(self, lane: str, limits: ChunkLimits) -> Chunk | None:
        """The next chunk of a lane; None when nothing waits, or no budget has room."""
        means = self._means
        samples, held_usd = self._gather(lane, limits)
        means.dispatch.went_outside(0, held_usd)  # at once: requests online draw on the same budget
        samples, place = await self._afforded(lane, samples)
        if not samples:
            means.dispatch.went_outside(0, -held_usd)
            return None
        requests = []
        for sample in samples:
            tries = self._endings.tries(sample)
            sent, words = as_sent(sample, sample, tries)
            number = 1 + tries.requests
            requests.append((sent, number, means.price(sample, lane), words, request_facts(sample)))
        chunk, numbers = await means.chunks.recorded(lane, means.prefix, requests)
        self.places[chunk.id] = place
        means.dispatch.went_outside(0, reserved_usd(chunk) - held_usd)
        means.backlog.lend(samples)
        for (sent, number, _, words, _), attempt in zip(requests, numbers, strict=True):
            means.emit(
                AttemptStarted(
                    at=chunk.made_at,
                    attempt=attempt,
                    key=sent.key,
                    model=sent.item.model,
                    number=number,
                    sent_as=words,
                    batch=True,
                )
            )
        return await self._write(chunk, [sent for sent, *_ in requests], numbers)

    def _gather(self, lane: str, limits: ChunkLimits) -> tuple[list[Sample], float]:
        """The samples of the next chunk, and the USD that they may cost."""
        means, load = self._means, Load()
        profile, usd = means.routes[lane].profile, 0.0
        found: list[Sample] = []
        while True:
            over = self._over.setdefault(lane, [])
            if not over:
                over.extend(means.backlog.take(lane, 64))
            if not over:
                return found, usd
            price = (means.price(over[0], lane) or 0.0) * MARKUP
            if not means.dispatch.affords(usd + price):
                self.short = "run"
                return found, usd
            if not load.takes(over[0], profile, limits):
                return found, usd
            usd += price
            found.append(over.pop(0))

    async def _afforded(self, lane: str, samples: list[Sample]) -> tuple[list[Sample], int | None]:
        """As many of them as the budgets of all processes have room for; the others stay."""
        means = self._means
        while samples:
            usd = sum(means.price(sample, lane) or 0.0 for sample in samples) * MARKUP
            answer = await means.logs[lane].reserve(None, usd)
            if isinstance(answer, Reserved):
                return samples, answer.place
            self.short = answer.span if isinstance(answer, BudgetReached) else "run"
            half = len(samples) // 2
            self._over[lane] = [*samples[half:], *self._over[lane]]
            samples = samples[:half]
        return [], None

    # --- written: one line for each

    async def _write(self, chunk: Chunk, samples: Sequence[Sample], numbers: Sequence[int]) -> Chunk:
        means = self._means
        route, path = means.routes[chunk.lane], means.file(chunk, "jsonl")
        written = held_bytes = 0
        with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | NO_FOLLOW, 0o600), "wb") as file:
            lines: list[bytes] = []
            for sample, attempt in zip(samples, numbers, strict=True):
                try:
                    body = (await prepare(sample, route, means.enclosures)).take().body
                except ProviderError as error:
                    sent = means.ledger.reader.submitted(attempt)
                    if sent is not None:
                        await self._endings.failed(sent, chunk.lane, sample, error)
                    continue
                lines.append(means.codec(chunk.lane).line(str(attempt), body))
                written, held_bytes = written + 1, held_bytes + len(lines[-1])
                if held_bytes >= WRITE_BYTES:
                    await asyncio.to_thread(file.writelines, lines)
                    lines, held_bytes = [], 0
            await asyncio.to_thread(_finish, file, lines)
        await asyncio.to_thread(sync_folder, means.folder())
        if not written:
            await self.drop(chunk, "none of its requests could be written")
            return chunk
        return await means.chunks.stepped(chunk, step="written")

    # --- uploaded

    async def upload(self, chunk: Chunk) -> Chunk:
        """An upload that broke off, in this run or an earlier one, is gone on with. Raises ProviderError."""
        means, to = self._means, self._means.destination(chunk.lane)
        with os.fdopen(os.open(means.file(chunk, "jsonl"), os.O_RDONLY | NO_FOLLOW), "rb") as file:
            url, granularity, offset = chunk.upload_url, 1, 0
            if url:
                try:
                    offset = await means.uploads.received(to, url)
                except ProviderError:
                    url = ""
            if not url:
                size_bytes = os.fstat(file.fileno()).st_size
                url, granularity = await means.uploads.begin(to, MIME_TYPE, size_bytes, f"{chunk.name}.jsonl")
                offset = 0
                chunk = await means.chunks.stepped(chunk, upload_url=url)
            remote = await means.uploads.go_on(to, file, url, granularity, offset)
        return await means.chunks.stepped(chunk, step="uploaded", input_file=remote.name, upload_url="")

    # --- asked and created

    async def create(self, chunk: Chunk) -> Chunk:
        """Asked at most once as far as anybody can tell: whatever is in doubt is looked for before it is asked again.

        Raises Full, and ProviderError when the vendor will not have it.
        """
        means, codec = self._means, self._means.codec(chunk.lane)
        chunk = await means.chunks.asked(chunk)
        try:
            batch = codec.seen(*await means.ask(chunk.lane, codec.create(chunk.name, chunk.input_file)))
        except (ConnectFailed, NotTheApi):
            await means.chunks.stepped(chunk, step="uploaded")
            raise
        except (Unanswered, ServerFault, Malformed) as error:
            # Perhaps it exists. Only from now on can it be missed in the list: the answer may have been long in coming.
            return await means.chunks.stepped(chunk, message=error.message, asked_at=time.time())
        except (RateLimited, DailyQuotaReached) as error:
            await means.chunks.stepped(chunk, step="uploaded", message=error.message)
            raise Full(error) from None
        except ProviderError:
            if await self._file_is_gone(chunk):
                return await means.chunks.stepped(chunk, step="written", input_file="")
            await means.chunks.stepped(chunk, step="uploaded")
            raise
        return await self._created(chunk, batch)

    async def _file_is_gone(self, chunk: Chunk) -> bool:
        """Files live for two days. One that goes a second time in a run is no matter of its age."""
        if chunk.id in self._renewed:
            return False
        self._renewed.add(chunk.id)
        status, _, _ = await self._means.ask(chunk.lane, self._means.codec(chunk.lane).look(chunk.input_file))
        return status in (403, 404)

    async def reconcile(self, chunk: Chunk) -> Chunk:
        """Of a chunk that was asked for and never heard of: does its batch exist? Raises ProviderError."""
        batch = await self._find(chunk)
        if batch is not None:
            return await self._created(chunk, batch)
        if time.time() - chunk.asked_at < self._means.options.sure_s:
            return chunk
        return await self._means.chunks.stepped(chunk, step="uploaded")

    async def _find(self, chunk: Chunk) -> RemoteBatch | None:
        codec, page = self._means.codec(chunk.lane), ""
        for _ in range(PAGES_MOST):
            batches, page = codec.listed(*await self._means.ask(chunk.lane, codec.listing(page)))
            for batch in batches:
                if batch.display_name == chunk.name:
                    return batch
            if not page:
                return None
        raise Unanswered("the list of batches has no end")

    async def _created(self, chunk: Chunk, batch: RemoteBatch) -> Chunk:
        means = self._means
        chunk = await means.chunks.stepped(
            chunk, step="created", batch=batch.name, created_at=time.time(), state=batch.state, message=""
        )
        means.emit(
            BatchSubmitted(
                at=chunk.created_at, model=means.routes[chunk.lane].profile.id, batch=batch.name,
                requests=chunk.requests, usd=chunk.estimate_usd,
            )
        )  # fmt: skip
        return chunk

    # --- not at all

    async def drop(self, chunk: Chunk, why: str) -> None:
        """A chunk that was never created. Its samples are not put back: `reclaim` does that for those still lent."""
        means = self._means
        await means.chunks.dropped(chunk, why)
        self.free(chunk, 0.0)
        forget_files(means, chunk)

    async def reclaim(self, chunk: Chunk, lane: str) -> None:
        """The samples of a chunk that is about to be dropped wait in `lane` again."""
        reader, after = self._means.ledger.reader, 0
        while numbers := reader.unanswered(chunk.id, after, 500):
            after = numbers[-1]
            found = [reader.submitted(number) for number in numbers]
            keys = [
                f"{one.attempt.item_id}#{one.attempt.n}" if one.attempt.n > 1 else one.attempt.item_id
                for one in found
                if one
            ]
            back = [self._means.backlog.returned(key) for key in keys]
            self._endings.put_back(lane, [sample for sample in back if sample is not None])

    def free(self, chunk: Chunk, spent_usd: float) -> None:
        """The chunk is over: its reservation becomes what it has cost."""
        place = self.places.pop(chunk.id, None)
        log = self._means.logs.get(chunk.lane)
        if place is not None and log is not None:
            if spent_usd:
                log.settled(place, spent_usd)
            else:
                log.refund(place)
        self._means.dispatch.went_outside(0, -reserved_usd(chunk), spent_usd)


def _finish(file: IO[bytes], lines: Sequence[bytes]) -> None:
    file.writelines(lines)
    file.flush()
    os.fsync(file.fileno())


def forget_strays(reader: Reader, folder: str) -> None:
    """Files of chunks that are over, from a run that died before it deleted them."""
    kept = {str(chunk.id) for chunk in reader.open_chunks()}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        number, _, kind = name.partition(".")
        if kind in OURS and number not in kept:
            os.unlink(os.path.join(folder, name))


def forget_files(means: Means, chunk: Chunk) -> None:
    for kind in OURS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(means.file(chunk, kind))
