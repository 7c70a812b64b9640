"""YAML text to plain objects that remember their line and column; bounded in nesting, aliases and size, without tags.

Built from libyaml's events, not its composer: the composer recurses in C, and 100,000 open brackets overflow its stack.
Scalars follow the core schema of YAML 1.2, so that `16:9` stays text (1.1 reads it as 969) and `no` is not false.
Source: YAML 1.2.2, section 10.3.2.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml

from batchgen.manifest import yaml_slips
from batchgen.manifest.diagnostics import FieldPath, Position, Remark, safe_name, safe_repr

DEPTH_MAX = 64
ALIAS_NODES_MAX = 100_000

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# Fields and variables that hold prose, where a # is rarely meant as a comment; two spaces and `# ` mean one.
_PROSE = frozenset(
    ("prompt", "turns", "system", "negative_prompt", "no_image_suffix", "vars", "matrix", "zip", "include")
)
_CUT = re.compile(r"(?![ \t]{2,}# )[ \t]+(#.*)")
_NOT_A_KEY = re.compile(rf"^-|[{yaml_slips.ODD_SPACES}]")  # or a key with a slip in its line
_CUT_SHOWN_CHARS = 40
_TEXT_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Mapping(dict[str, Any]):
    """A mapping that remembers its own position and that of each key."""

    __slots__ = ("marks", "position")
    marks: dict[str, Position]
    position: Position


class Sequence(list[Any]):
    """A list that remembers its own position and that of each element."""

    __slots__ = ("marks", "position")
    marks: list[Position]
    position: Position


class WrittenInt(int):
    """A number written differently than Python would write it, such as 0042; a template prints it as written."""

    written: str

    def __str__(self) -> str:
        return self.written


class WrittenFloat(float):
    """A float written differently than Python would write it, such as 1.10 or 12E5."""

    written: str

    def __str__(self) -> str:
        return self.written


class YamlError(Exception):
    """Reading cannot go on: the syntax is broken, or a limit was exceeded."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


class Document(NamedTuple):
    """What a text holds, and the problems and warnings that did not stop the reading."""

    value: Any
    problems: list[Remark]
    warnings: list[Remark]


def load(text: str) -> Document:
    """Read one document; nothing but plain data ever comes out. Raises YamlError."""
    # A colon inside a flow "16:9" does no harm; a byte order mark would shift column 1.
    text = text.removeprefix("\ufeff")
    builder = _Builder(text)
    try:
        return Document(builder.document(), builder.problems, builder.warnings)
    except yaml.MarkedYAMLError as error:
        if slip := yaml_slips.explain(text, error, builder.last_scalar):
            raise YamlError(slip[0], f"not YAML: {slip[1]}") from None
        mark = error.problem_mark or error.context_mark
        position = _position(mark) if mark else (0, 0)
        parts = [part for part in (error.context, error.problem) if part]
        raise YamlError(position, "not YAML: " + ", ".join(parts)) from None
    except yaml.reader.ReaderError as error:
        raise YamlError(
            _position_of_index(text, text.find(chr(error.character))), f"not YAML: {error.reason}"
        ) from None
    except yaml.YAMLError as error:
        raise YamlError((0, 0), f"not YAML: {safe_name(error)}") from None


def position_at(value: Any, path: FieldPath) -> Position:
    """The position of the key or element at `path`, following it as far down as it leads."""
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
        self.problems: list[Remark] = []
        self.warnings: list[Remark] = []
        self.last_scalar: Any = None
        self._lines = text.splitlines()
        self._unused_anchors: dict[str, Position] = {}  # of values that are not in quotes
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
            value = self._node(loader.get_event(), 0, "")
            loader.get_event()  # the document's end
            for name, position in self._unused_anchors.items():
                message = f"nothing uses the anchor &{safe_name(name)}; {yaml_slips.begins_with('&')}"
                self.problems.append((position, "", message))
            if not loader.check_event(yaml.StreamEndEvent):
                position = _position(loader.get_event().start_mark)
                raise YamlError(position, "one document to a manifest, here a second starts")
            return value
        finally:
            loader.dispose()

    def _node(self, event: Any, depth: int, field: str) -> Any:
        """Read the node that begins with `event`.

        field: the nearest field above that holds prose, else the one that the node belongs to.
        """
        position = _position(event.start_mark)
        if depth > DEPTH_MAX:
            raise YamlError(position, f"nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, position)
        before = self._nodes
        self._nodes += 1
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            message = f"tags are not read: {safe_name(event.tag)}; {yaml_slips.begins_with('!')}"
            self.problems.append((position, "", message))
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, position)
            self._look_for_slips(event, position, field)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(position, depth, field)
        else:
            value = self._mapping(event, depth, field)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _look_for_slips(self, event: Any, position: Position, field: str) -> None:
        """Report valid YAML that is hardly what its author meant."""
        self.last_scalar = event
        if event.style:
            return
        if event.anchor is not None and event.value:
            self._unused_anchors[event.anchor] = position
        if field in _PROSE and (cut := _CUT.match(self._lines[event.end_mark.line], event.end_mark.column)):
            rest = cut[1] if len(cut[1]) <= _CUT_SHOWN_CHARS else cut[1][: _CUT_SHOWN_CHARS - 1] + "…"
            message = f"{safe_repr(rest)} is a comment and not part of the text; if it is meant, put the text in quotes"
            self.warnings.append(((event.end_mark.line + 1, cut.start(1) + 1), field, message))

    def _alias(self, name: str | None, position: Position) -> Any:
        # libyaml's parser does not check aliases; an anchor that is still open is missing here too, so nothing recurs.
        if name is None or name not in self._anchors:
            raise YamlError(
                position,
                f"the alias *{safe_name(name)} has no finished anchor before it; {yaml_slips.begins_with('*')}",
            )
        self._unused_anchors.pop(name, None)
        value, nodes = self._anchors[name]
        self._nodes += nodes
        self._alias_nodes += nodes
        if self._alias_nodes > ALIAS_NODES_MAX:
            raise YamlError(position, f"aliases expand to more than {ALIAS_NODES_MAX:,} values")
        return value

    def _scalar(self, event: Any, position: Position) -> Any:
        text: str = event.value
        if event.style or event.tag in _TEXT_TAGS:  # quoted, or tagged as text
            if event.tag == "!" and not event.style and " " in text:
                self.problems.append((position, "", yaml_slips.begins_with("!")))
            return text
        if len(text) > 1 and text[0] == "“" and text[-1] == "”":
            self.problems.append((position, "", "“ and ” are not YAML's quotes: write \" in their place"))
            return text[1:-1]
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

    def _sequence(self, position: Position, depth: int, field: str) -> Sequence:
        value = Sequence()
        value.position, value.marks = position, []
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.SequenceEndEvent):
                return value
            value.marks.append(_position(event.start_mark))
            value.append(self._node(event, depth + 1, field))

    def _mapping(self, start: Any, depth: int, field: str) -> Any:
        """Read a mapping; an unquoted template, which YAML takes for one, becomes the text that was meant."""
        value = Mapping()
        value.position, value.marks = _position(start.start_mark), {}
        merged: list[tuple[Any, Position]] = []
        problem_count = len(self.problems)
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.MappingEndEvent):
                break
            at = _position(event.start_mark)
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style
            key = self._key(event, depth, at)
            inner = self._node(self._loader.get_event(), depth + 1, field if field in _PROSE else str(key))
            if merge:
                merged.append((inner, at))
            elif isinstance(key, Mapping) and start.flow_style and at == (value.position[0], value.position[1] + 1):
                del self.problems[problem_count:]
                return self._bare_template(value.position)
            elif not isinstance(key, str):
                self.problems.append((at, "", f"a name must be text, not {safe_repr(key)}; put it in quotes"))
            elif key in value:
                first = value.marks[key][0]
                self.problems.append((at, safe_name(key), f"given twice in the same mapping, first in line {first}"))
            elif inner is None and start.flow_style and not self._has_colon(event.end_mark):
                self.problems.append((at, "", yaml_slips.without_value(safe_name(key))))
            else:
                value[key], value.marks[key] = inner, at
        for inner, at in merged:
            self._merge(value, inner, at)
        return value

    def _key(self, event: Any, depth: int, at: Position) -> Any:
        """Read a key. Raises YamlError where the spaces before it are not spaces to YAML, which changes all that
        follows."""
        if isinstance(event, yaml.ScalarEvent) and not event.style and _NOT_A_KEY.search(event.value):
            slip = yaml_slips.spacing_problem(self._lines[at[0] - 1])
            if slip is not None:
                raise YamlError((at[0], slip[0] + 1), f"not YAML: {slip[1]}")
        return self._node(event, depth + 1, "")

    def _has_colon(self, mark: Any) -> bool:
        """Whether a colon follows the key of a flow mapping that ends there, or may follow in the next line."""
        return self._lines[mark.line][mark.column :].lstrip()[:1] in ("", ":")

    def _bare_template(self, position: Position) -> str:
        """The text that was meant, up to the end of its line; the rest of the mapping is skipped."""
        depth = 1
        event: Any = None
        while depth:
            event = self._loader.get_event()
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        self.problems.append((position, "", yaml_slips.begins_with("{{")))
        end = event.end_mark.column if event.end_mark.line == position[0] - 1 else None
        return self._lines[position[0] - 1][position[1] - 1 : end]

    def _merge(self, value: Mapping, inner: Any, at: Position) -> None:
        """Apply `<<: *name`: take what is missing here from there. Source: yaml.org/type/merge.html."""
        for other in inner if isinstance(inner, Sequence) else [inner]:
            if not isinstance(other, Mapping):
                self.problems.append((at, "<<", "must name a mapping"))
                return
            for key, mark in other.marks.items():
                if key not in value:
                    value[key], value.marks[key] = other[key], mark


def _position(mark: Any) -> Position:
    return mark.line + 1, mark.column + 1


def _position_of_index(text: str, index: int) -> Position:
    before = text[: max(0, index)]
    return before.count("\n") + 1, index - before.rfind("\n")


def _as_written(number: int | float, text: str) -> int | float:
    if str(number) == text:
        return number
    kept = WrittenInt(number) if isinstance(number, int) else WrittenFloat(number)
    kept.written = text
    return kept
