"""Which night is due: over changes of the clock, jumps of the clock, restarts and exit codes, all without waiting."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from batchgen.schedule.due import (
    Cadence,
    DueRun,
    ScheduledRun,
    SchedulePolicy,
    SkippedRun,
    WaitUntil,
    decide,
    on_weekdays,
    parse_cron,
)
from batchgen.schedule.timer_spec import TimeOfDay

HOUR_S, DAY_S = 3600.0, 86400.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def local(seconds: float, zone: str) -> str:
    return datetime.fromtimestamp(seconds, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


# --- when nights begin


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("clock", [TimeOfDay(0, 0), TimeOfDay(1, 30), TimeOfDay(2, 30), TimeOfDay(23, 59)])
def test_each_day_has_one_night_whatever_the_clocks_do(zone, clock):
    cadence, moment = on_weekdays(clock, (), ZoneInfo(zone)), at("2026-01-01 12:00", zone)
    days = []
    for _ in range(365):
        moment = cadence.after(moment)
        assert cadence.latest(moment) == moment
        days.append(local(moment, zone)[:10])
    first = datetime.fromisoformat(days[0]).replace(tzinfo=UTC)
    assert days == [(first + timedelta(days=number)).strftime("%Y-%m-%d") for number in range(365)]


def test_a_time_that_is_left_out_comes_an_hour_later_and_one_that_comes_twice_is_taken_first():
    night = on_weekdays(TimeOfDay(2, 30), (), ZoneInfo("Europe/Berlin"))
    assert local(night.after(at("2026-03-28 12:00")), "Europe/Berlin") == "2026-03-29 03:30"
    first = night.after(at("2026-10-24 12:00"))
    assert first == at("2026-10-25 02:30", "Europe/Berlin", fold=0)
    assert local(night.after(first), "Europe/Berlin") == "2026-10-26 02:30"


@pytest.mark.parametrize(("line", "nights"), [
    ("30 1 * * *", ["11-21 01:30", "11-22 01:30"]),
    ("30 1 * * mon-fri", ["11-23 01:30", "11-24 01:30"]),
    ("0 6,18 * * 0", ["11-22 06:00", "11-22 18:00"]),
    ("0 0 * * sat-sun", ["11-21 00:00", "11-22 00:00"]),
    ("0 0 * * 7", ["11-22 00:00", "11-29 00:00"]),
    ("*/20 12 21 11 *", ["11-21 12:00", "11-21 12:20"]),
    ("5/25 3 * * *", ["11-21 03:05", "11-21 03:30"]),
    ("0 0 1 * fri", ["11-27 00:00", "12-01 00:00"]),
    ("0 0 31 dec *", ["12-31 00:00", "12-31 00:00"]),
    ("@monthly", ["12-01 00:00", "01-01 00:00"]),
])  # fmt: skip
def test_lines_of_a_crontab_mean_what_cron_makes_of_them(line, nights):
    cadence = parse_cron(line, UTC)
    first = cadence.after(at("2026-11-20 12:00"))
    assert [local(moment, "UTC")[5:] for moment in (first, cadence.after(first))] == nights


def test_the_29th_of_february_comes():
    assert local(parse_cron("0 0 29 2 *", UTC).after(at("2096-03-01 00:00")), "UTC") == "2104-02-29 00:00"


@pytest.mark.parametrize("line", [
    "", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *",
    "a * * * *", "*-5 * * * *", "1,,2 * * * *", "0 0 31 feb *", "-1 * * * *", "@reboot", "1.5 * * * *", "² * * * *",
    "0 0 0 * * *", "0 0 * * sun-sat#9",
])  # fmt: skip
def test_what_is_no_line_of_a_crontab_is_refused(line):
    with pytest.raises(ValueError, match=r"\w"):
        parse_cron(line, UTC)


@pytest.mark.parametrize(("line", "told"), [
    ("30 1 * * *", (TimeOfDay(1, 30), ())), ("30 1 * * 5,1", (TimeOfDay(1, 30), ("mon", "fri"))),
    ("30 1 1 * *", None), ("*/2 1 * * *", None), ("30 1 * 1 *", None), ("30 1 * * sun,fri#2", None), ("30 1 L * *", None),
])  # fmt: skip
def test_a_line_that_is_one_time_of_day_can_be_told_as_such(line, told):
    assert parse_cron(line, UTC).once_a_day == told


# --- which one is due

NIGHTLY: Cadence = on_weekdays(TimeOfDay(1, 30), (), UTC)
LAST = at("2026-11-20 01:30")
TONIGHT = at("2026-11-21 01:30")


def rule(catch_up_s: float = DAY_S, *, reset: bool = False) -> SchedulePolicy:
    return SchedulePolicy(cadence=NIGHTLY, catch_up_s=catch_up_s, reset=reset)


def night(code: int | None = 0, *, due: float = LAST, stopped: bool = False) -> ScheduledRun:
    return ScheduledRun(
        at=due, began=due, ended=None if code is None else due + HOUR_S, exit_code=code, stopped=stopped
    )


def test_a_manifest_that_is_seen_for_the_first_time_waits_for_its_first_night():
    assert decide(rule(), since=LAST + HOUR_S, last=None, now=LAST + HOUR_S) == WaitUntil(TONIGHT)


@pytest.mark.parametrize(("late_s", "why"), [(0.0, "on time"), (90.0, "on time"), (3 * HOUR_S, "missed")])
def test_a_night_begins_when_it_is_due_and_is_made_up_for_when_it_was_missed(late_s, why):
    assert decide(rule(), LAST, night(), TONIGHT + late_s) == DueRun(TONIGHT, why)


def test_of_many_missed_nights_the_last_is_made_up_for_once():
    now = TONIGHT + 9 * DAY_S + HOUR_S
    verdict = decide(rule(), LAST, night(), now)
    assert verdict == DueRun(TONIGHT + 9 * DAY_S, "missed")
    assert decide(rule(), LAST, night(due=verdict.at), now + HOUR_S) == WaitUntil(TONIGHT + 10 * DAY_S)


def test_a_night_that_is_missed_for_longer_than_catch_up_is_left_out():
    assert decide(rule(HOUR_S), LAST, night(), TONIGHT + 2 * HOUR_S) == SkippedRun(TONIGHT)
    assert decide(rule(HOUR_S), TONIGHT, night(), TONIGHT + 2 * HOUR_S) == WaitUntil(TONIGHT + DAY_S)
    assert decide(rule(0.0), LAST, night(), TONIGHT + 60) == DueRun(TONIGHT, "on time")


@pytest.mark.parametrize("last", [night(None), night(143, stopped=True), night(137, stopped=True)])
def test_a_night_that_was_stopped_with_the_daemon_goes_on_within_catch_up(last):
    assert decide(rule(), 0.0, last, LAST + 2 * HOUR_S) == DueRun(LAST, "interrupted")
    assert decide(rule(HOUR_S), 0.0, last, LAST + 2 * HOUR_S) == WaitUntil(TONIGHT)
    assert decide(rule(), 0.0, last, TONIGHT + HOUR_S) == DueRun(TONIGHT, "missed")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 137, 143])
def test_a_night_that_has_ended_in_any_way_of_its_own_leaves_the_rest_to_the_next(code):
    assert decide(rule(), 0.0, night(code), LAST + 2 * HOUR_S) == WaitUntil(TONIGHT)


def test_batches_that_are_out_are_looked_at_again_until_the_next_night():
    assert decide(rule(), 0.0, night(9), LAST + HOUR_S + 10) == WaitUntil(LAST + HOUR_S + 900)
    assert decide(rule(2 * HOUR_S), 0.0, night(9), LAST + 3 * HOUR_S) == DueRun(LAST, "batches")
    assert decide(rule(), 0.0, night(9), TONIGHT + 60) == DueRun(TONIGHT, "on time")


def test_a_job_that_another_run_holds_is_tried_again_in_five_minutes():
    assert decide(rule(), 0.0, night(11), LAST + HOUR_S + 10) == WaitUntil(LAST + HOUR_S + 300)
    assert decide(rule(), 0.0, night(11), LAST + HOUR_S + 300) == DueRun(LAST, "held")
    assert decide(rule(2 * HOUR_S), 0.0, night(11), LAST + 3 * HOUR_S) == WaitUntil(TONIGHT)


def test_a_used_up_quota_waits_for_the_next_night_or_for_its_reset_at_midnight_pacific():
    reset = at("2026-11-20 00:05", "America/Los_Angeles")
    assert decide(rule(), 0.0, night(8), LAST + 2 * HOUR_S) == WaitUntil(TONIGHT)
    assert decide(rule(reset=True), 0.0, night(8), LAST + 2 * HOUR_S) == WaitUntil(reset)
    assert decide(rule(HOUR_S, reset=True), 0.0, night(8), reset) == DueRun(LAST, "reset")


def test_the_next_night_does_not_wait_for_a_reset():
    hourly = SchedulePolicy(cadence=parse_cron("30 * * * *", UTC), catch_up_s=DAY_S, reset=True)
    last = ScheduledRun(at=LAST, began=LAST, ended=LAST + 60, exit_code=8)
    assert decide(hourly, 0.0, last, LAST + 120) == WaitUntil(LAST + HOUR_S)


def test_a_clock_that_is_set_back_runs_no_night_twice_and_one_that_was_years_ahead_stops_none():
    assert decide(rule(), 0.0, night(due=TONIGHT), TONIGHT - HOUR_S) == WaitUntil(TONIGHT + DAY_S)
    assert decide(rule(), 0.0, night(due=TONIGHT + 900 * DAY_S), TONIGHT) == DueRun(TONIGHT, "on time")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_restarts_and_jumps_no_night_runs_twice(seed):
    chance, zone = random.Random(seed), ZoneInfo("Europe/Berlin")
    since = now = at("2026-10-20 12:00")
    berlin = SchedulePolicy(cadence=on_weekdays(TimeOfDay(2, 30), (), zone), catch_up_s=DAY_S)
    last, begun = None, []
    while now < at("2026-11-01 12:00"):
        verdict = decide(berlin, since, last, now)
        if isinstance(verdict, DueRun):
            begun.append(verdict.at)
            last = ScheduledRun(at=verdict.at, began=now, ended=now + 600, exit_code=0)
        now += chance.choice([60, 600, 7200, 30 * 3600, -1800])
    assert len(begun) == len(set(begun)) >= 3
    assert begun == sorted(begun)
