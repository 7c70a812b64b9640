"""A power cut after every step of a run: the worst the disk may legally hold then, and what the next run makes of it.

The model: what a file holds is durable when it was synced, a name when its folder was. A rename is one step, as every
file system with a journal makes it. SQLite's files are as they were when its last commit returned, which is what
synchronous=FULL promises; its log's folder is synced with it (os_unix.c, UNIXFILE_DIRSYNC).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.verify import verify
from batchgen.emulator import EmulatorOptions, serve
from batchgen.emulator.server import RunningEmulator
from batchgen.ledger import ledger as ledger_module
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.writer import Writer
from batchgen.report.screen import Screen
from batchgen.store.store import family
from tests.test_run import Bench, items

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see which file was synced")
STATE = "out/.batchgen"
SQLITE = (f"{STATE}/ledger.sqlite", f"{STATE}/ledger.sqlite-wal")
HEAD = "defaults: {model: flash}\nlimits: {concurrency: 2}\nitems:\n"
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


async def check(cut: Cut, case: Bench, text: str, wanted: int, where: str, changed: Set[str]) -> None:
    """Run again on what the power cut left: everything is there, and nothing that was there is bought again."""
    folder, before = case.folder, await case.requests()
    had = succeeded(folder)
    outcome = await case.run(text, HEAD)
    bought = await case.requests() - before
    assert outcome.exit_code == 0, (where, outcome.message)
    has = succeeded(folder)
    # The same picture, so not another one that was bought.
    assert [key for key in had if had[key] != has.get(key) and key[0] not in changed] == [], where
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert set(had.values()) <= {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}, where
    with Reader.open(folder / "out") as reader:
        findings = verify(folder / "out", reader, Screen(sys.stderr))
        uncertain = reader.attempts().get("uncertain", 0)
    assert (findings.all_right, findings.extra, findings.gone) == (True, [], []), where
    assert cut.billed + bought <= wanted + uncertain, where  # whatever is bought twice is listed
    shutil.rmtree(folder / STATE / "turns", ignore_errors=True)  # those of conversations stay
    assert len(case.lines()) == len(text.splitlines()), where
    assert set(case.pictures().values()) == set(has.values())
    left = {path.name for path in (folder / STATE).rglob("*")} | {path.name for path in (folder / "out").iterdir()}
    assert all((folder / "out" / path).is_file() for line in case.lines().values() for path in line["sidecars"]), where
    pictures = {name for path in case.pictures() for name in family(path)} | {
        "superseded",
        "results.jsonl",
        ".batchgen",
        "spool",
        "lock",
    }
    assert {name for name in left if not name.startswith("ledger.sqlite")} <= pictures, where


class Mains:
    """An emulator, and a folder for each run whose power goes."""

    def __init__(self, emulator: RunningEmulator, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.emulator, self.folder, self.patch = emulator, folder, patch
        self.homes = 0

    def bench(self, tree: Tree = ()) -> Bench:
        self.homes += 1
        folder = self.folder / str(self.homes)
        folder.mkdir()
        lay_out(tree, folder)
        return Bench(self.emulator.base_url, folder)

    async def cuts(self, bench: Bench, text: str, billed: int = 0, *, killed: bool = False) -> list[Cut]:
        """Run `text` with the power going at every step. billed: requests of earlier runs of the folder."""
        start = self.emulator.stats.requests
        with self.patch.context() as patch:
            disk = Disk(bench.folder, lambda: billed + self.emulator.stats.requests - start, patch, killed=killed)
            outcome = await bench.run(text, HEAD)
        assert outcome.exit_code == 0, outcome.message
        return list(disk.cuts.values())

    async def run_again(self, cuts: list[Cut], text: str, wanted: int, changed: Set[str] = frozenset()) -> None:
        """changed: items whose pictures the run does not want any more."""
        for number, cut in enumerate(cuts):
            bench = self.bench(cut.tree)
            await check(cut, bench, text, wanted, f"{number}: {cut.kind} after {cut.step}", changed)
            shutil.rmtree(bench.folder)


@pytest.fixture
async def mains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mains]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        yield Mains(emulator, tmp_path, monkeypatch)


async def test_a_power_cut_at_any_step_of_a_run_loses_nothing_and_buys_nothing_twice_unsaid(mains):
    text = items("one", "two", "three")
    cuts = await mains.cuts(mains.bench(), text)
    assert len(cuts) > 40
    await mains.run_again(cuts, text, 3)


async def test_a_second_power_cut_while_the_first_is_being_mended_loses_nothing_either(mains):
    text = items("one", "two")
    first = await mains.cuts(mains.bench(), text)
    unplaced = [cut for cut in first if to_mend(mains.bench(cut.tree).folder)[0]]
    whole = [cut for cut in first if cut.kind == "only what is synced"]
    spooled = [cut for cut in whole if to_mend(mains.bench(cut.tree).folder)[1]]
    for cut, killed in ((unplaced[0], False), (unplaced[-1], False), (spooled[0], False), (spooled[0], True)):
        cuts = await mains.cuts(mains.bench(cut.tree), text, cut.billed, killed=killed)
        await mains.run_again(cuts, text, 2)


def to_mend(folder: Path) -> tuple[bool, bool]:
    """Whether a picture is recorded and not at its name, and whether one is in the spool and not recorded."""
    if not (folder / STATE / "ledger.sqlite").is_file():
        return False, False
    with Reader.open(folder / "out") as reader:
        known = {attempt.id for attempt in reader.open_attempts()}
        whole = [path for path in (folder / STATE / "spool").iterdir() if path.stat().st_size]
        return bool(reader.unplaced()), any(
            int(path.name.split(".")[0]) in known for path in whole if path.name[0] in "123"
        )


async def test_a_power_cut_while_an_edited_manifest_is_carried_out_deletes_nothing_and_buys_only_what_changed(mains):
    bench = mains.bench()
    await bench.run(items("one", "two", "three"), HEAD)
    after = items("one", "two, at night")
    cuts = await mains.cuts(bench, after, 3)
    await mains.run_again(cuts, after, 4, {"i1", "i2"})


async def test_a_power_cut_in_a_conversation_or_between_a_parent_and_its_child_is_mended_like_any_other(mains):
    text = "  - id: talk\n    turns: [one, two]\n"  # a line for each picture
    text += "  - {id: child, prompt: child, references: ['@parent']}\n  - {id: parent, prompt: parent}\n"
    cuts = await mains.cuts(mains.bench(), text)
    assert len([cut for cut in cuts if "/turns/" in cut.step]) > 2
    await mains.run_again(cuts, text, 4)


async def test_a_power_cut_while_items_change_their_names_or_come_back_buys_nothing_at_all(mains):
    entry = "  - {{id: {0}, prompt: {0}, filename: {1}}}\n"
    bench = mains.bench()
    await bench.run(entry.format("a", "one") + entry.format("b", "two") + entry.format("c", "three"), HEAD)
    await bench.run(entry.format("a", "one") + entry.format("b", "two"), HEAD)
    after = entry.format("a", "two") + entry.format("b", "one") + entry.format("c", "four")
    cuts = await mains.cuts(bench, after, 3)
    await mains.run_again(cuts, after, 3)


async def test_a_power_cut_at_any_step_leaves_no_picture_without_what_is_listed_beside_it(mains):
    text = "  - {id: a, prompt: one, modalities: [text, image], search: web}\n"
    cuts = await mains.cuts(mains.bench(), text)
    await mains.run_again(cuts, text, 1)


async def test_a_power_cut_while_a_picture_changes_its_name_separates_nothing_from_it(mains):
    entry = "  - {{id: a, prompt: one, filename: {0}, modalities: [text, image], search: web}}\n"
    bench = mains.bench()
    await bench.run(entry.format("one"), HEAD)
    cuts = await mains.cuts(bench, entry.format("two"), 1)
    await mains.run_again(cuts, entry.format("two"), 1)
