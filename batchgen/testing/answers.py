"""The answers that a codec reads in its tests: of any status and body, and real ones with a part missing or odd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.errors import ProviderError
from batchgen.http.base64_stream import StreamingBase64Decoder
from batchgen.providers.reasons import REMEDIES
from batchgen.records import Answer, PendingJob, Reply, Response

STATUSES = (200, 204, 301, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 520, 599)
BODIES = (
    b"",
    b"plain",
    b"x" * 300_000,
    b"<!DOCTYPE html><title>Sign in</title><p>Sign in to the network",
    bytes(range(256)) * 4,
    b'{"message": "\\u202egnorw\\n\\u0007", "error": "\\u202egnorw\\n", "detail": "\\r\\n"}',
    b"{}",
    b"null",
    b"12",
    b'[[], {"error": 7}]',
    b'{"error": {"message": "wro',
    b'{"a":' * 100_000,
    b'{"error": {"message": 7, "details": [[]]}, "detail": {"x": null}, "message": [], "status": -1}',
    b'{"detail": [{"loc": 7, "msg": 1}, 7], "error": [7], "errors": 7}',
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    "",
    "%%%",
    "\x00lifted:7",
    "\x00lifted:",
    [],
    [None],
    {},
    {"": []},
)
_NOTHING = object()  # in place of a value that is taken away
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
MESSAGE_MAX_CHARS = 600
MAX_ODD_BODIES = 2000
Read = Callable[[Response], object]
Found = Reply | PendingJob | Answer | ProviderError


def require(holds: object, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition holds."""
    if not holds:
        raise AssertionError(sentence)


def outcome(read: Read, response: Response) -> Found:
    """What a codec reads in an answer. Raises AssertionError when that is none of the types it may return."""
    shown = f"HTTP {response.status} {response.body[:200]!r}"
    try:
        found = read(response)
    except ProviderError as error:
        one_line = error.message and error.message.isprintable() and len(error.message) <= MESSAGE_MAX_CHARS
        words = f"must be one line of 1 to {MESSAGE_MAX_CHARS} printable characters (see clean_line)"
        require(one_line, f"{shown}: the message of {type(error).__name__} {words}: {error.message[:200]!r}")
        require(
            error.reason in REMEDIES, f"{shown}: the reason {error.reason!r} is none of batchgen/providers/reasons.py"
        )
        return error
    except Exception as error:
        raise AssertionError(f"{shown}: raises {type(error).__name__}, not a ProviderError: {error}") from error
    require(isinstance(found, (Reply, PendingJob, Answer)), f"{shown}: is read as {found!r}")
    return found  # type: ignore[return-value]


def odd_bodies(body: bytes) -> Iterator[bytes]:
    """Vary a JSON body: each of its values taken away in turn, and each replaced by another."""
    try:
        whole = json.loads(body)
    except ValueError:
        return
    for number, path in enumerate(_paths(whole), 1):
        for odd in (*ODD_VALUES, _NOTHING):
            yield json.dumps(_with(whole, path, odd)).encode()
        if number * len(ODD_VALUES) > MAX_ODD_BODIES:
            return


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def _with(whole: Any, path: Sequence[Any], value: Any) -> Any:
    changed = parent = deepcopy(whole)
    for key in path[:-1]:
        parent = parent[key]
    if value is _NOTHING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


@dataclass(frozen=True, slots=True)
class _FileSink:
    path: Path

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


def with_files(response: Response, folder: Path) -> Response:
    """Make the same answer as it arrives when its image is large, with its data in files."""
    files: list[str] = []

    def open_sink(number: int) -> _FileSink:
        files.append(str(folder / str(number)))
        return _FileSink(folder / str(number))

    if (response.header("content-type") or "").startswith("image/"):
        open_sink(0).write(response.body)
        rest = b""
    else:
        decoder = StreamingBase64Decoder(open_sink, threshold_bytes=256)
        decoder.feed(response.body)
        rest = decoder.close()
    return Response(response.status, response.headers, rest, tuple(files))


def images_of(reply: Reply, files: Sequence[str]) -> list[tuple[str, bytes | None]]:
    """The role and the bytes of each image."""
    return [
        (image.role, image.data if image.decoded is None else Path(files[image.decoded]).read_bytes())
        for image in reply.images
    ]
