"""One batch: its lines, its state, shown as a long-running operation, and its results as they grow."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

from batchgen.emulator import google
from batchgen.emulator.accounting import RequestRecord
from batchgen.emulator.answers import as_json, timestamp, without_none
from batchgen.emulator.files import StoredFile
from batchgen.emulator.models import Model
from batchgen.emulator.options import BatchOptions

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
# Code 1 is that of cancelled operations; the other codes of whole batches and all wordings are ours.
_ERRORS = {
    "FAILED": google.rpc_status("INTERNAL", "An internal error has occurred."),
    "EXPIRED": google.rpc_status("DEADLINE_EXCEEDED", "The batch expired before it was completed."),
    "CANCELLED": google.rpc_status("CANCELLED", "The operation was cancelled."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An answer. key: or an inline request's metadata; None without one. body: `"response":…` or `"error":…`."""

    key: Any
    body: bytes
    record: RequestRecord
    fault: str | None = None
    succeeded: bool = False
    crossed: bool = False


@dataclass(slots=True, kw_only=True)
class Batch:
    """A batch and its results.

    source: the `files/…` that it was made of, empty for inline requests. lines: those of its input that are not empty,
    until it ends. problem: why its input fails. tokens: of all prompts, estimated. Times: seconds since 1970.

    inline: its answers are in its operation, not in a file. state: without its prefix. error: a google.rpc.Status.
    keeps_results: whether they can be read, once it has ended. stop: set to end it, by a cancel or when the emulator closes.
    """

    id: str
    key: str
    model: Model
    display_name: str
    priority: str
    source: str
    results: StoredFile
    lines: list[bytes]
    total: int
    tokens: int
    problem: str
    inline: bool
    state: str = "PENDING"
    created_s: float = field(default_factory=time.time)
    updated_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    succeeded: int = 0
    error: dict[str, Any] | None = None
    keeps_results: bool = False
    held: Line | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    records: list[RequestRecord] = field(default_factory=list)

    def end(self, state: str) -> None:
        """End the batch; one that would succeed fails where its input could not be read."""
        self.error = _ERRORS.get(state)
        if self.problem and state == "SUCCEEDED":
            state = "FAILED"
            self.error = google.rpc_status("INVALID_ARGUMENT", f"Failed to parse the input file: {self.problem}")
        self.lines.clear()
        self.state = state
        self.ended_s = self.updated_s = time.time()

    def operation(self, options: BatchOptions, *, named: bool = True) -> dict[str, Any]:
        """Show a google.longrunning.Operation with the batch as its metadata; recorded in flachesis/gemini-rust#13.

        named: whether it names its results. Lists carry none (dg/ai-access); that this holds for the names of files too
        is an assumption.
        """
        output = self._output() if named and self.keeps_results else None
        state = f"{options.states.upper()}_STATE_{self.state}"
        found: dict[str, Any] = {"name": f"batches/{self.id}", "metadata": self._metadata(state)}
        if output is not None and "metadata" in options.places:
            found["metadata"]["output"] = output
        if "dest" in options.places:
            # The shape that the documents' REST snippets read, `.dest.fileName`; no recorded answer has it.
            found["state"] = state
            if output is not None:
                found["dest"] = output.get("inlinedResponses") or {"fileName": output["responsesFile"]}
        if self.ended_s is not None:
            found["done"] = True
            if self.error is not None:
                found["error"] = self.error
            elif output is not None and "response" in options.places:
                found["response"] = {"@type": f"{_TYPE}Output", **output}
        return found

    def _metadata(self, state: str) -> dict[str, Any]:
        """Show the metadata. Counts are int64, which JSON has as text, and are absent when they are 0."""
        done = len(self.records)
        counts = {
            "requestCount": self.total,
            "successfulRequestCount": self.succeeded,
            "failedRequestCount": done - self.succeeded,
            "pendingRequestCount": self.total - done,
        }
        return {"@type": _TYPE} | without_none(
            model=f"models/{self.model.id}",
            displayName=self.display_name,
            inputConfig={"fileName": self.source} if self.source else None,
            createTime=timestamp(self.created_s),
            endTime=None if self.ended_s is None else timestamp(self.ended_s),
            updateTime=timestamp(self.updated_s),
            batchStats={name: str(count) for name, count in counts.items() if count},
            state=state,
            name=f"batches/{self.id}",
            priority=self.priority or None,
        )

    def _output(self) -> dict[str, Any]:
        """Show a GenerateContentBatchOutput. Inline answers are nested twice, in the order of requests
        (dg/ai-access)."""
        if not self.inline:
            return {"responsesFile": f"files/{self.results.id}"}
        with self.results.path.open("rb") as file:
            return {"inlinedResponses": {"inlinedResponses": [json.loads(line) for line in file]}}

    # The results as they grow. One line is held back, so that a line may swap its key with the one before it.

    def put(self, line: Line) -> None:
        if line.fault == "line_missing":
            return
        held = self.held
        if held and "line_crossed" in (line.fault, held.fault) and not held.crossed:
            self.held, line = replace(held, key=line.key), replace(line, key=held.key, crossed=held.key != line.key)
        self.write_held()
        self.held = line

    def write_held(self) -> None:
        """Write the line that was held back. The order of its members is not documented: both orders occur."""
        line, self.held = self.held, None
        if line is None:
            return
        key = f"unknown-{line.key}" if line.fault == "line_unknown_key" else line.key
        members = [line.body]
        if key is not None and line.fault != "line_keyless":
            name = b'"metadata":' if self.inline else b'"key":'
            members.insert(line.record.n % 2 == 0, name + as_json(key, compact=True))
        whole = b"{" + b",".join(members) + b"}"
        if line.fault == "line_cut" and not self.inline:  # an operation is always whole
            whole = whole[: len(whole) * 3 // 5]
        for _ in range(2 if line.fault == "line_doubled" else 1):
            self.results.append(whole + b"\n")
