"""What held a run back is told from its requests alone."""

from __future__ import annotations

from typing import TypeVar

import pytest

from batchgen.ledger.reader import AttemptRow, LaneSpan
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.report.run_statistics import (
    Latencies,
    Latency,
    ModelMoney,
    RunStatistics,
    Sent,
    UnderWay,
    Verdict,
    run_statistics,
)

MONEY = {"m": Money(spent=0.3, estimated=0.2, guessed=0.1, unknown=3, maybe=0.04, maybe_requests=2, maybe_unknown=1)}
RUN = RunRow(1, 0.0, None, 1, "host", None, "", 0, 0)


def request(sent_s: float, took_s: float = 1.0, **facts: object) -> AttemptRow:
    row = AttemptRow(
        id=1, run_id=1, item_id="mug", n=1, images=1, lane="gemini/m", started_at=sent_s, sent_at=sent_s,
        ended_at=sent_s + took_s, outcome="succeeded", reason="", message="", http_status=200, maybe_billed=0,
        estimate_usd=0.04, usd=0.03, usd_source="usage",
    )  # fmt: skip
    return row._replace(**facts)  # type: ignore[arg-type]


A = TypeVar("A", Sent, UnderWay, Latencies)


def statistics(rows: list[AttemptRow], rpm: dict[str, int | None], concurrency: int | None) -> RunStatistics:
    spans = [LaneSpan(row.lane, row.started_at, row.ended_at or row.started_at, row.ended_at or 0.0) for row in rows]
    return run_statistics(RUN, spans, rows, MONEY, rpm, concurrency)


def filled(kind: A, rows: list[AttemptRow]) -> A:
    for row in rows:
        kind.add(row)
    return kind


def by(rows: list[AttemptRow], rpm: int | None = 60, concurrency: int | None = 5) -> str:
    return statistics(rows, {"m": rpm}, concurrency).verdict.by


def test_a_run_that_sends_all_its_quota_allows_was_limited_by_the_quota():
    assert by([request(at) for at in range(300)]) == "quota"


def test_a_run_whose_places_are_always_taken_was_limited_by_latency():
    assert by([request(at * 4, took_s=20) for at in range(80)]) == "latency"


def test_a_run_in_which_a_third_fails_was_limited_by_faults():
    rows = [request(at, outcome="failed" if at % 3 == 0 else "succeeded", reason="server_error") for at in range(300)]
    found = statistics(rows, {"m": 60}, 5).verdict
    assert found.by == "faults"
    assert found.why == "100 of 300 requests failed, most often: server_error"


def test_refusals_for_the_quota_are_no_faults():
    rows = [request(at, outcome="failed", reason="rate_limited") for at in range(100)]
    assert by([*rows, *(request(at) for at in range(100))], rpm=None) == "quota"


def test_a_refused_prompt_is_no_fault():
    assert by([request(at * 10, outcome="refused", reason="safety") for at in range(100)]) == "nothing"


def test_a_run_of_a_moment_and_one_without_an_answer_have_a_verdict():
    assert by([request(0, took_s=0)], rpm=None, concurrency=None)
    assert by([request(0, ended_at=None, outcome=None)], rpm=None, concurrency=None)


@pytest.mark.parametrize(("step_s", "expected"), [(30.0, [30, 60, 60, 60]), (120.0, [60])])
def test_throughput_is_counted_over_a_minute_as_a_quota_counts_it(step_s, expected):
    rows = [request(at) for at in range(120)]
    assert filled(Sent(0.0, step_s, len(expected)), rows).per_minute() == expected


def test_what_is_under_way_is_the_mean_of_each_step():
    assert filled(UnderWay(0.0, 10.0, 2), [request(0, took_s=15), request(0, took_s=5)]).mean() == [1.5, 0.5]


def test_latency_is_of_answers_alone():
    rows = [request(0, took_s=seconds) for seconds in range(1, 11)] + [request(0, took_s=99, outcome="failed")]
    assert filled(Latencies(), rows).spread() == Latency(n=10, p10=2, p50=6, p90=10, max=10)
    assert filled(Latencies(), [request(0, outcome="failed")]).spread() is None


def test_money_keeps_charged_estimated_doubtful_and_unknown_apart_for_every_model_that_was_asked():
    money = statistics([request(0), request(0, lane="gemini/open", outcome=None, usd=None)], {}, None).money
    assert money["m"] == ModelMoney(charged=0.3, estimated=0.2, maybe=0.04, unknown=3, maybe_unknown=1)
    assert money["open"] == ModelMoney(charged=0, estimated=0, maybe=0, unknown=0, maybe_unknown=0)


def test_a_run_of_a_month_has_no_more_points_than_one_of_a_minute():
    assert len(statistics([request(at * 3600) for at in range(720)], {}, None).in_flight) <= 121


def test_what_went_by_batch_says_nothing_of_quota_or_latency():
    by_batch = [request(at, took_s=80_000, lane="gemini:batch/m") for at in range(50)]
    found = statistics([*by_batch, *(request(90_000 + at) for at in range(10))], {"m": 60}, 5)
    assert found.latency["m"].n == 10
    assert (found.start, max(found.sent["m"])) == (90_000, 10)
    alone = statistics(by_batch, {"m": 60}, 5)
    assert (alone.verdict, alone.sent) == (Verdict("nothing", "50 requests, all of them by batch"), {})
