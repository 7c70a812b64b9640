"""Whole runs whose ledger is in PostgreSQL: the same facts, the same promises."""

from __future__ import annotations

import pytest

from batchgen.emulator import serve
from batchgen.ledger.reader import Reader
from tests.test_run import FAST, Bench, items


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
