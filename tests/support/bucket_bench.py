"""One emulator, one bucket, one job folder, and what is known of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import batchgen
from batchgen.emulator import EmulatorOptions
from batchgen.engine.outcome import Outcome
from batchgen.events import Notice
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import ledger_path
from tests.support.bench import HEAD, Bench, items
from tests.support.fork_server import PYTHON
from tests.support.paths import ROOT

ADDRESS = "s3://pictures/shop/catalog"


class BucketBench(Bench):
    @property
    def job(self) -> Path:
        return self.folder / "job.emulated"

    @property
    def spooled(self) -> list[str]:
        return sorted(path.name for path in (self.job / ".batchgen" / "spool").iterdir())

    @property
    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Notice))

    async def run(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        self.events = []
        job = batchgen.load(self.manifest(items, head), output=ADDRESS, emulate=True)
        return await batchgen.run(
            job, observers=[self.events.append], options=batchgen.RunOptions(emulator_url=self.url, **options)
        )

    async def child(
        self, place: str = "-", k: int = 1, entries: str = items("a", "b", "c"), head: str = HEAD
    ) -> asyncio.subprocess.Process:
        """A process that runs the job, and dies at the k-th call of `place`."""
        manifest = str(self.manifest(entries, head))
        return await asyncio.create_subprocess_exec(
            PYTHON, "-m", "tests.support.crash_child", manifest, ADDRESS, self.url, place, str(k), cwd=ROOT
        )

    def reader(self) -> Reader:
        return Reader.open(self.job)

    @contextmanager
    def writer(self) -> Iterator[sqlite3.Connection]:
        """Into the ledger, past the program."""
        with closing(sqlite3.connect(ledger_path(self.job))) as db, db:
            yield db


FAST = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)
