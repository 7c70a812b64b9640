"""From a batch that has ended to settled samples: fetch its results, read them line by line, account for every key."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from typing import IO

from batchgen.engine.batch.context import Means
from batchgen.engine.batch.lines import (
    RawLine,
    answered,
    contents,
    flaw,
    lifted,
    opened,
    outline,
    take,
    take_out,
)
from batchgen.engine.batch.outcomes import Endings
from batchgen.engine.batch.submit import Submission, forget_files
from batchgen.engine.conversation import keep_turn
from batchgen.engine.execute import worth_keeping
from batchgen.engine.recovery.replay import sample_of
from batchgen.engine.settle import Stored, discard, our_bugs
from batchgen.errors import (
    BatchgenError,
    BatchLost,
    BatchLostMaybeBilled,
    DownloadFailed,
    Malformed,
    ProviderError,
    StoreError,
)
from batchgen.events import BatchCollected
from batchgen.ledger.submissions import Chunk, Submitted
from batchgen.providers.google_errors import read_error
from batchgen.records import Reply, Sample
from batchgen.safe_open import private
from batchgen.scheduling.retry import backoff_s
from batchgen.store.spool import NO_FOLLOW, SpoolFile, sync_folder
from batchgen.store.unparsed import keep

AT_ONCE = 16
FETCH_TRIES = 6
COPIES_MOST = 3  # of results that are not whole; two that are alike are what the vendor has
LOST = {
    "expired": ("batch_expired", "the batch expired at the vendor's before it came to this request"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before it came to this request"),
    "failed": ("batch_failed", "the batch failed"),
    "gone": ("batch_gone", "the batch is no longer at the vendor's"),
}


@dataclass(slots=True)
class Tally:
    """What became of a chunk's requests."""

    made: int = 0
    again: int = 0
    ended: int = 0


class Collection:
    """Takes a chunk whose batch has ended on to its end."""

    def __init__(self, means: Means, endings: Endings, submission: Submission) -> None:
        self._means = means
        self._endings = endings
        self._submission = submission

    # --- fetched: the results in a file of ours

    async def fetch(self, chunk: Chunk) -> Chunk:
        """A download that breaks off goes on where it was, in this run or the next; one that has brought something else than
        the results, or not all of them, starts over. Raises DownloadFailed."""
        if chunk.results_file:
            with self._opened(chunk, "results") as file:
                await self._whole(chunk, file)
                await asyncio.to_thread(_durable, file)
            await asyncio.to_thread(sync_folder, self._means.folder())
        return await self._means.chunks.stepped(chunk, step="fetched")

    async def outline(self, chunk: Chunk) -> bytes:
        """How a batch stands whose answers are in its own operation, which may be long. Raises DownloadFailed."""
        with self._opened(chunk, "inline") as operation:
            await self._rest(chunk, operation, chunk.batch)
            return await self._means.in_thread(lambda: outline(operation))

    def _opened(self, chunk: Chunk, kind: str) -> IO[bytes]:
        path = self._means.file(chunk, kind)
        return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o600), "r+b")

    async def _whole(self, chunk: Chunk, file: IO[bytes]) -> None:
        """What it lacks would be asked for again, and be paid twice: so what came is looked at first."""
        before = b""
        for copies in range(1, COPIES_MOST + 1):
            await self._copied(chunk, file)
            found = await self._means.in_thread(lambda: contents(file))
            why = flaw(found, chunk.succeeded + chunk.failed)
            if not why or (found.answers and not found.cut and found.sha256 == before):
                return
            before = found.sha256
            file.truncate(found.whole_bytes if found.answers and found.cut else 0)
            if copies == COPIES_MOST:
                raise DownloadFailed(f"its results could not be fetched: {why}", http_status=200)
            await self._pause(copies)

    async def _copied(self, chunk: Chunk, file: IO[bytes]) -> None:
        """Raises DownloadFailed after the last try."""
        for failures in range(FETCH_TRIES):
            file.seek(0, os.SEEK_END)
            try:
                if chunk.results_file == chunk.batch:
                    await self._taken_out(chunk, file)
                else:
                    await self._rest(chunk, file, chunk.results_file)
            except DownloadFailed:
                if failures + 1 == FETCH_TRIES:
                    raise
                await self._pause(failures)
            else:
                return

    async def _taken_out(self, chunk: Chunk, file: IO[bytes]) -> None:
        """Write the answers that an operation holds as lines."""
        with self._opened(chunk, "inline") as operation:
            await self._rest(chunk, operation, chunk.batch)
            await self._means.in_thread(lambda: take_out(operation, file))

    async def _pause(self, failures: int) -> None:
        await asyncio.sleep(backoff_s(failures, self._means.options.look_s / 5, 30.0, self._endings.rng))

    async def _rest(self, chunk: Chunk, file: IO[bytes], name: str) -> None:
        means, route = self._means, self._means.routes[chunk.lane]
        request = means.codec(chunk.lane).download(name, file.tell())
        status, headers, body = await means.transport.download(route.base_url, request, route.auth, file)
        if status == 416:  # asked from its end on: all of it is here
            return
        if status not in (200, 206):
            error = read_error(status, headers, body)
            raise DownloadFailed(f"its results could not be fetched: {error.message}", http_status=status)

    # --- collected: every request of the chunk has ended

    async def collect(self, chunk: Chunk) -> Chunk:
        means, tally = self._means, Tally()
        await means.chunks.adopted(chunk)  # what it costs and brings counts for the run that reads it
        path = means.file(chunk, "results")
        try:
            file = opened(path)
        except FileNotFoundError:  # the batch named no results, or somebody deleted our copy, which is fetched again
            if chunk.results_file:
                return await means.chunks.stepped(chunk, step="ended")
        else:
            with file:
                await self._lines(chunk, file, path, tally)
        await self._missing(chunk, tally)
        usd, unpriced = means.ledger.reader.chunk_usd(chunk.id)
        chunk = await means.chunks.stepped(chunk, step="collected", ended_at=time.time())
        self._submission.free(chunk, usd)
        forget_files(means, chunk)
        means.emit(
            BatchCollected(
                at=chunk.ended_at, model=means.routes[chunk.lane].profile.id, batch=chunk.batch, made=tally.made,
                again=tally.again, ended=tally.ended, usd=usd, unpriced=unpriced,
            )
        )  # fmt: skip
        return chunk

    async def _lines(self, chunk: Chunk, file: IO[bytes], path: str, tally: Tally) -> None:
        seen: set[int] = set()
        while lines := await self._means.in_thread(lambda: take(file, path, AT_ONCE)):
            await asyncio.gather(*(self._line(chunk, line, seen, tally) for line in lines))

    async def _line(self, chunk: Chunk, line: RawLine, seen: set[int], tally: Tally) -> None:
        means = self._means
        number = int(line.key) if line.key and line.key.isascii() and line.key.isdecimal() and len(line.key) < 16 else 0
        if chunk.requests == 1 and line.key is None and answered(line.pieces()) == "":
            number = next(iter(means.ledger.reader.unanswered(chunk.id, 0, 1)), 0)  # it can be nobody else's
        sent = means.ledger.reader.submitted(number) if number else None
        if sent is None or sent.chunk != chunk.id:
            why = (
                "names no key" if line.key is None else "has the key of another batch" if sent else "has an unknown key"
            )
            await self._strange(chunk, line, why)
            return
        if number in seen:
            await self._strange(chunk, line, f"answers {sent.attempt.item_id} a second time")
            return
        seen.add(number)
        if sent.ended:
            return  # settled by a run that was stopped in between
        sample = replace(sample_of(sent.attempt, sent.facts), known=True)  # its line may stand in the results already
        try:
            reply, stored = await means.in_thread(lambda: self._settle(chunk, sent, sample, line))
        except ProviderError as error:
            again = await self._endings.failed(sent, chunk.lane, sample, error)
            tally.again, tally.ended = tally.again + again, tally.ended + (not again)
            return
        tally.made += len(stored.made)
        await self._endings.succeeded(sent, chunk.lane, sample, reply, stored)

    def _settle(self, chunk: Chunk, sent: Submitted, sample: Sample, line: RawLine) -> tuple[Reply, Stored]:
        """In a thread: a line is settled as an answer that came over HTTP is. Raises ProviderError."""
        means, attempt, route = self._means, sent.attempt.id, self._means.routes[chunk.lane]
        spooled: list[SpoolFile] = []

        def open_sink(k: int) -> SpoolFile:
            spooled.append(means.store.spool_file(attempt, k))
            return spooled[-1]

        try:
            answer = lifted(line, open_sink, signatures=sample.item.turn > 0)
            if answer.key != line.key:
                raise Malformed("a line of the results has two keys", http_status=200)
        except ProviderError:
            discard(spooled)
            raise
        try:
            with our_bugs(ProviderError):
                reply = route.codec.read(answer.status, {}, answer.body)
            if sample.item.turn:
                with our_bugs(ProviderError, StoreError, OSError):
                    keep_turn(means.store, route.codec, attempt, answer.body, [file.path for file in spooled])
            with our_bugs(BatchgenError, OSError):
                stored = means.attempts.settle(
                    route.profile, attempt, sample, reply, spooled, None, sent.attempt.estimate_usd, batch=True
                )
        except ProviderError as error:
            if worth_keeping(error, answer.status, spooled):
                keep(means.store, attempt, (answer.status, {}, answer.body), spooled, sent.facts)
            else:
                discard(spooled)
            raise
        return reply, stored

    async def _strange(self, chunk: Chunk, line: RawLine, why: str) -> None:
        """Perhaps paid for, and nobody's: kept as it came."""
        path = self._means.file(chunk, "strange")
        await self._means.in_thread(lambda: _append(path, line))
        self._means.note(f"{chunk.batch}: a line of its results {why}; it is kept in {path}")

    async def _missing(self, chunk: Chunk, tally: Tally) -> None:
        """Requests that no line has answered, with the reason."""
        reader, after = self._means.ledger.reader, 0
        reason, words = LOST.get(chunk.state, ("missing_line", "the results of the batch do not mention this request"))
        words = f"{words}: {chunk.message}" if chunk.message else words
        maybe = chunk.succeeded > reader.answered(chunk.id) or chunk.state == "gone"
        kind = BatchLostMaybeBilled if maybe else BatchLost
        while numbers := reader.unanswered(chunk.id, after, 500):
            after = numbers[-1]
            for number in numbers:
                sent = reader.submitted(number)
                if sent is not None:
                    error = kind(words, reason=reason)
                    again = await self._endings.failed(sent, chunk.lane, sample_of(sent.attempt, sent.facts), error)
                    tally.again, tally.ended = tally.again + again, tally.ended + (not again)

    # --- done: nothing of it is left at the vendor's

    async def clean(self, chunk: Chunk) -> Chunk:
        """What cannot be deleted now is tried again by the next run; it goes by itself within weeks."""
        means, codec = self._means, self._means.codec(chunk.lane)
        for name in dict.fromkeys((chunk.input_file, chunk.results_file, chunk.batch)):
            try:
                if name:
                    codec.gone(*await means.ask(chunk.lane, codec.delete(name)))
            except ProviderError as error:
                means.note(f"{name} could not be deleted at the vendor's: {error.message}")
                return chunk
        return await means.chunks.stepped(chunk, step="done")


def _durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _append(path: str, line: RawLine) -> None:
    with open(path, "ab", opener=private) as file:
        last = b""
        for piece in line.pieces():
            file.write(piece)
            last = piece
        file.write(b"" if last.endswith(b"\n") else b"\n")
        file.flush()
        os.fsync(file.fileno())
