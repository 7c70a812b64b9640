"""Answers that were paid for and became no image: kept whole, so that they can be read again without buying again.

Each has a folder, `.batchgen/unread/ATTEMPT/`: `envelope`, the decoded strings by number, and `answer.json` with the
rest. Nothing is deleted here before its sample has an image; `status` says how much there is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.ledger.schema import STATE_FOLDER
from batchgen.records import Response
from batchgen.store.job_folder import JobFolder
from batchgen.store.spool import SpoolFile, disk_error, sync_folder

UNPARSED_FOLDER = "unread"
ANSWER = "answer.json"
ENVELOPE = "envelope"
PARTIAL_SUFFIX = ".part"
SECRET_HEADERS = frozenset({"set-cookie", "set-cookie2", "authorization", "proxy-authorization", "x-goog-api-key"})


@dataclass(frozen=True, slots=True)
class UnparsedAnswer:
    """An answer that is kept. facts: about its request."""

    response: Response
    facts: Mapping[str, Any]


def save_answer(
    store: JobFolder,
    attempt: int,
    response: Response,
    lifted: Sequence[SpoolFile],
    facts: Mapping[str, Any],
) -> None:
    """Save an answer, durable on return. Raises StoreError.

    `answer.json` is written last, before the decoded files are moved: whoever finds it can finish the rest.
    """
    folder = store.plain_folder(os.path.join(STATE_FOLDER, UNPARSED_FOLDER), 0o700)
    part = store.plain_folder(os.path.join(STATE_FOLDER, UNPARSED_FOLDER, f"{attempt}{PARTIAL_SUFFIX}"), 0o700)
    kept = {name: value for name, value in response.headers.items() if name.lower() not in SECRET_HEADERS}
    head = {"status": response.status, "headers": kept, "lifted": len(lifted), "facts": dict(facts)}
    for file in lifted:
        file.sync()
    for name, data in ((ENVELOPE, response.body), (ANSWER, json.dumps(head).encode())):
        file = SpoolFile(part, name)
        file.write(data)
        file.sync()
    try:
        for k, file in enumerate(lifted):
            os.replace(file.path, os.path.join(part, str(k)))
        sync_folder(part)
        os.rename(part, os.path.join(folder, str(attempt)))
        sync_folder(folder)
    except OSError as error:
        raise disk_error(error, part) from error


def finish_interrupted_saves(store: JobFolder) -> None:
    """Finish saves that a crash interrupted if everything is there, else undo them, leaving the decoded files in the
    spool."""
    folder = _folder(store.root)
    for name in _names(store.root):
        if not name.endswith(PARTIAL_SUFFIX):
            continue
        part, attempt = os.path.join(folder, name), name.removesuffix(PARTIAL_SUFFIX)
        try:
            lifted = json.loads(Path(part, ANSWER).read_bytes())["lifted"]
        except (OSError, ValueError, KeyError):
            shutil.rmtree(part)
            continue
        for k in range(lifted):
            if os.path.exists(spooled := store.spooled(f"{attempt}.{k}")):
                os.replace(spooled, os.path.join(part, str(k)))
        sync_folder(part)
        os.rename(part, os.path.join(folder, attempt))
        sync_folder(folder)


def unparsed_attempts(root: str) -> list[int]:
    """The numbers of the attempts whose answers are kept in a job folder, ascending."""
    return sorted(int(name) for name in _names(root) if name.isdecimal())


def unparsed_bytes(root: str) -> int:
    paths = (path for attempt in unparsed_attempts(root) for path in Path(_folder(root), str(attempt)).iterdir())
    return sum(path.stat().st_size for path in paths)


def load_answer(root: str, attempt: int) -> UnparsedAnswer:
    """Load an answer. Raises OSError or ValueError if it is not whole."""
    folder = Path(_folder(root), str(attempt))
    head = json.loads((folder / ANSWER).read_bytes())
    files = tuple(str(folder / str(k)) for k in range(head["lifted"]))
    response = Response(head["status"], head["headers"], (folder / ENVELOPE).read_bytes(), files)
    return UnparsedAnswer(response, head["facts"])


def delete_answer(root: str, attempt: int) -> None:
    shutil.rmtree(os.path.join(_folder(root), str(attempt)), ignore_errors=True)


def _folder(root: str) -> str:
    return os.path.join(root, STATE_FOLDER, UNPARSED_FOLDER)


def _names(root: str) -> list[str]:
    try:
        return sorted(os.listdir(_folder(root)))
    except FileNotFoundError:
        return []
