"""A ledger of version 1: read as it is by who only looks, brought up to date by the next run, which buys nothing again."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen.cli.main import run_command_line
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import SHARED_SCHEMA, has_ledger
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import STATE_FOLDER, VERSION, ledger_path
from batchgen.ledger.verdicts import VerdictReader, upsert_verdicts
from batchgen.records import Verdict
from tests.support.bench import Bench, items
from tests.support.paths import ROOT

TABLES = (ROOT / "tests" / "support" / "ledger_version_1.sql").read_text()


WITHOUT_VERDICTS = "DROP TABLE verdict;"  # of version 7
WITHOUT_JOBS = f"{WITHOUT_VERDICTS} ALTER TABLE attempt DROP COLUMN job;"  # of version 6
WITHOUT_STAMPS = f"{WITHOUT_JOBS} ALTER TABLE image DROP COLUMN stamp;"  # of version 5
WITHOUT_WORKERS = f"{WITHOUT_STAMPS} ALTER TABLE attempt DROP COLUMN worker;"  # of version 4
WITHOUT_CHUNKS = (
    f"{WITHOUT_WORKERS} DROP INDEX attempt_of_chunk; DROP TABLE chunk; ALTER TABLE attempt DROP COLUMN chunk;"
    " ALTER TABLE attempt DROP COLUMN facts;"
)


def version_of(folder: Path) -> int:
    db = sqlite3.connect(ledger_path(folder))
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    db.close()
    return version


def take_back_to_version_1(folder: Path) -> None:
    """A file of the old tables with all that they can hold of what is there."""
    path = ledger_path(folder)
    new = path.rename(path.with_suffix(".new"))
    db = sqlite3.connect(path)
    db.executescript(TABLES)
    db.execute("ATTACH ? AS new", (str(new),))
    for (table,) in db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
        db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    db.commit()
    db.close()
    new.unlink()


@pytest.fixture
async def bench(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items("a", "[[fault:safety]] b"))
        take_back_to_version_1(tmp_path / "out")
        yield bench


async def test_who_only_looks_reads_it_and_leaves_it_as_it_is(bench):
    folder = bench.folder / "out"
    before = ledger_path(folder).read_bytes()
    with Reader.open(folder) as reader:
        (made, refused) = reader.results()
        assert (made.state, made.files[0].path, made.sidecars, refused.state) == ("succeeded", "i0.jpg", (), "refused")
        assert (reader.attempts(), reader.sidecar_texts(1), reader.unplaced()) == (
            {"succeeded": 1, "refused": 1},
            {},
            [],
        )
    assert ledger_path(folder).read_bytes() == before


@pytest.mark.parametrize("command", ["status", "export", "verify"])
async def test_commands_that_only_look_work_on_it(bench, command):
    code = await asyncio.to_thread(run_command_line, [command, str(bench.folder / "out")])
    assert (code, version_of(bench.folder / "out")) == (0, 1)


async def test_the_next_run_brings_it_up_to_date_and_buys_nothing_again(bench):
    outcome = await bench.run(items("a", "[[fault:safety]] b"))
    assert (outcome.kept, await bench.requests(), version_of(bench.folder / "out")) == (1, 2, VERSION)
    await bench.run(items("a") + "  - {id: t, prompt: t, modalities: [text, image]}\n")
    assert bench.lines()["t"]["sidecars"] == ["t.txt"]


async def test_who_was_looking_when_it_was_brought_up_to_date_goes_on_reading(bench):
    folder = bench.folder / "out"
    with Reader.open(folder) as reader:
        before = list(reader.results())
        Ledger(folder).close()
        assert (list(reader.results()), version_of(folder)) == (before, VERSION)


async def test_an_interrupted_step_to_the_next_version_leaves_the_old_one(bench, monkeypatch):
    folder = bench.folder / "out"
    broken = {1: "ALTER TABLE attempt ADD COLUMN sent_as TEXT; ALTER TABLE nothing ADD COLUMN x;"}
    monkeypatch.setattr("batchgen.ledger.schema.MIGRATIONS", broken)
    with pytest.raises(Exception, match="nothing"):
        Ledger(folder)
    monkeypatch.undo()
    assert version_of(folder) == 1
    Ledger(folder).close()
    assert version_of(folder) == VERSION


async def test_a_ledger_of_version_2_knows_no_derivatives_until_a_run_makes_some(bench):
    folder = bench.folder / "out"
    Ledger(folder).close()
    db = sqlite3.connect(ledger_path(folder))
    db.executescript(f"{WITHOUT_CHUNKS} DROP TABLE derivative; PRAGMA user_version=2;")
    db.close()
    with Reader.open(folder) as reader:
        assert [result.derivatives for result in reader.results()] == [(), ()]
        assert DerivativeReader.from_reader(reader).derivative_counts() == {}
    assert await asyncio.to_thread(run_command_line, ["verify", str(folder)]) == 0
    assert version_of(folder) == 2
    await bench.run(items("a"), head="post: [{name: t, format: png, width: 9}]\nitems:\n")
    assert (version_of(folder), bench.lines()["i0"]["derivatives"]) == (VERSION, ["derivatives/t/i0.png"])


async def test_a_ledger_of_version_3_knows_no_batches_until_a_run_submits_some(bench):
    folder = bench.folder / "out"
    Ledger(folder).close()
    db = sqlite3.connect(ledger_path(folder))
    db.executescript(f"{WITHOUT_CHUNKS} PRAGMA user_version=3;")
    db.close()
    with Reader.open(folder) as reader:
        assert (reader.open_chunks(), reader.attempts(), reader.chunk_request(1)) == (
            [],
            {"succeeded": 1, "refused": 1},
            None,
        )
    assert await asyncio.to_thread(run_command_line, ["verify", str(folder)]) == 0
    assert version_of(folder) == 3
    outcome = await bench.run(items("a", "[[fault:safety]] b"))
    assert (version_of(folder), outcome.kept) == (VERSION, 1)


@pytest.mark.parametrize(("version", "changes"), [(4, WITHOUT_WORKERS), (5, WITHOUT_STAMPS)])
async def test_a_ledger_of_a_later_version_is_read_as_it_is_and_brought_up_to_date_by_a_run(bench, version, changes):
    folder = bench.folder / "out"
    Ledger(folder).close()
    db = sqlite3.connect(ledger_path(folder))
    db.executescript(f"{changes} PRAGMA user_version={version};")
    db.close()
    with Reader.open(folder) as reader:
        assert [(each.path, each.stamp) for each in reader.current_pictures()] == [("i0.jpg", None)]
        assert (reader.unplaced_by_workers(), reader.attempts()) == ([], {"succeeded": 1, "refused": 1})
    assert await asyncio.to_thread(run_command_line, ["verify", str(folder)]) == 0
    assert version_of(folder) == version
    outcome = await bench.run(items("a", "[[fault:safety]] b"))
    with Reader.open(folder) as reader:
        ((_, *_, stamp),) = reader.current_pictures()
    assert (version_of(folder), outcome.kept, stamp) == (VERSION, 1, str((folder / "i0.jpg").stat().st_mtime_ns))


async def test_a_ledger_of_version_5_on_a_server_is_brought_up_to_date_too(bench, database, monkeypatch, tmp_path):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    (tmp_path / "server").mkdir()
    elsewhere = Bench(bench.url, tmp_path / "server")
    await elsewhere.run(items("a"))
    folder = elsewhere.folder / "out"
    server = PostgreSQL(database, SHARED_SCHEMA)
    schema = server.execute("SELECT schema FROM batchgen.job").fetchone()[0]
    server.execute(f"ALTER TABLE {schema}.image DROP COLUMN stamp")
    server.execute(f"ALTER TABLE {schema}.attempt DROP COLUMN job")
    server.execute(f"DROP TABLE {schema}.verdict")
    server.execute("UPDATE batchgen.job SET version = 5")
    with Reader.open(folder) as reader:
        assert [each.stamp for each in reader.current_pictures()] == [None]
    outcome = await elsewhere.run(items("a"))
    with Reader.open(folder) as reader:
        assert [each.stamp for each in reader.current_pictures()] == [str((folder / "i0.jpg").stat().st_mtime_ns)]
    version = server.execute("SELECT version FROM batchgen.job").fetchone()[0]
    server.close()
    assert (outcome.exit_code, outcome.kept, version) == (0, 1, VERSION)


def test_a_ledger_that_is_being_made_is_not_there_or_is_whole(tmp_path):
    """Looked at between any two lines of what makes it."""
    (tmp_path / STATE_FOLDER).mkdir()
    seen = []

    def look(frame, event, _):
        if Path(frame.f_code.co_filename).name != "schema.py":
            return None
        sys.settrace(None)
        seen.append(has_ledger(tmp_path))
        if seen[-1]:
            Reader.open(tmp_path).close()
        sys.settrace(look)
        return look

    sys.settrace(look)
    try:
        Ledger(tmp_path).close()
    finally:
        sys.settrace(None)
    assert seen.count(False) > 5 and seen.count(True) > 5


async def test_a_ledger_of_version_7_has_no_verdicts_until_it_is_brought_up_to_date(bench):
    folder = bench.folder / "out"
    Ledger(folder).close()
    db = sqlite3.connect(ledger_path(folder))
    db.executescript(f"{WITHOUT_VERDICTS} PRAGMA user_version=7;")
    db.close()
    with VerdictReader.open(folder) as reader:
        assert (reader.verdicts(["i0"]), list(reader.all_verdicts()), version_of(folder)) == ({}, [], 7)
    said = Verdict(item_id="i0", n=1, sha256="s", by="check", name="blank", ruling="warn", details={"a": [1]}, at=2.0)
    ledger = Ledger(folder)
    for each in (said, replace(said, ruling="accept")):
        ledger.writer.submit(upsert_verdicts([each])).result()
    assert VerdictReader.from_reader(ledger.reader).verdicts(["i0"]) == {("i0", 1): [replace(said, ruling="accept")]}
    ledger.close()
    assert version_of(folder) == VERSION
