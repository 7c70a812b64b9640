"""A picture that a person renamed in its folder is found by its bytes before anything is bought."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

import batchgen
from batchgen.cli.verify import verify
from batchgen.events import Notice
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from batchgen.report.console import Console
from tests.support.bench import Bench, items
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

THREE = items("a", "b", "c")


def notes(bench: Bench) -> str:
    return "\n".join(event.message for event in bench.events if isinstance(event, Notice))


def in_order(out: Path) -> bool:
    """Whether every picture lies where the ledger says, with the bytes that it knows."""
    with Reader.open(out) as reader, open("/dev/null", "w") as nowhere:
        found = verify(out, reader, Console(nowhere, {}))
    return found.is_intact and not found.gone


@pytest.mark.parametrize("name", ["mine.jpg", "mine.jpeg", "best/of/all.jpg", "i1.old", "ß ü.jpg"])
async def test_a_renamed_picture_gets_its_name_back_and_is_not_bought_again(bench, name):
    await bench.run(THREE)
    out, before = bench.folder / "out", bench.pictures()
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / "i1.jpg").rename(out / name)
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.moved, outcome.kept, await bench.requests()) == (0, 1, 2, 3)
    assert (bench.pictures(), in_order(out), (out / name).exists()) == (before, True, False)
    assert f"{name} is the missing i1.jpg under another name: moved back, and nothing is bought" in notes(bench)


async def test_a_plan_says_so_and_moves_nothing(bench):
    await bench.run(THREE)
    out = bench.folder / "out"
    (out / "i1.jpg").rename(out / "mine.jpg")
    job = batchgen.load(bench.manifest(THREE), output=out, emulate=True, environ={})
    reconciliation = batchgen.plan(job).reconciliation
    assert (reconciliation.wanted, [(move.old, move.new) for move in reconciliation.moves]) == (
        0,
        [("mine.jpg", "i1.jpg")],
    )
    assert (out / "mine.jpg").is_file()


async def test_pictures_whose_names_were_swapped_by_hand_are_swapped_back(bench):
    await bench.run(THREE)
    out, before = bench.folder / "out", bench.pictures()
    sizes = {(out / name).stat().st_size for name in before}
    assert len(sizes) == 3
    (out / "i0.jpg").rename(out / "t")
    (out / "i1.jpg").rename(out / "i0.jpg")
    (out / "i2.jpg").rename(out / "i1.jpg")
    (out / "t").rename(out / "i2.jpg")
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.moved, await bench.requests()) == (0, 3, 3)
    assert (bench.pictures(), in_order(out), (out / "superseded").exists() and list((out / "superseded").iterdir())) == (
        before, True, [],
    )  # fmt: skip


async def test_what_took_the_name_meanwhile_makes_way_and_is_kept(bench):
    await bench.run(THREE)
    out, before = bench.folder / "out", bench.pictures()
    (out / "i1.jpg").rename(out / "mine.jpg")
    (out / "i1.jpg").write_bytes(b"a drawing of my own")
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.moved, await bench.requests(), bench.pictures()) == (0, 1, 3, before)
    assert (out / "superseded" / "i1.1.jpg").read_bytes() == b"a drawing of my own"


@pytest.mark.parametrize("folder", ["superseded", "drafts", "derivatives"])
async def test_one_that_was_put_out_of_the_way_stays_there(bench, folder):
    await bench.run(THREE)
    out = bench.folder / "out"
    (out / folder).mkdir()
    (out / "i1.jpg").rename(out / folder / "i1.jpg")
    outcome = await bench.run(THREE)
    assert (outcome.made, await bench.requests(), (out / folder / "i1.jpg").is_file()) == (1, 4, True)


async def test_the_same_bytes_of_another_sample_are_never_taken_from_it(bench):
    await bench.run(THREE)
    out = bench.folder / "out"
    shutil.copy(out / "i0.jpg", out / "i1.jpg")  # as if the vendor had answered twice with one picture
    with closing(sqlite3.connect(ledger_path(out))) as ledger, ledger:
        ledger.execute(
            "UPDATE image SET (sha256, bytes) = (SELECT sha256, bytes FROM image WHERE path = 'i0.jpg') WHERE path = 'i1.jpg'"
        )
        ledger.execute(
            "UPDATE sample SET bytes = (SELECT bytes FROM sample WHERE path = 'i0.jpg') WHERE path = 'i1.jpg'"
        )
    (out / "i0.jpg").unlink()
    outcome = await bench.run(THREE)
    assert (outcome.made, await bench.requests(), sorted(bench.pictures())) == (1, 4, ["i0.jpg", "i1.jpg", "i2.jpg"])


async def test_a_renamed_picture_that_others_need_serves_them(bench):
    text = items("a mug")
    await bench.run(text)
    (bench.folder / "out" / "i0.jpg").rename(bench.folder / "out" / "mug.jpg")
    outcome = await bench.run(text + '  - {id: snow, prompt: in snow, references: ["@i0"]}\n')
    assert (outcome.exit_code, outcome.moved, outcome.made, await bench.requests()) == (0, 1, 1, 2)


async def test_nothing_is_read_while_nothing_is_missing_and_then_only_what_has_the_size(bench):
    """A pipe would be waited for for ever, by whoever opens it."""
    await bench.run(THREE)
    out = bench.folder / "out"
    other = bytearray((out / "i2.jpg").read_bytes())
    other[-1] ^= 1
    (out / "i2.jpg").write_bytes(other)  # of its size, so that only a hash could tell
    outcome = await bench.run(THREE)
    assert (outcome.kept, await bench.requests()) == (3, 3)
    os.mkfifo(out / "pipe.jpg")
    (out / "i1.jpg").rename(out / "mine.jpg")
    outcome = await bench.run(THREE)
    assert (outcome.moved, await bench.requests()) == (1, 3)


SPY = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(f"{event} {args[0]}") if event in ("open", "os.scandir") else None)
import batchgen
job = batchgen.load(sys.argv[1], output=sys.argv[2], emulate=True, environ={})
batchgen.plan(job)
assert batchgen.run_sync(job).exit_code == 0
out = sys.argv[2]
print(*[each for each in seen if each.endswith(".jpg") or each == f"os.scandir {out}"], sep="\\n")
"""


@pytest.mark.parametrize(("missing", "looks"), [(False, []), (True, ["os.scandir {out}", "open {out}/mine.jpg"])])
async def test_while_nothing_is_missing_no_picture_is_opened_and_no_folder_listed(bench, missing, looks):
    await bench.run(THREE)
    out = bench.folder / "out"
    if missing:
        (out / "i1.jpg").rename(out / "mine.jpg")
    done = await asyncio.to_thread(
        subprocess.run,
        [PYTHON, "-c", SPY, bench.folder / "job.yaml", out], cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert list(dict.fromkeys(done.stdout.split("\n")))[:-1] == [look.format(out=out) for look in looks]
