"""What a cluster needs: CPU, memory and connections of its workers, CPU and room of its PostgreSQL, for the table in the manual."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from batchgen.ledger.postgresql import PostgreSQL
from tests.benchmarks.case import Case, Target
from tests.benchmarks.cluster import job, made, submitted, worker
from tests.benchmarks.measure import Load, server
from tests.benchmarks.watching import backend_cpu_s
from tests.support.postgres import PostgresServer, running

LATENCY_S = 0.2
# workers, requests in flight of each, bytes of an image, images
SIZES = (
    (1, 5, 2048, 2000),
    (4, 5, 2048, 4000),
    (1, 5, 1_100_000, 1500),
    (2, 5, 1_100_000, 1500),
    (1, 50, 1_100_000, 1500),
    (1, 5, 8_900_000, 600),
    (1, 50, 8_900_000, 600),
)
LOOK_S = 0.3


def cluster_size(quick: bool) -> Case:
    case = Case("cluster-size", "What workers and their PostgreSQL need, from start to end")
    with running() as postgres:
        found = [sized(postgres, *size) for size in (SIZES[2:3] if quick else SIZES)]
    case.extra["sizes"] = found
    missing = sum(each["images"] - each["made"] for each in found)
    case.targets.append(Target("images that were not made", "exactly", 0, missing))
    case.notes += [f"{each}" for each in found]
    case.notes.append(f"answers after {LATENCY_S} s, PostgreSQL as it is installed")
    return case


def sized(postgres: PostgresServer, workers: int, in_flight: int, image_bytes: int, images: int) -> dict[str, Any]:
    url = postgres.new_database(f"bench_{uuid.uuid4().hex[:12]}")
    load = Load(images=images, image_bytes=image_bytes, in_flight=in_flight * workers, latency_s=LATENCY_S)
    with server(load) as base_url, contextlib.closing(PostgreSQL(url, "public", "sizes")) as look:
        folder = job(images)
        empty_bytes = database_bytes(look)
        submitted(base_url, url, folder)
        options = ("--until-empty", "--concurrency", str(in_flight))
        waiting_bytes, started_s = database_bytes(look), time.monotonic()
        processes = [worker(base_url, url, folder, f"w{n}", *options) for n in range(workers)]
        connections, backends, peak_kb = watch(processes, look, postgres)
        took_s = time.monotonic() - started_s
        cpu_s = sum(ended_cpu_s(process) for process in processes)
        return {
            "workers": workers,
            "in_flight_each": in_flight,
            "image_bytes": image_bytes,
            "images": images,
            "made": made(folder),
            "images_per_minute": round(images / took_s * 60),
            "worker_cpu_ms": round(cpu_s / images * 1000, 2),
            "server_cpu_ms": round(sum(backends.values()) / images * 1000, 2),
            "worker_peak_mb": round(peak_kb / 1000),
            "connections_per_worker": median(connections) / workers,
            "waiting_kb": round((waiting_bytes - empty_bytes) / images / 1000, 1),
            "made_kb": round((database_bytes(look) - empty_bytes) / images / 1000, 1),
        }


def watch(
    processes: list[subprocess.Popen[bytes]], look: PostgreSQL, postgres: PostgresServer
) -> tuple[list[int], dict[int, float], int]:
    """(connections of all workers, seen now and then; CPU seconds of the server's processes; the most memory of a worker, KB)."""
    connections, backends, peak_kb = list[int](), dict[int, float](), 0
    while not all(map(has_ended, processes)):
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'batchgen%'"
        connections.append(look.execute(sql).fetchone()[0])
        backends.update(children_cpu_s(postgres))
        peak_kb = max([peak_kb, *(memory_peak_kb(process.pid) for process in processes)])
        time.sleep(LOOK_S)
    return connections, backends, peak_kb


def database_bytes(look: PostgreSQL) -> int:
    return int(look.execute("SELECT pg_database_size(current_database())").fetchone()[0])


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without taking its end away, which says what it has used."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def ended_cpu_s(process: subprocess.Popen[bytes]) -> float:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def children_cpu_s(postgres: PostgresServer) -> Iterator[tuple[int, float]]:
    assert postgres.process is not None
    for pid in Path(f"/proc/{postgres.process.pid}/task/{postgres.process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            yield int(pid), backend_cpu_s(int(pid))


def memory_peak_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
