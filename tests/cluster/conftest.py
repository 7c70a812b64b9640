"""A queue of its own for each test: a real PostgreSQL, an emulator, and workers as the processes that they are."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen.batching import BatchOptions
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.outcome import Outcome
from batchgen.ledger.reader import Reader
from tests.test_run import Bench

HEAD = "version: 1\ndefaults: {model: flash}\nmodels: {gemini-nano-banana-2.1: {rpm: 6000}}\nitems:\n"
FAST = EmulatorOptions(latency_s=(0.02, 0.05), picture="tiny", rpm=0)


START = (sys.executable, "-m", "batchgen", "worker")


class Cluster(Bench):
    """A bench whose runs submit. Each worker has a state folder of its own, as on a machine of its own."""

    def __init__(self, url: str, folder: Path, database: str) -> None:
        super().__init__(url, folder, database)
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(
        self, *options: str, name: str = "", inside: Sequence[str] = (), start: Sequence[str] = START
    ) -> subprocess.Popen[bytes]:
        """inside: the command that leads to the host it is to run on."""
        name = name or f"w{len(self.workers) + 1}"
        state = self.folder / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ, "BATCHGEN_LEDGER": str(self.ledger), "XDG_STATE_HOME": str(state), "HOME": str(state),
        }  # fmt: skip
        with open(self.folder / f"{name}.log", "ab") as log:
            command = [*inside, *start, "--name", name, *options]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.workers.append(process)
        return process

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
                await asyncio.sleep(0.05)

    def open_of(self, name: str) -> int:
        """Requests of a worker that have no end yet."""
        with self.reader() as reader:
            sql = "SELECT count(*) FROM attempt WHERE worker = ? AND outcome IS NULL"
            return int(next(iter(reader._rows(sql, name)))[0])

    def finish(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(30.0)


async def cluster_on(options: EmulatorOptions, folder: Path, database: str) -> AsyncIterator[Cluster]:
    async with await serve(options) as emulator:
        cluster = Cluster(emulator.base_url, folder, database)
        try:
            yield cluster
        finally:
            cluster.finish()


@pytest.fixture
async def cluster(tmp_path, database, monkeypatch):
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    async for each in cluster_on(FAST, tmp_path, database):
        yield each


@pytest.fixture
async def slow_cluster(tmp_path, database, monkeypatch):
    """Answers take two seconds: long enough to be killed in."""
    monkeypatch.setenv("BATCHGEN_LEDGER", database)
    options = EmulatorOptions(latency_s=(2.0, 2.0), picture="tiny", rpm=0)
    async for each in cluster_on(options, tmp_path, database):
        yield each
