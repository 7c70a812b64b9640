"""What a run may spend: its own budget, and what all jobs of the user have left of the day's and the month's."""

from __future__ import annotations

import time
from datetime import datetime

from batchgen.ledger.reader import Reader
from batchgen.manifest import Limits
from batchgen.shared import SharedFile


class Purse:
    """Spend of one job beside that of all others. shared: None when nothing is shared, or when nothing is real money."""

    def __init__(self, job: str, reader: Reader, shared: SharedFile | None) -> None:
        self._job = job
        self._reader = reader
        self._shared = shared

    async def budget_usd(self, limits: Limits, max_usd: float | None) -> float | None:
        """USD this run may spend, the smallest of its limits; None: none is set."""
        budgets = [max_usd if max_usd is not None else limits.budget_usd]
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        day, month = midnight.timestamp(), midnight.replace(day=1).timestamp()
        await self._make_good(day, month)
        for since, most in ((day, limits.budget_usd_per_day), (month, limits.budget_usd_per_month)):
            if most is not None:
                budgets.append(max(0.0, most - await self._spent_since(since)))
        return min((budget for budget in budgets if budget is not None), default=None)

    def spend(self, usd: float) -> None:
        if self._shared is not None:
            self._shared.spend(self._job, usd)

    async def _make_good(self, day: float, month: float) -> None:
        """Add to the shared spend what only this job's ledger knows: of a run that was killed, or had no shared file."""
        if self._shared is None:
            return
        for since, at in ((day, time.time()), (month, month)):
            missing = self._reader.spent_since(since) - await self._shared.spent_since(since, self._job)
            if missing > 1e-9:
                self._shared.spend(self._job, missing, at)

    async def _spent_since(self, at: float) -> float:
        """USD of all jobs of this user; of this job alone when nothing is shared."""
        own = self._reader.spent_since(at)
        return own if self._shared is None else max(own, await self._shared.spent_since(at))
