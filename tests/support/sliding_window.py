"""Counts requests per minute, independently of the code under test."""

from __future__ import annotations


def most_in_a_minute(arrivals: list[float], period_s: float = 60.0) -> int:
    """Most arrivals in any half-open sliding window, counted independently of the code under test."""
    ordered, most, start = sorted(arrivals), 0, 0
    for end, moment in enumerate(ordered):
        while moment - ordered[start] >= period_s:
            start += 1
        most = max(most, end - start + 1)
    return most
