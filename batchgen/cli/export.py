"""`batchgen export`: one row for each sample, for programs and spreadsheets."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.errors import StoreError
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import results_order
from batchgen.records import CURRENT_STATES, Result
from batchgen.report import formatting
from batchgen.sanitize import printable_json, redact_secrets, sanitize

# What a spreadsheet takes for the start of a formula (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def export_command(invocation: Invocation, job: str, output: str | None, form: str, target: str) -> None:
    folder = find_job(job, output).folder
    secrets = invocation.out.secrets
    lines = csv_lines if form == "csv" else jsonl_lines
    with Reader.open(folder) as reader:
        texts = (
            redact_secrets(line, secrets)
            for line in lines(
                row(result) for result in reader.results_by_item(CURRENT_STATES, results_order(folder, reader.meta))
            )
        )
        if target == "-":
            invocation.out.stream.writelines(_encodable(texts, invocation.out.stream))
            return
        written = write_atomically(target, texts)
    invocation.err.line(f"{formatting.count(written - (form == 'csv'), 'row')} written to {target}")


def row(result: Result) -> dict[str, Any]:
    """A sample in flat fields. file and what belongs to it are null until there is an image."""
    image = result.image
    return {
        "key": result.key,
        "id": result.id,
        "n": result.n,
        "state": result.state,
        "model": result.model,
        "file": image.path if image else None,
        "width": result.width,
        "height": result.height,
        "format": image.format if image else None,
        "bytes": image.bytes if image else None,
        "sha256": image.sha256 if image else None,
        "flags": list(image.flags) if image else [],
        "usd": result.usd,
        "usd_source": result.usd_source,
        "reason": result.reason,
        "message": result.message,
        "attempts": result.attempts,
        "tags": list(result.tags),
        "prompt": result.prompt,
        "text": result.text,
        "fingerprint": result.fingerprint,
        "updated_at": result.updated_at,
        "drafts": [file.path for file in result.files if file.role != "image"],
        "sidecars": list(result.sidecars),
        "derivatives": list(result.derivatives),
    }


COLUMNS = tuple(row(Result(id="", n=0, state="wanted", model="")))


def jsonl_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for each in rows:
        yield printable_json(each) + "\n"


def csv_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """RFC 4180 with a header; lists are joined by spaces."""
    yield _csv_line(COLUMNS)
    for each in rows:
        yield _csv_line([cell(each[name]) for name in COLUMNS])


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue()


def cell(value: Any) -> str:
    """A value that no spreadsheet takes for a formula and no terminal acts upon. Numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    text = " ".join(value) if isinstance(value, list) else str(value)
    safe = "\n".join(sanitize(line) for line in text.split("\n"))
    return f"'{safe}" if text.startswith(_FORMULA_STARTS) else safe


def _encodable(texts: Iterator[str], stream: TextIO) -> Iterator[str]:
    """A stream of another encoding than UTF-8 gets escapes instead of an exception."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encode: Callable[[str], str] = lambda text: text.encode(encoding, "backslashreplace").decode(encoding)  # noqa: E731
    return map(encode, texts)


def write_atomically(target: str, texts: Iterator[str]) -> int:
    """Write beside and rename, so that a reader never sees half a file. Answers how many lines. Raises StoreError."""
    temp_path = f"{target}.{os.getpid()}.part"
    written = 0
    try:
        with open(temp_path, "x", encoding="utf-8", newline="") as file:
            for text in texts:
                file.write(text)
                written += 1
        os.replace(temp_path, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temp_path)
        raise StoreError(f"{target}: {error.strerror or error}") from None
    return written
