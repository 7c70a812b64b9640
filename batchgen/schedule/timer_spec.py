"""When a job runs and with what: the one description that every kind of unit is made from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from batchgen.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Budget, deadline, daily quota, batches out, another run: the next night goes on.
RESUMABLE_EXIT_CODES = (6, 7, 8, 9, 11)
DURATION_S = 22 * 3600  # without a deadline from the user: ended before the next night
GRACE_S = 900  # a run that is stopped finishes what is in flight, which may take ten minutes
HANG_TIMEOUT_S = 3600  # a run still going this long after its deadline hangs, and is stopped
CATCH_UP_S = 24 * 3600.0  # how late the daemon makes up for a run, unless the manifest says otherwise
_UNIT_SECONDS = (86400, 3600, 60, 1)
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day on the local clock."""

    hour: int
    minute: int

    def __str__(self) -> str:
        return f"{self.hour:02d}:{self.minute:02d}"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """variable: such as NAME_API_KEY. path: of a file that contains only the key."""

    variable: str
    path: Path

    @property
    def name(self) -> str:
        return self.variable.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSpec:
    """days: of DAYS, empty for all. program: how batchgen is called. options: of `run`, as typed. All paths are
    absolute.

    folder: relative paths in the options start here. timezone: an IANA name if one was given.
    """

    name: str
    manifest: Path
    job_folder: Path
    at: TimeOfDay
    days: tuple[str, ...] = ()
    until: TimeOfDay | None = None
    duration_s: int = DURATION_S
    program: tuple[str, ...] = ("batchgen",)
    options: tuple[str, ...] = ()
    folder: Path = Path("/")
    keys: tuple[KeyFile, ...] = ()
    timezone: str | None = None

    def __post_init__(self) -> None:
        for text in (*self.program, *self.options, *map(str, self.paths_in_unit)):
            if not text.isprintable():
                raise UsageError(f"{text!r} has characters that no unit can hold; rename it")

    @property
    def paths_in_unit(self) -> tuple[Path, ...]:
        return (self.manifest, self.job_folder, self.folder, *(key.path for key in self.keys))

    @property
    def command(self) -> list[str]:
        """The command for this host. Both limits hold: a run that is made up for during the day lasts no longer than a
        night."""
        until = ["--until", str(self.until)] if self.until is not None else []
        return [*self.program, "run", str(self.manifest), *until, *self.duration_option, *self.options]

    @property
    def duration_option(self) -> list[str]:
        """The limit as a duration alone, as the wall clock may be a different one."""
        return ["--max-duration", f"{self.duration_s // 60}m"]

    @property
    def crontab(self) -> str:
        """The five fields of a crontab."""
        return crontab_line(self.at, self.days)

    def crontab_in_utc(self, zone: tzinfo, now: datetime) -> str:
        """This time in UTC, as the clocks are set at `now`; daylight saving moves it by an hour."""
        local = now.astimezone(zone).replace(hour=self.at.hour, minute=self.at.minute, second=0, microsecond=0)
        in_utc = local - (local.utcoffset() or timedelta())
        day_shift = (in_utc.date() - local.date()).days
        days = tuple(DAYS[(DAYS.index(day) + day_shift) % 7] for day in self.days)
        return crontab_line(TimeOfDay(in_utc.hour, in_utc.minute), days)


def crontab_line(at: TimeOfDay, days: Sequence[str]) -> str:
    numbers = sorted((DAYS.index(day) + 1) % 7 for day in days)  # Sunday is 0
    return f"{at.minute} {at.hour} * * {','.join(map(str, numbers)) or '*'}"


def parse_time_of_day(text: str) -> TimeOfDay | None:
    """A time of day from `1:30` or `01:30`; None for anything else."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
    return TimeOfDay(int(match[1]), int(match[2])) if match else None


def parse_weekdays(text: str) -> tuple[str, ...] | None:
    """Days from `mon,wed`, `mon-fri`, `monday`, in the order of the week; None if a part is not a day."""
    found: set[str] = set()
    for part in text.lower().replace(" ", "").split(","):
        ends = [next((day for day in DAYS if re.fullmatch(f"{day}[a-z]*", end)), None) for end in part.split("-")]
        if len(ends) > 2 or None in ends:
            return None
        first, last = DAYS.index(ends[0] or ""), DAYS.index(ends[-1] or "")
        found.update(DAYS[number % 7] for number in range(first, last + 1 if last >= first else last + 8))
    return tuple(day for day in DAYS if day in found)


def parse_duration_s(text: str) -> float | None:
    """Seconds from `4h`, `90m`, `1h30m`, `45s`; None for anything else."""
    match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    parts = match.groups() if match is not None else ()
    return sum(float(part) * factor for part, factor in zip(parts, _UNIT_SECONDS, strict=False) if part) or None


def interval_s(at: TimeOfDay, until: TimeOfDay) -> int:
    """Seconds from one time of day to the next occurrence of the other."""
    minutes = (until.hour * 60 + until.minute - at.hour * 60 - at.minute) % (24 * 60)
    return (minutes or 24 * 60) * 60


def unit_name(job: str) -> str:
    """The name of a unit, such as `batchgen-catalog`, valid as a file, a Kubernetes object and a launchd label."""
    return f"batchgen-{re.sub(r'[^a-z0-9]+', '-', job.lower()).strip('-')[:40].strip('-') or 'job'}"


def shell_line(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
