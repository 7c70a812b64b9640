"""`batchgen export`: one row for each sample, for programs and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypedDict

from batchgen.cli import export_dataset
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import results_order, verdict_records
from batchgen.ledger.reviews import reviewed
from batchgen.records import CURRENT_STATES, Result
from batchgen.report import formatting
from batchgen.sanitize import printable_json, redact_secrets, sanitize
from batchgen.store.store import Store, open_store_of

# What a spreadsheet takes for the start of a formula (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SHARD_BYTES = 1_000_000_000


class VerdictRow(TypedDict):
    """What somebody said about a sample's image. at: UTC."""

    by: str
    name: str
    ruling: str
    reason: str
    message: str
    score: float | None
    at: str


class Row(TypedDict):
    """A sample in flat fields, the same in every format. file and the fields about it are null until there is an image;
    paths are relative to the job folder."""

    key: str
    id: str
    n: int
    state: str
    model: str
    file: str | None
    width: int | None
    height: int | None
    format: str | None
    bytes: int | None
    sha256: str | None
    flags: list[str]
    usd: float | None
    usd_source: str
    reason: str
    message: str
    attempts: int
    tags: list[str]
    prompt: str
    text: str
    fingerprint: str
    updated_at: str
    drafts: list[str]
    sidecars: list[str]
    derivatives: list[str]
    accepted: bool
    verdicts: list[VerdictRow]


def export_command(
    invocation: Invocation, job: str, output: str | None, form: str, target: str, shard_bytes: int | None
) -> None:
    folder = find_job(job, output).folder
    _check_target(form, target, shard_bytes)
    with reviewed(Reader.open(folder), folder) as reader:
        rows = map(row, reader.results_by_item(CURRENT_STATES, results_order(folder, reader.meta)))
        if form in ("jsonl", "csv"):
            lines = csv_lines if form == "csv" else jsonl_lines
            texts = (redact_secrets(line, invocation.out.secrets) for line in lines(rows))
            if target == "-":
                invocation.out.stream.writelines(_encodable(texts, invocation.out.stream))
                return
            written, noun = write_lines(target, texts) - (form == "csv"), "row"
        else:
            cleaned = (_clean(each, invocation.out.secrets) for each in rows)
            written = _write_dataset(form, target, cleaned, open_store_of(folder, reader), shard_bytes)
            noun = "row" if form == "parquet" else "image"
    invocation.err.line(f"{formatting.count(written, noun)} written to {target}")


def _check_target(form: str, target: str, shard_bytes: int | None) -> None:
    """Refuse a target that the format cannot be written to. Raises UsageError."""
    if shard_bytes is not None and form != "webdataset":
        raise UsageError("--shard-size is for --format webdataset")
    if form in ("jsonl", "csv", "parquet") and os.path.isdir(target):
        raise UsageError(f"--to {target}: is a folder: name a file, such as {os.path.join(target, f'images.{form}')}")
    if form in ("jsonl", "csv"):
        return
    if target == "-":
        raise UsageError(f"--format {form} writes a {'file' if form == 'parquet' else 'folder'}: name it with --to")
    if form != "parquet":
        export_dataset.refuse_taken_folder(target)


def _write_dataset(form: str, target: str, rows: Iterator[Row], store: Store, shard_bytes: int | None) -> int:
    if form == "parquet":
        return export_dataset.write_parquet(target, rows, Row)
    samples = (each for each in rows if each["file"] is not None)
    if form == "webdataset":
        return export_dataset.write_webdataset(target, samples, store, shard_bytes or SHARD_BYTES)
    return export_dataset.write_imagefolder(target, samples, store)


def _clean(found: Row, secrets: Iterable[str]) -> Row:
    """A row without keys, and without anything that UTF-8 cannot encode."""
    text = redact_secrets(json.dumps(found, ensure_ascii=False), secrets)
    cleaned: Row = json.loads(text.encode(errors="replace"))
    return cleaned


def row(result: Result) -> Row:
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
        "accepted": result.accepted,
        "verdicts": [
            {name: said[name] for name in VerdictRow.__annotations__}  # type: ignore[misc]
            for said in verdict_records([result])
        ],
    }


COLUMNS = tuple(Row.__annotations__)


def jsonl_lines(rows: Iterator[Row]) -> Iterator[str]:
    for each in rows:
        yield printable_json(each) + "\n"


def csv_lines(rows: Iterator[Row]) -> Iterator[str]:
    """Rows as CSV (RFC 4180) with a header; lists are joined by spaces."""
    yield _csv_line(COLUMNS)
    for each in rows:
        yield _csv_line(list(map(cell, each.values())))


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue()


def cell(value: Any) -> str:
    """A value that no spreadsheet takes for a formula and no terminal acts on. Numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        text = " ".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in value)
    else:
        text = str(value)
    safe = "\n".join(sanitize(line) for line in text.split("\n"))
    return f"'{safe}" if text.startswith(_FORMULA_STARTS) else safe


def _encodable(texts: Iterator[str], stream: TextIO) -> Iterator[str]:
    """Texts for a stream, with escapes for what an encoding other than UTF-8 lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encode: Callable[[str], str] = lambda text: text.encode(encoding, "backslashreplace").decode(encoding)  # noqa: E731
    return map(encode, texts)


def write_lines(target: str, texts: Iterator[str]) -> int:
    """Write texts, and return how many. Raises StoreError."""
    written = 0
    with export_dataset.replacing(target) as part, open(part, "x", encoding="utf-8", newline="") as file:
        for text in texts:
            file.write(text)
            written += 1
    return written
