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

RESULTS = "results.jsonl"
WORST_FIRST = (  # states of an item
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
NAMED = 3  # pictures in a message
LINES_LOOKED_AT = 50  # to know the file again
LINE_MOST_BYTES = 4_000_000
_BEGINNING = b'{"id": '  # of every line of ours


def is_line(found: object) -> bool:
    """Whether this, read from JSON, is a line of ours: an item with its state, its cost, and as many hashes as files."""
    if not isinstance(found, dict) or not isinstance(found.get("id"), str) or found.get("state") not in WORST_FIRST:
        return False
    files, hashes = found.get("files"), found.get("sha256")
    if not (isinstance(files, list) and isinstance(hashes, list) and len(files) == len(hashes)):
        return False
    return isinstance(found.get("usd"), int | float | None) and all(isinstance(text, str) for text in (*files, *hashes))


def has_lines(job_folder: Path) -> bool:
    """Whether the job folder has a `results.jsonl` that says what a run has made. One of ours may also be empty, or hold
    half a line or zeros after a crash.

    Raises StoreError when something stands there that is not ours: it would be written over.
    """
    path = job_folder / RESULTS
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise foreign(path)
        with open(path, "rb") as file:
            lines = list(islice(iter(lambda: file.readline(LINE_MOST_BYTES), b""), LINES_LOOKED_AT))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise disk_error(error, str(path)) from None
    lines = [stripped for line in lines if (stripped := line.strip(b"\0\r\n "))]
    found = [_read(line) for line in lines]
    if any(map(is_line, found)):
        return True
    torn = len(lines) == 1 and found[0] is None and (lines[0].startswith(_BEGINNING) or _BEGINNING.startswith(lines[0]))
    if lines and not torn:
        raise foreign(path)
    return False


def foreign(path: Path) -> StoreError:
    """For a file of somebody else's under a name that we would write."""
    return StoreError(
        f"{path} was not written by batchgen and would be written over: rename it, or choose another --output."
        " Nothing was sent"
    )


def _read(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def lost_ledger(folder: str | Path, found: str, job: str) -> LedgerError:
    """found: what lies there, in words; job: as `batchgen verify` takes it."""
    return LedgerError(
        f"there is no ledger in {folder}, but {found}. Either the ledger is lost or .batchgen/ was not copied along; a run would"
        " buy again what is there already. Put .batchgen/ back, name the server if the ledger is on one (--ledger), or build a"
        f" new ledger from what is there: `batchgen verify {job} --repair`. To start over, and to pay again, choose another"
        " --output"
    )


def verify_words(manifest: str, output: str | Path, usual: str | Path) -> str:
    """What `batchgen verify` has to be told to mean this job. usual: where the manifest's job is without an --output."""
    return shlex.join([manifest, *([] if str(output) == str(usual) else ["--output", str(output)])])


def named(paths: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return f"{', '.join(paths[:NAMED])}{more}"


def found_in(folder: Path) -> str:
    """What in a folder says that a run has paid for something there, in words; empty when nothing does. Raises StoreError as
    `has_lines` does."""
    if has_lines(folder):
        return f"{RESULTS} there says what a run has made"
    for path in sorted(folder.glob(f"{STATE_FOLDER}/spool*/*")):
        if is_picture(path):
            return f"a picture that was paid for lies in {path.parent}"
    if any(folder.glob(f"{STATE_FOLDER}/unread/[0-9]*")):
        return f"answers that were paid for lie in {folder / STATE_FOLDER / 'unread'}"
    return ""


def lost_in(folder: Path, job: str = "") -> LedgerError | None:
    """For a folder without a ledger: the error when it says that a run has paid for something there."""
    with contextlib.suppress(StoreError):  # a user's own file
        if found := found_in(folder):
            return lost_ledger(folder, found, job or shlex.quote(str(folder)))
    return None


def no_ledger(folder: Path, otherwise: str, job: str = "") -> LedgerError:
    """The error for a command that needs a ledger. otherwise: what is said of a folder in which nothing has run."""
    if (lost := lost_in(folder, job)) is not None:
        return lost
    pictures = sorted(_pictures_in(folder))
    if pictures:
        otherwise = (
            f"{otherwise}. There are pictures in it ({named(pictures)}): if batchgen made them, its ledger is lost, and"
            " `batchgen verify MANIFEST --repair` builds a new one"
        )
    return LedgerError(f"no ledger in {folder}: {otherwise}")


def _pictures_in(folder: Path) -> list[str]:
    endings = tuple(EXTENSION.values())
    with contextlib.suppress(OSError):
        return [entry.name for entry in os.scandir(folder) if entry.name.endswith(endings) and is_picture(entry.path)]
    return []
