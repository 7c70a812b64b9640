"""The Batch API's paths: create, look at, list, cancel and delete batches."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_faults import KNOWN, NO_FILE, BatchFaults
from batchgen.emulator.batch_lines import Index, index, write_inline
from batchgen.emulator.batch_run import BatchRuns
from batchgen.emulator.batches import Batch, Batches, new_id
from batchgen.emulator.faults import markers
from batchgen.emulator.fields import STRING, Anything, Message, Repeated, Violation, read
from batchgen.emulator.files import Files
from batchgen.emulator.masks import Mask, mask_of, masked
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Refusal, encoded
from batchgen.emulator.pages import page_of
from batchgen.emulator.reception import Cut, cut, read_body, send
from batchgen.emulator.service_faults import meet
from batchgen.emulator.statistics import Statistics

_VERSION = "/{version:v1(?:beta)?}"
_ONE_REQUEST = Message({"request": Anything(), "metadata": Anything()})
# The fields of GenerateContentBatch that a client may set, and the webhook that google-genai 3.4.0 sends.
_BATCH = Message(
    {
        "batch": Message(
            {
                "name": STRING,
                "model": STRING,
                "displayName": STRING,
                "inputConfig": Message({"fileName": STRING, "requests": Message({"requests": Repeated(_ONE_REQUEST)})}),
                "priority": Anything(),
                "webhookConfig": Anything(),
            }
        )
    }
)
_Handler = Callable[[web.Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRoutes:
    """Source: ai.google.dev/gemini-api/docs/batch-api and requests of google-genai 3.4.0 and @google/genai 3.1.0."""

    runs: BatchRuns
    files: Files
    faults: BatchFaults
    statistics: Statistics
    options: EmulatorOptions
    key: Callable[[web.Request], str]
    headers: Mapping[str, str]
    batches: Batches = field(default_factory=Batches)

    def add_to(self, app: web.Application) -> None:
        one = _VERSION + "/batches/{batch:[^:/]+}"
        app.router.add_get(_VERSION + "/batches", self._plain(self.listing))
        app.router.add_get(one, self._plain(self.get))
        app.router.add_post(one + ":cancel", self._plain(self.cancel))
        app.router.add_delete(one, self._plain(self.delete))
        app.router.add_get("/_emulator/batches", self.counted)

    def _plain(self, handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                answer = await handler(request)
            except Refusal as refusal:
                answer = Answer(status=refusal.status, body=refusal.body, content_type=refusal.content_type)
            except (Cut, ConnectionError):
                return cut(request)
            return await send(request, replace(answer, headers={**self.headers, **answer.headers}))

        return handle

    async def create(self, request: web.Request, model: Callable[[], Model]) -> web.StreamResponse:
        """`models/{model}:batchGenerateContent`. model: the checks of key and AI model; raises Refusal."""

        async def handle(request: web.Request) -> Answer:
            body = await read_body(request, self.options.max_request_bytes)
            if body is None:  # inline requests: 20 MB by the documents
                raise errors.too_large(self.options.max_request_bytes)
            chosen = model()
            given = _read(body)
            fault = self._fault("create", display_name=str(given.get("displayName", "")))
            batch = await self._made(self.key(request), chosen, given)
            self.batches.add(batch)
            self.statistics.created[batch.display_name] += 1
            self.runs.start(batch)
            if fault == "lost":
                raise Cut
            return Answer(body=encoded(batch.as_json(self.options.batch)))

        return await self._plain(handle)(request)

    async def _made(self, key: str, model: Model, given: dict[str, Any]) -> Batch:
        source = given.get("inputConfig", {}).get("fileName", "")
        inline = given.get("inputConfig", {}).get("requests", {}).get("requests", [])
        if bool(source) == bool(inline):  # the wording is ours
            raise errors.refusal(400, "* GenerateContentBatch.input_config: one of file_name and requests is needed.\n")
        batch_id = new_id()
        found = await asyncio.to_thread(self._index, key, batch_id, source, inline)
        batch = Batch(
            id=batch_id,
            key=key,
            model=model,
            display_name=str(given.get("displayName", "")),
            priority=str(given.get("priority", "")),
            source=source,
            index=found,
        )
        self._check_room(batch)
        return batch

    def _index(self, key: str, batch_id: str, source: str, inline: list[Any]) -> Index:
        """A batch keeps its input: that the file may be deleted once it is created is an assumption."""
        place = self.files.place(f"input-{batch_id}")
        if source:
            stored = self.files.find(key, source.removeprefix("files/"))
            if stored.state() != "ACTIVE":
                raise errors.file_not_active(stored.id)
            os.link(stored.path, place)
        else:
            write_inline(place, inline)
        return index(place)

    def _check_room(self, batch: Batch) -> None:
        """Raises Refusal 429. That too many batches at once are told so like too many tokens is an assumption."""
        options, others = self.options.batch, self.batches.open(batch.key)
        tokens = sum(one.index.tokens for one in others if one.model.id == batch.model.id) + batch.index.tokens
        if len(others) >= options.most_at_once or 0 < options.enqueued_tokens < tokens:
            batch.index.path.unlink()
            raise errors.enqueued_exhausted()

    async def get(self, request: web.Request) -> Answer:
        batch, _ = self._found(request, "get")
        mask = mask_of(request.query.get("fields", ""))
        while True:
            ended_s = batch.ended_s
            no_file = ended_s is not None and self.faults.take(NO_FILE, batch.id, batch.display_name) is not None
            body = await asyncio.to_thread(self._encoded, batch, mask, no_file)
            if batch.ended_s == ended_s:  # else it ended meanwhile, and the fault is of how it ends
                return Answer(body=body)

    def _encoded(self, batch: Batch, mask: Mask, no_file: bool) -> bytes:
        return encoded(masked(batch.as_json(self.options.batch, no_file=no_file), mask))

    async def listing(self, request: web.Request) -> Answer:
        """`operations`, as google-genai 3.4.0 reads it. The size of a page that is not told is an assumption."""
        key = self.key(request)
        self._fault("list")
        options = self.options.batch
        found = [one.as_json(options, in_list=True) for one in self.batches.listed(key, options.list_lag_s)]
        page = page_of("operations", found, request.query, default=10, most=100)
        return Answer(body=encoded(masked(page, mask_of(request.query.get("fields", "")))))

    async def cancel(self, request: web.Request) -> Answer:
        """Cancelling what has ended changes nothing, an assumption after google.longrunning's "best effort"."""
        batch, fault = self._found(request, "cancel")
        if batch.ended_s is None:
            await self.runs.stop(batch)
        return _empty(fault)

    async def delete(self, request: web.Request) -> Answer:
        """Not a cancel, as google.longrunning says: it runs on. Its files stay, an assumption."""
        batch, fault = self._found(request, "delete")
        self.batches.remove(batch.id)
        return _empty(fault)

    def _found(self, request: web.Request, method: str) -> tuple[Batch, str | None]:
        """The batch, and a fault that is still to come. Raises Refusal and Cut."""
        batch = self.batches.find(self.key(request), request.match_info["batch"])
        return batch, self._fault(method, batch.id, batch.display_name)

    def _fault(self, method: str, place: str = "", display_name: str = "") -> str | None:
        for name, _ in markers(display_name):
            if name not in KNOWN:
                raise errors.refusal(400, f"emulator: the Batch API has no fault named {name!r}")
        return meet(self.faults, method, place, display_name)

    async def counted(self, request: web.Request) -> web.StreamResponse:
        """For tests: how often each display name was created and each key answered, and what became of the batches."""
        found = [
            {"name": f"batches/{one.id}", "displayName": one.display_name, "state": one.state} for one in self.batches
        ]
        counts = {"created": self.statistics.created, "answered": self.statistics.answered_keys}
        return web.json_response({**counts, "batches": found})

    async def clear(self) -> None:
        await self.runs.stop_all()
        self.batches.clear()
        self.faults.clear()


def _empty(fault: str | None) -> Answer:
    if fault == "lost":
        raise Cut
    return Answer(body=encoded({}))


def _read(body: bytes) -> dict[str, Any]:
    """Raises Refusal 400 for what is not JSON and for names that the API does not know."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise errors.not_json(f"Parser error: {error}") from None
    violations: list[Violation] = []
    found = read(_BATCH, value, "", violations)
    if violations:
        raise errors.bad_fields(violations)
    batch: dict[str, Any] = found.get("batch", {})
    return batch
