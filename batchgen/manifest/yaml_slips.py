"""The most common mistakes in YAML, recognised by the line where reading stopped, each with its remedy. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchgen.manifest.diagnostics import Position

ODD_SPACES = "\u00a0\u2000-\u200b\u202f\u205f\u3000\ufeff"  # for a character class; YAML does not treat them as spaces
SMART_QUOTES = "“”„‟‘’«»"
BLOCK = "put the text in quotes, or write it as a block: `|` behind the colon, and the text indented below it"
_LINE = re.compile(r" *(?:- +)*(?:[\w.-]+: +)?(?=(?P<value>.?))")
_ODD_SPACE = re.compile(rf"^[ -]*[{ODD_SPACES}]|^ *(?:- +)*[\w.-]+:[{ODD_SPACES}]")
_NO_SPACE_BEHIND_COLON = re.compile(r" *(?:- +)*(?P<key>[A-Za-z_]\w*):(?=[^\s:/])")
_NO_SPACE_BEHIND_DASH = re.compile(r" *-(?=(?P<key>[A-Za-z_]\w*):)")
_BRACKET = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|(?:^| )#.*|[\[\]{}]""")  # quotes and comments are passed over
Slip = tuple[Position, str]  # where, and what is said about it


@dataclass(frozen=True, slots=True)
class BrokenYaml:
    """Where the parser stopped, and what it was reading.

    line, column: from 0. opened: the place, from 0, of the construct that could not be finished; (-1, 0) for none.
    scalar: the last scalar that was read, as an event of the parser.
    """

    lines: list[str]
    line: int
    column: int
    problem: str
    context: str
    opened: tuple[int, int]
    scalar: Any

    @property
    def text(self) -> str:
        return self.lines[self.line] if self.line < len(self.lines) else ""

    def char(self, line: int, column: int) -> str:
        """The character at a place, empty if there is none."""
        return self.lines[line][column : column + 1] if 0 <= line < len(self.lines) else ""

    def above(self) -> str:
        """The nearest line above that contains more than space or a comment."""
        found = (line for line in reversed(self.lines[: self.line]) if line.strip() and line.lstrip()[0] != "#")
        return next(found, "")


def explain(text: str, error: Any, scalar: Any) -> Slip | None:
    """Recognise a common mistake behind a parser's error that has a mark, None when there is none."""
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    if mark is None:
        return None
    place, lines, context = (opened.line, opened.column) if opened else (-1, 0), text.splitlines(), error.context or ""
    if context == "while parsing a flow node":  # which begins where reading stopped: something is missing before it
        place = _left_open(lines[: mark.line] + [line[: mark.column] for line in lines[mark.line : mark.line + 1]])
    broken = BrokenYaml(lines, mark.line, mark.column, error.problem or "", context, place, scalar)
    return next((slip for look in _SLIPS if (slip := look(broken)) is not None), None)


def _left_open(lines: list[str]) -> tuple[int, int]:
    """The place, from 0, of the last [ or { in these lines that is not closed in them, (-1, 0) for none."""
    opened = [(-1, 0)]
    for number, line in enumerate(lines):
        for found in _BRACKET.finditer(line):
            if found[0] in ("[", "{"):
                opened.append((number, found.start()))
            elif found[0] in ("]", "}") and len(opened) > 1:
                opened.pop()
    return opened[-1]


def without_value(key: str) -> str:
    return f"{key!r} has no value: in {{ }} a comma ends the text before it; put that text in quotes"


def begins_with(start: str) -> str:
    """Say what was meant by unquoted text that begins with a character YAML gives another meaning."""
    if start[0] in "|>":
        return f"behind {start} the text begins on the next line, further indented; or put it in quotes"
    if start[0] == "{" and len(start) > 1:
        return f"a value that begins with {start} must be in quotes as a whole, for {{ begins a mapping"
    return f"a text that begins with {start} must be in quotes, or be written as a block: `|`, and the text below it"


def spacing_problem(text: str) -> tuple[int, str] | None:
    """Describe what is wrong with the spaces of a line, with the column, from 0."""
    indent = text[: len(text) - len(text.lstrip(" \t"))]
    if "\t" in indent:
        return indent.index("\t"), "a tab in the indentation; YAML takes spaces only: replace it with spaces"
    if found := _ODD_SPACE.search(text):
        name = f"U+{ord(found[0][-1]):04X}"
        return found.end() - 1, f"a non-breaking or other odd space ({name}): type it again with the space bar"
    if found := _NO_SPACE_BEHIND_DASH.match(text):
        return found.end(), f"write a space behind the dash: `- {found['key']}: …`"
    if found := _NO_SPACE_BEHIND_COLON.match(text):
        return found.end(), f"write a space behind the colon: `{found['key']}: …`"
    return None


def _quote_left_open(broken: BrokenYaml) -> Slip | None:
    line, column = broken.opened
    if "quoted scalar" in broken.context and "unexpected" in broken.problem and (quote := broken.char(line, column)):
        return (line + 1, column + 1), f"the quote opened here is never closed: put {quote} at the end of its text"
    return None


def _escape(broken: BrokenYaml) -> Slip | None:
    if "quoted scalar" not in broken.context and "double-quoted" not in broken.context:
        return None
    if (at := broken.text.rfind("\\", 0, broken.column + 1)) < 0:
        return None
    shown = broken.text[at : at + 2]
    return (
        (broken.line + 1, at + 1),
        f"in double quotes {shown} begins an escape: write / in a path, or use single quotes",
    )


def _text_behind_quotes(broken: BrokenYaml) -> Slip | None:
    scalar = broken.scalar
    if scalar is None or scalar.style not in ("'", '"') or scalar.end_mark.line != broken.line:
        return None
    end, rest = scalar.end_mark.column, broken.text[broken.column : broken.column + 1]
    if broken.text[end : broken.column].strip() or rest in ("", "'", '"'):
        return None
    if scalar.start_mark.line != broken.line:
        start = (scalar.start_mark.line + 1, scalar.start_mark.column + 1)
        return (
            start,
            f"the quote opened here ends only in line {broken.line + 1}: is a {scalar.style} missing at the end of its text?",
        )
    inside = "''" if scalar.style == "'" else '\\"'
    other = '"…"' if scalar.style == "'" else "'…'"
    message = f"more text behind a closing quote: put the whole text in quotes, a {scalar.style} in it as {inside}, or use {other}"
    return (broken.line + 1, end + 1), message


def _spacing(broken: BrokenYaml) -> Slip | None:
    """Say what was meant where this line, the one above or the one where the construct began is oddly spaced.

    The parser only notices such a slip here.
    """
    above = max((n for n in range(broken.line) if broken.lines[n].strip()), default=-1)
    for line in dict.fromkeys((broken.line, broken.opened[0], above)):
        if 0 <= line < len(broken.lines) and (found := spacing_problem(broken.lines[line])) is not None:
            return (line + 1, found[0] + 1), found[1]
    return None


def _special_start(broken: BrokenYaml) -> Slip | None:
    text, entry = broken.text, _LINE.match(broken.text)
    start = entry.end() if entry else 0
    first, two = text[start : start + 1], text[start : start + 2]
    here = text[broken.column : broken.column + 1]
    position = (broken.line + 1, start + 1)
    if first and first in SMART_QUOTES:
        return position, f"{first} is not one of YAML's quotes: write \" in place of “ and ”"
    if two in ("{{", "{%", "{#") and start <= broken.column:
        return position, begins_with(two)
    if here and here in "@`%" and "start any token" in broken.problem:
        return (broken.line + 1, broken.column + 1), begins_with(here)
    if start > broken.column or not first:
        return None
    if (
        (first in "&*!" and any(kind in broken.context for kind in ("anchor", "alias", "tag")))
        or (first in "|>" and "block scalar" in broken.context)
        or (first in "-?" and "not allowed" in broken.problem and start == broken.column)
        or (first in "[{" and "flow" not in broken.context and start < broken.column)
    ):
        return position, begins_with(first)
    return None


def _colon_in_text(broken: BrokenYaml) -> Slip | None:
    entry = _LINE.match(broken.text)
    if broken.text[broken.column : broken.column + 1] != ":" or entry is None or entry.end() > broken.column:
        return None
    if entry.end() == len(broken.text) - len(broken.text.lstrip(" -")) and "flow" not in broken.context:
        return None  # it is the line's own colon
    return (broken.line + 1, broken.column + 1), f"`: ` in a text that is not in quotes: {BLOCK}"


def _bracket_left_open(broken: BrokenYaml) -> Slip | None:
    line, column = broken.opened
    if "flow" not in broken.context or (opened := broken.char(line, column)) not in ("[", "{"):
        return None
    closing = "]" if opened == "[" else "}"
    where = f"the {opened} opened in line {line + 1}, column {column + 1}"
    if line < broken.line:
        return (broken.line + 1, broken.column + 1), f"{where}, is not closed: put {closing} behind its last element"
    message = f"{where}, is not understood: between {opened} and {closing}, put texts in quotes and a comma between two"
    return (broken.line + 1, broken.column + 1), message


def _indentation(broken: BrokenYaml) -> Slip | None:
    text = broken.text
    indent = len(text) - len(text.lstrip(" "))
    at = (broken.line + 1, indent + 1)
    above = broken.above()
    above_indent = len(above) - len(above.lstrip(" "))
    if text[indent : indent + 2] == "- " and broken.column == indent:
        if above.rstrip().endswith(":"):
            key = above.strip(" -:")
            return at, f"the list below `{key}:` is indented by {indent}: indent it further than `{key}:`"
        dashes = [line for line in broken.lines[: broken.line] if line.lstrip(" ").startswith("- ")]
        if dashes:
            wanted = len(dashes[-1]) - len(dashes[-1].lstrip(" "))
            return at, f"this `-` is indented by {indent}, the one above by {wanted}: indent all of one list alike"
    own_key = re.match(r" *[\w.-]+:(?: |$)", text) is not None
    if "expected ':'" in broken.problem or (text.strip() and not own_key and "expected" in broken.problem):
        line = broken.opened[0] if "simple key" in broken.context else broken.line
        return (
            (line + 1, 1),
            f"neither `name: value` nor the rest of a text: indent it further than what it belongs to, or {BLOCK}",
        )
    if own_key:
        fields = len(above) - len(above.lstrip(" -")) if above.lstrip().startswith("- ") else above_indent
        return (
            at,
            f"indented by {indent}, the field above by {fields}: let the fields of one item begin in the same column",
        )
    return None


_SLIPS: tuple[Callable[[BrokenYaml], Slip | None], ...] = (
    _quote_left_open,
    _text_behind_quotes,
    _escape,
    _special_start,
    _colon_in_text,
    _spacing,
    _bracket_left_open,
    _indentation,
)
