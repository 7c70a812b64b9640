"""Rows of a `from:` file as sets of variables, read as a stream: CSV, TSV or JSON Lines."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from typing import IO, Any

from batchgen.manifest import jsonl
from batchgen.manifest.diagnostics import safe_repr, text_problem
from batchgen.safe_open import UnsafePathError, open_regular, resolve_inside

Row = tuple[int, dict[str, Any]]  # line from 1, variables
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


class RowError(ValueError):
    """What is wrong with a file of rows; line 0 when it is the whole file."""

    def __init__(self, line: int, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


def read_rows(folder: str, name: str) -> Iterator[Row]:
    """The rows of a file inside `folder`. Raises RowError at the first that is wrong."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix != ".jsonl" and suffix not in _SEPARATORS:
        raise RowError(0, f"{safe_repr(name)}: rows are read from .csv, .tsv and .jsonl files")
    try:
        file = open_regular(resolve_inside(folder, name))
    except UnsafePathError as problem:
        raise RowError(0, f"{safe_repr(name)} {problem}") from None
    with file:
        yield from _jsonl_rows(file) if suffix == ".jsonl" else _csv_rows(file, _SEPARATORS[suffix])


def _jsonl_rows(file: IO[bytes]) -> Iterator[Row]:
    for number, line in jsonl.read_lines(file):
        try:
            text = jsonl.decode(line).removeprefix("\ufeff" if number == 1 else "")
            if not text.strip():
                continue
            row = jsonl.parse(text)
        except jsonl.LineError as problem:
            raise RowError(number, problem.message, problem.column) from None
        if not isinstance(row, dict):
            raise RowError(number, f"must be a JSON object, not {safe_repr(row)}")
        yield number, row


def _csv_rows(file: IO[bytes], separator: str) -> Iterator[Row]:
    reader = csv.reader(_csv_lines(file), delimiter=separator, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if cells and names is None:
                names = _column_names(cells, line)
            elif cells and names is not None:
                yield line, _row(names, cells, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise RowError(reader.line_num, f"not CSV: {error}") from None


def _csv_lines(file: IO[bytes]) -> Iterator[str]:
    for number, line in jsonl.read_lines(file):
        if len(line) > jsonl.LINE_MAX_BYTES:
            raise RowError(number, f"a line of more than {jsonl.LINE_MAX_BYTES:,} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise RowError(number, "not UTF-8; save the table as UTF-8") from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _column_names(cells: list[str], line: int) -> list[str]:
    """Column titles as variables: `Product name` becomes Product_name."""
    names = [re.sub(r"\W+", "_", cell.strip()).strip("_") for cell in cells]
    for index, name in enumerate(names):
        if not name.isidentifier():
            raise RowError(
                line, f"column {index + 1} needs a title that starts with a letter, not {safe_repr(cells[index])}"
            )
        if name in names[:index]:
            raise RowError(line, f"two columns are called {name!r}")
    return names


def _row(names: list[str], cells: list[str], line: int) -> dict[str, str]:
    if len(cells) != len(names):
        raise RowError(line, f"has {len(cells)} cells, the header has {len(names)}")
    for name, cell in zip(names, cells, strict=True):
        if why := text_problem(cell):
            raise RowError(line, f"{name} {why}")
    return dict(zip(names, cells, strict=True))
