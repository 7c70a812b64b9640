"""A power cut after every step of a run: the worst the disk may legally hold then, and what the next run makes of it.

The model: what a file holds is durable when it was synced, a name when its folder was. A rename is one step, as every
file system with a journal makes it. SQLite's files are as they were when its last commit returned, which is what
synchronous=FULL promises; its log's folder is synced with it (os_unix.c, UNIXFILE_DIRSYNC).
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Set
from pathlib import Path

import pytest

from batchgen.cli.verify import verify
from batchgen.emulator import EmulatorOptions, serve
from batchgen.emulator.server import RunningEmulator
from batchgen.ledger.reader import Reader
from batchgen.report.console import Console
from batchgen.store.stored_files import with_sidecars
from tests.support.bench import Bench, items
from tests.support.power_cut import STATE, Cut, Disk, Tree, lay_out, succeeded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see which file was synced")
HEAD = "defaults: {model: flash}\nlimits: {concurrency: 2}\nitems:\n"


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
        findings = verify(folder / "out", reader, Console(sys.stderr))
        uncertain = reader.attempts().get("uncertain", 0)
    assert (findings.is_intact, findings.extra, findings.gone) == (True, [], []), where
    assert cut.billed + bought <= wanted + uncertain, where  # whatever is bought twice is listed
    shutil.rmtree(folder / STATE / "turns", ignore_errors=True)  # those of conversations stay
    assert len(case.lines()) == len(text.splitlines()), where
    assert set(case.pictures().values()) == set(has.values())
    left = {path.name for path in (folder / STATE).rglob("*")} | {path.name for path in (folder / "out").iterdir()}
    assert all((folder / "out" / path).is_file() for line in case.lines().values() for path in line["sidecars"]), where
    pictures = {name for path in case.pictures() for name in with_sidecars(path)} | {
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
