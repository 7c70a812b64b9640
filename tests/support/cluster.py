"""An emulator, a queue in PostgreSQL, and cluster workers as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
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
from tests.support.paths import ROOT

HEAD = "version: 1\ndefaults: {model: flash}\nmodels: {gemini-nano-banana-2.1: {rpm: 6000}}\nitems:\n"
FAST = EmulatorOptions(latency_s=(0.02, 0.05), picture="tiny", rpm=0)
START = (sys.executable, "-m", "batchgen", "worker")
# A worker that takes others for dead after a few seconds, so that a test need not wait for half a minute.
IMPATIENT = (
    sys.executable, "-c",
    "import sys; from batchgen.engine.cluster import queue; queue.HEARTBEAT_S, queue.STALE_S = 0.7, 4.0;"
    "from batchgen.__main__ import main; sys.argv = ['batchgen', 'worker', *sys.argv[1:]]; main()",
)  # fmt: skip


class Nursery:
    """One warm process that forks workers: `tests.support.worker_child`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.worker_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)

    def ask(self, said: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Forked:
    def __init__(self, nursery: Nursery, pid: int, name: str) -> None:
        self.pid, self.name = pid, name
        self._nursery = nursery
        self._code: int | None = None

    def wait(self) -> int:
        if self._code is None:
            self._code = self._nursery.ask({"wait": self.pid})
        return self._code

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self._code is None:
            os.kill(self.pid, number)
        return self.wait()


class Cluster(Bench):
    """A bench whose runs submit. Each worker has a state folder of its own, as on a machine of its own."""

    def __init__(self, url: str, folder: Path, database: str) -> None:
        super().__init__(url, folder, database)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.nursery: Nursery | None = None
        self.forked: list[Forked] = []

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

    def fork(self, *options: str, name: str = "", die: tuple[str, int] | None = None, ledger: str = "") -> Forked:
        """The same from the nursery, where silence is noticed within seconds. die: where, and at which call of it."""
        assert self.nursery is not None
        name = name or f"w{len(self.forked) + 1}"
        state = self.folder / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "BATCHGEN_LEDGER": ledger or str(self.ledger), "XDG_STATE_HOME": str(state), "HOME": str(state),
        }  # fmt: skip
        log = str(self.folder / f"{name}.log")
        said = {"name": name, "options": options, "environment": environment, "log": log, "die": die}
        self.forked.append(Forked(self.nursery, self.nursery.ask(said), name))
        return self.forked[-1]

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
            return int(next(iter(reader._query(sql, name)))[0])

    async def until_sent(self, name: str, count: int) -> None:
        """Until a worker has so many requests open and the emulator has them: an open one may not have left yet."""
        await self.until(lambda: self.open_of(name) >= count)
        async with asyncio.timeout(60.0):
            while await self.requests() < count:
                await asyncio.sleep(0.05)

    def finish(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(30.0)
        for forked in self.forked:
            forked.kill()


async def cluster_on(
    options: EmulatorOptions, folder: Path, database: str, nursery: Nursery | None = None
) -> AsyncIterator[Cluster]:
    async with await serve(options) as emulator:
        cluster = Cluster(emulator.base_url, folder, database)
        cluster.nursery = nursery
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
