"""JSON Lines, read as a stream: one object to a line, strict where the standard library is generous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

LINE_MAX_BYTES = 1_000_000
DEPTH_MAX = 64
_SPACE = re.compile(r"[ \t]*")


class LineError(Exception):
    """What is wrong with one line; column from 1, 0 when it is the whole line."""

    def __init__(self, message: str, column: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.field = field


class _DuplicateNameError(Exception):
    """A name that stands twice in one object."""


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
    """Line number from 1 and the line without its end. Nothing longer than the cap is ever held.

    A line beyond the cap comes as its first part, one byte too long; `decode` then says so. The rest is skipped.
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


def decode(line: bytes) -> str:
    """The text of a line. Raises LineError."""
    if len(line) > LINE_MAX_BYTES:
        raise LineError(f"a line of more than {LINE_MAX_BYTES:,} bytes")
    try:
        return line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise LineError("not UTF-8", len(line[: error.start].decode(errors="replace")) + 1) from None


def parse(text: str) -> Any:
    """The value of one line. Raises LineError; duplicate names, NaN, huge numbers and deep nesting are refused."""
    try:
        value, end = _scan(text, 0)
        if end == len(text) and text.count("[") + text.count("{") <= DEPTH_MAX:
            return value
    except StopIteration:
        pass  # leading space, or no JSON at all: the slow decoder knows
    except (ValueError, RecursionError, _DuplicateNameError):
        pass
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
    """Level by level, not by recursion."""
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
    """Column, from 1, of a name in the line's outer object; of the object itself when the name is not there."""
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
