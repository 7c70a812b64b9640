"""A ledger that is missing while what it recorded still lies there: how that is seen, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from batchgen.errors import LedgerError, StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.store.sniff import EXTENSION, is_picture
from batchgen.store.spool import disk_error

RESULTS_FILE = "results.jsonl"
STATES_WORST_FIRST = (  # states of an item
    "running",
    "submitted",
    "uncertain",
    "failed",
    "refused",
    "blocked",
    "wanted",
    "succeeded",
    "superseded",
)
MAX_NAMED = 3  # pictures in a message
MAX_LINES_CHECKED = 50  # to know the file again
LINE_MAX_BYTES = 4_000_000
_LINE_START = b'{"id": '  # of every line of ours


def is_result_line(found: object) -> bool:
    """Whether this, read from JSON, is a line of ours: an item with its state, its cost, and as many hashes as files."""
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
    """Whether the job folder has a `results.jsonl` that says what a run has made. One of ours may also be empty, or hold
    half a line or zeros after a crash.

    Raises StoreError when something stands there that is not ours: it would be written over.
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


def foreign_file_error(path: Path) -> StoreError:
    """For a file of somebody else's under a name that we would write."""
    return StoreError(
        f"{path} was not written by batchgen and would be written over: rename it, or choose another --output."
        " Nothing was sent"
    )


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def lost_ledger_error(folder: str | Path, found: str, job: str) -> LedgerError:
    """found: what lies there, in words; job: as `batchgen verify` takes it."""
    return LedgerError(
        f"there is no ledger in {folder}, but {found}. Either the ledger is lost or .batchgen/ was not copied along; a run would"
        " buy again what is there already. Put .batchgen/ back, name the server if the ledger is on one (--ledger), or build a"
        f" new ledger from what is there: `batchgen verify {job} --repair`. To start over, and to pay again, choose another"
        " --output"
    )


def verify_arguments(manifest: str, output: str | Path, usual: str | Path) -> str:
    """What `batchgen verify` has to be told to mean this job. usual: where the manifest's job is without an --output."""
    return shlex.join([manifest, *([] if str(output) == str(usual) else ["--output", str(output)])])


def list_some(paths: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
    return f"{', '.join(paths[:MAX_NAMED])}{more}"


def evidence_of_a_run(folder: Path) -> str:
    """What in a folder says that a run has paid for something there, in words; empty when nothing does. Raises StoreError as
    `has_result_lines` does."""
    if has_result_lines(folder):
        return f"{RESULTS_FILE} there says what a run has made"
    for path in sorted(folder.glob(f"{STATE_FOLDER}/spool*/*")):
        if is_picture(path):
            return f"a picture that was paid for lies in {path.parent}"
    if any(folder.glob(f"{STATE_FOLDER}/unread/[0-9]*")):
        return f"answers that were paid for lie in {folder / STATE_FOLDER / 'unread'}"
    return ""


def lost_ledger_in(folder: Path, job: str = "") -> LedgerError | None:
    """For a folder without a ledger: the error when it says that a run has paid for something there."""
    with contextlib.suppress(StoreError):  # a user's own file
        if found := evidence_of_a_run(folder):
            return lost_ledger_error(folder, found, job or shlex.quote(str(folder)))
    return None


def no_ledger_error(folder: Path, explanation: str, job: str = "") -> LedgerError:
    """The error for a command that needs a ledger. explanation: what is said of a folder in which nothing has run."""
    if (lost := lost_ledger_in(folder, job)) is not None:
        return lost
    pictures = sorted(_picture_names(folder))
    if pictures:
        explanation = (
            f"{explanation}. There are pictures in it ({list_some(pictures)}): if batchgen made them, its ledger is lost, and"
            " `batchgen verify MANIFEST --repair` builds a new one"
        )
    return LedgerError(f"no ledger in {folder}: {explanation}")


def _picture_names(folder: Path) -> list[str]:
    endings = tuple(EXTENSION.values())
    with contextlib.suppress(OSError):
        return [entry.name for entry in os.scandir(folder) if entry.name.endswith(endings) and is_picture(entry.path)]
    return []
