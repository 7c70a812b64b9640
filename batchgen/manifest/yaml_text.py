"""YAML text to plain objects that remember their line and column; bounded in nesting, aliases and size, without tags.

Built from libyaml's events, not its composer: the composer recurses in C, and 100,000 open brackets overflow its stack.
Scalars follow the core schema of YAML 1.2, so that `16:9` stays text (1.1 reads it as 969) and `no` is not false.
Source: YAML 1.2.2, section 10.3.2.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from batchgen.manifest.diagnostics import safe_name, safe_repr

DEPTH_MAX = 64
ALIAS_NODES_MAX = 100_000

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TEXT_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Position = tuple[int, int]  # line and column, from 1


class Mapping(dict[str, Any]):
    """A mapping that knows where it and each of its keys stand."""

    __slots__ = ("marks", "position")
    marks: dict[str, Position]
    position: Position


class Sequence(list[Any]):
    """A list that knows where it and each of its elements stand."""

    __slots__ = ("marks", "position")
    marks: list[Position]
    position: Position


class WrittenInt(int):
    """A number that was written otherwise than Python writes it, such as 0042; a template prints it as it was written."""

    written: str

    def __str__(self) -> str:
        return self.written


class WrittenFloat(float):
    """The same, such as 1.10 or 12E5."""

    written: str

    def __str__(self) -> str:
        return self.written


class YamlError(Exception):
    """Reading cannot go on: broken syntax, or a bound that was passed."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


def load(text: str) -> tuple[Any, list[tuple[Position, str, str]]]:
    """The document, and the problems that did not stop the reading: (place, field, message).

    Raises YamlError. Nothing but plain data ever comes out.
    """
    # A colon-space inside a flow "16:9" is no trouble; a BOM is, for column 1.
    builder = _Builder(text.removeprefix("\ufeff"))
    try:
        return builder.document(), builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        parts = [part for part in (error.context, error.problem) if part]
        raise YamlError(position, "not YAML: " + ", ".join(parts)) from None
    except yaml.reader.ReaderError as error:
        raise YamlError((0, 0), f"not YAML: {error.reason}") from None
    except yaml.YAMLError as error:
        raise YamlError((0, 0), f"not YAML: {safe_name(error)}") from None


def position_at(value: Any, path: tuple[str | int, ...]) -> Position:
    """Where the key or element at `path` stands; as far down as the path leads."""
    position: Position = getattr(value, "position", (0, 0))
    for step in path:
        if isinstance(value, Mapping) and step in value.marks:
            position, value = value.marks[str(step)], value[str(step)]
        elif isinstance(value, Sequence) and isinstance(step, int) and step < len(value.marks):
            position, value = value.marks[step], value[step]
        else:
            break
    return position


class _Builder:
    def __init__(self, text: str) -> None:
        self.problems: list[tuple[Position, str, str]] = []
        self._loader = _Loader(text)
        self._anchors: dict[str, tuple[Any, int]] = {}  # name -> value and how many nodes it holds
        self._nodes = 0
        self._alias_nodes = 0

    def document(self) -> Any:
        loader = self._loader
        try:
            loader.get_event()  # the stream's start
            if loader.check_event(yaml.StreamEndEvent):
                return None
            loader.get_event()  # the document's start
            value = self._node(loader.get_event(), 0)
            loader.get_event()  # the document's end
            if not loader.check_event(yaml.StreamEndEvent):
                mark = loader.get_event().start_mark
                raise YamlError((mark.line + 1, mark.column + 1), "one document to a manifest, here a second starts")
            return value
        finally:
            loader.dispose()

    def _node(self, event: Any, depth: int) -> Any:
        position = (event.start_mark.line + 1, event.start_mark.column + 1)
        if depth > DEPTH_MAX:
            raise YamlError(position, f"nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, position)
        before = self._nodes
        self._nodes += 1
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self.problems.append((position, "", f"tags are not read: {safe_name(event.tag)}"))
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, position)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(position, depth)
        else:
            value = self._mapping(position, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _alias(self, name: str | None, position: Position) -> Any:
        # libyaml's parser does not check aliases; an anchor that is still open is missing here too, so nothing recurs.
        if name is None or name not in self._anchors:
            raise YamlError(position, f"the alias *{safe_name(name)} has no finished anchor before it")
        value, nodes = self._anchors[name]
        self._nodes += nodes
        self._alias_nodes += nodes
        if self._alias_nodes > ALIAS_NODES_MAX:
            raise YamlError(position, f"aliases expand to more than {ALIAS_NODES_MAX:,} values")
        return value

    def _scalar(self, event: Any, position: Position) -> Any:
        text: str = event.value
        if event.style or event.tag in _TEXT_TAGS:  # quoted, or said to be text
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _NOT_FINITE.fullmatch(text):
            self.problems.append((position, "", f"{text} is not a number that can be sent"))
            return None
        try:
            if _INT.fullmatch(text):
                return _as_written(int(text, 0) if text[:2] in ("0o", "0x") else int(text), text)
            number = float(text) if _FLOAT.fullmatch(text) else None
        except ValueError:  # Python refuses more than 4,300 digits
            self.problems.append((position, "", f"a number of {len(text):,} digits"))
            return None
        if number is not None and not math.isfinite(number):
            self.problems.append((position, "", f"{safe_repr(text)} is too large for a number"))
            return None
        return text if number is None else _as_written(number, text)

    def _sequence(self, position: Position, depth: int) -> Sequence:
        value = Sequence()
        value.position, value.marks = position, []
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.SequenceEndEvent):
                return value
            value.marks.append((event.start_mark.line + 1, event.start_mark.column + 1))
            value.append(self._node(event, depth + 1))

    def _mapping(self, position: Position, depth: int) -> Mapping:
        value = Mapping()
        value.position, value.marks = position, {}
        merged: list[tuple[Any, Position]] = []
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.MappingEndEvent):
                break
            at = (event.start_mark.line + 1, event.start_mark.column + 1)
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style
            key = self._node(event, depth + 1)
            inner = self._node(self._loader.get_event(), depth + 1)
            if merge:
                merged.append((inner, at))
            elif not isinstance(key, str):
                self.problems.append((at, "", f"a name must be text, not {safe_repr(key)}; put it in quotes"))
            elif key in value:
                first = value.marks[key][0]
                self.problems.append((at, safe_name(key), f"given twice in the same mapping, first in line {first}"))
            else:
                value[key], value.marks[key] = inner, at
        for inner, at in merged:
            self._merge(value, inner, at)
        return value

    def _merge(self, value: Mapping, inner: Any, at: Position) -> None:
        """`<<: *name`: what is not given here is taken from there. Source: yaml.org/type/merge.html."""
        for other in inner if isinstance(inner, Sequence) else [inner]:
            if not isinstance(other, Mapping):
                self.problems.append((at, "<<", "must name a mapping"))
                return
            for key, mark in other.marks.items():
                if key not in value:
                    value[key], value.marks[key] = other[key], mark


def _as_written(number: int | float, text: str) -> int | float:
    if str(number) == text:
        return number
    kept = WrittenInt(number) if isinstance(number, int) else WrittenFloat(number)
    kept.written = text
    return kept
