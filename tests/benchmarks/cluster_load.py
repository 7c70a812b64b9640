"""The server of a cluster under load: workers that send nothing, and claim, begin, settle and count like those that do.

`python -m tests.benchmarks.cluster_load URL SCHEMA FIRST WORKERS RATE SECONDS AT` is so many of them in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import psycopg

from batchgen.engine.cluster import heartbeat, queue
from batchgen.errors import LedgerError
from batchgen.ledger.lease import announce
from batchgen.ledger.location import LedgerServer, register_job
from batchgen.ledger.pictures import Receipt, SpooledPicture
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.quota_ahead import start_log
from batchgen.ledger.quota_store import QuotaStore
from batchgen.ledger.requests import Fenced, IntendedRequest
from batchgen.ledger.work_queue import Submission, add_submission, insert_samples
from batchgen.ledger.worker_ledger import ClaimedSample, FencedLedger, WorkerConnections
from batchgen.records import ImageFile
from batchgen.scheduling.window import Reserved, StartLimits
from tests.benchmarks.measure import ROOT
from tests.support.postgres import PostgresServer
from tests.support.samples import make_sample

LANE, RUN = "gemini/m", 1
LATENCY_S = 1.0
PERIOD_S = 60.5
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What was asked of a server and what it bore. rate: pictures a second, of all workers; lag_ms: median and 95th percentile
    of the time from when a request was due until it was recorded; waits: what its sessions waited for, by share of the time."""

    rate: float
    workers: int
    achieved: float
    lag_ms: tuple[float, float]
    server_cpu_ms: float
    client_cpu_ms: float
    statements: float
    transactions: float
    waits: dict[str, float]


# --- the workers


class SilentWorker:
    """Claims, begins, waits, settles, and places nothing."""

    def __init__(self, url: str, schema: str, name: str, rate: float, threads: ThreadPoolExecutor) -> None:
        self._server = queue.open_server(url, f"batchgen worker {name}")
        reading = queue.open_server(url, f"batchgen worker reads {name}")
        self._ledger = FencedLedger(url, schema, RUN, name, connections=WorkerConnections(self._server, reading))
        self._log = start_log(QuotaStore(self._server, print), "q", PERIOD_S, StartLimits(job="j", worker=name))
        self._url, self._name, self._rate, self._threads = url, name, rate, threads
        self._ready: deque[ClaimedSample] = deque()
        self._keys: set[str] = set()
        self._claiming = False
        self.lags_ms: list[float] = []
        self.done = 0

    async def work(self, begin_s: float, seconds: float) -> None:
        member = await asyncio.to_thread(heartbeat.register, self._server, heartbeat.Member(self._name, 5, 0), print)
        alive = asyncio.create_task(heartbeat.keep_alive(self._url, member, lambda: None))
        tasks = set[asyncio.Task[None]]()
        number = 0
        while (due_s := begin_s + number / self._rate) < begin_s + seconds:
            number += 1
            if len(self._ready) < self._rate:
                tasks.add(asyncio.create_task(self._claim()))
            await asyncio.sleep(max(0.0, due_s - time.time()))
            while not self._ready:
                await asyncio.sleep(0.005)
            tasks.add(asyncio.create_task(self._make(self._ready.popleft(), due_s)))
            tasks = {task for task in tasks if not task.done()}
        await asyncio.gather(*tasks)
        alive.cancel()
        await asyncio.gather(alive, return_exceptions=True)

    async def _claim(self) -> None:
        if self._claiming:
            return
        self._claiming = True
        claimed = await self._ledger.claim(LANE, int(2 * self._rate) + 4, tuple(self._keys), queue.STALE_S)
        self._keys.update(each.key for each in claimed)
        self._ready.extend(claimed)
        self._claiming = False

    async def _make(self, claimed: ClaimedSample, due_s: float) -> None:
        while not isinstance(answer := await self._log.reserve(1_000_000, 0.03), Reserved):
            await asyncio.sleep(0.01)
        assert answer.quota_slot is not None
        try:
            attempt = await self._ledger.attempt_started(IntendedRequest(claimed.sample, LANE, 1, 0.03))
        except Fenced:  # another claimed it before it had seen this worker join
            self._log.refund(answer.quota_slot)
            return
        self.lags_ms.append(1000 * (time.time() - due_s))
        self._log.sent(answer.quota_slot)
        await asyncio.sleep(LATENCY_S)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._settle, attempt, claimed)
        self._log.record_cost(answer.quota_slot, 0.03)
        self._keys.discard(claimed.key)
        self.done += 1

    def _settle(self, attempt: int, claimed: ClaimedSample) -> None:
        sample, name = claimed.sample, f"{claimed.sample.item.filename}.png"
        file = ImageFile(path=name, sha256="0" * 64, bytes=2048, width=8, height=8, format="png")
        picture = SpooledPicture(1, 0, f"{attempt}.0", file, 0.03)
        self._ledger.attempt_succeeded(
            Receipt(
                attempt=attempt, item=sample.item.id, n=1, fingerprint=sample.fingerprint, pictures=(picture,), usd=0.03,
                usd_source="usage", sent_at=time.time(),
            )
        )  # fmt: skip
        self._ledger.record_placed(attempt, (), [(name, "stamp")])


async def work_here(url: str, schema: str, first: int, count: int, rate: float, seconds: float, begin_s: float) -> None:
    with ThreadPoolExecutor(4 * count) as threads:
        each = rate / count
        workers = [SilentWorker(url, schema, f"w{first + n}", each, threads) for n in range(count)]
        cpu_s = time.process_time()
        await asyncio.gather(*(worker.work(begin_s + n / rate, seconds) for n, worker in enumerate(workers)))
        cpu_s = time.process_time() - cpu_s
    lags = [lag for worker in workers for lag in worker.lags_ms]
    done = sum(worker.done for worker in workers)
    print(json.dumps({"done": done, "lags_ms": lags, "cpu_s": cpu_s, "ended": time.time()}), flush=True)
    os._exit(0)  # the threads of connections that stay open end with the process


# --- the server


def job(url: str, samples: int, budget_usd: float | None) -> str:
    """A job with so many samples in the queue; its schema."""
    queue.migrate(url)
    server = queue.open_server(url, "benchmark")
    pointer = register_job(server, LedgerServer(url, "load", f"load {samples} {time.time()}"))
    database = PostgreSQL(url, pointer.schema, "benchmark")
    facts = Submission(name="load", folder="/", bucket="", hold_uncertain=False, emulator_url=None, version="0")
    rows = [(LANE, make_sample(f"i{n:07}"), ()) for n in range(samples)]
    database.transact([queue.create_work_tables, lambda db: add_submission(db, RUN, facts, budget_usd, None)])
    for start in range(0, samples, 5000):
        database.transact([lambda db, start=start: insert_samples(db, RUN, rows[start : start + 5000])])  # type: ignore[misc]
    database.transact([lambda db: announce(db, pointer.schema)])
    database.execute("ANALYZE")
    database.close()
    server.close()
    return pointer.schema


def bear(postgres: PostgresServer, rate: float, workers: int, seconds: float, budget_usd: float | None = None) -> Load:
    """So many pictures a second by so many workers, in two processes."""
    url = postgres.new_database(f"load_{time.time_ns()}")
    schema = job(url, int(rate * (seconds + 4)) + workers * (int(2 * rate / workers) + 4), budget_usd)
    begin_s, share = time.time() + 4.0, workers // 2
    command = [sys.executable, "-m", "tests.benchmarks.cluster_load", url, schema]
    children = [
        subprocess.Popen(
            [*command, *map(str, (n * share, share, rate / 2, seconds, begin_s))], cwd=ROOT, stdout=subprocess.PIPE
        )
        for n in range(2)
    ]
    with psycopg.connect(url, autocommit=True) as watching:
        before, cpu_s = counters(watching, url), None
        waits: Counter[str] = Counter()
        looks = 0
        while any(child.poll() is None for child in children) and time.time() < begin_s + 6 * seconds:
            if cpu_s is None and time.time() >= begin_s:
                cpu_s = _cpu_s(postgres)
            waits.update(_waits(watching))
            looks += 1
            time.sleep(0.05)
        used_s = _cpu_s(postgres) - (cpu_s or 0.0)
        time.sleep(1.0)
        after = counters(watching, url)
    said: list[dict[str, Any]] = [json.loads(child.communicate()[0]) for child in children]
    done = sum(one["done"] for one in said)
    lags = [lag for one in said for lag in one["lags_ms"]]
    parts = quantiles(lags, n=20)
    wall_s = max(one["ended"] for one in said) - begin_s - LATENCY_S
    return Load(
        rate, workers, done / max(seconds, wall_s), (parts[9], parts[18]), 1000 * used_s / done,
        1000 * sum(one["cpu_s"] for one in said) / done, (after[0] - before[0]) / done, (after[1] - before[1]) / done,
        {name: round(count / looks, 2) for name, count in waits.most_common(4)},
    )  # fmt: skip


def counters(watching: psycopg.Connection[Any], url: str) -> tuple[int, int]:
    name = url.rpartition("/")[2]
    with contextlib.suppress(psycopg.Error):
        watching.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    row = watching.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = %s", (name,)).fetchone()
    calls = watching.execute(
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid WHERE datname = %s",
        (name,),
    ).fetchone()
    assert row and calls
    return int(calls[0]), int(row[0])


def _waits(watching: psycopg.Connection[Any]) -> list[str]:
    rows = watching.execute(
        "SELECT coalesce(wait_event, 'CPU') FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'batchgen%'"
    )
    return [name for (name,) in rows.fetchall()]


def _cpu_s(postgres: PostgresServer) -> float:
    """Of all the server's processes, those that have ended too."""
    assert postgres.process is not None
    main, ticks = str(postgres.process.pid), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[1] == main:
                ticks += int(fields[11]) + int(fields[12])
            elif folder.name == main:
                ticks += sum(map(int, fields[11:15]))
    return ticks / TICK


if __name__ == "__main__":
    url, schema, *numbers = sys.argv[1:]
    first, count, rate, seconds, begin_s = map(float, numbers)
    with contextlib.suppress(LedgerError):
        asyncio.run(work_here(url, schema, int(first), int(count), rate, seconds, begin_s))
