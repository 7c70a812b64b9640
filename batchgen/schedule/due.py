"""Which night of a job is due now: from its schedule, what is known of its last night, and the clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchgen.schedule.cadence import Cadence
from batchgen.scheduling.window import quota_day_start

EXIT_DAILY_QUOTA, EXIT_SUBMITTED, EXIT_LOCKED, EXIT_PERSON_NEEDED = 8, 9, 11, 5
SIGNAL_EXIT_CODES = (129, 130, 143)  # by a signal
ON_TIME_TOLERANCE_S = 120.0  # a night that begins this late is on time: timers and busy machines are
BATCH_POLL_S = 900.0  # between two looks at batches, or work of the cluster, that is out
LOCK_RETRY_S = 300.0  # between two looks whether the other run is over
RESET_MARGIN_S = 300.0  # clocks differ
DAY_S = 86400.0
RunReason = Literal["on time", "missed", "interrupted", "held", "reset", "batches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRun:
    """The last night of a job. All UTC seconds; at: when it was due.

    exit_code: None while it runs, or when the daemon died meanwhile. stopped: it ended because the daemon was told to.
    """

    at: float
    began: float
    ended: float | None = None
    exit_code: int | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePolicy:
    """What a schedule says about nights. reset: whether a used up daily quota is waited for."""

    cadence: Cadence
    catch_up_s: float
    reset: bool = False


@dataclass(frozen=True, slots=True)
class DueRun:
    """at: when the night should have begun."""

    at: float
    why: RunReason


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A night that is too long ago to be made up for."""

    at: float


@dataclass(frozen=True, slots=True)
class WaitUntil:
    until: float


def decide(
    policy: SchedulePolicy, since: float, last: ScheduledRun | None, now: float
) -> DueRun | SkippedRun | WaitUntil:
    """since: from when on the schedule counts; nights before are nobody's. last: not running now.

    Of several missed nights only the latest is made up for, once.
    """
    if last is not None and last.at > now + DAY_S:
        last = None  # it was written by a clock that was wrong
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
    """From when on a night that did not come to its end goes on before the next one; None when it does not."""
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
