"""The books of a job: what was billed adds up, with a cause for everything beyond what was wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.requests import SurplusRequest
from batchgen.report.billing import billing_check, billing_lines, classify_request, read_billing
from tests.support.bench import Bench, items

LOST = SurplusRequest("mug", 1, "f", "uncertain", "timeout", True, 0, True, "f", 1)
MADE = replace(LOST, outcome="succeeded", reason="", pictures=1)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (LOST, "maybe_twice"),
        (replace(LOST, made_later=False), "maybe_once"),
        (replace(LOST, outcome="failed", reason="malformed"), "maybe_twice"),
        (replace(LOST, outcome="failed", doubtful=False), "again"),
        (replace(LOST, outcome="failed", doubtful=False, made_later=False), "no_picture"),
        (replace(LOST, outcome=None), "open"),
        (replace(MADE, later_fingerprint="other"), "again"),
        (replace(MADE, later_run=2), "again"),
        (replace(MADE, pictures=0), "no_picture"),
        (replace(MADE, pictures=0, reason="late"), "again"),
        (replace(LOST, outcome=None, linked=True), "link"),
        (replace(MADE, pictures=0, reason="mismatch"), "no_picture"),
        (replace(MADE, linked=True), "again"),
        (MADE, "unexplained"),
    ],
)
def test_every_request_beyond_the_wanted_ones_has_its_kind(request_, kind):
    assert classify_request(request_)[0] == kind


def test_books_without_anything_beyond_say_nothing():
    found = billing_check(200, 200, [])
    assert billing_lines(found, found, "job") == []


def test_books_that_do_not_balance_are_called_a_bug():
    for found in (billing_check(201, 200, []), billing_check(201, 200, [MADE])):
        assert not found.holds
        assert "bug" in "".join(billing_lines(found, found, "job"))


@pytest.mark.parametrize("fault", ["408", "504", "reset", "truncated_json"])
async def test_the_account_doubts_what_the_money_doubts(tmp_path, fault):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items(f"[[fault:{fault}]] a"), "defaults: {model: flash}\nlimits: {attempts: 2}\nitems:\n")
        with batchgen.Ledger.open(tmp_path / "out") as ledger:
            money, found = ledger.money(), read_billing(ledger)
        assert money.maybe_requests > 0
        assert (found.beyond, found.holds) == ({"maybe_once": money.maybe_requests}, True)


async def test_a_job_with_faults_an_edit_and_a_fresh_run_balances_and_lists_what_was_beyond(tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items("a", "[[fault:half_image*1]] b", "[[fault:reset*1]] c"))
        await bench.run(items("a, at night", "[[fault:half_image*1]] b", "[[fault:reset*1]] c"))
        with batchgen.Ledger.open(tmp_path / "out") as ledger:
            found, last = read_billing(ledger), read_billing(ledger, 2)
        assert (found.billed, found.wanted, found.holds) == (6, 3, True)
        assert {(entry.id, entry.kind) for entry in found.listed} == {
            ("i0", "again"), ("i1", "again"), ("i2", "maybe_twice"),
        }  # fmt: skip
        assert (last.billed, last.wanted, last.beyond, last.holds) == (1, 1, {}, True)
        assert billing_lines(last, found, "job") == []  # of earlier runs only `status --billing` speaks
        assert (
            len(billing_lines(found, found, "job")) == 1
            and "6 requests billed: 3 for images, " in billing_lines(found, found, "job")[0]
        )
