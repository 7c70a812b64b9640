"""Settles the samples of a batch that has ended: downloads its results, reads them line by line, and accounts for every
key."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from typing import IO

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable, keep_or_discard, read_reply, sample_from_facts
from batchgen.engine.batch.chunk_submitter import ChunkSubmitter
from batchgen.engine.batch.context import BatchContext
from batchgen.engine.batch.outcomes import BatchOutcomes
from batchgen.engine.batch.result_lines import (
    RawLine,
    answered_key,
    check_results,
    decode_line,
    describe_defect,
    extract_answers,
    open_results,
    read_lines,
    without_answers,
)
from batchgen.engine.settle import SettledReply
from batchgen.errors import BatchgenError, BatchLost, BatchLostMaybeBilled, DownloadFailed, Malformed, ProviderError
from batchgen.events import BatchCollected
from batchgen.ledger.chunks import Chunk, ChunkRequest
from batchgen.records import Reply, Response
from batchgen.safe_open import private_opener
from batchgen.scheduling.retry import backoff_s
from batchgen.store.spool import NO_FOLLOW, SpoolFile, discard_files, sync_folder

LINES_AT_ONCE = 16
MAX_FETCH_TRIES = 6
MAX_COPIES = 3  # of results that are not whole; two identical ones are what the vendor has
LOST_REASONS = {
    "expired": ("batch_expired", "the batch expired at the vendor's before it came to this request"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before it came to this request"),
    "failed": ("batch_failed", "the batch failed"),
    "gone": ("batch_gone", "the batch is no longer at the vendor's"),
}


@dataclass(slots=True)
class ChunkCounts:
    """What became of a chunk's requests."""

    made: int = 0
    again: int = 0
    ended: int = 0


class ResultCollector:
    """Takes a chunk whose batch has ended through its last steps."""

    def __init__(self, context: BatchContext, outcomes: BatchOutcomes, submitter: ChunkSubmitter) -> None:
        self._context = context
        self._outcomes = outcomes
        self._submitter = submitter

    # --- fetched: the results are in a local file

    async def fetch(self, chunk: Chunk) -> Chunk:
        """Download the results. A download that broke off is resumed, in this run or the next; one that brought
        something else than the results, or not all of them, starts over. Raises DownloadFailed."""
        if chunk.results_file:
            with self._open_chunk_file(chunk, "results") as file:
                await self._fetch_complete(chunk, file)
                await asyncio.to_thread(_flush_and_sync, file)
            await asyncio.to_thread(sync_folder, self._context.batch_folder())
        return await self._context.chunks.update(chunk, step="fetched")

    async def read_status(self, chunk: Chunk) -> bytes:
        """Read the operation of a batch whose answers are in it, which may be long. Raises DownloadFailed."""
        with self._open_chunk_file(chunk, "inline") as operation:
            await self._download_rest(chunk, operation, chunk.batch)
            return await self._context.run.in_thread(lambda: without_answers(operation))

    def _open_chunk_file(self, chunk: Chunk, kind: str) -> IO[bytes]:
        path = self._context.file(chunk, kind)
        return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o600), "r+b")

    async def _fetch_complete(self, chunk: Chunk, file: IO[bytes]) -> None:
        """Download until the results are complete. Anything missing would be requested and paid for again, so the copy
        is checked first."""
        before = b""
        for copies in range(1, MAX_COPIES + 1):
            await self._download_with_retries(chunk, file)
            found = await self._context.run.in_thread(lambda: check_results(file))
            why = describe_defect(found, chunk.succeeded + chunk.failed)
            if not why or (found.answers and not found.truncated and found.sha256 == before):
                return
            before = found.sha256
            # Only asking for more can show whether a copy that ends with a line was cut off.
            file.truncate(found.complete_bytes if found.answers and (found.truncated or not found.malformed) else 0)
            if copies == MAX_COPIES:
                raise DownloadFailed(f"its results could not be fetched: {why}", http_status=200)
            await self._back_off(copies)

    async def _download_with_retries(self, chunk: Chunk, file: IO[bytes]) -> None:
        """Download with retries. Raises DownloadFailed after the last."""
        for failures in range(MAX_FETCH_TRIES):
            file.seek(0, os.SEEK_END)
            try:
                if chunk.results_file == chunk.batch:
                    await self._extract_inline_answers(chunk, file)
                else:
                    await self._download_rest(chunk, file, chunk.results_file)
            except DownloadFailed:
                if failures + 1 == MAX_FETCH_TRIES:
                    raise
                await self._back_off(failures)
            else:
                return

    async def _extract_inline_answers(self, chunk: Chunk, file: IO[bytes]) -> None:
        """Write the answers in an operation as lines."""
        with self._open_chunk_file(chunk, "inline") as operation:
            await self._download_rest(chunk, operation, chunk.batch)
            await self._context.run.in_thread(lambda: extract_answers(operation, file))

    async def _back_off(self, failures: int) -> None:
        await asyncio.sleep(backoff_s(failures, self._context.options.poll_s / 5, 30.0, self._outcomes.rng))

    async def _download_rest(self, chunk: Chunk, file: IO[bytes], name: str) -> None:
        context, route = self._context, self._context.routes[chunk.lane]
        request = context.codec(chunk.lane).download(name, file.tell())
        response = await context.run.transport.download(route.base_url, request, route.credentials, file)
        if response.status == 416:  # asked for more at the end: it is complete
            return
        if response.status not in (200, 206):
            error = context.codec(chunk.lane).read_error(response)
            raise DownloadFailed(f"its results could not be fetched: {error.message}", http_status=response.status)

    # --- collected: every request of the chunk has ended

    async def collect(self, chunk: Chunk) -> Chunk:
        context, counts = self._context, ChunkCounts()
        await context.chunks.adopt(chunk)  # the run that reads a chunk accounts for its cost and images
        path = context.file(chunk, "results")
        try:
            file = open_results(path)
        except FileNotFoundError:  # the batch named no results, or somebody deleted the copy
            if chunk.results_file:
                return await context.chunks.update(chunk, step="ended")
        else:
            with file:
                await self._read_results(chunk, file, path, counts)
        await self._fail_unanswered(chunk, counts)
        usd, unpriced = context.run.ledger.reader.chunk_usd(chunk.id)
        chunk = await context.chunks.update(chunk, step="collected", ended_at=time.time())
        self._submitter.release_reservation(chunk, usd)
        context.delete_files(chunk)
        context.run.emit(
            BatchCollected(
                at=chunk.ended_at,
                model=context.routes[chunk.lane].profile.id,
                batch=chunk.batch,
                made=counts.made,
                again=counts.again,
                ended=counts.ended,
                usd=usd,
                unpriced=unpriced,
            )
        )
        return chunk

    async def _read_results(self, chunk: Chunk, file: IO[bytes], path: str, counts: ChunkCounts) -> None:
        seen: set[int] = set()
        while lines := await self._context.run.in_thread(lambda: read_lines(file, path, LINES_AT_ONCE)):
            await asyncio.gather(*(self._handle_line(chunk, line, seen, counts) for line in lines))

    async def _handle_line(self, chunk: Chunk, line: RawLine, seen: set[int], counts: ChunkCounts) -> None:
        context = self._context
        number = int(line.key) if line.key and line.key.isascii() and line.key.isdecimal() and len(line.key) < 16 else 0
        if chunk.requests == 1 and line.key is None and answered_key(line.pieces()) == "":
            number = next(iter(context.run.ledger.reader.unanswered_ids(chunk.id, 0, 1)), 0)  # the only one it can be
        sent = context.run.ledger.reader.chunk_request(number) if number else None
        if sent is None or sent.chunk != chunk.id:
            why = (
                "names no key" if line.key is None else "has the key of another batch" if sent else "has an unknown key"
            )
            await self._keep_unmatched(chunk, line, why)
            return
        if number in seen:
            await self._keep_unmatched(chunk, line, f"answers {sent.attempt.item_id} a second time")
            return
        seen.add(number)
        if sent.ended:
            return  # settled by a run that was stopped in between
        attempt = AnsweredAttempt.from_record(sent.attempt, context.routes[chunk.lane].profile, sent.attempt.facts)
        # Its line may be in the results already.
        attempt = replace(attempt, sample=replace(attempt.sample, known=True))
        try:
            reply, settled_reply = await context.run.in_thread(lambda: self._settle(attempt, sent, line))
        except ProviderError as error:
            again = await self._outcomes.record_failure(sent, chunk.lane, attempt.sample, error)
            counts.again, counts.ended = counts.again + again, counts.ended + (not again)
            return
        counts.made += len(settled_reply.images_made)
        await self._outcomes.record_success(sent, attempt, reply, settled_reply)

    def _settle(self, attempt: AnsweredAttempt, sent: ChunkRequest, line: RawLine) -> tuple[Reply, SettledReply]:
        """Settle a line like an answer that came over HTTP. Runs in a thread. Raises ProviderError."""
        context, store, turn = self._context, self._context.run.store, attempt.sample.item.turn
        codec = context.routes[sent.attempt.lane].codec
        spooled: list[SpoolFile] = []

        def open_sink(k: int) -> SpoolFile:
            spooled.append(store.spool_file(attempt.id, k))
            return spooled[-1]

        try:
            answer = decode_line(line, open_sink, signatures=turn > 0)
            if answer.key != line.key:
                raise Malformed("a line of the results has two keys", http_status=200)
        except ProviderError:
            discard_files(spooled)
            raise
        response = Response(answer.status, {}, answer.body, tuple(file.path for file in spooled))
        try:
            reply = read_reply(store, codec, attempt.id, response, turn=turn)
            with bugs_as_unreadable(BatchgenError, OSError):
                settled_reply = context.pipeline.attempts.settle(attempt, reply, spooled)
        except ProviderError as error:
            keep_or_discard(store, attempt.id, error, response, spooled, sent.attempt.facts)
            raise
        return reply, settled_reply

    async def _keep_unmatched(self, chunk: Chunk, line: RawLine, why: str) -> None:
        """Keep a line that belongs to no request unchanged: it may have been paid for."""
        path = self._context.file(chunk, "strange")
        await self._context.run.in_thread(lambda: _append_line(path, line))
        self._context.run.note(f"{chunk.batch}: a line of its results {why}; it is kept in {path}")

    async def _fail_unanswered(self, chunk: Chunk, counts: ChunkCounts) -> None:
        """Fail the requests that no line has answered, with the reason."""
        reader, after = self._context.run.ledger.reader, 0
        reason, words = LOST_REASONS.get(
            chunk.state, ("missing_line", "the results of the batch do not mention this request")
        )
        words = f"{words}: {chunk.message}" if chunk.message else words
        maybe = chunk.succeeded > reader.answered_count(chunk.id) or chunk.state == "gone"
        kind = BatchLostMaybeBilled if maybe else BatchLost
        while numbers := reader.unanswered_ids(chunk.id, after, 500):
            after = numbers[-1]
            for number in numbers:
                sent = reader.chunk_request(number)
                if sent is not None:
                    error = kind(words, reason=reason)
                    again = await self._outcomes.record_failure(
                        sent, chunk.lane, sample_from_facts(sent.attempt, sent.attempt.facts), error
                    )
                    counts.again, counts.ended = counts.again + again, counts.ended + (not again)

    # --- done: nothing is left at the vendor

    async def delete_remote_files(self, chunk: Chunk) -> Chunk:
        """Delete the vendor's files. What cannot be deleted now is tried again by the next run; it expires within weeks
        anyway."""
        context, codec = self._context, self._context.codec(chunk.lane)
        for name in dict.fromkeys((chunk.input_file, chunk.results_file, chunk.batch)):
            try:
                if name:
                    codec.check_removed(await context.ask(chunk.lane, codec.delete(name)))
            except ProviderError as error:
                context.run.note(f"{name} could not be deleted at the vendor's: {error.message}")
                return chunk
        return await context.chunks.update(chunk, step="done")


def _flush_and_sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _append_line(path: str, line: RawLine) -> None:
    with open(path, "ab", opener=private_opener) as file:
        last = b""
        for piece in line.pieces():
            file.write(piece)
            last = piece
        file.write(b"" if last.endswith(b"\n") else b"\n")
        file.flush()
        os.fsync(file.fileno())
