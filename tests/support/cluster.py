"""An emulator, a queue in PostgreSQL, and cluster workers as real processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.outcome import Outcome
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import BatchOptions
from tests.support.bench import Bench
from tests.support.bucket_bench import ADDRESS
from tests.support.fork_server import PYTHON

HEAD = "version: 1\ndefaults: {model: flash}\nmodels: {gemini-nano-banana-2.1: {rpm: 6000}}\nitems:\n"
FAST = EmulatorOptions(latency_s=(0.02, 0.05), picture="tiny", rpm=0)
START = (PYTHON, "-m", "batchgen", "worker")


def first_answers_late(count: int, late_s: float) -> EmulatorOptions:
    """So many answers come after others have taken over from whoever waits for them, and all later ones at once."""
    asked = itertools.count()

    class Options(EmulatorOptions):
        def latency_of(self, model: str) -> tuple[float, float]:
            return (late_s, late_s) if next(asked) < count else (0.02, 0.05)

    return Options(picture="tiny", rpm=0)


class Cluster(Bench):
    """A bench whose runs submit. Each worker has a state folder of its own, as on a machine of its own."""

    def __init__(self, url: str, folder: Path, database: str) -> None:
        super().__init__(url, folder, database)
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(
        self, *options: str, name: str = "", ledger: str = "", inside: Sequence[str] = (), start: Sequence[str] = START
    ) -> subprocess.Popen[bytes]:
        """inside: the command that leads to the host it is to run on."""
        name = name or f"w{len(self.workers) + 1}"
        state = self.folder / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        own = {"BATCHGEN_LEDGER": ledger or str(self.ledger), "XDG_STATE_HOME": str(state), "HOME": str(state)}
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [*inside, *start, "--name", name, *options],
                env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.workers.append(process)
        return process

    def impatient(
        self, *options: str, name: str = "", ledger: str = "", die: tuple[str, int] | None = None
    ) -> subprocess.Popen[bytes]:
        """A worker that notices silence within seconds. die: where, and at which call of it."""
        start = (PYTHON, "-m", "tests.support.worker_child", json.dumps(die))
        return self.worker(*options, name=name, ledger=ledger, start=start)

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait(30.0)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    async def submit(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        """Leave as soon as everything is in the queue."""
        return await self.watch(items, head, batches=BatchOptions(wait=False), **options)

    async def watch(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        self.events = []
        job = batchgen.load(self.manifest(items, head), output=self.folder / "out", emulate=True, environ={})
        given = batchgen.RunOptions(emulator_url=self.url, ledger=self.ledger, **options)
        return await batchgen.run(job, observers=[self.events.append], options=given, engine="cluster")

    def reader(self) -> Reader:
        return Reader.open(self.folder / "out")

    async def until(self, true: Any, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not await asyncio.to_thread(true):
                await asyncio.sleep(0.1)

    def open_of(self, name: str) -> int:
        """Requests of a worker that have no end yet."""
        with self.reader() as reader:
            sql = "SELECT count(*) FROM attempt WHERE worker = ? AND outcome IS NULL"
            return int(next(iter(reader._query(sql, name)))[0])

    async def until_sent(self, name: str, count: int) -> None:
        """Until a worker has so many requests open and the emulator has them: an open one may not have left yet."""
        await self.until(lambda: self.open_of(name) >= count)
        async with asyncio.timeout(60.0):
            while await self.requests() < count:
                await asyncio.sleep(0.05)

    def finish(self) -> None:
        for process in self.workers:
            self.kill(process)


async def cluster_on(options: EmulatorOptions, folder: Path, database: str) -> AsyncIterator[Cluster]:
    async with await serve(options) as emulator:
        cluster = Cluster(emulator.base_url, folder, database)
        try:
            yield cluster
        finally:
            cluster.finish()


class BucketCluster(Cluster):
    async def watch(self, items: str, head: str = HEAD, **options: Any) -> Outcome:
        self.events = []
        job = batchgen.load(self.manifest(items, head), output=ADDRESS, emulate=True)
        given = batchgen.RunOptions(emulator_url=self.url, ledger=self.ledger, **options)
        return await batchgen.run(job, observers=[self.events.append], options=given, engine="cluster")

    def reader(self) -> Reader:
        return Reader.open(self.folder / "job.emulated")


def waiting(cluster: Cluster) -> int:
    with cluster.reader() as reader:
        return len(reader.unplaced_by_workers())


def unplaced(cluster):
    with cluster.reader() as reader:
        return reader.unplaced_by_workers()
