"""A job, its emulator and its folder: what most tests of whole jobs run."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

import batchgen
from batchgen.emulator import EmulatorOptions
from batchgen.engine.outcome import Outcome
from batchgen.events import Event

FAST = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0, fault_delay_s=0.05)
LIFTED_PX = 1400  # side of a JPEG that is decoded to disk as it arrives: tests/emulator/test_pictures.py
HEAD = "defaults: {model: flash}\nlimits: {concurrency: 8}\nitems:\n"


class Bench:
    """One emulator and one folder, and what both know."""

    def __init__(self, url: str, folder: Path, ledger: str | None = None) -> None:
        self.ledger = ledger or os.environ.get("BATCHGEN_LEDGER")
        self.url = url
        self.folder = folder
        self.events: list[Event] = []

    def manifest(self, items: str, head: str = HEAD) -> Path:
        path = self.folder / "job.yaml"
        path.write_text(head + items)
        return path

    async def run(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        self.events = []
        job = batchgen.load(self.manifest(items, head), output=self.folder / "out", emulate=True, environ={})
        return await batchgen.run(
            job,
            observers=[self.events.append],
            options=batchgen.RunOptions(emulator_url=self.url, ledger=self.ledger, **options),
        )

    async def get(self, path: str) -> Any:
        def read() -> Any:
            with urllib.request.urlopen(self.url + path) as answer:  # noqa: S310 - loopback
                return json.load(answer)

        return await asyncio.to_thread(read)

    async def requests(self) -> int:
        return int((await self.get("/_emulator/stats"))["requests"])

    async def served(self) -> dict[str, set[str]]:
        """prompt -> hashes of the pictures that were served for it."""
        table: dict[str, set[str]] = {}
        for entry in await self.get("/_emulator/served"):
            table.setdefault(entry["prompt"], set()).update(entry["sha256"])
        return table

    def pictures(self) -> dict[str, str]:
        """name -> hash of every picture in the job folder, each of which decodes."""
        found = {}
        for path in sorted((self.folder / "out").glob("*.*")):
            if path.suffix in (".png", ".jpg"):
                data = path.read_bytes()
                Image.open(io.BytesIO(data)).load()
                found[path.name] = hashlib.sha256(data).hexdigest()
        return found

    def lines(self) -> dict[str, dict[str, Any]]:
        text = (self.folder / "out" / "results.jsonl").read_text()
        return {line["id"]: line for line in map(json.loads, text.splitlines())}


def items(*prompts: str) -> str:
    return "".join(f"  - {{id: i{number}, prompt: {json.dumps(prompt)}}}\n" for number, prompt in enumerate(prompts))
