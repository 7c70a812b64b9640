"""The file in which people's verdicts are exported and imported: the JSON that a gallery saves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batchgen.errors import UsageError
from batchgen.ledger.reviews import make_review
from batchgen.records import Verdict

RULINGS = {"picked": "accept", "rejected": "reject", "undecided": "none"}  # by the lists of the file
SHA256_MIN_CHARS = 12  # of a hash, enough to identify its image


@dataclass(frozen=True, slots=True)
class FileEntry:
    """An entry. review: with as much of the hash as the file has. at: when it was said, ISO 8601; empty if the file
    does not say."""

    review: Verdict
    at: str


def parse_review_file(text: str, source: str, name: str) -> list[FileEntry]:
    """The entries in the order in which they were said, as the later one counts. name: who said it, if the file does
    not state it. Raises UsageError, which says where and what."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not JSON: {error}") from None
    if not isinstance(found, dict) or not found.keys() & RULINGS.keys():
        raise UsageError(
            f"{source}: expected what a gallery saves as JSON, an object with the lists {', '.join(RULINGS)}"
        )
    entries = [
        entry for kind, ruling in RULINGS.items() for entry in _entries(found.get(kind, []), kind, ruling, source, name)
    ]
    return sorted(entries, key=lambda entry: entry.at)


def _entries(listed: object, kind: str, ruling: str, source: str, name: str) -> Iterator[FileEntry]:
    if not isinstance(listed, list):
        raise UsageError(f"{source}: {kind}: expected a list")
    for number, entry in enumerate(listed):
        place = f"{source}: {kind}[{number}]"
        if not isinstance(entry, dict):
            raise UsageError(f"{place}: expected an object")
        try:
            review = make_review(
                _value(entry, "name", str, name) or name,
                _value(entry, "id", str),
                _value(entry, "n", int, 1),
                _value(entry, "sha256_begins", str, ""),
                ruling,
                _value(entry, "stars", int, 0),
                _value(entry, "comment", str, ""),
            )
            at = _value(entry, "at", str, "")
        except ValueError as error:
            raise UsageError(f"{place}: {error}") from None
        yield FileEntry(review, at)


def _value(entry: Mapping[str, Any], field: str, kind: type[Any], default: Any = None) -> Any:
    value = entry.get(field, default)
    if value is None:
        raise ValueError(f"{field}: missing")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{field}: expected {'text' if kind is str else 'a whole number'}, got {value!r}"[:200])
    return value


def review_file(
    job: str,
    *,
    emulated: bool,
    at: float,
    reviews: Iterable[Verdict],
    images: Mapping[tuple[str, int], tuple[str, str]],
) -> dict[str, Any]:
    """The contents of a file: an entry for each person and image. images: (path, prompt) by sample. at: UTC seconds."""
    lists: dict[str, list[dict[str, Any]]] = {kind: [] for kind in RULINGS}
    kinds = {ruling: kind for kind, ruling in RULINGS.items()}
    for review in reviews:
        path, prompt = images[review.item_id, review.n]
        lists[kinds[review.ruling]].append(
            {
                "id": review.item_id,
                "n": review.n,
                "file": path,
                "sha256_begins": review.sha256[:SHA256_MIN_CHARS],
                "prompt": prompt,
                "stars": int(review.score or 0),
                "comment": review.message,
                "name": review.name,
                "at": _iso(review.at, "microseconds"),
            }
        )
    return {"job": job, "emulated": emulated, "at": _iso(at, "milliseconds"), **lists}


def _iso(at: float, precision: str) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
