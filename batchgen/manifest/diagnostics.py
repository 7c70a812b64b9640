"""What is said about a wrong manifest: the collected problems, and how values and names are shown without harm."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from batchgen.errors import ManifestError, Problem

PROBLEMS_MAX = 20
# Google API keys ("AIza…", and "AQ.…" since 2025) and the "sk-…" form that most other vendors use.
API_KEY_PATTERN = re.compile(r"(?<![A-Za-z0-9])(?:AIza[0-9A-Za-z_-]{30,}|AQ\.[0-9A-Za-z_-]{30,}|sk-[0-9A-Za-z_-]{16,})")
USERINFO_PATTERN = re.compile(r"//[^/\s]*@")  # of an address: a name and perhaps a password


class Diagnostics:
    """All problems of one reading. Keeps the first twenty and counts the rest: a million bad lines fit."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.total = 0
        self.problems: list[Problem] = []  # in the order they were found

    def add(self, position: tuple[int, int], field: str, message: str) -> None:
        """position: line and column, from 1; 0 where there is none."""
        self.total += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(self.file, position[0], position[1], field, message))

    def raise_if_any(self) -> None:
        if self.total:
            raise ManifestError(sorted(self.problems, key=lambda p: (p.line, p.column)), self.total)


def fatal_error(file: str, message: str, position: tuple[int, int] = (0, 0)) -> ManifestError:
    """The one problem that makes reading on pointless."""
    return ManifestError([Problem(file, position[0], position[1], "", message)])


def looks_like_key(text: str) -> bool:
    return API_KEY_PATTERN.search(text) is not None


def safe_repr(value: Any) -> str:
    """A value as a message may show it: short, without control characters or bidi overrides, never a key or password."""
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
            text = repr(value) if isinstance(value, float) or abs(value) < 10**20 else "very large"
            return f"the number {text}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return type(value).__name__


def safe_name(name: object) -> str:
    """A field's name as a message may show it."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 60 and not looks_like_key(text) else safe_repr(text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A trailing ` (did you mean 'x'?)`, or nothing."""
    # difflib is quadratic in the word: a name of a megabyte is nobody's slip of the finger.
    suggestion = difflib.get_close_matches(word.casefold(), list(known), n=1, cutoff=0.6) if len(word) <= 60 else []
    return f" (did you mean {suggestion[0]!r}?)" if suggestion else ""


def iter_strings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
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
