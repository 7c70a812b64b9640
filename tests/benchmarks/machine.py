"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("aiohttp", "google-genai", "pybase64", "pydantic", "pillow")


def machine(folder: Path) -> dict[str, Any]:
    """folder: on the disk that the pictures go to."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in PACKAGES},
        "file_fsync_ms": round(fsync_ms(folder), 3),
        "write_mb_per_s": round(write_mb_per_s(folder)),
    }


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def fsync_ms(folder: Path, times: int = 100) -> float:
    """Median of a new file of 4 KB made durable."""
    took: list[float] = []
    for number in range(times):
        path = folder / f"fsync-{number}"
        with open(path, "wb") as file:
            started_s = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - started_s) * 1000)
        path.unlink()
    return median(took)


def write_mb_per_s(folder: Path, size_bytes: int = 200_000_000) -> float:
    """Durable writing in one stream."""
    path, block = folder / "stream", os.urandom(1_000_000)
    with open(path, "wb") as file:
        started_s = time.perf_counter()
        for _ in range(size_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        took_s = time.perf_counter() - started_s
    path.unlink()
    return size_bytes / 1e6 / took_s
