"""Amounts in dollars: how they are written for people and in JSON, and whether a sum is within a limit."""

from __future__ import annotations


def usd(amount: float | None, *, exact: bool = False) -> str:
    """`$0.70`, or more digits if cents would be over 1 % off (`$0.039`, `$0.0042`). None is "unknown", never 0.

    exact: all digits, for a price as its vendor lists it.
    """
    if amount is None:
        return "unknown"
    size = abs(amount)
    most = 1e-9 if exact else size / 100
    digits = next((digits for digits in range(2, 8) if abs(round(size, digits) - size) <= most), 8)
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


# The error of a sum of binary fractions is smaller than this, and no vendor bills in smaller steps: 0.1 * 3 is 0.30.
STEP_USD = 1e-6


def rounded(amount: float | None) -> float | None:
    """The amount for JSON, rounded to a millionth of a dollar."""
    return None if amount is None else round(amount, 6)


def within(amount: float, limit: float) -> bool:
    """Whether a sum is at most as large as its limit."""
    return amount < limit + STEP_USD / 2
