"""Why a run starts nothing more. Typed while it runs; only this module knows how a reason is written down."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from batchgen.planning.plan import BUDGET_REMEDIES


class StopKind(StrEnum):
    """Kinds of reasons. The comments say what `StopReason.detail` contains."""

    BUDGET = "budget"  # day or month; empty for the run's own
    DEADLINE = "deadline"
    STALLED = "stalled"
    CANCELLED = "cancelled"
    DISK = "disk"
    BUG = "bug"
    CLOSED = "closed"  # a worker has nothing left to do in this job
    SIGNAL = "signal"  # its name
    ERROR = "error"  # the provider's reason


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True, slots=True)
class StopReason:
    """A reason to start nothing more. message: an error's own words."""

    kind: StopKind
    detail: str = ""
    message: str = ""

    @property
    def slug(self) -> str:
        """The name of the reason in events, the ledger, `--json` and the table of exit codes."""
        return self.detail if self.kind in (StopKind.SIGNAL, StopKind.ERROR) else self.kind.value

    @classmethod
    def from_record(cls, slug: str, message: str = "") -> StopReason | None:
        """The reason from the ledger or a finished run's facts, None if nothing stopped the run. A record has no field
        for whose budget it was: its message says so."""
        if slug in SIGNALS:
            return cls(StopKind.SIGNAL, slug)
        if slug == StopKind.BUDGET:
            return cls(StopKind.BUDGET, next((each for each in BUDGET_REMEDIES if budget_text(each) == message), ""))
        if slug in set(StopKind):
            return cls(StopKind(slug), "", message)
        return cls(StopKind.ERROR, slug, message) if slug else None


def stop_text(reason: StopReason | None, stall_s: float) -> str:
    """What a person is told beyond the kind; often nothing. stall_s: how long requests may fail without a success."""
    if reason is None:
        return ""
    match reason.kind:
        case StopKind.STALLED:
            return (
                f"requests kept failing for over {stall_s / 60:.0f} min and none succeeded;"
                " running again goes on from here"
            )
        case StopKind.BUDGET:
            return budget_text(reason.detail) if reason.detail else ""
    return reason.message


def budget_text(period: str) -> str:
    """The name of a budget in words. period: day, month, or empty for the run's own."""
    return f"the {period}'s budget is used up, all jobs counted; {BUDGET_REMEDIES[period]}"
