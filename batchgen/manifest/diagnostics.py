"""What is said about a wrong manifest: the collected problems, and how to show values and names safely."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from batchgen.errors import ManifestError, Problem

FieldPath = tuple[str | int, ...]  # the names and indexes that lead to a field
Position = tuple[int, int]  # line and column, from 1; 0 if there is none
Remark = tuple[Position, str, str]  # position, field, message
PROBLEMS_MAX = 20
_ITEMS_SHOWN = 4  # for one mistake
_KINDS_MAX = 2000  # distinguished from one another, after which each counts by itself
# Google API keys ("AIza…", and "AQ.…" since 2025) and the "sk-…" form that most other vendors use.
API_KEY_PATTERN = re.compile(r"(?<![A-Za-z0-9])(?:AIza[0-9A-Za-z_-]{30,}|AQ\.[0-9A-Za-z_-]{30,}|sk-[0-9A-Za-z_-]{16,})")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
USERINFO_PATTERN = re.compile(r"//[^/\s]*@")  # a name and perhaps a password in an address


class Diagnostics:
    """All problems of one reading, one for each mistake, however many items have it. Keeps the first twenty and counts
    the rest, so that a million bad lines fit."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.total = 0
        self._found: list[Problem] = []  # in the order in which they were found
        self._numbers: dict[Remark, int] = {}  # of mistakes
        self._hits: Counter[int] = Counter()  # by number: how many items have it
        self._items: dict[int, list[str]] = {}  # the first of them, if a message has to say where they are

    def add(self, position: Position, field: str, message: str, *, item: str = "", kind: str = "") -> None:
        """Add a problem. item: where the item with it is, if that is elsewhere. kind: of the mistake, the same for all
        messages about one at this place; default the message."""
        number = self._numbers.get((position, field, kind or message), self.total)
        if number == self.total:
            if len(self._numbers) < _KINDS_MAX:
                self._numbers[position, field, kind or message] = number
            self.total += 1
            if number < PROBLEMS_MAX:
                self._found.append(Problem(self.file, position[0], position[1], field, message))
        if number < PROBLEMS_MAX:
            self._hits[number] += 1
            shown = self._items.setdefault(number, [])
            if item and item not in shown and len(shown) < _ITEMS_SHOWN:
                shown.append(item)

    @property
    def problems(self) -> list[Problem]:
        return [self._with_items(number, problem) for number, problem in enumerate(self._found)]

    def _with_items(self, number: int, problem: Problem) -> Problem:
        shown = self._items.get(number, [])
        more = self._hits[number] - max(1, len(shown))
        words = [*shown, *([f"and {more:,} more item{'s' * (more > 1)}"] if more else [])]
        return replace(problem, message=f"{problem.message} ({', '.join(words)})") if words else problem

    def place(self, line: int) -> str:
        """Where an entry is, in a message's words."""
        return f"{self.file}:{line}"

    def raise_if_any(self) -> None:
        if self.total:
            raise ManifestError(sorted(self.problems, key=lambda p: (p.line, p.column)), self.total)


def fatal_error(file: str, message: str, position: Position = (0, 0)) -> ManifestError:
    """The one problem that makes further reading pointless."""
    return ManifestError([Problem(file, position[0], position[1], "", message)])


def without_values(message: str) -> str:
    """The part of messages that is the same although they quote different values."""
    return _QUOTED.sub("", message)


def looks_like_key(text: str) -> bool:
    return API_KEY_PATTERN.search(text) is not None


def safe_repr(value: Any) -> str:
    """A value in a form that a message may show: short, without control characters or bidi overrides, never a key or
    password."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            if looks_like_key(value):
                return "(not shown: it looks like an API key)"
            value = USERINFO_PATTERN.sub("//…@", value)
            return repr(value if len(value) <= 60 else value[:59] + "…")
        case int() | float():
            return f"the number {value!r}" if isinstance(value, float) or abs(value) < 10**20 else "a very large number"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


def safe_name(name: object) -> str:
    """A field's name in a form that a message may show."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 60 and not looks_like_key(text) else safe_repr(text)


def path_text(path: FieldPath) -> str:
    """A path in a message's words: `matrix.colour[2]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{safe_name(step)}" for step in path).removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A trailing ` (did you mean 'x'?)`, or nothing."""
    # difflib is quadratic in the word: a name of a megabyte is not a typo.
    suggestion = difflib.get_close_matches(word.casefold(), list(known), n=1, cutoff=0.6) if len(word) <= 60 else []
    return f" (did you mean {suggestion[0]!r}?)" if suggestion else ""


def iter_strings(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """Every string inside nested lists and mappings, keys included, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), key
            yield from iter_strings(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from iter_strings(inner, (*path, index))


def text_problem(text: str) -> str | None:
    """Why a text cannot go into a request or a file name at all."""
    if "\x00" in text:
        return "holds a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is not a character"
    return None
