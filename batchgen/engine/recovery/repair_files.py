"""Finds the images for a rebuilt ledger: in their places, in the spool, or by their bytes under other names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from batchgen.engine.answer import embedded_sha256s
from batchgen.engine.recovery.receipts import is_inside
from batchgen.engine.recovery.repair_records import ResultLine
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.store.check import ImageError, check_file
from batchgen.store.job_folder import TURNS
from batchgen.store.sniff import EXTENSION, is_picture
from batchgen.store.store import Store
from batchgen.store.stored_files import DRAFTS, SUPERSEDED
from batchgen.store.unparsed import finish_interrupted_saves


class RepairFiles:
    """Finds images. lines: whatever names images. from_scratch: what the spool and the turns contain belongs to the new
    ledger. moved: (old, new) names of images that had other names, which are only read if a named one is missing."""

    def __init__(self, store: Store, lines: Mapping[str, ResultLine], *, from_scratch: bool) -> None:
        self._store = store
        self._lines = lines
        self._by_hash: dict[str, str] | None = None
        self._spooled: dict[str, str] = {}
        self._turns: dict[str, str] = {}
        self.moved: list[tuple[str, str]] = []
        if from_scratch:
            finish_interrupted_saves(store)
            self._spooled = {_sha256(entry.path): entry.name for entry in os.scandir(store.spool)}
            self._turns = _put_turns_aside(store)

    def is_there(self, path: str, sha256: str) -> bool:
        """Whether an image is in its place, after moving it there from elsewhere if possible."""
        if not is_inside(path):
            return False
        store = self._store
        with contextlib.suppress(OSError):
            if not os.path.islink(os.path.join(store.root, path)) and store.sha256(path) == sha256:
                return True
        if (name := self._spooled.pop(sha256, None)) is not None:  # recorded, but not moved there yet
            store.move_into_place(name, path)
            store.sync(path)
            store.discard_spooled(0, [(name, path)])
            return True
        return self._move_back(path, sha256)

    def restore_turn(self, sha256: str, attempt: int) -> None:
        """Restore what the model said with an image, under the attempt's new number."""
        if (turn := self._turns.get(sha256)) is not None:
            self._store.save_turn(attempt, Path(turn).read_bytes())

    def _move_back(self, path: str, sha256: str) -> bool:
        """Give an image that has another name its own back, and return whether there was one."""
        if self._store.url:  # a bucket may contain any number of other objects
            return False
        if self._by_hash is None:
            named = {name for line in self._lines.values() for name in line["files"]}
            others = [name for name in pictures_below(self._store) if name not in named]
            self._by_hash = {self._store.sha256(name): name for name in others}
        if (old := self._by_hash.pop(sha256, None)) is None:
            return False
        self._store.supersede(path)
        self._store.move(old, path)
        self._store.sync(old, path)
        self.moved.append((old, path))
        return True


def pictures_below(store: Store) -> list[str]:
    """All images in a folder except those that were put aside."""
    if store.url:
        return []
    paths = (path for path, _ in store.files() if path.partition("/")[0] not in (SUPERSEDED, DRAFTS))
    return [path for path in paths if is_picture(os.path.join(store.root, path))]


def _put_turns_aside(store: Store) -> dict[str, str]:
    """Put the model's turns of conversations aside, as their attempts get new numbers. Returns their paths by the
    sha256 of what they contain."""
    folder = os.path.join(store.root, STATE_FOLDER, TURNS)
    if not os.path.isdir(folder):
        return {}
    aside = f"{folder}.before-{time.time_ns()}"
    os.rename(folder, aside)
    found: dict[str, str] = {}
    for entry in os.scandir(aside):
        with contextlib.suppress(ValueError):
            found |= dict.fromkeys(embedded_sha256s(Path(entry.path).read_bytes()), entry.path)
    return found


def keep_unassigned(store: Store) -> list[str]:
    """Keep whole images in the spool whose attempt is unknown: they are paid for, so they go where no run deletes them.
    Returns their paths."""
    paths = []
    for entry in sorted(os.scandir(store.spool), key=lambda entry: entry.name):
        try:
            kind = check_file(entry.path).format
        except ImageError:
            continue
        path = f"{SUPERSEDED}/unassigned-{int(time.time())}-{entry.name}{EXTENSION[kind]}"
        os.makedirs(os.path.join(store.root, SUPERSEDED), exist_ok=True)
        os.rename(entry.path, os.path.join(store.root, path))
        paths.append(path)
    return paths


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
