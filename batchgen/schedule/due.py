"""Which night of a job is due now: from its schedule, what is known of its last night, and the clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchgen.schedule.cadence import Cadence
from batchgen.scheduling.window import day_began

DAILY_QUOTA, SUBMITTED, HELD, PERSON = 8, 9, 11, 5
STOPPED = (129, 130, 143)  # by a signal
ON_TIME_S = 120.0  # a night that begins this late is on time: timers and busy machines are
LOOK_S = 900.0  # between two looks at batches that are out
HELD_S = 300.0  # between two looks whether the other run is over
AFTER_RESET_S = 300.0  # clocks differ
DAY_S = 86400.0
Why = Literal["on time", "missed", "interrupted", "held", "reset", "batches", "made"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """The last night of a job. All UTC seconds; at: when it was due.

    exit_code: None while it runs, or when the daemon died meanwhile. stopped: it ended because the daemon was told to.
    """

    at: float
    began: float
    ended: float | None = None
    exit_code: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a schedule says about nights. reset: whether a used up daily quota is waited for."""

    cadence: Cadence
    catch_up_s: float
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """at: when the night should have begun."""

    at: float
    why: Why


@dataclass(frozen=True, slots=True)
class Skipped:
    """A night that is too long ago to be made up for."""

    at: float


@dataclass(frozen=True, slots=True)
class Wait:
    until: float


def decide(rule: Rule, since: float, last: Night | None, now: float) -> Due | Skipped | Wait:
    """since: from when on the schedule counts; nights before are nobody's. last: not running now.

    Of several missed nights only the latest is made up for, once.
    """
    if last is not None and last.at > now + DAY_S:
        last = None  # it was written by a clock that was wrong
    known = max(since, last.at if last is not None else since)
    latest = rule.cadence.latest(now)
    if latest is not None and latest > known:
        late_s = now - latest
        if late_s <= ON_TIME_S:
            return Due(latest, "on time")
        return Due(latest, "missed") if late_s <= rule.catch_up_s else Skipped(latest)
    following = rule.cadence.after(max(now, known))
    if last is None:
        return Wait(following)
    again = taken_up(rule, last)
    if again is None or again.at >= following:
        return Wait(following)
    if again.why not in ("reset", "batches") and now > last.at + max(rule.catch_up_s, ON_TIME_S):
        return Wait(following)
    return Due(last.at, again.why) if again.at <= now else Wait(again.at)


def taken_up(rule: Rule, last: Night) -> Due | None:
    """From when on a night that did not come to its end goes on before the next one; None when it does not."""
    if last.exit_code is None or last.stopped:
        return Due(last.at, "interrupted")
    ended = last.ended if last.ended is not None else last.began
    if last.exit_code == HELD:
        return Due(ended + HELD_S, "held")
    if last.exit_code == SUBMITTED:
        return Due(ended + LOOK_S, "batches")
    if last.exit_code == DAILY_QUOTA and rule.reset:
        return Due(day_began(day_began(ended) + 1.5 * DAY_S) + AFTER_RESET_S, "reset")
    return None
