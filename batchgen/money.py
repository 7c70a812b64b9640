"""Money as people read it: the one place that writes dollars."""

from __future__ import annotations


def usd(amount: float | None, *, exact: bool = False) -> str:
    """`$0.70`; more digits where cents would be over 1 % off (`$0.039`, `$0.0042`). None is unknown, never 0.

    exact: digits until nothing is off, for a price as its vendor lists it.
    """
    if amount is None:
        return "unknown"
    size = abs(amount)
    most = 1e-9 if exact else size / 100
    digits = next((digits for digits in range(2, 8) if abs(round(size, digits) - size) <= most), 8)
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"
