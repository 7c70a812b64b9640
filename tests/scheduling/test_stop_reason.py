"""Why a run stopped: what is written down of it and read back, and what people are told."""

from __future__ import annotations

import pytest

from batchgen.engine.outcome import EXIT_CODE_BY_STOP_REASON
from batchgen.scheduling.stop_reason import StopKind, StopReason, budget_text, stop_text


@pytest.mark.parametrize(
    ("reason", "slug"),
    [
        (StopReason(StopKind.BUDGET), "budget"),
        (StopReason(StopKind.BUDGET, "day"), "budget"),
        (StopReason(StopKind.BUDGET, "month"), "budget"),
        (StopReason(StopKind.DEADLINE), "deadline"),
        (StopReason(StopKind.STALLED), "stalled"),
        (StopReason(StopKind.CANCELLED), "cancelled"),
        (StopReason(StopKind.DISK, message="no space left"), "disk"),
        (StopReason(StopKind.BUG), "bug"),
        (StopReason(StopKind.CLOSED), "closed"),
        (StopReason(StopKind.SIGNAL, "SIGTERM"), "SIGTERM"),
        (StopReason(StopKind.ERROR, "key_rejected", "API key not valid"), "key_rejected"),
        (StopReason(StopKind.ERROR, "reason_of_a_third_party", "no"), "reason_of_a_third_party"),
    ],
)
def test_a_stop_is_read_back_as_it_was_written_down(reason, slug):
    assert reason.slug == slug
    words = "" if reason.kind is StopKind.STALLED else stop_text(reason, 1800.0)
    assert StopReason.from_record(slug, words) == reason


def test_a_run_that_nothing_stopped_has_no_reason():
    assert (StopReason.from_record(""), stop_text(None, 1800.0)) == (None, "")


def test_a_message_that_only_mentions_a_budget_names_none():
    record = StopReason.from_record("budget", f"as the log says, {budget_text('day')}")
    assert record == StopReason(StopKind.BUDGET)


def test_every_exit_code_belongs_to_a_stop_that_is_told_by_its_kind():
    kinds = {slug: StopReason.from_record(slug).kind for slug in EXIT_CODE_BY_STOP_REASON}
    assert {slug for slug, kind in kinds.items() if kind is StopKind.ERROR} == {
        "key_rejected",
        "location_unsupported",
        "account_restricted",
        "billing",
    }


def test_what_people_are_told():
    assert "over 30 min" in stop_text(StopReason(StopKind.STALLED), 1800.0)
    assert "budget_usd_per_day" in stop_text(StopReason(StopKind.BUDGET, "day"), 0.0)
    assert stop_text(StopReason(StopKind.BUDGET), 0.0) == ""
    assert stop_text(StopReason(StopKind.SIGNAL, "SIGINT"), 0.0) == ""
