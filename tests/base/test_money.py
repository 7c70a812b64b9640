"""Money adds up: what a sum of binary fractions is off by is neither shown nor held against a budget."""

from __future__ import annotations

import json

import pytest

from batchgen.cli.main import run_command_line
from batchgen.money import rounded, usd, within

DIMES = sum([0.1] * 3)  # 0.30000000000000004


def test_three_times_ten_cents_are_thirty():
    assert DIMES != 0.3
    assert (usd(DIMES), rounded(DIMES), rounded(None)) == ("$0.30", 0.3, None)


@pytest.mark.parametrize(
    ("amount", "limit", "fits"),
    [(DIMES, 0.3, True), (0.3, DIMES, True), (0.300001, 0.3, False), (0.0, 0.0, True), (0.000001, 0.0, False)],
)
def test_a_sum_is_within_a_limit_that_it_equals(amount, limit, fits):
    assert within(amount, limit) is fits


def test_a_budget_for_three_images_of_ten_cents_makes_three_and_json_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    items = [{"id": f"a{n}", "prompt": f"x {n}", "model": "imagen"} for n in range(4)]
    prices = {"imagen-4.0-generate-001": {"prices": {"image_usd": 0.1}, "images_per_request": 1}}
    (tmp_path / "m.yaml").write_text(json.dumps({"models": prices, "items": items[:3]}))
    assert run_command_line(["plan", str(tmp_path / "m.yaml"), "--emulate", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["usd"], plan["by_model"]["imagen-4.0-generate-001"]["usd"]) == (0.3, 0.3)
    arguments = ["run", str(tmp_path / "m.yaml"), "--emulate", "--json", "--quiet", "--max-cost", "0.345"]
    assert run_command_line(arguments) == 0  # a reservation is 15 % above the estimate
    summary = json.loads(capsys.readouterr().out)
    assert (summary["usd"]["estimated"], summary["limit"]["estimate_usd"]) == (0.3, 0.3)
