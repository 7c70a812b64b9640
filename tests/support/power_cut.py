"""Follows every file operation and lays out what a power cut after it would leave on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchgen.ledger import ledger as ledger_module
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.writer import Writer

STATE = "out/.batchgen"
SQLITE = (f"{STATE}/ledger.sqlite", f"{STATE}/ledger.sqlite-wal")
Tree = tuple[tuple[str, bytes | None], ...]  # path -> what it holds, None for a folder


@dataclass(frozen=True)
class Cut:
    """After which step, what the disk holds then, and how many requests had been billed."""

    step: str
    kind: str
    tree: Tree
    billed: int


class Disk:
    """Follows every call on files below one folder, and says what a power cut would leave."""

    def __init__(self, folder: Path, billed: Callable[[], int], patch: pytest.MonkeyPatch, *, killed: bool) -> None:
        """killed: the last process was, so that its spool is in the system's memory and not yet on the disk."""
        self.folder, self.billed = str(folder), billed
        self.cuts: dict[tuple[Tree, int], Cut] = {}
        self.lock = threading.RLock()
        self.ids: dict[str, object] = {}  # path -> the file that stands there now
        self.held: dict[object, bytes | None] = {}  # file -> what is durable of it
        self.names: dict[str, object] = {}  # durable path -> file
        self.pending: list[dict[str, object]] = []  # name changes that are not: path -> file, or None for gone
        self.ledger: dict[str, bytes] = {}
        for path in self._walk():
            self._found(path)
            self.held[self.ids[path]] = self._read(path)
        self.names = dict(self.ids)
        for path in [path for path in self.names if killed and "/spool/" in path]:
            self.held[self.names[path]] = b""
            self.pending.append({path: self.names.pop(path)})
        self._keep_ledger()
        for name in ("open", "mkdir", "write", "fsync", "replace", "rename", "unlink"):
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        self._after(patch, Writer, "_commit")
        self._after(patch, ledger_module, "open_for_writing")
        self._after(patch, Ledger, "close")

    # --- following

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._path(first)
            if path is None:
                return real(first, *args, **kwargs)
            with self.lock:
                existed = os.path.lexists(os.path.join(self.folder, path))
                answer = real(first, *args, **kwargs)
                to = self._path(args[0]) if name in ("replace", "rename") else None
                getattr(self, f"_{name}ed")(path, to, existed)
                self._cut(f"{name} {to or path}")
                return answer

        return call

    def _after(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            with self.lock:
                self._keep_ledger()
                self._cut(name)
            return answer

        patch.setattr(owner, name, call)

    def _path(self, target: Any) -> str | None:
        """Relative to the folder; None when it is not below it, or is of SQLite's."""
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(target)
        if path == self.folder:
            return "."
        path = path.removeprefix(f"{self.folder}/") if path.startswith(f"{self.folder}/") else None
        return None if path is None or "ledger.sqlite" in path else path

    def _found(self, path: str) -> None:
        self.ids[path] = object()
        self.held[self.ids[path]] = b"" if os.path.isfile(os.path.join(self.folder, path)) else None

    def _opened(self, path: str, _: str | None, existed: bool) -> None:
        if not existed:
            self._found(path)
            self.pending.append({path: self.ids[path]})

    _mkdired = _opened

    def _writeed(self, path: str, _: str | None, existed: bool) -> None:
        pass  # not durable, but another moment at which to cut

    def _fsynced(self, path: str, _: str | None, existed: bool) -> None:
        if os.path.isfile(os.path.join(self.folder, path)):
            self.held[self.ids[path]] = self._read(path)
            return
        done = [change for change in self.pending if path in map(_parent, change)]
        self.pending = [change for change in self.pending if change not in done]
        for change in done:
            self.names.update(change)

    def _replaceed(self, path: str, to: str | None, existed: bool) -> None:
        self.ids[str(to)] = self.ids.pop(path)
        self.pending.append({path: None, str(to): self.ids[str(to)]})

    _renameed = _replaceed

    def _unlinked(self, path: str, _: str | None, existed: bool) -> None:
        self.ids.pop(path, None)
        self.pending.append({path: None})

    # --- cutting

    def _cut(self, step: str) -> None:
        for kind, tree in (
            ("only what is synced", self._synced()),
            ("names without bytes", self._named(lambda _: b"")),
            ("half the bytes", self._named(lambda data: data[: len(data) // 2])),
        ):
            self.cuts.setdefault((tree, self.billed()), Cut(step, kind, tree, self.billed()))

    def _synced(self) -> Tree:
        tree = {path: self.held[file] for path, file in self.names.items() if file is not None}
        return _reachable({**tree, **self._ledger_at({path for path, data in tree.items() if data is None})})

    def _named(self, unsynced: Callable[[bytes], bytes]) -> Tree:
        tree: dict[str, bytes | None] = {}
        for path in self._walk():
            if path not in self.ids:
                self._found(path)  # written past `os`: the note of who holds the lock
            held, live = self.held[self.ids[path]], self._read(path)
            tree[path] = live if held == live or live is None else unsynced(live)
        return _reachable({**tree, **self._ledger_at({path for path, data in tree.items() if data is None})})

    def _ledger_at(self, folders: set[str]) -> dict[str, bytes]:
        return self.ledger if STATE in folders else {}

    def _keep_ledger(self) -> None:
        self.ledger = {path: data for path in SQLITE if (data := self._read(path)) is not None}

    def _walk(self) -> Iterator[str]:
        for path in sorted(Path(self.folder, "out").rglob("*")):
            if "ledger.sqlite" not in path.name and "holder.json" not in path.name and "ballast" not in path.name:
                yield str(path.relative_to(self.folder))
        if os.path.isdir(os.path.join(self.folder, "out")):
            yield "out"

    def _read(self, path: str) -> bytes | None:
        full = Path(self.folder, path)
        return full.read_bytes() if full.is_file() else None


def _parent(path: str) -> str:
    return os.path.dirname(path) or "."


def _reachable(tree: dict[str, bytes | None]) -> Tree:
    """Without what lies in folders that have no name; the ballast holds nothing anybody misses."""

    def there(path: str) -> bool:
        return path == "." or (path in tree and there(_parent(path)))

    return tuple(sorted((path, data) for path, data in tree.items() if there(path) and "ballast" not in path))


def lay_out(tree: Tree, folder: Path) -> None:
    for path, data in tree:
        target = folder / path
        if data is None:
            target.mkdir(mode=0o700 if ".batchgen" in path else 0o755)
        else:
            target.write_bytes(data)


def succeeded(folder: Path) -> dict[tuple[str, int], str]:
    """(item, n) -> hash of every sample that the ledger has as succeeded; nothing without a ledger."""
    if not (folder / STATE / "ledger.sqlite").is_file() or not (folder / STATE / "ledger.sqlite").stat().st_size:
        return {}
    with Reader.open(folder / "out") as reader:
        return {(found.id, found.n): found.files[0].sha256 for found in reader.results(("succeeded",))}
