"""Starts `crash_child` processes that die at a given call."""

from __future__ import annotations

import asyncio
import atexit
import base64
import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from batchgen.ledger.reader import Reader
from tests.support.bench import Bench, items
from tests.support.paths import ROOT

PROMPTS = [f"thing {n}" for n in range(12)]


async def start_child(
    bench: Bench, place: str = "-", k: int = 0, entries: str = items(*PROMPTS)
) -> asyncio.subprocess.Process:
    manifest = bench.manifest(entries)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.crash_child", str(manifest), str(bench.folder / "out"), bench.url, place, str(k), cwd=ROOT,
    )  # fmt: skip


def assert_each_turn_is_of_its_picture(out: Path, *talks: str) -> None:
    """What is kept of a turn, to be sent back, is the very answer that the picture under the turn's name came in."""
    with Reader.open(out) as ledger:
        for name in (f"{talk}-t{turn}" for talk in talks for turn in (1, 2, 3)):
            stored = ledger.current_picture(name, 1)
            said = json.loads((out / ".batchgen" / "turns" / f"{stored.attempt}.json").read_text())
            (picture,) = [
                base64.b64decode(part["inlineData"]["data"]) for part in said["parts"] if "inlineData" in part
            ]
            assert hashlib.sha256(picture).hexdigest() == stored.file.sha256


@functools.cache
def children() -> subprocess.Popen[str]:
    """Its own children die; it ends with its standard input."""
    command = [sys.executable, "-m", "tests.support.crash_child", "serve"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def exit_code(arguments: list[str]) -> int:
    process = children()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())
