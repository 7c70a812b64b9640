"""Verdicts in the ledger, and what they make of samples."""

from __future__ import annotations

import pytest

from batchgen.emulator import serve
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.verdicts import set_review_state
from tests.support.bench import FAST, Bench, items
from tests.support.postgres import both_ledgers


@pytest.fixture
async def bench(tmp_path):
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


@both_ledgers
async def test_an_image_stops_counting_and_counts_again_while_it_is_its_samples_and_no_other(bench):
    await bench.run(items("a mug", "a hat", "a cat"))
    sha256 = bench.lines()["i0"]["sha256"][0]
    ledger = Ledger(bench.folder / "out")

    def is_set(*end: str, sha256: str = sha256, item: str = "i0") -> bool:
        return bool(ledger.writer.submit(set_review_state(item, 1, sha256, *end)).result())

    def ends() -> list[tuple[str, str, str]]:
        return [(each.state, each.reason, each.message) for each in ledger.reader.results_of_item("i0")]

    try:
        assert (is_set("rejected", "person", "too dark"), ends()) == (True, [("rejected", "person", "too dark")])
        assert not is_set("rejected", "person", "too dark")
        assert (is_set("rejected", "blank"), ends()) == (True, [("rejected", "blank", "")])
        assert not is_set("succeeded", sha256=bench.lines()["i1"]["sha256"][0])
        assert (is_set("succeeded"), ends()) == (True, [("succeeded", "", "")])
        for state in ("running", "refused", "superseded"):
            ledger.run_statements([("UPDATE sample SET state = ? WHERE item_id = 'i0'", (state,))])
            assert (is_set("rejected", "person"), ends()) == (False, [(state, "", "")])
        assert not is_set("rejected", item="i9")
    finally:
        ledger.close()
