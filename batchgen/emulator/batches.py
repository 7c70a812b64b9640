"""Batches as the API shows them: the state of each, and the long-running operation that tells it."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_lines import Index
from batchgen.emulator.batch_options import BatchOptions
from batchgen.emulator.files import StoredFile, stamp
from batchgen.emulator.models import Model

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_ID_CHARACTERS = string.ascii_lowercase + string.digits


def new_id() -> str:
    """36 characters, as recorded (flachesis/gemini-rust#13)."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(36))


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch. source: the `files/…` it was made of, empty for inline requests. Times: seconds since 1970.

    state: without its prefix. error: a google.rpc.Status. leave: set when it shall end, by a cancel or for good.
    """

    key: str
    model: Model
    display_name: str
    priority: str
    source: str
    index: Index
    id: str = field(default_factory=new_id)
    state: str = "PENDING"
    created_s: float = field(default_factory=time.time)
    updated_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    succeeded: int = 0
    failed: int = 0
    error: dict[str, Any] | None = None
    results: StoredFile | None = None
    inline_results: Path | None = None
    leave: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, state: str) -> None:
        self.state = state
        self.updated_s = time.time()

    def end(self, state: str, error: dict[str, Any] | None) -> None:
        self.move(state)
        self.ended_s = self.updated_s
        self.error = error

    def output(self) -> dict[str, Any] | None:
        """GenerateContentBatchOutput. Inline answers are nested twice, in the order of requests (dg/ai-access)."""
        if self.results is not None:
            return {"responsesFile": f"files/{self.results.id}"}
        if self.inline_results is None:
            return None
        with self.inline_results.open("rb") as file:
            return {"inlinedResponses": {"inlinedResponses": [json.loads(line) for line in file]}}

    def as_json(self, options: BatchOptions, *, in_list: bool = False, no_file: bool = False) -> dict[str, Any]:
        """google.longrunning.Operation with the batch as its metadata; recorded in flachesis/gemini-rust#13.

        Lists carry no results (dg/ai-access); that this holds for the names of files too is an assumption.
        """
        output = None if in_list or no_file else self.output()
        state = f"{options.states.upper()}_STATE_{self.state}"
        found: dict[str, Any] = {"name": f"batches/{self.id}", "metadata": self._metadata(state)}
        if output is not None and "metadata" in options.places:
            found["metadata"]["output"] = output
        if "dest" in options.places:
            found |= _top(state, output)
        if self.ended_s is None:
            return found
        found["done"] = True
        if self.error is not None:
            found["error"] = self.error
        elif output is not None and "response" in options.places:
            found["response"] = {"@type": f"{_TYPE}Output", **output}
        return found

    def _metadata(self, state: str) -> dict[str, Any]:
        """Counts are int64, which JSON has as text, and are absent when they are 0."""
        total = len(self.index.starts)
        counts = {
            "requestCount": total,
            "successfulRequestCount": self.succeeded,
            "failedRequestCount": self.failed,
            "pendingRequestCount": total - self.succeeded - self.failed,
        }
        found: dict[str, Any] = {"@type": _TYPE, "model": f"models/{self.model.id}", "displayName": self.display_name}
        if self.source:
            found["inputConfig"] = {"fileName": self.source}
        found["createTime"] = stamp(self.created_s)
        if self.ended_s is not None:
            found["endTime"] = stamp(self.ended_s)
        found["updateTime"] = stamp(self.updated_s)
        found["batchStats"] = {name: str(count) for name, count in counts.items() if count}
        found |= {"state": state, "name": f"batches/{self.id}"}
        return found | ({"priority": self.priority} if self.priority else {})


def _top(state: str, output: dict[str, Any] | None) -> dict[str, Any]:
    """The shape that the documents' REST snippets read, `.dest.fileName`; no recorded answer has it."""
    if output is None:
        return {"state": state}
    if "responsesFile" in output:
        return {"state": state, "dest": {"fileName": output["responsesFile"]}}
    return {"state": state, "dest": {"inlinedResponses": output["inlinedResponses"]["inlinedResponses"]}}


class Batches:
    """All batches of one emulator, in memory only."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches.values())

    def add(self, batch: Batch) -> None:
        self._batches[batch.id] = batch

    def find(self, key: str, batch_id: str) -> Batch:
        """Raises Refusal 404, for batches of another key too, which is an assumption."""
        found = self._batches.get(batch_id)
        if found is None or found.key != key:
            raise errors.no_such_entity()
        return found

    def listed(self, key: str, lag_s: float) -> list[Batch]:
        """Newest first, as recorded."""
        latest_s = time.time() - lag_s
        return [one for one in reversed(self._batches.values()) if one.key == key and one.created_s <= latest_s]

    def open(self, key: str) -> list[Batch]:
        return [one for one in self if one.key == key and one.ended_s is None]

    def remove(self, batch_id: str) -> None:
        self._batches.pop(batch_id, None)

    def clear(self) -> None:
        self._batches.clear()
