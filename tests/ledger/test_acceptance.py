"""How many images count, and what was spent for them, by job, run, model and tag."""

from __future__ import annotations

import time

import pytest

from batchgen.emulator import serve
from batchgen.ledger.acceptance import Acceptance, AcceptanceReader, Rejection
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import HistoryReader
from batchgen.ledger.requests import Money
from batchgen.planning.plan import RetrySelection
from batchgen.records import judge_id
from tests.support.bench import FAST, Bench, items
from tests.support.postgres import both_ledgers
from tests.support.verdicts import review

TAGGED = """\
  - {id: a, prompt: a mug, count: 2, tags: [shop, new]}
  - {id: b, prompt: a hat, tags: [shop], model: pro}
  - {id: c, prompt: a cat}
"""
MODELS = {"a": "gemini-nano-banana-2.1", "b": "gemini-3-pro-image"}


@pytest.fixture
async def bench(tmp_path):
    async with await serve(FAST) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def reject(bench: Bench, *keys: str) -> None:
    review(bench.folder / "out", *((key, "check", "blank", "reject", {"reason": "blank"}) for key in keys))


@both_ledgers
async def test_what_was_spent_is_of_the_whole_job_and_what_counts_is_what_is_not_rejected(bench):
    outcome = await bench.run(TAGGED)
    reject(bench, "a#2")
    with AcceptanceReader.open(bench.folder / "out") as reader:
        found = reader.job_acceptance(0.0)
        assert (found.accepted, found.rejected, found.money) == (3, 1, reader.money())
        assert found.usd_per_accepted == pytest.approx(outcome.usd / 3)
        run = reader.last_run()
        assert found.seconds == pytest.approx(run.ended_at - run.started_at)
        said = [[each.reason for each in result.verdicts] for result in reader.results_of_item("a")]
        assert said == [[], ["blank"]]
        assert reader.rejections() == [Rejection("a", 2, MODELS["a"], "shop,new", "blank", "")]


@both_ledgers
async def test_a_run_accounts_for_the_images_that_it_made_and_that_are_still_the_ones_that_count(bench):
    first = await bench.run(items("a mug", "a hat"))
    second = await bench.run(items("another mug", "a hat", "a cat"))  # i0 is another image now
    reject(bench, "i2")
    assert (first.acceptance.accepted, second.acceptance.accepted, second.acceptance.rejected) == (2, 2, 0)
    with AcceptanceReader.open(bench.folder / "out") as reader:
        found = [reader.run_acceptance(each.run_id, 60.0) for each in (first, second)]
        assert [(each.accepted, each.rejected) for each in found] == [(1, 0), (1, 1)]
        assert [each.money.spent for each in found] == [first.usd, second.usd]
        assert found[0].minutes_per_accepted == 1.0
        assert [[each.item_id for each in reader.rejections(run)] for run in (1, 2, None)] == [[], ["i2"], ["i2"]]


@both_ledgers
async def test_a_variant_has_the_money_of_its_items_and_of_the_judge_who_looked_at_them(bench):
    await bench.run(TAGGED)
    reject(bench, "b")
    ledger = Ledger(bench.folder / "out")
    ledger.run_statements(
        [
            (
                "INSERT INTO attempt (run_id, item_id, n, images, number, lane, fingerprint, stem, started_at, sent_at, ended_at,"
                " outcome, maybe_billed, usd, usd_source)"
                " VALUES (1, ?, 1, 1, 1, 'gemini/j', '', '', 10, 11, 14, 'succeeded', 0, 5, 'usage')",
                (judge_id("b"),),
            )
        ]
    )
    ledger.close()
    with AcceptanceReader.open(bench.folder / "out") as reader:
        found = reader.variant_acceptance()
        assert {key: (each.accepted, each.rejected) for key, each in found.items()} == {
            (MODELS["a"], "shop,new"): (2, 0),
            (MODELS["b"], "shop"): (0, 1),
            (MODELS["a"], ""): (1, 0),
        }
        assert sum(each.money.spent for each in found.values()) == pytest.approx(reader.money().spent)
        assert reader.sample_count_by_outcome(1) == {"succeeded": 4}  # the judge's request is no sample
        judged = found[MODELS["b"], "shop"]
        assert 5.0 < judged.money.spent < 6.0
        assert 3.0 < judged.seconds < 6.0


async def test_an_image_that_was_made_again_counts_for_the_later_run_alone(bench):
    first = await bench.run(items("a mug"))
    second = await bench.run(items("a mug"), retry_selection=RetrySelection(fresh=True))
    with AcceptanceReader.open(bench.folder / "out") as reader:
        assert [reader.run_acceptance(each.run_id, 1.0).accepted for each in (first, second)] == [0, 1]


async def test_a_page_hears_of_a_verdict_that_changes_no_sample(bench):
    await bench.run(items("a mug", "a hat"))
    later = time.time() + 60
    review(bench.folder / "out", ("i1", "check", "twin", "warn", {"reason": "twin", "at": later}))
    with HistoryReader.open(bench.folder / "out") as reader:
        assert reader.changed_since(later) == {"i1"}


def test_what_has_no_price_is_not_free():
    def usd(accepted: int, **money: float) -> float | None:
        return Acceptance(accepted, 0, Money(**money)).usd_per_accepted

    assert usd(2) == 0.0
    assert usd(2, spent=1.0, estimated=0.5) == 0.75
    assert usd(2, spent=1.0, unknown=1) == 0.5  # at least
    assert usd(2, unknown=1) is usd(2, maybe_requests=1) is usd(0, spent=1.0) is None
