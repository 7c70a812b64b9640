"""What it costs to watch a cluster at work: CPU of the watcher and of its server's process while many samples wait.

python -m tests.benchmarks.watching URL SCHEMA SECONDS watches, and prints what that took as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from batchgen.engine.cluster import queue
from batchgen.engine.cluster.monitor import ClusterMonitor
from batchgen.ledger import lease
from batchgen.ledger.location import SHARED_SCHEMA, LedgerServer, register_job
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.reader import Reader

ROOT = Path(__file__).parents[2]
BODY = "x" * 900  # characters of a sample as it waits, more or less
FILL = (
    "INSERT INTO work (run_id, key, lane, priority, missing, body, item_id, n, images) SELECT 1, 'p' || i, 'gemini/m', 0, 0,"
    " ?, 'p' || i, 1, 1 FROM generate_series(1, ?) i",
    "INSERT INTO sample (item_id, n, model, state, fingerprint, wire, updated_at) SELECT 'p' || i, 1, 'm', 'submitted', '', '',"
    " 0 FROM generate_series(1, ?) i",
)


def waiting_job(url: str, samples: int) -> str:
    """The schema of a job of which so many samples wait and none is being made, while a worker is alive."""
    queue.migrate(url)
    with contextlib.closing(PostgreSQL(url, SHARED_SCHEMA)) as server:
        schema = register_job(server, LedgerServer(url, "watched", "nowhere")).schema
        server.execute(f"INSERT INTO {SHARED_SCHEMA}.worker VALUES ('w', 'h', 1, 5, 0, {lease.SERVER_NOW} + 1e6, 0)")
    with contextlib.closing(PostgreSQL(url, schema)) as job:
        fill, samples_too = FILL
        announce = [lambda db: lease.announce(db, schema)]
        job.transact([queue.create_work_tables, lambda db: db.execute(fill, (BODY, samples)), *announce])
        job.execute(samples_too, (samples,))
        job.execute("ANALYZE")
    return schema


def watch(url: str, schema: str, seconds: float) -> dict[str, float]:
    """Milliseconds of CPU in each second, of this process and of the server's."""
    reader = Reader(PostgreSQL(url, schema, "watcher reads"))
    monitor = ClusterMonitor(url, schema, reader, lambda event: None)
    backends = [monitor._db, reader._connection]
    pids = [each.execute("SELECT pg_backend_pid()").fetchone()[0] for each in backends]
    monitor._poll()  # plans and imports are of the first look
    before, started = (cpu_s(), sum(map(backend_cpu_s, pids))), time.monotonic()

    async def until_then() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await monitor.wait_until_ended(stop, 1)

    asyncio.run(until_then())
    took_s = time.monotonic() - started
    after = cpu_s(), sum(map(backend_cpu_s, pids))
    monitor.close()
    reader.close()
    watcher, server = ((now - then) / took_s * 1000 for now, then in zip(after, before, strict=True))
    return {"watcher_ms": round(watcher, 2), "server_ms": round(server, 2)}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def backend_cpu_s(pid: int) -> float:
    """User and system time of a process: fields 14 and 15 of /proc/PID/stat, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(url: str, samples: int, seconds: float) -> dict[str, float]:
    """The same in a process of its own."""
    schema = waiting_job(url, samples)
    command = [sys.executable, "-m", "tests.benchmarks.watching", url, schema, str(seconds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
