"""One page of a list, as Google's list methods cut it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.fields import Violation


def page_of(name: str, found: Sequence[Any], query: Mapping[str, str], default: int, most: int) -> dict[str, Any]:
    """The list under its name, absent when empty, and `nextPageToken`, which is opaque to clients. Raises Refusal 400."""
    size = min(_number(query, "pageSize") or default, most)
    start = _number(query, "pageToken")
    body: dict[str, Any] = {}
    if found[start : start + size]:
        body[name] = list(found[start : start + size])
    if found[start + size :]:
        body["nextPageToken"] = str(start + size)
    return body


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not text.isdecimal():
        raise errors.bad_fields([Violation(name, f"Invalid value at '{name}' (TYPE_INT32), \"{text}\"")])
    return int(text)
