"""`results.jsonl`: one line per item for people and `jq`, written from the ledger, from which it can be rebuilt at any
time."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from batchgen.errors import StoreError
from batchgen.ledger.samples import ItemIds, SampleQueries, format_utc
from batchgen.records import CURRENT_STATES, HAS_IMAGE, Result, Sample
from batchgen.store.spool import FILE_MODE, NO_FOLLOW, disk_error, sync_folder

RESULTS_FILE = "results.jsonl"
STATES_WORST_FIRST = (  # states of an item
    "running",
    "submitted",
    "uncertain",
    "failed",
    "refused",
    "rejected",
    "blocked",
    "wanted",
    "succeeded",
    "superseded",
)
MAX_LINES_CHECKED = 50  # enough to recognise the file
LINE_MAX_BYTES = 4_000_000
_LINE_START = b'{"id": '  # of every line that batchgen writes


def item_line(samples: list[Result]) -> dict[str, Any]:
    """The samples of one item as one object. state: the worst of them. usd: None if any price is unknown. accepted:
    whether all of them are."""
    first, said = samples[0], verdict_records(samples)
    worst = min(samples, key=lambda sample: STATES_WORST_FIRST.index(sample.state))
    prices = [sample.usd for sample in samples if sample.state in HAS_IMAGE]
    return {
        "id": first.id,
        "state": worst.state,
        "accepted": all(sample.accepted for sample in samples),
        "model": first.model,
        "files": [file.path for sample in samples for file in sample.files],
        "sha256": [file.sha256 for sample in samples for file in sample.files],
        "usd": round(sum(price or 0.0 for price in prices), 6) if None not in prices else None,
        "usd_source": first.usd_source,
        "reason": worst.reason,
        "message": worst.message,
        "sidecars": [path for sample in samples for path in sample.sidecars],
        "derivatives": [path for sample in samples for path in sample.derivatives],
        "flags": sorted({flag for sample in samples for file in sample.files for flag in file.flags}),
        "prompt": first.prompt,
        "tags": list(first.tags),
        "text": first.text,
        "updated_at": max(sample.updated_at for sample in samples),
        **({"verdicts": said} if said else {}),
    }


def verdict_records(samples: Iterable[Result]) -> list[dict[str, Any]]:
    """What was said about the images of these samples, as JSON. n: the sample's number, left out for the first."""
    fields = ("by", "name", "ruling", "reason", "message", "score")
    return [
        {
            **({"n": sample.n} if sample.n > 1 else {}),
            **{name: getattr(each, name) for name in fields},
            "at": format_utc(each.at),
        }
        for sample in samples
        for each in sample.verdicts
    ]


def group_by_item(samples: Iterable[Result]) -> Iterator[list[Result]]:
    """Consecutive samples grouped by item."""
    group: list[Result] = []
    for sample in samples:
        if group and group[0].id != sample.id:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


class ResultsFile:
    """Appends an item's line whenever one of its samples ends; `compact` leaves exactly one line per item.

    A line may occur twice while a run is going on (the later one counts). A crash leaves at worst a torn last line; the
    next run sees that the file was not closed properly and rebuilds it.
    """

    def __init__(self, job_folder: Path, reader: SampleQueries) -> None:
        self._path = job_folder / RESULTS_FILE
        self._reader = reader
        self._is_untidy = False  # lines may occur twice or in the order in which samples ended
        self._fd = -1

    def open(self, *, compacted: bool) -> None:
        """Open the file. compacted: what the ledger says about how the last run left it. Raises StoreError, also for a
        user's own file."""
        has_result_lines(self._path.parent)
        if not compacted:
            self.rebuild()
            self._is_untidy = True
        try:
            self._fd = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | NO_FOLLOW, FILE_MODE)
        except OSError as error:
            raise disk_error(error, str(self._path)) from error

    def append(self, sample: Sample, result: Result | None = None) -> None:
        """Append the current line of the sample's item. result: the result itself, if the caller has it.

        Several threads may call it: a line is one write. Raises StoreError.
        """
        if result is not None and sample.item.count == 1:
            self._append([result])
        else:
            self.append_item(sample.item.id)

    def append_item(self, item_id: str) -> None:
        """Append the item's line from the ledger. Raises StoreError."""
        self._append(self._reader.results_of_item(item_id))

    def _append(self, samples: list[Result]) -> None:
        if not samples:
            return
        self._is_untidy = True
        line = json.dumps(item_line(samples), ensure_ascii=False) + "\n"
        data = line.encode()
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError(errno.ENOSPC, "half a line")
        except OSError as error:
            raise disk_error(error, str(self._path)) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def compact(self, item_ids: ItemIds = tuple, *, rebuild: bool = False) -> None:
        """Leave one line per item, in the order of `item_ids`, durably, so that the ledger may say so. Cheap if nothing
        was written."""
        rebuild = rebuild or self._is_untidy
        try:
            if not rebuild:
                os.fsync(self._fd)
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        finally:
            self.close()
        if rebuild:
            self.rebuild(item_ids)
        sync_folder(str(self._path.parent))

    def rebuild(self, item_ids: ItemIds = tuple) -> None:
        """Write the file again from the ledger, in the order of `item_ids`, beside the old one, and rename it.
        Superseded items have no line. Raises StoreError, also for a user's own file."""
        has_result_lines(self._path.parent)
        temporary = self._path.with_name(f".{RESULTS_FILE}.new")  # always the same, so that a crash leaves at most one
        try:
            fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | NO_FOLLOW, FILE_MODE)
            with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
                for samples in group_by_item(self._reader.results_by_item(CURRENT_STATES, item_ids)):
                    file.write(json.dumps(item_line(samples), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(fd)
            os.replace(temporary, self._path)
        except OSError as error:
            raise disk_error(error, str(self._path)) from error


def results_order(job_folder: Path, meta: Callable[[str], str | None]) -> ItemIds:
    """The order in which everything shows the items: the manifest's, as the last run that ended properly left it in
    `results.jsonl`. meta: of the ledger. Without such a file, and while a run is going on, no items: then the ledger's
    order counts."""
    if (meta("results_tidy"), meta("results_order")) != ("yes", "manifest"):
        return tuple

    def item_ids() -> Iterator[str]:
        with suppress(OSError), open(job_folder / RESULTS_FILE, "rb") as file:
            for line in iter(lambda: file.readline(LINE_MAX_BYTES), b""):
                if is_result_line(found := _parse_line(line)):
                    yield found["id"]

    return item_ids


def is_result_line(found: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is a line that batchgen wrote: an item with its state, its cost, and as many hashes as
    files."""
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("id"), str)
        or found.get("state") not in STATES_WORST_FIRST
    ):
        return False
    files, hashes = found.get("files"), found.get("sha256")
    if not (isinstance(files, list) and isinstance(hashes, list) and len(files) == len(hashes)):
        return False
    return isinstance(found.get("usd"), int | float | None) and all(isinstance(text, str) for text in (*files, *hashes))


def has_result_lines(job_folder: Path) -> bool:
    """Whether the job folder has a `results.jsonl` that says what a run has made. One that batchgen wrote may also be
    empty, or contain half a line or zeros after a crash.

    Raises StoreError if the file is somebody else's: it would be overwritten.
    """
    path = job_folder / RESULTS_FILE
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise foreign_file_error(path)
        with open(path, "rb") as file:
            lines = list(islice(iter(lambda: file.readline(LINE_MAX_BYTES), b""), MAX_LINES_CHECKED))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise disk_error(error, str(path)) from None
    lines = [stripped for line in lines if (stripped := line.strip(b"\0\r\n "))]
    found = [_parse_line(line) for line in lines]
    if any(map(is_result_line, found)):
        return True
    torn = (
        len(lines) == 1 and found[0] is None and (lines[0].startswith(_LINE_START) or _LINE_START.startswith(lines[0]))
    )
    if lines and not torn:
        raise foreign_file_error(path)
    return False


def begins_like_ours(head: bytes) -> bool:
    """Whether a file with this beginning is a `results.jsonl` that batchgen may overwrite."""
    return not head or head.startswith(_LINE_START)


def foreign_file_error(path: Path) -> StoreError:
    """The error for somebody else's file under a name that batchgen would write."""
    return StoreError(
        f"{path} was not written by batchgen and would be written over: rename it, or choose another --output."
        " Nothing was sent"
    )


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
