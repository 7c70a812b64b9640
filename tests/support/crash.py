"""Starts `crash_child` processes that die at a given call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
from pathlib import Path

from batchgen.ledger.reader import Reader
from tests.support.bench import HEAD, Bench, items
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

PROMPTS = [f"thing {n}" for n in range(12)]


async def start_child(
    bench: Bench, place: str = "-", k: int = 0, entries: str = items(*PROMPTS), head: str = HEAD
) -> asyncio.subprocess.Process:
    manifest = bench.manifest(entries, head)
    return await asyncio.create_subprocess_exec(
        PYTHON, "-m", "tests.support.crash_child", str(manifest), str(bench.folder / "out"), bench.url, place, str(k), cwd=ROOT,
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


def exit_code(arguments: list[str]) -> int:
    command = [PYTHON, "-m", "tests.support.crash_child", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
