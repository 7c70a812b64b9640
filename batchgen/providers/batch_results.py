"""Reads the results of a batch, one line per answer, also if its operation contains them instead of a file. Pure.

Only one API has batches so far, and these are its results; with a second, these functions become methods of a
`BatchCodec`. Lists are at `response.inlinedResponses.inlinedResponses`, and the same below `metadata.output` and
`dest`: ai.google.dev/api/batch-api, and maximhq/bifrost#3951 on small batches made from a file. Works on bytes or on a
file mapped into memory.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchgen.errors import Malformed
from batchgen.providers.google_errors import HTTP_OF_RPC

Body = bytes | mmap.mmap
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}:]', re.DOTALL)
_LIST_PATHS = frozenset({("response",), ("dest",), ("output",), ("metadata", "output")})
_LIST_KEYS = ("inlinedResponses", "inlined_responses")
_KEY_MAX_BYTES = 64  # longer keys belong to something else
_DEPTH_MAX, _ANSWERS_MAX = 200, 10_000  # of an operation; what goes beyond is not one


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One answer from a results file, as if it had come over HTTP. key: None if the line has none."""

    key: str | None
    status: int
    body: bytes


def read_result_line(text: bytes) -> ResultLine:
    """Read a line of a results file, whose long strings were decoded to disk. Raises Malformed for anything else.

    A line is `{"key", "response"}` or `{"key", "error"}`; the key may also be in `metadata`, as in inline answers.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("a line of the results is not JSON", reason="not_json", http_status=200) from None
    if not isinstance(value, dict):
        raise Malformed("a line of the results is not a JSON object", http_status=200)
    metadata = value.get("metadata")
    key = value.get("key", metadata.get("key") if isinstance(metadata, dict) else None)
    error, response = value.get("error"), value.get("response")
    if isinstance(error, dict) and not response:
        return ResultLine(_text(key), _http_status(error.get("code")), json.dumps({"error": error}).encode())
    return ResultLine(_text(key), 200, json.dumps(response).encode())


def _text(key: Any) -> str | None:
    return None if key is None else str(key)


def _http_status(code: Any) -> int:
    """The HTTP status of a google.rpc code. An unknown code, or a success, counts as a fault of the server."""
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return HTTP_OF_RPC.get(code, 500) if isinstance(code, int) else 500


@dataclass(slots=True)
class AnswerList:
    """A list of answers. inside: the span between its brackets. answers: where each begins and ends."""

    inside: tuple[int, int]
    answers: list[tuple[int, int]]


def find_answer_lists(body: Body) -> list[AnswerList]:
    """The lists of answers in an operation, in order. One that breaks off has the answers that are whole."""
    found: list[AnswerList] = []
    path: list[str] = []  # the keys of the open containers
    text, key = (0, 0), ""
    listing: tuple[int, AnswerList] | None = None  # with its depth
    start = 0
    for token in _TOKEN.finditer(body):
        match body[token.start() : token.start() + 1]:
            case b'"':
                text = token.span()
            case b":":
                key = _key_text(body, text)
            case b"{" | b"[" as opened:
                if listing is None and opened == b"[" and _is_answer_list(path[1:], key):
                    listing = len(path), AnswerList((token.end(), token.end()), [])
                    found.append(listing[1])
                elif listing is not None and len(path) == listing[0] + 1:
                    start = token.start()
                path.append(key)
                key = ""
            case _:
                del path[-1:]
                if listing is not None and len(path) == listing[0] + 1:
                    listing[1].answers.append((start, token.end()))
                elif listing is not None and len(path) == listing[0]:
                    listing[1].inside = listing[1].inside[0], token.start()
                    listing = None
        if len(path) > _DEPTH_MAX or (listing is not None and len(listing[1].answers) > _ANSWERS_MAX):
            return []
    return found


def answer_lines(body: Body) -> Iterator[bytes]:
    """Each answer as a line with its end. Line ends between the parts of an answer do not belong to its JSON."""
    for one in next((each for each in find_answer_lists(body) if each.answers), AnswerList((0, 0), [])).answers:
        yield body[slice(*one)].replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"


def without_answers(body: Body) -> bytes:
    """The operation with `{}` in place of the answers of each list: short, and still says how the batch stands."""
    pieces, at = [], 0
    for one in find_answer_lists(body):
        if one.answers:
            pieces += [body[at : one.inside[0]], b"{}"]
            at = one.inside[1]
    return b"".join([*pieces, body[at:]])


def _key_text(body: Body, text: tuple[int, int]) -> str:
    if text[1] - text[0] > _KEY_MAX_BYTES:
        return ""
    try:
        return str(json.loads(body[slice(*text)]))
    except ValueError:
        return ""


def _is_answer_list(path: list[str], key: str) -> bool:
    """Whether a list contains answers. path: the keys from the operation down to it. It is in an object of the same
    name, or by itself."""
    if key not in _LIST_KEYS:
        return False
    return tuple(path) in _LIST_PATHS or (
        path[-1:] != [] and path[-1] in _LIST_KEYS and tuple(path[:-1]) in _LIST_PATHS
    )
