"""The formats of a manifest: its text as a header and a stream of raw entries, each of which knows where its fields
are. YAML is read as a whole, JSON Lines one object per line, and more strictly than by the standard library."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, NoReturn, Protocol

from batchgen.manifest import yaml_text
from batchgen.manifest.diagnostics import Diagnostics, FieldPath, Position, Remark, fatal_error, safe_name, safe_repr
from batchgen.manifest.names import MANIFEST_SUFFIXES
from batchgen.manifest.yaml_slips import spacing_problem
from batchgen.references.nearest import nearest_name
from batchgen.safe_open import UnsafePathError, open_regular

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
LINE_MAX_BYTES = 1_000_000
START_BYTES = 1000
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
DEPTH_MAX = 64
YAML_MAX_BYTES = 64_000_000
_SPACE = re.compile(r"[ \t]*")


class LineError(Exception):
    """What is wrong with one line; column from 1, 0 for the whole line."""

    def __init__(self, message: str, column: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.field = field


class _DuplicateNameError(Exception):
    """A name that occurs twice in one object."""


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateNameError(next(name for index, name in enumerate(names) if name in names[:index]))
    return value


def _reject_constant(name: str) -> NoReturn:
    raise LineError(f"{name} is not JSON (RFC 8259, section 6)")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise LineError(f"{digits[:20]} is too large for a number")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_reject_constant, parse_float=_finite_float)
_scan: Callable[[str, int], tuple[Any, int]] = vars(_decoder)["scan_once"]  # `decode` without its two regexes
_lenient_decoder = json.JSONDecoder()


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line number from 1 and the line without its end. Nothing longer than the limit is ever in memory.

    A longer line comes as its first part, one byte too long; `decode_line` then says so. The rest is skipped.
    """
    number = 0
    readline = file.readline
    limit = LINE_MAX_BYTES + 1
    while line := readline(limit):
        number += 1
        if len(line) == limit and line[-1] != 10:
            while (rest := readline(limit)) and rest[-1] != 10:
                pass
        yield number, line


def decode_line(line: bytes) -> str:
    """The text of a line. Raises LineError."""
    if len(line) > LINE_MAX_BYTES:
        raise LineError(f"a line of more than {LINE_MAX_BYTES:,} bytes")
    try:
        return line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise LineError("not UTF-8; save it as UTF-8", len(line[: error.start].decode(errors="replace")) + 1) from None


def parse_line(text: str) -> Any:
    """The value of one line. Raises LineError; duplicate names, NaN, huge numbers and deep nesting are refused."""
    try:
        value, end = _scan(text, 0)
        if end == len(text) and text.count("[") + text.count("{") <= DEPTH_MAX:
            return value
    except (StopIteration, ValueError, RecursionError, _DuplicateNameError):
        pass  # leading space, or not JSON at all: the slow decoder decides
    return _parse_slowly(text)


def _parse_slowly(text: str) -> Any:
    try:
        value = _decoder.decode(text)
        if _deeper_than(value, DEPTH_MAX):
            raise LineError(f"nested deeper than {DEPTH_MAX} levels")
        return value
    except _DuplicateNameError as error:
        name = str(error)
        raise LineError("given twice in the same object", key_column(text, name, occurrence=2), name) from None
    except json.JSONDecodeError as error:
        raise LineError(f"not JSON: {error.msg}", error.colno) from None
    except ValueError:  # Python refuses more than 4,300 digits
        raise LineError("a number of more than 4,300 digits") from None
    except RecursionError:
        raise LineError("nested too deeply") from None


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether a value is nested more deeply than this, found level by level and not by recursion."""
    level = [value]
    for _ in range(levels + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level = inner
        if not level:
            return False
    return True


def key_column(text: str, name: str, occurrence: int = 1) -> int:
    """The column, from 1, of a name in the line's outer object, or of the object itself if it does not have the
    name."""
    start = _skip_spaces(text, 0)
    at = start + 1
    try:
        while text[at := _skip_spaces(text, at)] != "}":
            found, end = _lenient_decoder.raw_decode(text, at)
            occurrence -= found == name
            if not occurrence:
                return at + 1
            _, at = _lenient_decoder.raw_decode(text, _skip_spaces(text, _skip_spaces(text, end) + 1))
            at = _skip_spaces(text, at)
            at += text[at] == ","
    except (ValueError, IndexError, RecursionError):
        pass
    return start + 1


def _skip_spaces(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


class RawEntry(NamedTuple):
    """One entry as it was written. text: its line, in JSONL."""

    line: int
    entry: Any
    text: str


class ManifestSource(Protocol):
    """A format of a manifest."""

    default_max_items: int | None  # how many items there may be if the manifest does not say
    warnings: list[Remark]  # about its text

    def header(self, diagnostics: Diagnostics) -> RawEntry: ...
    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]: ...
    def position(self, raw: RawEntry, path: FieldPath) -> Position: ...


def open_source(path: str) -> ManifestSource:
    """Open a manifest's file. Raises ManifestError."""
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise fatal_error(path, "is a folder; name the manifest in it")
    if suffix not in MANIFEST_SUFFIXES:
        name = os.path.basename(path)
        hint = f"; to use a table, name it in a manifest: `from: {name}`" if suffix in TABLE_SUFFIXES else ""
        raise fatal_error(path, f"a manifest ends in .yaml, .yml or .jsonl{hint}")
    if not os.path.lexists(path):
        meant = nearest_name(os.path.dirname(path) or ".", os.path.basename(path), MANIFEST_SUFFIXES)
        raise fatal_error(path, f"there is no such file{meant}")
    with _open(path) as file:  # so that an unreadable file is reported before anything else
        if problem := format_problem(file, suffix):
            raise fatal_error(path, problem)
        return JsonlSource(path) if suffix == ".jsonl" else YamlSource(path, file.read(YAML_MAX_BYTES + 1))


def format_problem(file: IO[bytes], suffix: str) -> str | None:
    """What a file is instead of UTF-8, or of JSON with an object on each line. Its position stays."""
    start = file.read(START_BYTES)
    file.seek(0)
    if start.startswith(UTF_16):
        return 'is UTF-16 (spreadsheets call it "Unicode text"); save it as UTF-8'
    if suffix == ".jsonl" and start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return "is one JSON array; put each object on a line of its own, as `jq -c '.[]' OLD > NEW` does"
    return None


def _open(path: str) -> IO[bytes]:
    try:
        return open_regular(os.path.realpath(path))
    except UnsafePathError as problem:
        raise fatal_error(path, str(problem)) from None


class YamlSource:
    """A whole YAML document in memory, of limited size."""

    default_max_items: int | None = 10_000

    def __init__(self, path: str, data: bytes) -> None:
        if len(data) > YAML_MAX_BYTES:
            raise fatal_error(path, f"has more than {YAML_MAX_BYTES / 1e6:g} MB; use JSONL, one item to a line")
        try:
            self._document, self._problems, self.warnings = yaml_text.load(data.decode())
        except UnicodeDecodeError as error:
            before = data[: error.start]
            column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
            raise fatal_error(path, "not UTF-8; save it as UTF-8", (before.count(b"\n") + 1, column)) from None
        except yaml_text.YamlError as problem:
            raise fatal_error(path, problem.message, problem.position) from None
        if self._document is None:
            raise fatal_error(path, "is empty; `batchgen init` writes a manifest to start from")
        if not isinstance(self._document, dict):
            hint = "; put `items:` above it" if isinstance(self._document, list) else "; begin with `items:`"
            raise fatal_error(path, f"must be a mapping with `items`, not {safe_repr(self._document)}{hint}", (1, 1))
        if "items" not in self._document and "prompt" in self._document:
            position = yaml_text.position_at(self._document, ("prompt",))
            raise fatal_error(path, "an item outside of `items`: write `items:` above it and `- ` before it", position)

    def header(self, diagnostics: Diagnostics) -> RawEntry:
        for remark in self._problems:
            diagnostics.add(*remark)
        return RawEntry(1, {name: value for name, value in self._document.items() if name != "items"}, "")

    def entries(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        items = self._document.get("items")
        if not isinstance(items, yaml_text.Sequence):
            position = yaml_text.position_at(self._document, ("items",))
            hint = '; write `items:` and below it, for each item, `- prompt: "…"`'
            message = "is missing" if items is None else f"must be a list, not {safe_repr(items)}"
            diagnostics.add(position, "items", message + hint)
            return
        before: Any = None
        for entry, position in zip(items, items.marks, strict=True):
            if isinstance(entry, dict):
                yield RawEntry(position[0], entry, "")
            else:
                diagnostics.add(
                    position, "items", f"an item must be a mapping of fields{_why_not_fields(entry, before)}"
                )
            before = entry

    def position(self, raw: RawEntry, path: FieldPath) -> Position:
        # The header is a copy without `items`; the document itself has its marks.
        return yaml_text.position_at(raw.entry if hasattr(raw.entry, "position") else self._document, path)


def _why_not_fields(entry: Any, before: Any) -> str:
    """Why an entry is not a mapping of fields. before: the item before it."""
    if isinstance(entry, str) and (slip := spacing_problem(entry)) is not None:
        return f", not {safe_repr(entry)}: {slip[1]}"
    if isinstance(before, dict) and before and list(before.values())[-1] is None:
        key = safe_name(list(before)[-1])
        return f", not {safe_repr(entry)}; if it belongs to `{key}:` above, indent it further than `{key}:`"
    return f", not {safe_repr(entry)}" + ("; write `- prompt: …`" if isinstance(entry, str) else "")


class JsonlSource:
    """One entry per line, never more than a line in memory."""

    default_max_items: int | None = None

    def __init__(self, path: str) -> None:
        self._path = path
        self._header_line = 0
        self.warnings: list[Remark] = []

    def header(self, diagnostics: Diagnostics) -> RawEntry:
        for raw in self._objects(Diagnostics(self._path)):  # a wrong line is reported when the entries are read
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
        return raw.line, key_column(raw.text, str(path[0]) if path else "") if raw.text else 0

    def _objects(self, diagnostics: Diagnostics) -> Iterator[RawEntry]:
        with _open(self._path) as file:
            for number, line in read_lines(file):
                try:
                    text = decode_line(line)
                    if number == 1:
                        text = text.removeprefix("\ufeff")
                    if text:
                        yield RawEntry(number, parse_line(text), text)
                except LineError as problem:
                    diagnostics.add((number, problem.column), safe_name(problem.field), problem.message)
