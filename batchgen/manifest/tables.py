"""Tables as people save them, read as a stream of rows: comma, semicolon or tab, a `sep=` line, blank rows, columns
without a title; and sheets of .xlsx files.

A cell is text, as it was written. A title becomes a variable: `Product name` is Product_name.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import Any

from batchgen.manifest.diagnostics import text_problem

Line = tuple[int, list[str]]  # its number from 1, its cells
SEPARATORS = (",", ";", "\t")
NAMED_AT_MOST = 10  # lines in one message


class EmptyCell(str):
    """An empty cell: a whole field that prints it counts as not given, a text that prints it has a hole."""


class DuplicateColumn:
    """The value of a column whose title occurs twice: a mistake only if a template prints it."""

    def __init__(self, name: str) -> None:
        self.name = name


class RowError(ValueError):
    """What is wrong with a file of rows; line 0 means the whole file."""

    def __init__(self, line: int, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


def table_rows(lines: Iterable[Line]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows below the first non-blank line, which has the titles. Raises RowError, at the end for all rows of a
    wrong length together."""
    filled = ((number, cells) for number, cells in lines if any(cell.strip() for cell in cells))
    titles = next(filled, None)
    if titles is None:
        return
    names = column_names(titles[1])
    ragged = []
    for number, cells in filled:
        while len(cells) > len(titles[1]) and not cells[-1].strip():
            cells.pop()
        if len(cells) == len(titles[1]):
            yield number, _row(names, cells, number)
        else:
            ragged.append((number, len(cells)))
    if ragged:
        raise _ragged_error(ragged, len(titles[1]))


def column_names(cells: list[str]) -> list[str]:
    """The variable of each column; '' if the title cannot name a variable, so that only columns in use need one."""
    names = [re.sub(r"\W+", "_", cell.strip()).strip("_") for cell in cells]
    return [name if name.isidentifier() else "" for name in names]


def _row(names: list[str], cells: list[str], number: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        if name:
            if why := text_problem(cell):
                raise RowError(number, f"{name} {why}")
            row[name] = DuplicateColumn(name) if name in row else cell if cell.strip() else EmptyCell()
    return row


def _ragged_error(ragged: list[tuple[int, int]], wanted: int) -> RowError:
    first, cells = ragged[0]
    message = f"has {cells} cell{'' if cells == 1 else 's'}, the header has {wanted}"
    if others := [str(number) for number, _ in ragged[1:]]:
        shown = ", ".join(others[:NAMED_AT_MOST])
        more = f" and {len(others) - NAMED_AT_MOST:,} more" if len(others) > NAMED_AT_MOST else ""
        message += f"; the same is wrong with line{'' if len(others) == 1 else 's'} {shown}{more}"
    hint = '; put a cell that holds the separator in "double quotes"' if cells > wanted else ""
    return RowError(first, message + hint)


def text_lines(texts: Iterator[str], separator: str | None) -> Iterator[Line]:
    """The lines of a CSV file. separator: None to detect it from the first line. Raises RowError."""
    started, first = next(((number, text) for number, text in enumerate(texts, 1) if text.strip()), (1, ""))
    if found := re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE):
        separator, first, started = found[1], "", started + 1
    reader = csv.reader(
        itertools.chain([first] if first else [], texts), delimiter=separator or _separator_of(first), strict=True
    )
    number = started
    try:
        for cells in reader:
            yield number, cells
            number = started + reader.line_num
    except csv.Error as error:
        raise RowError(started - 1 + reader.line_num, f"not CSV: {error}") from None


def _separator_of(header: str) -> str:
    outside_quotes = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=outside_quotes.count)


def cell_text(value: Any) -> str:
    """A cell as a person reads it: 10, not 10.0; a date without its midnight."""
    match value:
        case None:
            return ""
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case date() | time():
            return value.isoformat()
        case float() if value.is_integer():
            return str(int(value))
    return str(value)
