"""When the nights of a schedule begin: five fields of a crontab in a time zone. Pure. Source: crontab(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from batchgen.schedule.timer_spec import DAYS, TimeOfDay

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
SEARCH_DAYS = 8 * 366  # a 29th of February comes within eight years, whatever the century
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


@dataclass(frozen=True, slots=True)
class Cadence:
    """minutes and hours ascending; weekdays: 0 is Monday. zone None: this machine's.

    any_day_field: a day of the month or a day of the week is enough, as cron has it when both are given.
    A time that the change of the clock leaves out comes an hour later, one that comes twice is taken the first time:
    so each is there once a day. Its catch: what repeats within a day pauses for the hour that comes twice.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day_field: bool
    zone: tzinfo | None = None

    def latest(self, now: float) -> float | None:
        """UTC seconds of the last night that began at or before `now`; None when that is more than eight years ago."""
        today = self._local_day(now)
        for back in range(SEARCH_DAYS):
            found = [at for at in self._times_on(today - timedelta(days=back)) if at <= now]
            if found:
                return max(found)
        return None

    def after(self, now: float) -> float:
        """UTC seconds of the next night after `now`. Raises ValueError when there is none within eight years."""
        today = self._local_day(now)
        for ahead in range(SEARCH_DAYS):
            found = [at for at in self._times_on(today + timedelta(days=ahead)) if at > now]
            if found:
                return min(found)
        raise ValueError("no day is ever like this")

    @property
    def once_a_day(self) -> tuple[TimeOfDay, tuple[str, ...]] | None:
        """Time of day and days of the week, empty for all, when that is all there is to say."""
        plain = len(self.days) == 31 and len(self.months) == 12 and not self.any_day_field
        if not plain or len(self.minutes) > 1 or len(self.hours) > 1:
            return None
        days = () if len(self.weekdays) == 7 else tuple(DAYS[number] for number in sorted(self.weekdays))
        return TimeOfDay(self.hours[0], self.minutes[0]), days

    def _local_day(self, now: float) -> date:
        return datetime.fromtimestamp(now, UTC).astimezone(self.zone).date()

    def _times_on(self, day: date) -> Iterator[float]:
        in_month, in_week = day.day in self.days, day.weekday() in self.weekdays
        if day.month in self.months and ((in_month or in_week) if self.any_day_field else (in_month and in_week)):
            for hour in self.hours:
                for minute in self.minutes:
                    local = datetime.combine(day, time(hour, minute))
                    # Without a zone of its own a datetime is taken as this machine's local time.
                    yield (local if self.zone is None else local.replace(tzinfo=self.zone)).timestamp()


def on_weekdays(at: TimeOfDay, days: Sequence[str], zone: tzinfo | None) -> Cadence:
    """days: of DAYS, empty for all."""
    weekdays = frozenset(DAYS.index(day) for day in days or DAYS)
    return Cadence((at.minute,), (at.hour,), frozenset(range(1, 32)), frozenset(range(1, 13)), weekdays, False, zone)


def parse_cron(text: str, zone: tzinfo | None) -> Cadence:
    """`30 1 * * mon-fri` or @daily. Raises ValueError with what is wrong in words."""
    fields = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"has {len(fields)} fields in place of five: minute, hour, day of month, month, day of week")
    weekdays = {(number - 1) % 7 for number in _parse_field(fields[4], "day of week", 0, 7, ("sun", *DAYS))}
    found = Cadence(
        tuple(sorted(_parse_field(fields[0], "minute", 0, 59))),
        tuple(sorted(_parse_field(fields[1], "hour", 0, 23))),
        frozenset(_parse_field(fields[2], "day of month", 1, 31)),
        frozenset(_parse_field(fields[3], "month", 1, 12, ("", *MONTHS))),
        frozenset(weekdays),
        any_day_field=not fields[2].startswith("*") and not fields[4].startswith("*"),
        zone=zone,
    )
    if not found.any_day_field and not any(_day_exists(month, day) for month in found.months for day in found.days):
        raise ValueError("no month has such a day")
    return found


def _day_exists(month: int, day: int) -> bool:
    return day <= (29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31)


def _parse_field(text: str, name: str, min_value: int, max_value: int, words: Sequence[str] = ()) -> set[int]:
    """The numbers of one field: `*`, `1`, `mon`, `1-5`, `*/15`, `1,3-5`. words: by number."""
    found: set[int] = set()
    for part in text.lower().split(","):
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d{1,4}))?", part, re.ASCII)
        if match is None or (match[1] == "*" and match[2]):
            raise ValueError(f"{part!r} is no {name}")
        step = int(match[3] or 1)
        first = min_value if match[1] == "*" else _parse_number(match[1], name, min_value, max_value, words)
        if match[2]:
            last = _parse_number(match[2], name, min_value, max_value, words)
            last = max_value if match[2] == "sun" else last  # sat-sun
        else:
            last = max_value if match[1] == "*" or match[3] else first
        if last < first or not step:
            raise ValueError(f"{part!r} is no {name}: it holds nothing")
        found.update(range(first, last + 1, step))
    return found


def _parse_number(text: str, name: str, min_value: int, max_value: int, words: Sequence[str]) -> int:
    if text in words and text:
        return words.index(text)
    if not text.isdigit() or not min_value <= int(text) <= max_value:
        raise ValueError(f"{text!r} is no {name}: {min_value} to {max_value}")
    return int(text)
