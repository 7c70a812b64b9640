"""Frozen facts of the daemon, one class each, for its log."""

from __future__ import annotations

from dataclasses import dataclass

from batchgen.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPlanned(Event):
    """due: when the job's next night begins, in UTC."""

    job: str
    manifest: str
    due: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NightBegan(Event):
    """due: when it should have begun. why: on time, missed, interrupted, held, reset."""

    job: str
    manifest: str
    due: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NightEnded(Event):
    """again: when the job runs next, in UTC; None when the daemon ends."""

    job: str
    manifest: str
    exit_code: int
    seconds: float
    meaning: str
    again: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSkipped(Event):
    """It is too long ago to be made up for."""

    job: str
    manifest: str
    due: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    """A line of the job's run."""

    job: str
    message: str
