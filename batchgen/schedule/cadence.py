"""When the nights of a schedule begin: five fields of a crontab in a time zone, as Debian's cron reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

from batchgen.schedule.timer_spec import DAYS, TimeOfDay, crontab_line

CLOCK_CHANGE = timedelta(hours=2)  # more than any clock is put forward or back
_ANY_DAY = datetime(2000, 1, 1)  # noqa: DTZ001 # the clock on the wall
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


@dataclass(frozen=True, slots=True)
class Cadence:
    """line: of a crontab, known to be valid. zone None: this machine's.

    A time that the change of the clock leaves out comes an hour later, one that comes twice is taken the first time:
    so each is there once a day. Its catch: what repeats within a day pauses for the hour that comes twice.
    """

    line: str
    zone: tzinfo | None = None

    def latest(self, now: float) -> float | None:
        """UTC seconds of the last night that began at or before `now`; None when that is more than fifty years ago."""
        return next((at for at in self._times(now, backwards=True) if at <= now), None)

    def after(self, now: float) -> float:
        """UTC seconds of the next night after `now`. Raises ValueError when there is none within fifty years."""
        for at in self._times(now):
            if at > now:
                return at
        raise ValueError("no day is ever like this")

    def _times(self, now: float, *, backwards: bool = False) -> Iterator[float]:
        """By the clock on the wall, which knows no changes: hence from a little on the other side of `now`."""
        local = datetime.fromtimestamp(now, UTC).astimezone(self.zone).replace(tzinfo=None)
        for at in CronSim(self.line, local + CLOCK_CHANGE if backwards else local - CLOCK_CHANGE, reverse=backwards):
            # Without a zone of its own a datetime is taken as this machine's local time.
            yield (at if self.zone is None else at.replace(tzinfo=self.zone)).timestamp()

    @property
    def once_a_day(self) -> tuple[TimeOfDay, tuple[str, ...]] | None:
        """Time of day and days of the week, empty for all, when that is all there is to say."""
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
    """days: of DAYS, empty for all."""
    return Cadence(crontab_line(at, days), zone)


def parse_cron(text: str, zone: tzinfo | None) -> Cadence:
    """`30 1 * * mon-fri` or @daily. Raises ValueError with what is wrong in words."""
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
