"""How events fold into what a run looks like, and how that is drawn."""

from __future__ import annotations

import io

import pytest

from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    BatchSubmitted,
    Event,
    ImageJudged,
    ImageReviewed,
    LaneCooled,
    LaneParked,
    LaneStopped,
    LaneWaiting,
    Notice,
    RunStarted,
    SampleEnded,
    SampleSucceeded,
    Stopping,
)
from batchgen.report.console import Console
from batchgen.report.event_text import MAX_ENDED_LINES, RunLines
from batchgen.report.progress import draw
from batchgen.report.run_progress import RunProgress
from batchgen.sanitize import display_width, sanitize

WIDTHS = [20, 40, 80, 200]


def started(at: float = 0.0, eta_s: float | None = 100.0, emulated: bool = False, **samples: int) -> RunStarted:
    return RunStarted(at=at, run_id=1, job="shop", samples=samples, kept=2, usd=1.5, eta_s=eta_s, emulated=emulated)


def attempt(number: int, at: float = 0.0) -> AttemptStarted:
    return AttemptStarted(at=at, attempt=number, key=f"k{number}", model="pro", number=1)


def made(number: int, at: float = 1.0, usd: float | None = 0.1) -> SampleSucceeded:
    return SampleSucceeded(at=at, attempt=number, key=f"k{number}", model="pro", files=(), usd=usd, seconds=1.0)


def failed(number: int, retry_in_s: float | None) -> AttemptFailed:
    return AttemptFailed(
        at=1.0, attempt=number, key="k", model="pro", outcome="failed", reason="r", message="m", retry_in_s=retry_in_s
    )


def ended(at: float = 1.0) -> SampleEnded:
    return SampleEnded(at=at, key="k", model="pro", state="refused", reason="safety", message="no")


def board(*events: Event) -> RunProgress:
    folded = RunProgress()
    for event in events:
        folded(event)
    return folded


def text_of(folded: RunProgress, columns: int, now: float = 2.0, unicode: bool = True) -> list[str]:
    return [line.plain for line in draw(folded, columns, now, sanitize, unicode)]


def told(*events: Event) -> list[str]:
    stream = io.StringIO()
    lines = RunLines(Console(stream, {}))
    for event in events:
        lines(event)
    return stream.getvalue().splitlines()


# --- the board


def test_a_question_to_the_judge_is_in_flight_until_it_is_answered_and_counts_as_money_and_not_as_an_image():
    answer = ImageJudged(
        at=1.0, attempt=1, key="k1", model="pro", score=8.0, least=7.0, message="", usd=0.25, seconds=1.0
    )
    folded = board(started(), attempt(1))
    assert folded.models["pro"].in_flight == 1
    folded(answer)
    assert (folded.models["pro"].in_flight, folded.models["pro"].made, folded.usd) == (0, 0, 0.25)


def test_of_images_that_are_reviewed_the_first_are_named_and_one_of_several_to_choose_from_is_not():
    def reviewed(number: int, reason: str) -> ImageReviewed:
        return ImageReviewed(at=1.0, key=f"k{number}", model="pro", ruling="again", reason=reason, message="m")

    named = told(*(reviewed(number, "blank") for number in range(MAX_ENDED_LINES + 5)), reviewed(99, "not_chosen"))
    assert named[0] == "k0: rejected, another is bought (blank): m"
    assert (len(named), "counted, not named" in named[-1]) == (MAX_ENDED_LINES + 1, True)


def test_an_attempt_is_in_flight_until_it_succeeds_or_fails():
    assert board(started(pro=3), attempt(1), attempt(2), attempt(3), made(1), failed(2, 1.0)).in_flight == 1


def test_several_images_of_one_answer_count_one_attempt_and_each_image():
    folded = board(started(pro=4), attempt(1), made(1), made(1))
    assert (folded.in_flight, folded.made) == (0, 2)


def test_only_what_is_tried_again_is_a_retry():
    assert board(started(pro=2), attempt(1), failed(1, 2.0), attempt(2), failed(2, None)).models["pro"].retries == 1


def test_a_price_that_is_unknown_is_counted_and_not_added():
    folded = board(started(pro=2), made(1), made(2, usd=None))
    assert (round(folded.usd, 6), folded.unpriced) == (0.1, 1)


def test_time_left_is_what_remains_of_the_forecast_when_the_pace_is_a_burst():
    assert board(started(pro=100), made(1, at=1.0), *[made(n) for n in range(49)]).remaining_s(10.0) == 90.0


def test_time_left_follows_the_pace_when_that_is_slower_than_the_forecast():
    assert board(started(pro=10), *[made(n) for n in range(5)]).remaining_s(300.0) == 300.0


def test_time_left_of_an_emulated_run_is_its_pace_alone():
    assert board(started(pro=10, emulated=True), *[made(n) for n in range(5)]).remaining_s(2.0) == 2.0


def test_time_left_does_not_count_a_parked_model():
    folded = board(started(pro=1, flash=9), made(1), LaneParked(at=1.0, model="flash", until=99.0, message=""))
    assert folded.remaining_s(10.0) == 0.0


# --- drawn


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", ["pro", "模型" * 30, "a-very-long-model-name-" * 5])
def test_no_line_is_wider_than_the_screen(columns, name):
    folded = board(
        RunStarted(at=0, run_id=1, job="職" * 60, samples={name: 12345}, kept=99, usd=1234.5, eta_s=9e5, emulated=True),
        LaneCooled(at=0, model=name, seconds=60, reason="rate_limited"),
        LaneStopped(at=0, model=name, reason="breaker", message="", left=3),
        AttemptStarted(at=0, attempt=1, key="k", model=name, number=1),
    )
    assert max(map(display_width, text_of(folded, columns))) < columns


def test_a_wide_screen_has_one_line_for_each_model():
    lines = text_of(board(started(pro=10, flash=20), attempt(1), failed(2, 1.0), made(3)), 100)
    assert (len(lines), lines[1].startswith("pro    ━━━━──────"), lines[1].endswith("1/10  1 in flight · 1 retry")) == (
        4, True, True)  # fmt: skip


def test_a_narrow_screen_puts_the_notes_below():
    assert text_of(board(started(pro=10), attempt(1)), 40)[2] == "  1 in flight"


@pytest.mark.parametrize(("event", "words"), [
    (LaneCooled(at=1.0, model="pro", seconds=60, reason="rate_limited"), "cooling until "),
    (LaneParked(at=1.0, model="pro", until=60.0, message=""), "parked until "),
    (LaneStopped(at=1.0, model="pro", reason="breaker", message="", left=1), "stopped: breaker"),
    (ended(), "1 not made"),
])  # fmt: skip
def test_what_holds_a_model_back_is_said(event, words):
    assert words in text_of(board(started(pro=10), event), 120)[1]


def waiting(reason: str, until: float, at: float = 0.0) -> LaneWaiting:
    return LaneWaiting(at=at, model="pro", until=until, reason=reason)


@pytest.mark.parametrize(("events", "words"), [
    ([waiting("quota", 60.0)], "waiting for its quota of requests per minute until "),
    ([waiting("backoff", 60.0)], "backing off after a failure until "),
    ([waiting("spend", 60.0), attempt(1)], "waiting for its quota of spending until "),
    ([BatchSubmitted(at=0, model="pro", batch="b", requests=9, usd=None)], "1 batch out, not answered yet"),
    ([], "preparing the next request"),
])  # fmt: skip
def test_a_model_that_starts_nothing_says_what_it_waits_for(events, words):
    line = text_of(board(started(pro=10), *events), 160)[1]
    assert (words in line, "1 in flight" in line) == (True, len(events) == 2), line


def test_a_model_without_a_place_in_flight_waits_for_the_requests_of_another():
    folded = board(started(pro=10, flash=10), attempt(1), attempt(2))
    assert "waiting for 2 requests in flight" in text_of(folded, 120)[2]


def test_a_wait_that_is_over_or_of_nothing_more_to_make_is_no_longer_shown():
    assert "quota" not in text_of(board(started(pro=10), waiting("quota", 5.0)), 120, now=7.0)[1]
    assert "quota" not in text_of(board(started(pro=1), waiting("quota", 60.0), made(1)), 120)[1]


def test_a_request_that_takes_long_says_for_how_long():
    folded = board(started(pro=10), attempt(1, at=0.0), attempt(2, at=50.0))
    assert "2 in flight, the oldest for 1 min" in text_of(folded, 120, now=60.0)[1]
    assert "the oldest" not in text_of(folded, 120, now=20.0)[1]


def test_time_left_is_never_shorter_than_what_is_waited_for():
    folded = board(started(pro=10, emulated=True), *[made(n) for n in range(9)], waiting("quota", 60.0))
    assert folded.remaining_s(10.0) == 50.0


def test_time_left_of_an_emulated_run_is_called_the_emulators():
    assert "left for the emulator" in text_of(board(started(pro=10, emulated=True), made(1)), 120)[-1]
    assert "emulator" not in text_of(board(started(pro=10), made(1)), 120)[-1]


def test_when_all_is_answered_the_foot_says_what_is_still_done():
    assert text_of(board(started(pro=1), made(1)), 120)[-1].startswith("all answered; placing and checking the files")


def test_a_cooldown_that_is_over_is_no_longer_shown():
    folded = board(started(pro=10), LaneCooled(at=1.0, model="pro", seconds=5, reason="r"))
    assert "cooling" not in text_of(folded, 120, now=7.0)[1]


def test_without_unicode_everything_is_ascii():
    assert all(line.isascii() for line in text_of(board(started(pro=10), attempt(1), made(1)), 80, unicode=False))


def test_stopping_says_how_many_are_still_in_flight():
    folded = board(started(pro=10), attempt(1), Stopping(at=1, reason="SIGINT", message="", in_flight=1))
    assert text_of(folded, 120)[-1] == "stopping (SIGINT): finishing 1 in flight; once more gives them up"


# --- plain lines


def test_plain_lines_say_how_it_stands_every_thirty_seconds():
    lines = told(started(pro=100), *[made(n, at=n * 10.0) for n in range(1, 10)])
    assert [line.split(",")[0] for line in lines[1:]] == ["shop: 3 of 100", "shop: 6 of 100", "shop: 9 of 100"]


def test_a_long_wait_is_a_line_of_its_own_for_nothing_else_comes_meanwhile():
    lines = told(
        started(pro=9), waiting("quota", 60.0, at=1.0), waiting("quota", 5.0, at=2.0), waiting("cooling", 99.0, at=3.0)
    )
    assert [line.startswith("pro: waiting for its quota of requests per minute until ") for line in lines[1:]] == [True]


def test_the_first_line_of_an_emulated_run_forecasts_the_vendors_prices_and_no_time():
    (line,) = told(started(pro=9, emulated=True))
    assert line.endswith(" at the vendor's prices") and "at best" not in line


def test_what_a_run_leaves_out_of_its_manifest_is_said_at_once():
    event = RunStarted(at=0, run_id=1, job="shop", samples={"pro": 3}, kept=0, usd=1, eta_s=1, left_out={"limit": 34})
    assert "3 images to make, 0 kept, 34 left out by --limit" in told(event)[0]
    assert "34 left out by --limit" in text_of(board(event), 120)[0]


def test_one_episode_of_cooling_is_one_line():
    events = [LaneCooled(at=at, model="pro", seconds=10, reason="r") for at in (1.0, 5.0, 12.0, 40.0)]
    assert sum("cooling" in line for line in told(started(pro=9), *events)) == 2


def test_the_samples_without_an_image_are_named_up_to_a_point():
    lines = told(started(pro=99), *[ended() for _ in range(30)])
    assert sum(line.startswith("k: refused (safety)") for line in lines) == MAX_ENDED_LINES


def test_a_note_is_one_line_whatever_it_holds():
    assert told(Notice(at=0, message="a\nb\x1b[31m")) == ["a\\nb\\x1b[31m"]
