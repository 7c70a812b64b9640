"""The results of a batch, a line for each answer; also those that its operation holds in place of a file. Pure.

One API has batches so far, and these are its results: with a second, the functions here become methods of a `BatchCodec`.
`response.inlinedResponses.inlinedResponses`, and the same below `metadata.output` and `dest`: ai.google.dev/api/batch-api,
and maximhq/bifrost#3951 of small batches that were made from a file. Over bytes or a file mapped into memory.
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
_KEY_MAX_BYTES = 64  # a key that is longer is none of these
_DEPTH_MAX, _ANSWERS_MAX = 200, 10_000  # of an operation; what goes beyond is none


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One answer out of a results file, as if it had come over HTTP. key: None when the line names none."""

    key: str | None
    status: int
    body: bytes


def read_result_line(text: bytes) -> ResultLine:
    """A line of a results file, its long strings lifted. Raises Malformed when it is no such line.

    `{"key", "response"}` or `{"key", "error"}`; the key also in `metadata`, as inline answers have it.
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
    """Of a google.rpc code; one that is none, or a success, counts as a fault of the server."""
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return HTTP_OF_RPC.get(code, 500) if isinstance(code, int) else 500


@dataclass(slots=True)
class AnswerList:
    """One list of answers. inside: from behind its bracket to the one that closes it; answers: where each begins and ends."""

    inside: tuple[int, int]
    answers: list[tuple[int, int]]


def find_answer_lists(body: Body) -> list[AnswerList]:
    """Those of an operation, in their order; one that breaks off has what is whole of it."""
    found: list[AnswerList] = []
    path: list[str] = []  # keys of the containers that are open
    text, key = (0, 0), ""
    listing: tuple[int, AnswerList] | None = None  # its depth
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
    """Each answer as a line with its end: line ends between the parts of an answer do not belong to its JSON."""
    for one in next((each for each in find_answer_lists(body) if each.answers), AnswerList((0, 0), [])).answers:
        yield body[slice(*one)].replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"


def without_answers(body: Body) -> bytes:
    """The operation with `{}` for all the answers of a list: it says how the batch stands, and is short."""
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
    """path: keys from the operation down to the list. The list stands in an object of the same name, or by itself."""
    if key not in _LIST_KEYS:
        return False
    return tuple(path) in _LIST_PATHS or (
        path[-1:] != [] and path[-1] in _LIST_KEYS and tuple(path[:-1]) in _LIST_PATHS
    )
