"""The budget of `batchgen mcp`: what the runs that it began have spent, may have spent and may still spend."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

from batchgen.errors import BatchgenError
from batchgen.ledger.reader import Reader
from batchgen.ledger.runs import RunRow
from batchgen.money import rounded
from batchgen.report.dashboard.actions import BackgroundRun
from batchgen.report.dashboard.job_card import JobLocation

UNSETTLED = ("open", "submitted")  # requests whose end is not recorded
POLL_S = 0.05
CLOCK_STEP_S = 60.0  # a run of the same process id that is older is another process's


@dataclass(frozen=True, slots=True)
class BudgetedRun:
    """A run that was begun here. at_most_usd: its own limit; began_at: UTC seconds."""

    location: JobLocation
    child: BackgroundRun
    at_most_usd: float
    began_at: float = field(default_factory=time.time)

    def counted_usd(self) -> float:
        """What its ledger says was billed or may have been; all that it may spend while that is not settled or not known."""
        if self.child.process.poll() is None:
            return self.at_most_usd
        try:
            with Reader.open(self.location.folder) as ledger:
                return self._recorded_usd(ledger)
        except (BatchgenError, OSError):
            return self.at_most_usd

    def wait_until_begun(self, timeout_s: float) -> None:
        """Until its ledger has it or it has ended: what keeps it from beginning can be said at once."""
        until_s = time.monotonic() + timeout_s
        while self.child.process.poll() is None and time.monotonic() < until_s:
            with suppress(BatchgenError, OSError), Reader.open(self.location.folder) as ledger:
                if self._row(ledger) is not None:
                    return
            time.sleep(POLL_S)

    def _recorded_usd(self, ledger: Reader) -> float:
        run = self._row(ledger)
        if run is None:
            return 0.0  # it ended before it had recorded anything, and nothing is sent before
        money, requests = ledger.money(run.id), ledger.attempts(run.id)
        usd = money.spent + money.estimated + money.maybe
        unsettled = any(requests.get(state) for state in UNSETTLED) or money.unknown or money.maybe_unknown
        return max(usd, self.at_most_usd) if unsettled else usd

    def _row(self, ledger: Reader) -> RunRow | None:
        pid, since = self.child.process.pid, self.began_at - CLOCK_STEP_S
        return next((run for run in ledger.runs() if run.pid == pid and run.started_at >= since), None)


class SessionBudget:
    """For the life of one server. limit_usd: as its person set it."""

    def __init__(self, limit_usd: float) -> None:
        self.limit_usd = limit_usd
        self._runs: list[BudgetedRun] = []

    def add(self, run: BudgetedRun) -> None:
        self._runs.append(run)

    @property
    def left_usd(self) -> float:
        """Never below 0."""
        return max(0.0, self.limit_usd - sum(run.counted_usd() for run in self._runs))

    def as_json(self) -> dict[str, float | None]:
        left = self.left_usd
        return {"limit_usd": self.limit_usd, "counted_usd": rounded(self.limit_usd - left), "left_usd": rounded(left)}
