"""Whole runs whose ledger is in PostgreSQL: the same facts, the same promises."""

from __future__ import annotations

import asyncio
import sys

import psycopg
import pytest

import batchgen
from batchgen.emulator import serve
from batchgen.errors import LedgerError
from batchgen.ledger import postgresql
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.location import LedgerServer, job_identity
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import VERSION
from tests.support.bench import FAST, Bench, items
from tests.support.crash import start_child
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT
from tests.support.postgres import PASSWORD


@pytest.fixture
async def bench(tmp_path, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path, database)


async def test_a_run_makes_every_picture_and_a_second_one_asks_for_nothing(bench):
    first = await bench.run(items("a", "[[fault:safety]] b", "c"))
    again = await bench.run(items("a", "[[fault:safety]] b", "c"))
    assert (first.made, again.kept, await bench.requests()) == (2, 2, 3)
    assert not (bench.folder / "out" / ".batchgen" / "ledger.sqlite").exists()
    with Reader.open(bench.folder / "out") as reader:
        assert reader.counts() == {"succeeded": 2, "refused": 1}


async def test_no_password_stands_in_the_job_folder(bench):
    await bench.run(items("a"))
    files = [path for path in (bench.folder / "out").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"sesame" in path.read_bytes()]


async def test_a_job_that_the_server_knows_is_not_made_again_by_a_host_that_does_not(bench):
    """The folder came from elsewhere without its note of where the ledger is, or the pictures are in a bucket."""
    await bench.run(items("a", "b"))
    (bench.folder / "out" / ".batchgen" / "ledger.json").unlink()
    job = batchgen.load(bench.manifest(items("a", "b")), output=bench.folder / "out", emulate=True)
    assert batchgen.plan(job).reconciliation.kept == 2
    again = await bench.run(items("a", "b"))
    assert (again.kept, await bench.requests()) == (2, 2)


async def test_a_plan_of_a_new_job_leaves_nothing_on_the_server(bench, database):
    job = batchgen.load(bench.manifest(items("a")), output=bench.folder / "out", emulate=True)
    assert batchgen.plan(job).forecast.images == 1
    with psycopg.connect(database) as server:
        assert server.execute("SELECT to_regnamespace('batchgen')").fetchone() == (None,)


async def test_the_server_of_the_options_is_asked_and_no_other(bench, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", "postgresql://nobody@127.0.0.1:1/x")
    assert (await bench.run(items("a"))).made == 1
    with batchgen.Ledger.open(bench.folder / "out", database) as reader:
        assert reader.counts() == {"succeeded": 1}


@pytest.mark.parametrize(
    "place",
    [
        "batchgen.engine.http_attempt:Transport.send",
        "batchgen.engine.settle:Ledger.attempt_succeeded",
        "batchgen.engine.settle:Ledger.record_placed",
    ],
)
async def test_a_crash_between_two_steps_loses_nothing(bench, place):
    entries = items(*(f"thing {n}" for n in range(12)))
    child = await start_child(bench, place, 5, entries)
    assert await child.wait() == 9
    with Reader.open(bench.folder / "out") as ledger:
        in_the_air = len(ledger.open_attempts())
    outcome = await bench.run(entries)
    assert (outcome.exit_code, len(bench.pictures()), len(bench.lines())) == (0, 12, 12)
    with Reader.open(bench.folder / "out") as ledger:
        listed = ledger.attempts().get("uncertain", 0)
    assert (await bench.get("/_emulator/stats"))["billed"] <= 12 + min(listed, in_the_air)


# --- older ledgers


@pytest.fixture
async def older(bench, database):
    """A ledger of version 4, with what it had of a run."""
    await bench.run(items("a", "[[fault:safety]] b"))
    with psycopg.connect(database, autocommit=True) as server:
        (schema,) = server.execute("SELECT schema FROM batchgen.job").fetchone()
        server.execute(f"SET search_path = {schema}")
        server.execute("DROP TABLE verdict")
        server.execute("ALTER TABLE image DROP COLUMN stamp")
        server.execute("ALTER TABLE attempt DROP COLUMN worker")
        server.execute("ALTER TABLE attempt DROP COLUMN job")
        server.execute("DROP INDEX attempt_doubtful")
        server.execute("CREATE INDEX attempt_doubtful ON attempt (item_id, n) WHERE maybe_billed = 1")
        server.execute("UPDATE batchgen.job SET version = 4")
    return bench


def version_at(database: str) -> int:
    with psycopg.connect(database) as server:
        return int(server.execute("SELECT version FROM batchgen.job").fetchone()[0])


async def test_who_only_looks_reads_an_older_ledger_and_leaves_it_as_it_is(older, database):
    with Reader.open(older.folder / "out") as reader:
        assert reader.counts() == {"succeeded": 1, "refused": 1}
        assert reader._connection.execute("SELECT worker FROM attempt").fetchall() == [(None,), (None,)]
    assert version_at(database) == 4


async def test_several_processes_at_once_bring_an_older_ledger_up_to_date_once(older, database):
    code = "import sys, pathlib; from batchgen.ledger.ledger import Ledger; Ledger(pathlib.Path(sys.argv[1])).close()"
    with psycopg.connect(database) as holds_up:
        (schema,) = holds_up.execute("SELECT schema FROM batchgen.job").fetchone()
        holds_up.execute(f"LOCK TABLE {schema}.attempt IN ACCESS EXCLUSIVE MODE")
        started = [
            await asyncio.create_subprocess_exec(PYTHON, "-c", code, str(older.folder / "out"), cwd=ROOT)
            for _ in range(4)
        ]
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with psycopg.connect(database, autocommit=True) as other:
            while other.execute(waiting).fetchone() != (4,):  # all of them have seen version 4
                await asyncio.sleep(0.02)
    assert [await process.wait() for process in started] == [0] * 4  # a column that is there cannot be added again
    assert version_at(database) == VERSION
    again = await older.run(items("a", "[[fault:safety]] b"))
    assert (again.kept, await older.requests()) == (1, 2)


async def test_a_newer_ledger_is_left_alone_with_words(bench, database):
    await bench.run(items("a"))
    with psycopg.connect(database, autocommit=True) as server:
        server.execute("UPDATE batchgen.job SET version = 99")
    with pytest.raises(LedgerError, match=r"written by another version of batchgen \(ledger 99") as caught:
        Reader.open(bench.folder / "out")
    assert PASSWORD not in str(caught.value)


async def test_several_processes_at_once_make_a_new_job_once(tmp_path, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    code = (
        "import sys; from batchgen.ledger.location import LedgerServer, register_job, SHARED_SCHEMA;"
        " from batchgen.ledger.postgresql import"
        " PostgreSQL; database = PostgreSQL(sys.argv[1], SHARED_SCHEMA);"
        " print(register_job(database, LedgerServer(sys.argv[1], 'job', 'here')).schema)"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-c", code, database, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    assert len({(await process.communicate())[0] for process in started}) == 1
    with psycopg.connect(database) as server:
        assert server.execute("SELECT count(*) FROM batchgen.job").fetchone() == (1,)


# --- long answers


def test_a_long_answer_is_fetched_page_by_page_and_others_are_asked_meanwhile(tmp_path, database, monkeypatch):
    monkeypatch.setattr(postgresql, "PAGE_ROWS", 10)
    (tmp_path / ".batchgen").mkdir()
    ledger = Ledger(tmp_path, LedgerServer(database, "job", job_identity(str(tmp_path))))
    sql = "INSERT INTO sample (item_id, n, model, state, fingerprint, wire, updated_at) VALUES (?, 1, 'm', 'failed', '', ?, 0)"
    ledger.run_statements([(sql, (f"i{n:03}", '{"prompt": "100 % ? it\'s"}')) for n in range(35)])
    found = []
    for result in ledger.reader.results():
        found.append(result.id)
        assert ledger.reader.counts() == {"failed": 35}
    assert found == [f"i{n:03}" for n in range(35)]
    next(ledger.reader.results())  # given up after the first
    assert ledger.reader._connection.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)
    ledger.close()
