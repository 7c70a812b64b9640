"""No run ends with 0 unless the images that its ledger names are the files that stand there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine import run as run_module
from batchgen.engine.job_state import locked_job, open_job_state
from batchgen.events import Event, Notice, RunEnded, SampleSucceeded
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from batchgen.planning.plan import RetrySelection
from batchgen.store.store import Store
from tests.support.bench import HEAD, Bench, items
from tests.support.postgres import both_ledgers

THREE = items("a", "b", "c")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the pictures whose bytes were compared with the ledger."""
    paths: list[str] = []
    verify = Store.verify

    def noting(self: Store, path: str, sha256: str) -> str:
        paths.append(path)
        return verify(self, path, sha256)

    monkeypatch.setattr(Store, "verify", noting)
    return paths


def edit(path: Path, *, size: int = 0) -> None:
    """As a person would: other bytes, `size` of them more."""
    data = path.read_bytes()
    path.write_bytes(data[:-3] + b"xyz" + bytes(size))


@both_ledgers
async def test_nothing_is_read_of_what_stands_there_untouched(bench, read):
    for kept in (0, 3):
        outcome = await bench.run(THREE)
        assert (outcome.exit_code, outcome.kept, outcome.discrepancies.counts, read) == (0, kept, {}, [])


@both_ledgers
@pytest.mark.parametrize("size", [0, 5])
async def test_a_file_that_was_changed_is_named_and_not_bought_again_and_the_run_does_not_end_with_0(bench, size):
    await bench.run(THREE)
    kept = (bench.folder / "out" / "i1.jpg").read_bytes()
    edit(bench.folder / "out" / "i1.jpg", size=size)
    changed = (bench.folder / "out" / "i1.jpg").read_bytes()
    for _ in range(2):
        outcome = await bench.run(THREE)
        assert (outcome.exit_code, outcome.discrepancies.changed, await bench.requests()) == (5, ("i1.jpg",), 3)
        assert (bench.folder / "out" / "i1.jpg").read_bytes() == changed
    with Reader.open(bench.folder / "out") as reader:
        assert reader.last_discrepancies()["changed"] == ["i1.jpg"]
    assert [event.discrepancies for event in bench.events if isinstance(event, RunEnded)] == [{"changed": 1}]
    (bench.folder / "out" / "i1.jpg").write_bytes(kept)
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, await bench.requests()) == (0, 3)


@both_ledgers
async def test_a_file_with_another_time_and_the_same_bytes_is_read_once(bench, read):
    await bench.run(THREE)
    for path in (bench.folder / "out").glob("*.jpg"):
        os.utime(path, (1e9, 1e9))  # as `cp` leaves them
    for _ in range(2):
        outcome = await bench.run(THREE)
        assert (outcome.exit_code, outcome.discrepancies.counts) == (0, {})
    assert sorted(read) == ["i0.jpg", "i1.jpg", "i2.jpg"]


async def test_a_file_of_another_size_is_a_change_whatever_its_time_says(bench):
    await bench.run(THREE)
    picture = bench.folder / "out" / "i1.jpg"
    made_ns = picture.stat().st_mtime_ns
    edit(picture, size=5)
    os.utime(picture, ns=(made_ns, made_ns))
    assert (await bench.run(THREE)).exit_code == 5


async def test_a_link_in_the_place_of_an_image_is_a_change(bench):
    await bench.run(THREE)
    picture = bench.folder / "out" / "i1.jpg"
    shutil.move(picture, bench.folder / "elsewhere.jpg")
    picture.symlink_to(bench.folder / "elsewhere.jpg")
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.discrepancies.changed, await bench.requests()) == (5, ("i1.jpg",), 3)


async def test_a_changed_image_is_made_again_when_that_is_asked_for_and_the_file_is_kept(bench):
    await bench.run(THREE)
    edit(bench.folder / "out" / "i1.jpg")
    changed = (bench.folder / "out" / "i1.jpg").read_bytes()
    outcome = await bench.run(THREE, retry_selection=RetrySelection(fresh=True), only=("i1",))
    assert (outcome.exit_code, outcome.made, await bench.requests()) == (0, 1, 4)
    assert (bench.folder / "out" / "superseded" / "i1.1.jpg").read_bytes() == changed


@both_ledgers
async def test_an_image_that_goes_away_while_the_run_lasts_is_named_and_made_by_the_next_run(bench):
    """Whoever takes it away: another program, or another process of ours."""
    await bench.run(items("a"))

    def take_away(event: Event) -> None:
        if isinstance(event, SampleSucceeded):
            (bench.folder / "out" / "i0.jpg").unlink()

    job = batchgen.load(bench.manifest(items("a", "b")), output=bench.folder / "out", emulate=True, environ={})
    options = batchgen.RunOptions(emulator_url=bench.url, ledger=bench.ledger)
    outcome = await batchgen.run(job, observers=[take_away], options=options)
    assert (outcome.exit_code, outcome.discrepancies.missing, outcome.made) == (3, ("i0.jpg",), 1)
    outcome = await bench.run(items("a", "b"))
    assert (outcome.exit_code, outcome.made, outcome.discrepancies.counts) == (0, 1, {})


async def test_a_missing_image_that_a_run_was_not_asked_to_make_is_no_success_either(bench):
    await bench.run(THREE)
    (bench.folder / "out" / "i1.jpg").unlink()
    outcome = await bench.run(THREE, only=("i0",))
    assert (outcome.exit_code, outcome.discrepancies.missing, await bench.requests()) == (3, ("i1.jpg",), 3)


async def test_ten_are_named_and_the_others_counted(bench):
    many = items(*(f"thing {n}" for n in range(12)))
    await bench.run(many)
    for path in (bench.folder / "out").glob("*.jpg"):
        edit(path)
    outcome = await bench.run(many)
    listed = outcome.discrepancies.listed
    assert (len(listed["changed"]), listed["changed_total"], listed["missing_total"]) == (10, 12, 0)


async def test_what_an_older_ledger_knows_no_time_of_is_read_once(bench, read):
    await bench.run(THREE)
    with closing(sqlite3.connect(ledger_path(bench.folder / "out"))) as db, db:
        db.executescript(
            "DROP TABLE verdict; ALTER TABLE image DROP COLUMN stamp; ALTER TABLE attempt DROP COLUMN job;"
            "PRAGMA user_version=5;"
        )
    edit(bench.folder / "out" / "i1.jpg")
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.discrepancies.changed, len(read)) == (5, ("i1.jpg",), 3)
    await bench.run(THREE)
    assert read[3:] == ["i1.jpg"]


async def test_a_moved_image_is_known_by_its_time_and_not_read(bench, read):
    await bench.run(items("a"))
    outcome = await bench.run("  - {id: i0, prompt: a, filename: other}\n")
    assert (outcome.exit_code, outcome.moved, read) == (0, 1, [])


async def test_many_files_that_have_to_be_read_are_spoken_of(bench, monkeypatch):
    monkeypatch.setattr("batchgen.engine.run.NOTE_FROM_FILES", 3)
    await bench.run(THREE)
    for path in (bench.folder / "out").glob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    await bench.run(THREE)
    notes = [event.message for event in bench.events if isinstance(event, Notice)]
    assert any("3 images have a different time" in note for note in notes)


async def test_a_look_that_is_interrupted_reads_no_further_and_remembers_what_it_has_seen(bench, read, monkeypatch):
    await bench.run(THREE)
    for path in (bench.folder / "out").glob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    interrupted, verify = threading.Event(), Store.verify

    def first(self: Store, *picture: Any) -> str:
        interrupted.set()
        return verify(self, *picture)

    monkeypatch.setattr(Store, "verify", first)
    monkeypatch.setattr(run_module, "READERS", 1)
    store = Store(bench.folder / "out")
    with locked_job(store) as lock, open_job_state(store, lock) as state:
        *_, doubtful = run_module._compare_stamps(state)
        found = run_module._verify_contents(state, doubtful, interrupted)
        *_, left = run_module._compare_stamps(state)
    assert (len(doubtful), len(found["right"]), len(left)) == (3, 1, 2)


async def test_a_run_that_is_stopped_reads_nothing_more_and_forgets_nothing(bench, read):
    await bench.run(THREE)
    edit(bench.folder / "out" / "i1.jpg")
    await bench.run(THREE)
    read.clear()
    outcome = await bench.run(THREE + "  - {id: more, prompt: d}\n", HEAD, max_usd=0.001)
    assert (outcome.stopped_by, outcome.exit_code, read) == ("budget", 6, [])
    with Reader.open(bench.folder / "out") as reader:
        assert reader.last_discrepancies()["changed"] == ["i1.jpg"]  # what was found before is still so
