"""Figures as people read them: money, durations, counts and times of day."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping

from batchgen.money import usd as usd

LEFT_OUT_WORDS = {"limit": "left out by --limit", "only": "left out by --only", "not_asked": "not asked for"}


def known_amount(amount: float, unpriced: int) -> float | None:
    """A sum of money of which `unpriced` parts have no price: None if that is all of it."""
    return None if unpriced and not amount else amount


def total_usd(amount: float | None, unpriced: int, noun: str = "request") -> str:
    """A sum in words: `$0.70`, `$0.70 + 3 requests of unknown price`, `unknown (3 requests of unknown price)`."""
    if not unpriced:
        return usd(amount)
    rest = f"{count(unpriced, noun)} of unknown price"
    return f"{usd(amount)} + {rest}" if amount else f"unknown ({rest})"


def duration(seconds: float) -> str:
    """A duration: `0.4 s`, `35 s`, `1 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: `1 image`, `1,200 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def local_time(at: float, now: float) -> str:
    """The local time of day, with the date if it is another day than `now`. at, now: UTC seconds."""
    then = time.localtime(at)
    same_day = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if same_day else "%a %d %b %H:%M", then)


def utc_iso(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def size(number: float) -> str:
    """A size: `310 kB`, `2.4 GB`; decimal, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit in ("bytes", "kB") else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def join_counts(counts: Mapping[str, int]) -> str:
    """Counts such as `9 succeeded, 1 refused`, the largest first, without zeros."""
    parts = sorted(((number, name) for name, number in counts.items() if number), key=lambda part: (-part[0], part[1]))
    return ", ".join(f"{number:,} {name}" for number, name in parts)


def shell_path(path: str) -> str:
    """A path as a person types it here; absolute if the working folder is gone, or on another drive of Windows."""
    try:
        return shlex.quote(os.path.relpath(path))
    except (OSError, ValueError):
        return shlex.quote(path)
