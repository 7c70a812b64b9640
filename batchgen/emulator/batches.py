"""The Batch API: creating, showing, listing, cancelling and deleting batches, and the course of each until it ends."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import gemini, google
from batchgen.emulator.accounting import RequestRecord
from batchgen.emulator.answers import Answer, ApiError, Cut, answering, as_json, random_id, read_body
from batchgen.emulator.batch import Batch, Line
from batchgen.emulator.faults import BATCH_ENDS, NO_FILE, WIRE, BatchEnd
from batchgen.emulator.files import Files, StoredFile
from batchgen.emulator.google_schemas import BATCH_LINE, CREATE_BATCH
from batchgen.emulator.models import GEMINI, Model, enqueued_tokens
from batchgen.emulator.pipeline import Endpoint, Pipeline

_ORDINARY_END = BatchEnd(1, "SUCCEEDED")


class Batches:
    """All batches of one emulator.

    There is one task for each batch, and one thread that answers lines for all, so that requests online go on. Lines
    are answered as `endpoint` answers requests online, with its parsing, faults, attempts and pictures, but not its
    quota: the Batch API has its own (ai.google.dev, rate limits). Source: ai.google.dev/gemini-api/docs/batch-api and
    requests of google-genai 3.4.0 and @google/genai 3.1.0.
    """

    def __init__(self, pipeline: Pipeline, files: Files, endpoint: Endpoint) -> None:
        self._pipeline = pipeline
        self._options = pipeline.options.batch
        self._faults = pipeline.call_faults
        self._statistics = pipeline.statistics
        self._files = files
        self._endpoint = endpoint
        self._batches: dict[str, Batch] = {}  # by id, in memory only
        self._running: dict[str, tuple[Batch, asyncio.Task[None]]] = {}  # deleted ones too
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def routes(self) -> list[web.RouteDef]:
        every, one = google.VERSION + "/batches", google.VERSION + "/batches/{batch:[^:/]+}"
        create = google.VERSION + "/models/{model:[^:/]+}:{method:batchGenerateContent}"
        return [
            web.post(create, answering(self._create, google.HEADERS)),
            web.get(every, answering(self._listing, google.HEADERS)),
            web.get(one, self._about("get", self._get)),
            web.post(f"{one}:cancel", self._about("cancel", self._cancel)),
            web.delete(one, self._about("delete", self._delete)),
            web.get("/_emulator/batches", answering(self._counted)),
        ]

    def _about(self, method: str, act: Callable[[Batch], Awaitable[Any]]) -> Any:
        """Make the handler of a call about one batch. 404 for batches of another key too is an assumption."""

        async def call(request: web.Request) -> Any:
            key = google.known_key(request)
            batch = self._batches.get(request.match_info["batch"])
            if batch is None or batch.key != key:
                raise google.no_such_entity()
            fault = google.call_fault(self._faults, method, batch.id, batch.display_name)
            answer = await act(batch)
            if fault == "lost":
                raise Cut
            return answer

        return answering(call, google.HEADERS)

    async def _create(self, request: web.Request) -> dict[str, Any]:
        body = await read_body(request, self._pipeline.options.max_request_bytes, google.API.too_large)
        model, key = google.admitted(request, GEMINI, self._pipeline.options)
        given = google.read_fields(body, CREATE_BATCH).get("batch", {})
        fault = google.call_fault(self._faults, "create", display_name=str(given.get("displayName", "")))
        batch = await self._made(key, model, given)
        self._batches[batch.id] = batch
        self._statistics.created[batch.display_name] += 1
        end = self._faults.take(frozenset(BATCH_ENDS), display_name=batch.display_name)
        task = asyncio.create_task(self._run(batch, BATCH_ENDS[end] if end else _ORDINARY_END))
        task.add_done_callback(lambda _: self._running.pop(batch.id, None))
        self._running[batch.id] = batch, task
        if fault == "lost":
            raise Cut
        return batch.operation(self._options)

    async def _made(self, key: str, model: Model, given: dict[str, Any]) -> Batch:
        """Make a batch, which keeps its input: that the file may be deleted from now on is an assumption."""
        source = given.get("inputConfig", {}).get("fileName", "")
        requests = given.get("inputConfig", {}).get("requests", {}).get("requests", [])
        if bool(source) == bool(requests):  # the wording is ours
            raise google.error(400, "* GenerateContentBatch.input_config: one of file_name and requests is needed.\n")
        lines, tokens, problem = await asyncio.to_thread(self._read, key, source, requests)
        others = [one for one in self._batches.values() if one.key == key and one.ended_s is None]
        enqueued = sum(one.tokens for one in others if one.model.id == model.id) + tokens
        if len(others) >= self._options.most_at_once or 0 < self._options.enqueued_tokens < enqueued:
            raise google.enqueued_exhausted()  # for too many batches as for too many tokens, which is an assumption
        number = random_id(36)  # as recorded (flachesis/gemini-rust#13)
        path, mime = self._files.path(f"results-{number}"), "application/jsonl"
        path.touch()
        return Batch(
            id=number,
            key=key,
            model=model,
            display_name=str(given.get("displayName", "")),
            priority=str(given.get("priority", "")),
            source=source,
            results=StoredFile(id=f"batch-{number}", key=key, mime=mime, path=path, generated=True),
            lines=lines,
            total=len(lines),
            tokens=tokens,
            problem=problem,
            inline=not source or len(lines) <= self._options.inline_most,
        )

    def _read(self, key: str, source: str, requests: list[Any]) -> tuple[list[bytes], int, str]:
        """Read the lines, tokens and problem of an input. Blocks."""
        if source:
            with self._files.find_active(key, source.removeprefix("files/")).path.open("rb") as file:
                lines = list(file)
        else:
            lines = [json.dumps(one).encode() for one in requests]
        kept = [line for line in lines if line.strip()]
        tokens, problem = 0, "" if kept else "it holds no request"
        for number, line in enumerate(kept, 1):
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("expected an object")
                tokens += enqueued_tokens(value.get("request"))
            except ValueError as error:
                problem = problem or f"line {number}: {error}"
        return kept, tokens, problem

    async def _get(self, batch: Batch) -> Answer:
        def encoded(named: bool) -> bytes:
            return as_json(batch.operation(self._options, named=named))

        while True:
            ended_s = batch.ended_s
            no_file = ended_s is not None and self._faults.take(NO_FILE, batch.id, batch.display_name)
            body = await asyncio.to_thread(encoded, not no_file)
            if batch.ended_s == ended_s:  # else it ended meanwhile, and the fault is about its end
                return Answer(body=body)

    def _listing(self, request: web.Request) -> dict[str, Any]:
        """List `operations`, newest first, as google-genai 3.4.0 reads it. The default size of a page is an
        assumption."""
        key = google.known_key(request)
        google.call_fault(self._faults, "list")
        latest_s = time.time() - self._options.list_lag_s
        shown = [one for one in reversed(self._batches.values()) if one.key == key and one.created_s <= latest_s]
        found = [one.operation(self._options, named=False) for one in shown]
        return google.page_of("operations", found, request.query, default=10, most=100)

    async def _cancel(self, batch: Batch) -> dict[str, Any]:
        """Cancel a batch, and return when it has ended: tobert/kaibo#8 saw cancelled batches end at once.

        Cancelling one that has ended changes nothing, an assumption after google.longrunning's "best effort".
        """
        batch.stop.set()
        if batch.id in self._running:
            await asyncio.wait([self._running[batch.id][1]])
        return {}

    async def _delete(self, batch: Batch) -> dict[str, Any]:
        """Delete a batch, which does not cancel it, as google.longrunning says. That its files stay is an
        assumption."""
        self._batches.pop(batch.id, None)
        return {}

    def _counted(self, request: web.Request) -> dict[str, Any]:
        """Count, for tests, how often each display name was created and each key answered, and how the batches
        ended."""
        found = [
            {"name": f"batches/{one.id}", "displayName": one.display_name, "state": one.state}
            for one in self._batches.values()
        ]
        return {"created": self._statistics.created, "answered": self._statistics.answered_keys, "batches": found}

    async def clear(self) -> None:
        for batch, _ in self._running.values():
            batch.stop.set()
        await asyncio.gather(*(task for _, task in self._running.values()))
        self._batches.clear()

    async def close(self) -> None:
        await self.clear()
        self._thread.shutdown()

    # The course of a batch: it waits, its lines are answered little by little into its results, it ends.

    async def _run(self, batch: Batch, end: BatchEnd) -> None:
        never_starts = not end.state and not end.share
        over = await self._wait(batch, self._options.life_s if never_starts else self._options.pending_s)
        if not over:
            batch.state, batch.updated_s = "RUNNING", time.time()
            over = await self._answer_lines(batch, 0 if batch.problem else int(batch.total * end.share))
        if not over and not end.state:
            over = await self._wait(batch, self._options.life_s)
        await self._in_thread(batch.write_held)
        keeps = end.share > 0 and not batch.problem
        if over:
            keeps = over == "CANCELLED" and self._options.keeps_cancelled and len(batch.records) > 0
        if not keeps:
            batch.results.path.unlink()
        elif not batch.inline:
            self._files.add(batch.results)
        batch.keeps_results = keeps
        for record in batch.records:
            record.delivered = keeps
        batch.end(over or end.state)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _wait(self, batch: Batch, wait_s: float) -> str:
        """Wait, and return the state in which the batch ends now, empty if it goes on."""
        dies_s = batch.created_s + self._options.life_s
        left_s = min(wait_s, dies_s - time.time())
        if left_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await batch.stop.wait()
        if batch.stop.is_set():
            return "CANCELLED"
        return "EXPIRED" if time.time() >= dies_s else ""

    async def _answer_lines(self, batch: Batch, limit: int) -> str:
        """Answer line i of n at i/n of `running_s` after the start, or as soon after as possible."""
        started_s, running_s = time.time(), self._options.running_s
        for number, at in enumerate(self._order(batch)[:limit], 1):
            due_s = started_s + running_s * number / batch.total
            if over := await self._wait(batch, due_s - time.time()):
                return over
            line: Line = await self._in_thread(self._answer, batch, at)
            batch.succeeded += line.succeeded
            batch.records.append(line.record)
            batch.updated_s = time.time()
            key = line.key.get("key") if isinstance(line.key, dict) else line.key
            self._statistics.add_line(str(key), line.record)
        return await self._wait(batch, started_s + running_s - time.time())

    def _order(self, batch: Batch) -> list[int]:
        """The order of a file's lines, never that of the input; ai.google.dev says to match by key."""
        order = list(range(batch.total))
        if not batch.source:
            return order
        random.Random(f"{self._pipeline.options.seed}|{batch.display_name}|{batch.total}").shuffle(order)
        return order[1:] + order[:1] if order == sorted(order) else order

    def _answer(self, batch: Batch, at: int) -> Line:
        """Answer one line in the thread, which alone touches the results."""
        record = RequestRecord(next(self._statistics.numbers), model=batch.model.id, status=200)
        value = json.loads(batch.lines[at])
        line = Line(key=value.get("key" if batch.source else "metadata"), body=b"", record=record)
        try:
            given = google.read_fields(value, BATCH_LINE).get("request")
            request = given if isinstance(given, dict) else {}  # refused as a request without contents is
            find_file = partial(self._files.at_uri, batch.key)
            spec = gemini.parse(request, batch.model, self._pipeline.options, find_file, stream="line")
            record.prompt = spec.prompt
            job = self._pipeline.job(spec, record.n, self._endpoint)
            line = replace(line, fault="line_cut" if job.fault == "truncated_json" else job.fault)
            if job.fault:
                connection_ends = job.fault in WIRE - {"truncated_json"}
                if error := self._endpoint.api.error("500" if connection_ends else job.fault, job):
                    raise error
            answer = self._endpoint.compose(job)
        except ApiError as error:
            body = json.loads(error.answer.body)["error"]
            status = google.rpc_status(body["status"], body["message"])
            line = replace(line, body=b'"error":' + as_json(status, compact=True))
        else:
            record.billed_images, record.sha256 = answer.billed_images, answer.sha256
            line = replace(line, body=b'"response":' + answer.body, succeeded=True)
        batch.put(replace(line, key={"key": line.key}) if batch.source and batch.inline else line)
        return line
