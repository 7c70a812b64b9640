"""The money of one run: reserved before a request is sent and settled by its usage, so that parallel requests cannot overshoot."""

from __future__ import annotations


class RunBudget:
    """limit_usd: None for a run without a budget of its own."""

    def __init__(self, limit_usd: float | None) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0

    def can_afford(self, usd: float) -> bool:
        return self.limit_usd is None or self.spent_usd + self.reserved_usd + usd <= self.limit_usd + 1e-9

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """In place of what was reserved, what was spent."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += spent_usd
