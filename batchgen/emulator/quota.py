"""Quotas as the server counts them: requests that arrived within the last minute and the last day."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Over:
    """A quota that is used up. retry_s: until the oldest request leaves the window."""

    window: Literal["Minute", "Day"]
    limit: int
    retry_s: float


@dataclass(slots=True)
class _Window:
    name: Literal["Minute", "Day"]
    length_s: float
    starts_s: deque[float]

    def over(self, limit: int, now_s: float) -> Over | None:
        while self.starts_s and self.starts_s[0] <= now_s - self.length_s:
            self.starts_s.popleft()
        if not limit or len(self.starts_s) < limit:
            return None
        # Requests beyond the limit may be in the log when rejected ones count too.
        frees_s = self.starts_s[len(self.starts_s) - limit] + self.length_s
        return Over(self.name, limit, max(0.001, frees_s - now_s))


class Quotas:
    """A sliding log per (API key, AI model). Times are seconds on one monotonic clock, nearly ascending."""

    def __init__(self, minute_s: float = 60.0, *, rejected_counts: bool = False) -> None:
        self._minute_s = minute_s
        self._rejected_counts = rejected_counts
        self._windows: dict[tuple[str, str], tuple[_Window, _Window]] = {}

    def admit(self, key: str, model: str, now_s: float, *, rpm: int, rpd: int) -> Over | None:
        """None when the request may pass and is counted; a limit of 0 means none."""
        day, minute = self._windows.setdefault(
            (key, model), (_Window("Day", DAY_S, deque()), _Window("Minute", self._minute_s, deque()))
        )
        over = day.over(rpd, now_s) or minute.over(rpm, now_s)
        if over is None or self._rejected_counts:
            for window, limit in ((day, rpd), (minute, rpm)):
                if limit:
                    window.starts_s.append(now_s)
        return over

    def clear(self) -> None:
        self._windows.clear()
