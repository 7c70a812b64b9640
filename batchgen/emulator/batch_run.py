"""What becomes of a batch: it waits, its lines are answered little by little into its results, it ends."""

from __future__ import annotations

import asyncio
import json
import random
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.emulator import gemini, google
from batchgen.emulator.accounting import RequestRecord
from batchgen.emulator.faults import BATCH_ENDS, WIRE, BatchEnd
from batchgen.emulator.files import Files, StoredFile
from batchgen.emulator.gemini_response import text_tokens
from batchgen.emulator.google_schemas import BATCH_LINE
from batchgen.emulator.jobs import ApiError, random_id
from batchgen.emulator.models import Model
from batchgen.emulator.pipeline import Endpoint, Pipeline

_PICTURE_TOKENS = 560
_SLICE_S = 0.1  # a thread comes back at least so often, to be counted and asked to stop
_ORDINARY_END = BatchEnd(1, "SUCCEEDED")
# google.rpc.Code. Lines with 3, 8 and 13 are known from public issues (#1341 of googleapis/python-genai: 13).
_CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
}
# Code 1 is that of cancelled operations; the other codes of whole batches and all wordings are ours.
_ERRORS = {
    "FAILED": {"code": _CODES["INTERNAL"], "message": "An internal error has occurred."},
    "EXPIRED": {"code": _CODES["DEADLINE_EXCEEDED"], "message": "The batch expired before it was completed."},
    "CANCELLED": {"code": _CODES["CANCELLED"], "message": "The operation was cancelled."},
}


@dataclass(frozen=True, slots=True)
class BatchInput:
    """starts: offsets of the lines that hold something. tokens: of all prompts, estimated. problem: why it fails."""

    path: Path
    starts: array[int]
    tokens: int
    problem: str

    def line(self, at: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.starts[at])
            return file.readline()


def read_input(path: Path) -> BatchInput:
    """Blocks: for worker threads. One line at a time is in memory."""
    starts, tokens, at, problem = array("Q"), 0, 0, ""
    with path.open("rb") as file:
        while line := file.readline():
            if line.strip():
                starts.append(at)
                try:
                    value = json.loads(line)
                    wrong = "" if isinstance(value, dict) else "expected an object"
                except ValueError as error:
                    wrong = str(error)
                if not wrong:
                    tokens += _tokens(value.get("request"))
                elif not problem:
                    problem = f"line {len(starts)}: {wrong}"
            at += len(line)
    return BatchInput(path, starts, tokens, problem if starts else "it holds no request")


def _tokens(request: Any) -> int:
    """An estimate of ours: what the vendor counts as enqueued is not documented beyond "tokens"."""
    if not isinstance(request, dict) or not isinstance(request.get("contents"), list):
        return 0
    contents = [one for one in request["contents"] if isinstance(one, dict)]
    parts = [part for one in contents for part in one.get("parts") or [] if isinstance(part, dict)]
    return sum(text_tokens(part["text"]) if isinstance(part.get("text"), str) else _PICTURE_TOKENS for part in parts)


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch. source: the `files/…` it was made of, empty for inline requests. Times: seconds since 1970.

    inline: it answers in its operation, not in a file. state: without its prefix. error: a google.rpc.Status.
    stop: set to end it, by a cancel or when the emulator closes.
    """

    key: str
    model: Model
    display_name: str
    priority: str
    source: str
    input: BatchInput
    inline: bool
    id: str = field(default_factory=partial(random_id, 36))  # as recorded (flachesis/gemini-rust#13)
    state: str = "PENDING"
    created_s: float = field(default_factory=time.time)
    updated_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    succeeded: int = 0
    failed: int = 0
    error: dict[str, Any] | None = None
    results: StoredFile | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.input.starts)

    @property
    def done(self) -> int:
        return self.succeeded + self.failed

    def move(self, state: str) -> None:
        self.state = state
        self.updated_s = time.time()

    def end(self, state: str, error: dict[str, Any] | None) -> None:
        self.move(state)
        self.ended_s = self.updated_s
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """An answer. key: or an inline request's metadata; None without one. body: `"response":…` or `"error":…`."""

    key: Any
    body: bytes
    record: RequestRecord
    fault: str | None = None
    succeeded: bool = False


class _Results:
    """The results as they grow. Holds one line back, so that a line may swap its key with the one before it."""

    def __init__(self, file: StoredFile, *, inline: bool) -> None:
        self.file = file
        self._inline = inline
        self._held: tuple[Any, _Line] | None = None
        file.path.touch()

    def put(self, line: _Line) -> None:
        if line.fault == "line_missing":
            return
        key = line.key
        if self._held is not None:
            held_key, held = self._held
            if "line_crossed" in (line.fault, held.fault) and held_key == held.key:
                key, held_key = held_key, key
            self._write(held_key, held)
        self._held = (key, line)

    def close(self) -> None:
        if self._held is not None:
            self._write(*self._held)
            self._held = None

    def _write(self, key: Any, line: _Line) -> None:
        """Which member of a line comes first is not documented: both are met."""
        if line.fault == "line_unknown_key":
            key = f"unknown-{key}"
        members = [line.body]
        if key is not None and line.fault != "line_keyless":
            name = b'"metadata":' if self._inline else b'"key":'
            members.insert(
                line.record.n % 2 == 0, name + json.dumps(key, ensure_ascii=False).encode("utf-8", "replace")
            )
        whole = b"{" + b",".join(members) + b"}"
        if line.fault == "line_cut" and not self._inline:  # an operation is always whole
            whole = whole[: len(whole) * 3 // 5]
        for _ in range(2 if line.fault == "line_doubled" else 1):
            self.file.append(whole + b"\n")


class BatchRunner:
    """One task for each batch, and one thread that answers lines for all, so that requests online go on.

    Lines are answered as the online API answers requests: its parsing, faults, attempts and pictures. Not its quota:
    the Batch API has its own (ai.google.dev, rate limits).
    """

    def __init__(self, pipeline: Pipeline, endpoint: Endpoint, files: Files) -> None:
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._files = files
        self._options = pipeline.options.batch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._tasks: dict[str, tuple[Batch, asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()

    def start(self, batch: Batch) -> None:
        name = self._pipeline.call_faults.take(frozenset(BATCH_ENDS), display_name=batch.display_name)
        task = asyncio.create_task(self._run(batch, BATCH_ENDS[name] if name else _ORDINARY_END))
        task.add_done_callback(lambda _: self._tasks.pop(batch.id, None))
        self._tasks[batch.id] = batch, task

    async def stop(self, batch: Batch) -> None:
        """Returns when the batch has ended: tobert/kaibo#8 saw cancelled batches end at once."""
        batch.stop.set()
        if batch.id in self._tasks:
            await asyncio.wait([self._tasks[batch.id][1]])

    async def stop_all(self) -> None:
        """Those that were deleted run on, and are stopped too."""
        for batch, _ in self._tasks.values():
            batch.stop.set()
        await asyncio.gather(*(task for _, task in self._tasks.values()))

    def close(self) -> None:
        self._thread.shutdown()

    async def _run(self, batch: Batch, end: BatchEnd) -> None:
        name = f"batch-{batch.id}"
        path = self._files.path(f"results-{batch.id}")
        results = _Results(
            StoredFile(id=name, key=batch.key, mime="application/jsonl", path=path, source="GENERATED"),
            inline=batch.inline,
        )
        never_starts = not end.state and not end.share
        over = await self._wait(batch, self._options.life_s if never_starts else self._options.pending_s)
        if not over:
            batch.move("RUNNING")
            limit = 0 if batch.input.problem else int(batch.total * end.share)
            over = await self._answer_lines(batch, results, limit)
        if not over and not end.state:
            over = await self._wait(batch, self._options.life_s)
        await self._loop.run_in_executor(self._thread, results.close)
        keeps_finished = over == "CANCELLED" and self._options.keeps_cancelled and batch.done > 0
        self._end(batch, results.file, over or end.state, keeps=keeps_finished if over else end.share > 0)

    async def _answer_lines(self, batch: Batch, results: _Results, limit: int) -> str:
        """Line i of n is answered i/n of `running_s` after the start, or as soon after as can be."""
        running_s, total = self._options.running_s, max(1, batch.total)
        order = self._order(batch)
        started_s = time.time()
        while batch.done < limit:
            passed_s = time.time() - started_s
            due = limit if passed_s >= running_s else min(limit, int(total * passed_s / running_s))
            wait_s = 0.0 if due > batch.done else min(0.2, max(0.005, running_s / total))
            if over := await self._wait(batch, wait_s):
                return over
            if due > batch.done:
                await self._loop.run_in_executor(self._thread, self._slice, batch, results, order[batch.done : due])
                batch.updated_s = time.time()
        return await self._wait(batch, started_s + running_s - time.time())

    def _order(self, batch: Batch) -> list[int]:
        """Of a file: never the order the lines came in; ai.google.dev says to match by key."""
        order = list(range(batch.total))
        if not batch.source:
            return order
        random.Random(f"{self._pipeline.options.seed}|{batch.display_name}|{batch.total}").shuffle(order)
        return order[1:] + order[:1] if order == sorted(order) else order

    def _slice(self, batch: Batch, results: _Results, lines: list[int]) -> None:
        """In the thread, which alone touches the results and the counts of the batch."""
        until_s = time.monotonic() + _SLICE_S
        for at in lines:
            line = self._answer(batch, batch.input.line(at))
            results.put(replace(line, key={"key": line.key}) if batch.source and batch.inline else line)
            batch.succeeded += line.succeeded
            batch.failed += not line.succeeded
            batch.records.append(line.record)
            key = line.key.get("key") if isinstance(line.key, dict) else line.key
            self._loop.call_soon_threadsafe(self._pipeline.statistics.add_line, str(key), line.record)
            if time.monotonic() >= until_s:
                return

    def _answer(self, batch: Batch, raw: bytes) -> _Line:
        record = RequestRecord(next(self._pipeline.statistics.numbers), model=batch.model.id, status=200)
        value = json.loads(raw)
        line = _Line(key=value.get("key" if batch.source else "metadata"), body=b"", record=record)
        try:
            given = google.read_fields(value, BATCH_LINE).get("request")
            if not isinstance(given, dict):
                raise gemini.bad_argument("contents", "contents is not specified")
            find_file = partial(self._files.at_uri, batch.key)
            spec = gemini.parse(given, batch.model, self._pipeline.options, find_file, stream="line")
            record.prompt = spec.prompt
            job = self._pipeline.job(spec, record.n, self._endpoint)
            line = replace(line, fault="line_cut" if job.fault == "truncated_json" else job.fault)
            if job.fault:
                connection_ends = job.fault in WIRE - {"truncated_json"}
                if error := self._endpoint.api.error("500" if connection_ends else job.fault, job):
                    raise error
            answer = self._endpoint.compose(job)
        except ApiError as error:
            return replace(line, body=b'"error":' + _status(error))
        record.billed_images, record.sha256 = answer.billed_images, answer.sha256
        return replace(line, body=b'"response":' + answer.body, succeeded=True)

    def _end(self, batch: Batch, results: StoredFile, state: str, *, keeps: bool) -> None:
        batch.input.path.unlink(missing_ok=True)
        if batch.input.problem and state == "SUCCEEDED":
            text = f"Failed to parse the input file: {batch.input.problem}"
            batch.end("FAILED", {"code": _CODES["INVALID_ARGUMENT"], "message": text})
            return
        if keeps:
            batch.results = results
            if not batch.inline:
                self._files.add(results)
        else:
            results.path.unlink()
        for record in batch.records:
            record.delivered = keeps
        batch.end(state, _ERRORS.get(state))

    async def _wait(self, batch: Batch, wait_s: float) -> str:
        """The state in which the batch ends now, empty if it goes on."""
        dies_s = batch.created_s + self._options.life_s
        left_s = min(wait_s, dies_s - time.time())
        if left_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await batch.stop.wait()
        if batch.stop.is_set():
            return "CANCELLED"
        return "EXPIRED" if time.time() >= dies_s else ""


def _status(error: ApiError) -> bytes:
    """google.rpc.Status, whose codes are not those of HTTP."""
    body = json.loads(error.answer.body)["error"]
    status = {"code": _CODES.get(body["status"], 2), "message": body["message"]}
    return json.dumps(status, ensure_ascii=False).encode("utf-8", "replace")
