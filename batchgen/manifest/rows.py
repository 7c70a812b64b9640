"""The rows of a `from:` file as sets of variables, read as a stream: a table, JSON Lines, or a text with one prompt on
each line."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from batchgen.manifest.diagnostics import safe_repr
from batchgen.manifest.sources import LINE_MAX_BYTES, LineError, decode_line, format_problem, parse_line, read_lines
from batchgen.manifest.tables import Line, RowError, cell_text, table_rows, text_lines
from batchgen.references.nearest import as_spelled, nearest_name
from batchgen.safe_open import MissingFileError, UnsafePathError, open_regular, resolve_inside

Row = tuple[int, dict[str, Any]]  # line from 1, variables
SHEET_MAX_BYTES = 500_000_000  # of a .xlsx file's parts, unpacked


def read_rows(folder: str, name: str) -> Iterator[Row]:
    """The rows of a file inside `folder`. Raises RowError at the first wrong one, for a table's ragged rows at its
    end."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in _READERS:
        raise RowError(0, f"{safe_repr(name)}: rows are read from .csv, .tsv, .xlsx, .jsonl and .txt files")
    try:
        file = open_regular(resolve_inside(folder, as_spelled(folder, name)))
    except UnsafePathError as problem:
        if isinstance(problem, MissingFileError):
            raise RowError(0, f"{safe_repr(name)}: {problem}{nearest_name(folder, name)}") from None
        raise RowError(0, f"{safe_repr(name)} {problem}") from None
    with file:
        if wrong := format_problem(file, suffix):
            raise RowError(1, wrong)
        yield from _READERS[suffix](file)


def _jsonl_rows(file: IO[bytes]) -> Iterator[Row]:
    for number, line in read_lines(file):
        try:
            text = decode_line(line).removeprefix("\ufeff" if number == 1 else "")
            if not text.strip():
                continue
            row = parse_line(text)
        except LineError as problem:
            raise RowError(number, problem.message, problem.column) from None
        if not isinstance(row, dict):
            raise RowError(number, f"must be a JSON object, not {safe_repr(row)}")
        yield number, row


def _prompt_rows(file: IO[bytes]) -> Iterator[Row]:
    """One prompt on each line, as the variable `prompt`."""
    for number, text in enumerate(_decoded(file), 1):
        if prompt := text.strip():
            yield number, {"prompt": prompt}


def _decoded(file: IO[bytes]) -> Iterator[str]:
    for number, line in read_lines(file):
        if len(line) > LINE_MAX_BYTES:
            raise RowError(number, f"a line of more than {LINE_MAX_BYTES:,} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise RowError(number, "not UTF-8; save the table as UTF-8 (in Excel: Save As, CSV UTF-8)") from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _sheet_lines(file: IO[bytes]) -> Iterator[Line]:
    """The lines of a .xlsx file's first sheet. Raises RowError."""
    try:
        import openpyxl  # an extra, and 0.2 s that most manifests do not need
    except ImportError:
        raise RowError(0, "reading .xlsx needs the extra 'excel', or save the sheet as CSV") from None
    try:
        if sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > SHEET_MAX_BYTES:
            raise RowError(0, f"unpacks to more than {SHEET_MAX_BYTES / 1e6:g} MB; save the sheet as CSV")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            yield number, [cell_text(value) for value in cells]
    except RowError:
        raise
    except Exception as error:  # the library raises whatever a broken file provokes
        raise RowError(0, f"is not a .xlsx file that can be read: {safe_repr(str(error)[:100])}") from None


_READERS = {
    ".csv": lambda file: table_rows(text_lines(_decoded(file), None)),
    ".tsv": lambda file: table_rows(text_lines(_decoded(file), "\t")),
    ".xlsx": lambda file: table_rows(_sheet_lines(file)),
    ".jsonl": _jsonl_rows,
    ".txt": _prompt_rows,
}
