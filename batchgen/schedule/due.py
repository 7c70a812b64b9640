"""Decides when scheduled runs begin (by five fields of a crontab in a time zone, as Debian's cron reads them), and
whether one is due now, from its last run and the clock. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from cronsim import CronSim, CronSimError

from batchgen.schedule.timer_spec import DAYS, TimeOfDay, crontab_line
from batchgen.scheduling.window import quota_day_start

CLOCK_CHANGE = timedelta(hours=2)  # more than clocks are ever changed by
_ANY_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 # the clock on the wall
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
EXIT_DAILY_QUOTA, EXIT_SUBMITTED, EXIT_LOCKED, EXIT_PERSON_NEEDED = 8, 9, 11, 5
ON_TIME_TOLERANCE_S = 120.0  # a run that begins this late is on time: timers are inexact, machines busy
BATCH_POLL_S = 900.0  # between polls of batches, or of the cluster's work
LOCK_RETRY_S = 300.0  # between looks whether the other run is over
RESET_MARGIN_S = 300.0  # clocks differ
DAY_S = 86400.0
RunReason = Literal["on time", "missed", "interrupted", "held", "reset", "batches"]


@dataclass(frozen=True, slots=True)
class Cadence:
    """A schedule. line: of a crontab, known to be valid. zone None: this machine's.

    A time that a clock change skips comes an hour later, and one that occurs twice counts the first time, so each
    occurs once a day. The catch: what repeats within a day pauses for the hour that occurs twice.
    """

    line: str
    zone: tzinfo | None = None

    def latest(self, now: float) -> float | None:
        """UTC seconds of the last time at or before `now`, None if that is more than fifty years ago."""
        return next((at for at in self._times(now, backwards=True) if at <= now), None)

    def after(self, now: float) -> float:
        """UTC seconds of the next time after `now`. Raises ValueError if there is none within fifty years."""
        for at in self._times(now):
            if at > now:
                return at
        raise ValueError("no day is ever like this")

    def _times(self, now: float, *, backwards: bool = False) -> Iterator[float]:
        """Times by the wall clock, which knows no clock changes, so they start a little on the other side of `now`."""
        local = datetime.fromtimestamp(now, UTC).astimezone(self.zone).replace(tzinfo=None)
        for at in CronSim(self.line, local + CLOCK_CHANGE if backwards else local - CLOCK_CHANGE, reverse=backwards):
            # A datetime without a zone of its own is taken as this machine's local time.
            yield (at if self.zone is None else at.replace(tzinfo=self.zone)).timestamp()

    @property
    def once_a_day(self) -> tuple[TimeOfDay, tuple[str, ...]] | None:
        """The time of day and the days of the week (empty for all), if that is all there is to say."""
        fields = CronSim(self.line, _ANY_DAY)
        each_day = (len(fields.days), len(fields.months), fields.day_and) == (31, 12, True)
        if not each_day or len(fields.minutes) > 1 or len(fields.hours) > 1:
            return None
        numbers = [number for number in fields.weekdays if isinstance(number, int)]
        if len(numbers) < len(fields.weekdays):  # the last Friday, the third Monday
            return None
        weekdays = {(number - 1) % 7 for number in numbers}
        at = TimeOfDay(*fields.hours, *fields.minutes)
        return at, () if len(weekdays) == 7 else tuple(DAYS[number] for number in sorted(weekdays))


def on_weekdays(at: TimeOfDay, days: Sequence[str], zone: tzinfo | None) -> Cadence:
    """A schedule for these days. days: of DAYS, empty for all."""
    return Cadence(crontab_line(at, days), zone)


def parse_cron(text: str, zone: tzinfo | None) -> Cadence:
    """A schedule from `30 1 * * mon-fri` or @daily. Raises ValueError with what is wrong in words."""
    fields = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"has {len(fields)} fields in place of five: minute, hour, day of month, month, day of week")
    fields[4] = re.sub(r"-sun\b", "-7", fields[4], flags=re.IGNORECASE)  # sat-sun
    cadence = Cadence(" ".join(fields), zone)
    try:
        CronSim(cadence.line, _ANY_DAY)
    except CronSimError as error:
        raise ValueError(f"{error} in {text!r}") from None
    return cadence


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRun:
    """The last scheduled run of a job. All UTC seconds; at: when it was due.

    exit_code: None while it runs, or if the daemon died meanwhile. stopped: it ended because the daemon was stopped.
    """

    at: float
    began: float
    ended: float | None = None
    exit_code: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePolicy:
    """What a schedule says about its runs. reset: whether to wait for a daily quota that is used up."""

    cadence: Cadence
    catch_up_s: float
    reset: bool = False


@dataclass(frozen=True, slots=True)
class DueRun:
    """at: when the run should have begun."""

    at: float
    why: RunReason


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A run that is too long overdue to be made up for."""

    at: float


@dataclass(frozen=True, slots=True)
class WaitUntil:
    until: float


def decide(
    policy: SchedulePolicy, since: float, last: ScheduledRun | None, now: float
) -> DueRun | SkippedRun | WaitUntil:
    """Decide. since: when the schedule began to count; earlier times are ignored. last: not running now.

    Of several missed runs only the latest is made up for, once.
    """
    if last is not None and last.at > now + DAY_S:
        last = None  # it was written with a wrong clock
    handled_until = max(since, last.at if last is not None else since)
    latest = policy.cadence.latest(now)
    if latest is not None and latest > handled_until:
        late_s = now - latest
        if late_s <= ON_TIME_TOLERANCE_S:
            return DueRun(latest, "on time")
        return DueRun(latest, "missed") if late_s <= policy.catch_up_s else SkippedRun(latest)
    next_at = policy.cadence.after(max(now, handled_until))
    if last is None:
        return WaitUntil(next_at)
    resume = resumption(policy, last)
    if resume is None or resume.at >= next_at:
        return WaitUntil(next_at)
    if resume.why not in ("reset", "batches") and now > last.at + max(policy.catch_up_s, ON_TIME_TOLERANCE_S):
        return WaitUntil(next_at)
    return DueRun(last.at, resume.why) if resume.at <= now else WaitUntil(resume.at)


def resumption(policy: SchedulePolicy, last: ScheduledRun) -> DueRun | None:
    """When an unfinished run continues before the next time; None if it does not."""
    if last.exit_code is None or last.stopped:
        return DueRun(last.at, "interrupted")
    ended = last.ended if last.ended is not None else last.began
    if last.exit_code == EXIT_LOCKED:
        return DueRun(ended + LOCK_RETRY_S, "held")
    if last.exit_code == EXIT_SUBMITTED:
        return DueRun(ended + BATCH_POLL_S, "batches")
    if last.exit_code == EXIT_DAILY_QUOTA and policy.reset:
        return DueRun(quota_day_start(quota_day_start(ended) + 1.5 * DAY_S) + RESET_MARGIN_S, "reset")
    return None
