"""The Batch API: create, look at, list, cancel and delete batches, each shown as a long-running operation."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from batchgen.emulator import google
from batchgen.emulator.batch_run import Batch, BatchInput, BatchRunner, read_input
from batchgen.emulator.faults import BATCH_KNOWN, NO_FILE, markers
from batchgen.emulator.files import Files
from batchgen.emulator.google_schemas import CREATE_BATCH
from batchgen.emulator.jobs import Answer, as_json, random_id, timestamp
from batchgen.emulator.models import Model
from batchgen.emulator.options import BatchOptions
from batchgen.emulator.pipeline import Cut, Endpoint, Pipeline, answering, read_body

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"


def operation(batch: Batch, options: BatchOptions, *, in_list: bool = False, no_file: bool = False) -> dict[str, Any]:
    """google.longrunning.Operation with the batch as its metadata; recorded in flachesis/gemini-rust#13.

    Lists carry no results (dg/ai-access); that this holds for the names of files too is an assumption.
    """
    output = None if in_list or no_file else _output(batch)
    state = f"{options.states.upper()}_STATE_{batch.state}"
    found: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": _metadata(batch, state)}
    if output is not None and "metadata" in options.places:
        found["metadata"]["output"] = output
    if "dest" in options.places:
        found |= _top(state, output)
    if batch.ended_s is None:
        return found
    found["done"] = True
    if batch.error is not None:
        found["error"] = batch.error
    elif output is not None and "response" in options.places:
        found["response"] = {"@type": f"{_TYPE}Output", **output}
    return found


def _output(batch: Batch) -> dict[str, Any] | None:
    """GenerateContentBatchOutput. Inline answers are nested twice, in the order of requests (dg/ai-access)."""
    if batch.results is None:
        return None
    if not batch.inline:
        return {"responsesFile": f"files/{batch.results.id}"}
    with batch.results.path.open("rb") as file:
        return {"inlinedResponses": {"inlinedResponses": [json.loads(line) for line in file]}}


def _metadata(batch: Batch, state: str) -> dict[str, Any]:
    """Counts are int64, which JSON has as text, and are absent when they are 0."""
    counts = {
        "requestCount": batch.total,
        "successfulRequestCount": batch.succeeded,
        "failedRequestCount": batch.failed,
        "pendingRequestCount": batch.total - batch.done,
    }
    found: dict[str, Any] = {"@type": _TYPE, "model": f"models/{batch.model.id}", "displayName": batch.display_name}
    if batch.source:
        found["inputConfig"] = {"fileName": batch.source}
    found["createTime"] = timestamp(batch.created_s)
    if batch.ended_s is not None:
        found["endTime"] = timestamp(batch.ended_s)
    found["updateTime"] = timestamp(batch.updated_s)
    found["batchStats"] = {name: str(count) for name, count in counts.items() if count}
    found |= {"state": state, "name": f"batches/{batch.id}"}
    return found | ({"priority": batch.priority} if batch.priority else {})


def _top(state: str, output: dict[str, Any] | None) -> dict[str, Any]:
    """The shape that the documents' REST snippets read, `.dest.fileName`; no recorded answer has it."""
    if output is None:
        return {"state": state}
    if "responsesFile" in output:
        return {"state": state, "dest": {"fileName": output["responsesFile"]}}
    return {"state": state, "dest": {"inlinedResponses": output["inlinedResponses"]["inlinedResponses"]}}


class BatchesApi:
    """Source: ai.google.dev/gemini-api/docs/batch-api and requests of google-genai 3.4.0 and @google/genai 3.1.0.

    endpoint: where lines are answered.
    """

    def __init__(self, pipeline: Pipeline, files: Files, endpoint: Endpoint) -> None:
        self._options = pipeline.options
        self._faults = pipeline.call_faults
        self._statistics = pipeline.statistics
        self._files = files
        self._runner = BatchRunner(pipeline, endpoint, files)
        self._batches: dict[str, Batch] = {}  # by id, in memory only

    def add_to(self, app: web.Application) -> None:
        one = google.VERSION + "/batches/{batch:[^:/]+}"
        for method, path, call in (
            ("GET", f"{google.VERSION}/batches", self.listing),
            ("GET", one, self.get),
            ("POST", f"{one}:cancel", self.cancel),
            ("DELETE", one, self.delete),
        ):
            app.router.add_route(method, path, answering(call, google.HEADERS))
        app.router.add_get("/_emulator/batches", self.counted)

    async def create(self, request: web.Request, find_model: Callable[[], Model]) -> dict[str, Any]:
        """`models/{model}:batchGenerateContent`. find_model: checks the key too; raises ApiError."""
        body = await read_body(request, self._options.max_request_bytes, google.API.too_large)
        model = find_model()
        given = google.read_fields(google.load_json(body), CREATE_BATCH).get("batch", {})
        fault = self._fault("create", display_name=str(given.get("displayName", "")))
        batch = await self._made(google.known_key(request), model, given)
        self._batches[batch.id] = batch
        self._statistics.created[batch.display_name] += 1
        self._runner.start(batch)
        if fault == "lost":
            raise Cut
        return operation(batch, self._options.batch)

    async def _made(self, key: str, model: Model, given: dict[str, Any]) -> Batch:
        source = given.get("inputConfig", {}).get("fileName", "")
        requests = given.get("inputConfig", {}).get("requests", {}).get("requests", [])
        if bool(source) == bool(requests):  # the wording is ours
            raise google.error(400, "* GenerateContentBatch.input_config: one of file_name and requests is needed.\n")
        found = await asyncio.to_thread(self._input, key, source, requests)
        batch = Batch(
            key=key,
            model=model,
            display_name=str(given.get("displayName", "")),
            priority=str(given.get("priority", "")),
            source=source,
            input=found,
            inline=not source or len(found.starts) <= self._options.batch.inline_most,
        )
        self._check_limits(batch)
        return batch

    def _input(self, key: str, source: str, requests: list[Any]) -> BatchInput:
        """A batch keeps its input: that the file may be deleted once it is created is an assumption."""
        path = self._files.path(f"input-{random_id(36)}")
        if source:
            os.link(self._files.find_active(key, source.removeprefix("files/")).path, path)
        else:
            path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in requests))
        return read_input(path)

    def _check_limits(self, batch: Batch) -> None:
        """Raises ApiError 429, for too many batches at once as for too many tokens, which is an assumption."""
        options = self._options.batch
        others = [one for one in self._batches.values() if one.key == batch.key and one.ended_s is None]
        tokens = sum(one.input.tokens for one in others if one.model.id == batch.model.id) + batch.input.tokens
        if len(others) >= options.most_at_once or 0 < options.enqueued_tokens < tokens:
            batch.input.path.unlink()
            raise google.enqueued_exhausted()

    async def get(self, request: web.Request) -> Answer:
        batch, _ = self._found(request, "get")
        mask = google.field_mask(request.query.get("fields", ""))

        def encoded(no_file: bool) -> bytes:
            return as_json(google.masked(operation(batch, self._options.batch, no_file=no_file), mask))

        while True:
            ended_s = batch.ended_s
            no_file = ended_s is not None and self._faults.take(NO_FILE, batch.id, batch.display_name) is not None
            body = await asyncio.to_thread(encoded, no_file)
            if batch.ended_s == ended_s:  # else it ended meanwhile, and the fault is of how it ends
                return Answer(body=body)

    async def listing(self, request: web.Request) -> Any:
        """`operations`, newest first, as google-genai 3.4.0 reads it. The default size of a page is an assumption."""
        key = google.known_key(request)
        self._fault("list")
        options = self._options.batch
        latest_s = time.time() - options.list_lag_s
        shown = [one for one in reversed(self._batches.values()) if one.key == key and one.created_s <= latest_s]
        found = [operation(one, options, in_list=True) for one in shown]
        page = google.page_of("operations", found, request.query, default=10, most=100)
        return google.masked(page, google.field_mask(request.query.get("fields", "")))

    async def cancel(self, request: web.Request) -> dict[str, Any]:
        """Cancelling what has ended changes nothing, an assumption after google.longrunning's "best effort"."""
        batch, fault = self._found(request, "cancel")
        if batch.ended_s is None:
            await self._runner.stop(batch)
        return _empty(fault)

    async def delete(self, request: web.Request) -> dict[str, Any]:
        """Not a cancel, as google.longrunning says: it runs on. Its files stay, an assumption."""
        batch, fault = self._found(request, "delete")
        self._batches.pop(batch.id, None)
        return _empty(fault)

    def _found(self, request: web.Request, method: str) -> tuple[Batch, str | None]:
        """The batch, and a fault that is still to come. Raises Cut and ApiError.

        404 for batches of another key too is an assumption.
        """
        key = google.known_key(request)
        batch = self._batches.get(request.match_info["batch"])
        if batch is None or batch.key != key:
            raise google.no_such_entity()
        return batch, self._fault(method, batch.id, batch.display_name)

    def _fault(self, method: str, subject: str = "", display_name: str = "") -> str | None:
        for name, _ in markers(display_name):
            if name not in BATCH_KNOWN:
                raise google.error(400, f"emulator: the Batch API has no fault named {name!r}")
        return google.call_fault(self._faults, method, subject, display_name)

    async def counted(self, request: web.Request) -> web.Response:
        """For tests: how often each display name was created and each key answered, and what became of the batches."""
        found = [
            {"name": f"batches/{one.id}", "displayName": one.display_name, "state": one.state}
            for one in self._batches.values()
        ]
        counts = {"created": self._statistics.created, "answered": self._statistics.answered_keys}
        return web.json_response({**counts, "batches": found})

    async def clear(self) -> None:
        await self._runner.stop_all()
        self._batches.clear()

    async def close(self) -> None:
        await self.clear()
        self._runner.close()


def _empty(fault: str | None) -> dict[str, Any]:
    if fault == "lost":
        raise Cut
    return {}
