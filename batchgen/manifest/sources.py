"""A manifest's text as a header and a stream of raw entries, each of which can tell where its fields stand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, Protocol

from batchgen.manifest import jsonl, yaml_text
from batchgen.manifest.diagnostics import Diagnostics, fatal_error, safe_name, safe_repr
from batchgen.safe_open import UnsafePathError, open_regular

YAML_MAX_BYTES = 64_000_000
FieldPath = tuple[str | int, ...]
Position = tuple[int, int]


class RawEntry(NamedTuple):
    """One entry as it was written. text: the line it came from, in JSONL."""

    line: int
    entry: Any
    text: str


class ManifestSource(Protocol):
    """One format of a manifest."""

    default_max_items: int | None  # how many items there may be when the manifest does not say

    def header(self, diagnostics: Diagnostics) -> RawEntry: ...
    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]: ...
    def position(self, raw: RawEntry, path: FieldPath) -> Position: ...


def open_source(path: str) -> ManifestSource:
    """Raises ManifestError."""
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise fatal_error(path, "is a folder; name the manifest in it")
    if suffix not in (".yaml", ".yml", ".jsonl"):
        hint = "; to use a table, name it in a manifest: `from: table.csv`" if suffix in (".csv", ".tsv") else ""
        raise fatal_error(path, f"a manifest ends in .yaml, .yml or .jsonl{hint}")
    if not os.path.lexists(path):
        raise fatal_error(path, "there is no such file")
    with _open(path) as file:  # now, so that a file that cannot be read is said before anything else
        return JsonlSource(path) if suffix == ".jsonl" else YamlSource(path, file.read(YAML_MAX_BYTES + 1))


def _open(path: str) -> IO[bytes]:
    try:
        return open_regular(os.path.realpath(path))
    except UnsafePathError as problem:
        raise fatal_error(path, str(problem)) from None


class YamlSource:
    """A whole document in memory, bounded."""

    default_max_items: int | None = 10_000

    def __init__(self, path: str, data: bytes) -> None:
        if len(data) > YAML_MAX_BYTES:
            raise fatal_error(path, f"has more than {YAML_MAX_BYTES / 1e6:g} MB; use JSONL, one item to a line")
        try:
            self._document, self._problems = yaml_text.load(data.decode())
        except UnicodeDecodeError as error:
            before = data[: error.start]
            column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
            raise fatal_error(path, "not UTF-8", (before.count(b"\n") + 1, column)) from None
        except yaml_text.YamlError as problem:
            raise fatal_error(path, problem.message, problem.position) from None
        if self._document is None:
            raise fatal_error(path, "is empty; `batchgen init` writes a manifest to start from")
        if not isinstance(self._document, dict):
            hint = "; put `items:` above it" if isinstance(self._document, list) else ""
            raise fatal_error(path, f"must be a mapping with `items`, not {safe_repr(self._document)}{hint}", (1, 1))

    def header(self, diagnostics: Diagnostics) -> RawEntry:
        for position, field, message in self._problems:
            diagnostics.add(position, field, message)
        return RawEntry(1, {name: value for name, value in self._document.items() if name != "items"}, "")

    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        items = self._document.get("items")
        if not isinstance(items, yaml_text.Sequence):
            position = yaml_text.position_at(self._document, ("items",))
            diagnostics.add(
                position, "items", f"must be a list, not {safe_repr(items)}" if items is not None else "is missing"
            )
            return
        for entry, position in zip(items, items.marks, strict=True):
            if isinstance(entry, dict):
                yield RawEntry(position[0], entry, "")
            else:
                hint = "; write `- prompt: …`" if isinstance(entry, str) else ""
                diagnostics.add(position, "items", f"an item must be a mapping of fields, not {safe_repr(entry)}{hint}")

    def position(self, raw: RawEntry, path: FieldPath) -> Position:
        # The header is a copy without `items`; the document itself holds its marks.
        return yaml_text.position_at(raw.entry if hasattr(raw.entry, "position") else self._document, path)


class JsonlSource:
    """One entry to a line, never more than a line in memory."""

    default_max_items: int | None = None

    def __init__(self, path: str) -> None:
        self._path = path
        self._header_line = 0

    def header(self, diagnostics: Diagnostics) -> RawEntry:
        for raw in self._objects(Diagnostics(self._path)):  # a line that is wrong is said when the entries are read
            if isinstance(raw.entry, dict) and ("version" in raw.entry or "defaults" in raw.entry):
                self._header_line = raw.line
                return raw
            break
        return RawEntry(0, {}, "")

    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        for raw in self._objects(diagnostics):
            if type(raw[1]) is dict:
                if raw[0] != self._header_line:
                    yield raw
            else:
                diagnostics.add((raw.line, 1), "", f"a line must be a JSON object, not {safe_repr(raw.entry)}")

    def position(self, raw: RawEntry, path: FieldPath) -> Position:
        return raw.line, jsonl.key_column(raw.text, str(path[0]) if path else "") if raw.text else 0

    def _objects(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        parse, decode = jsonl.parse, jsonl.decode
        with _open(self._path) as file:
            for number, line in jsonl.read_lines(file):
                try:
                    text = decode(line)
                    if number == 1:
                        text = text.removeprefix("\ufeff")
                    if text:
                        yield RawEntry(number, parse(text), text)
                except jsonl.LineError as problem:
                    diagnostics.add((number, problem.column), safe_name(problem.field), problem.message)
