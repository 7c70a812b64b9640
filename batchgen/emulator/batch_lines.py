"""The lines of a batch: where they begin in a file on disk, and the answer to one."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.emulator import gemini
from batchgen.emulator import google_errors as errors
from batchgen.emulator.faults import WIRE
from batchgen.emulator.fields import STRING, Anything, Message, Violation, read
from batchgen.emulator.files import Files
from batchgen.emulator.models import Model
from batchgen.emulator.orders import Refusal
from batchgen.emulator.reception import Dialect, Reception
from batchgen.emulator.usage import text_tokens

_LINE = Message({"key": STRING, "request": Anything(), "metadata": Anything()})
_PICTURE_TOKENS = 560
# google.rpc.Code. Lines with 3, 8 and 13 are known from public issues (#1341 of googleapis/python-genai: 13).
_CODES = {
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
}


@dataclass(frozen=True, slots=True)
class Index:
    """starts: offsets of the lines that hold something. tokens: of all prompts, estimated. bad: why it is no JSONL."""

    path: Path
    starts: array[int]
    tokens: int
    bad: str = ""

    def line(self, at: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.starts[at])
            return file.readline()

    def order(self, seed: str) -> list[int]:
        """Never the order they came in: ai.google.dev says to match by key."""
        order = list(range(len(self.starts)))
        random.Random(seed).shuffle(order)
        return order[1:] + order[:1] if order == sorted(order) else order


def index(path: Path) -> Index:
    """Blocks: for worker threads. One line at a time is in memory."""
    starts, tokens, at, bad = array("Q"), 0, 0, ""
    with path.open("rb") as file:
        while line := file.readline():
            if line.strip():
                starts.append(at)
                try:
                    value = json.loads(line)
                except ValueError as error:
                    bad = bad or f"line {len(starts)}: {error}"
                    value = {}
                if isinstance(value, dict):
                    tokens += _tokens(value.get("request"))
                else:
                    bad = bad or f"line {len(starts)}: expected an object"
            at += len(line)
    return Index(path, starts, tokens, bad if starts else "it holds no request")


def write_inline(path: Path, requests: Iterable[Any]) -> None:
    with path.open("wb") as file:
        for one in requests:
            file.write(json.dumps(one).encode() + b"\n")


def _tokens(request: Any) -> int:
    """An estimate of ours: what the vendor counts as enqueued is not documented beyond "tokens"."""
    if not isinstance(request, dict) or not isinstance(request.get("contents"), list):
        return 0
    contents = [one for one in request["contents"] if isinstance(one, dict)]
    parts = [part for one in contents for part in one.get("parts") or [] if isinstance(part, dict)]
    return sum(text_tokens(part["text"]) if isinstance(part.get("text"), str) else _PICTURE_TOKENS for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An answer. key: its key, or an inline request's metadata; None without one. body: `"response":…` or `"error":…`."""

    n: int
    key: Any
    body: bytes
    fault: str | None = None
    succeeded: bool = False
    prompt: str = ""
    billed_images: int = 0
    sha256: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LineWork:
    """Answers lines as the online API answers requests: its parsing, faults, attempts and pictures. For threads.

    Not the online quota: the Batch API has its own (ai.google.dev, rate limits).
    """

    reception: Reception
    dialect: Dialect
    files: Files

    def answer(self, raw: bytes, model: Model, api_key: str, *, inline: bool) -> Line:
        n = next(self.reception.statistics.numbers)
        value = json.loads(raw)
        key = value.get("metadata" if inline else "key")
        try:
            return self._answer(n, key, value, model, partial(self.files.usable, api_key))
        except Refusal as refusal:
            return Line(n=n, key=key, body=b'"error":' + _status(refusal))

    def _answer(self, n: int, key: Any, value: Any, model: Model, find_file: Callable[[str], Any]) -> Line:
        violations: list[Violation] = []
        found = read(_LINE, value, "", violations)
        request = found.get("request")
        if violations:
            raise errors.bad_fields(violations)
        if not isinstance(request, dict):
            raise errors.refusal(400, "* GenerateContentRequest.contents: contents is not specified\n")
        order = gemini.parse_value(request, model, self.reception.options, find_file, stream="line")
        job = self.reception.job(order, n, self.dialect, "")
        refusal = self.dialect.refuse(job.fault, job) if job.fault else None
        if refusal is None and job.fault in WIRE - {"truncated_json"}:  # what cuts a connection online
            refusal = self.dialect.refuse("500", job)
        if refusal is not None:
            return Line(n=n, key=key, body=b'"error":' + _status(refusal), fault=job.fault, prompt=order.prompt)
        answer = self.dialect.compose(job)
        return Line(
            n=n,
            key=key,
            body=b'"response":' + answer.body,
            fault="line_cut" if job.fault == "truncated_json" else job.fault,
            succeeded=True,
            prompt=order.prompt,
            billed_images=answer.billed_images,
            sha256=answer.sha256,
        )


def _status(refusal: Refusal) -> bytes:
    """google.rpc.Status, whose codes are not those of HTTP."""
    error = json.loads(refusal.body)["error"]
    status = {"code": _CODES.get(error["status"], 2), "message": error["message"]}
    return json.dumps(status, ensure_ascii=False).encode("utf-8", "replace")
