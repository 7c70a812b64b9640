"""What there is to tell of a night, and in which words."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from batchgen.manifest.addresses import secrets_in, variable_problem
from batchgen.profiles.profile import Profile
from batchgen.report.notify import DEFAULT_ON, due_shutdown_notices, limit_lines, notify_events, shutdown_line

TODAY = date(2026, 11, 21)


@pytest.mark.parametrize(("code", "told"), [
    (0, set()), (1, {"failure"}), (2, {"failure"}), (3, {"partial"}), (4, {"failure"}), (5, {"failure"}), (6, {"budget"}),
    (7, set()), (8, {"parked"}), (9, set()), (11, set()), (129, set()), (130, set()), (143, set()),
])  # fmt: skip
def test_by_default_everything_is_told_but_success_the_deadline_and_what_a_person_did(code, told):
    assert notify_events(code, parked=False, shutdown=False) & DEFAULT_ON == told


def test_a_success_with_a_parked_model_is_told():
    assert notify_events(0, parked=True, shutdown=False) & DEFAULT_ON == {"parked"}


def ending(days: int) -> Profile:
    return Profile(id="old", provider="gemini", shutdown=(TODAY + timedelta(days)).isoformat(), replacement="new")


@pytest.mark.parametrize(
    ("days", "threshold"), [(61, None), (60, 60), (31, 60), (30, 30), (8, 30), (7, 7), (0, 7), (-9, 7)]
)
def test_a_models_end_is_told_at_60_30_and_7_days(days, threshold):
    found = due_shutdown_notices([ending(days), Profile(id="young", provider="gemini")], {}, TODAY)
    assert found == ({} if threshold is None else {"old": threshold})


@pytest.mark.parametrize(("told", "again"), [({"old": 60}, True), ({"old": 30}, False), ({"old": 7}, False)])
def test_each_threshold_is_told_once(told, again):
    assert bool(due_shutdown_notices([ending(20)], told, TODAY)) is again


@pytest.mark.parametrize(("days", "words"), [(20, "in 20 days, on"), (1, "tomorrow,"), (0, "today,"), (-2, "since")])
def test_the_end_is_told_with_what_to_use_instead(days, words):
    profile = ending(days)
    assert shutdown_line(profile, TODAY) == f"old is shut down {words} {profile.shutdown}; use new"


def test_a_message_has_at_most_ten_lines():
    lines = limit_lines([f"line {number}" for number in range(30)]).split("\n")
    assert (len(lines), lines[-1]) == (10, "… and 21 more lines: batchgen status")


@pytest.mark.parametrize(
    "name",
    [
        "GEMINI_API_KEY",
        "NOTIFY_API_KEY",
        "HOME",
        "AWS_SECRET_ACCESS_KEY",
        "notify_x",
        "",
        "BATCHGEN_LEDGER",
        "BATCHGEN_MAIL",
    ],
)
def test_a_manifest_cannot_send_other_variables_to_its_address(name):
    assert variable_problem(f"json://host/${{{name}}}") is not None


@pytest.mark.parametrize("name", ["NOTIFY_URL", "HEARTBEAT"])
def test_variables_meant_for_addresses_are_taken(name):
    assert variable_problem(f"${{{name}}}") is None


@pytest.mark.parametrize(("address", "found"), [
    ("${NOTIFY_URL}", []), ("json://localhost:8000/hook", []), ("mailto://me:${NOTIFY_PASS}@example.com", []),
    ("mailto://me:swordfish@example.com", ["swordfish"]), ("slack://T0123ABCDE/x", ["T0123ABCDE"]),
    ("https://hc-ping.com/5f1d0c7e-4b0a-4c1d", ["5f1d0c7e-4b0a-4c1d"]), ("https://example.com/a?token=abc123def456", ["abc123def456"]),
])  # fmt: skip
def test_an_address_that_holds_a_secret_is_noticed(address, found):
    assert secrets_in(address) == found
