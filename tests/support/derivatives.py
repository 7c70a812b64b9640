"""Derivatives that tests ask for, and the worker processes that make them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.bench import Bench

WEB = "{name: web, format: webp, widths: [16, 32], quality: 70}"
THUMB = "{name: thumb, format: jpeg, crop: '4:5', width: 24}"
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc")


def files(bench: Bench) -> dict[str, int]:
    """Path -> inode: whoever writes one anew gives it another."""
    folder = bench.folder / "out" / "derivatives"
    return {str(path.relative_to(folder)): path.stat().st_ino for path in sorted(folder.rglob("*")) if path.is_file()}


def workers(parent: int | None = None) -> list[int]:
    """Worker processes of a run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            alive = b"derivatives.worker import" in (entry / "cmdline").read_bytes() and fields[0] != "Z"
            if alive and parent in (None, int(fields[1])):
                found.append(int(entry.name))
    return found
