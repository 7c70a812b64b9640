"""What a picture costs a worker of the cluster and its server, and how many a second one server bears."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.benchmarks import cluster as one
from tests.benchmarks.case import Case, Target
from tests.benchmarks.cluster_load import bear, counters
from tests.benchmarks.measure import Load, server
from tests.support.postgres import PostgresServer, running

FEW, MORE = 200, 1000
IN_FLIGHT = 5
MAX_STATEMENTS, MAX_TRANSACTIONS, MAX_CPU_MS, MAX_CONNECTIONS = 12, 2, 3.0, 4
RATES, WORKERS, SECONDS = (250.0, 500.0, 1000.0), 20, 10.0


@contextmanager
def counting_server() -> Iterator[PostgresServer]:
    with running("shared_preload_libraries=pg_stat_statements") as postgres:
        yield postgres


def cost(case: Case) -> None:
    """Of two jobs that differ in size alone: what starting and leaving cost is no picture's."""
    with counting_server() as postgres:
        for title, latency_s in (("at once", 0.0), ("after a second", 1.0)):
            few, more = (_made(postgres, pictures, latency_s) for pictures in (FEW, MORE))
            per = {name: (more[name] - few[name]) / (MORE - FEW) for name in ("statements", "transactions", "cpu_ms")}
            connections = max(few["connections"], more["connections"])
            case.extra[f"a picture in a worker, answered {title}"] = {**per, "connections": connections}
            case.targets += [
                Target(f"answered {title}: statements a picture", "at most", MAX_STATEMENTS, per["statements"]),
                Target(f"answered {title}: transactions", "at most", MAX_TRANSACTIONS, per["transactions"]),
                Target(f"answered {title}: CPU of the worker", "at most", MAX_CPU_MS, per["cpu_ms"], "ms"),
                Target(f"answered {title}: connections", "at most", MAX_CONNECTIONS, connections),
            ]


def _made(postgres: PostgresServer, pictures: int, latency_s: float) -> dict[str, float]:
    load = Load(images=pictures, image_bytes=one.SMALL_BYTES, in_flight=IN_FLIGHT, latency_s=latency_s)
    with server(load) as base_url, psycopg.connect(postgres.url(), autocommit=True) as watching:
        url = one.database(postgres)
        folder = one.job(pictures)
        one.submitted(base_url, url, folder)
        before, seen = counters(watching, url), Counter[str]()
        process = one.worker(base_url, url, folder, "w")
        while one.made(folder) < pictures:
            seen["most"] = max(seen["most"], _connections(watching, url))
            time.sleep(0.05)
        process.terminate()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 128 + signal.SIGTERM, process.returncode
        time.sleep(1.0)  # until what each session has counted is everybody's
        after = counters(watching, url)
    return {
        "statements": after[0] - before[0],
        "transactions": after[1] - before[1],
        "cpu_ms": 1000 * (used.ru_utime + used.ru_stime),
        "connections": seen["most"],
    }


def _connections(watching: psycopg.Connection[Any], url: str) -> int:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    row = watching.execute(sql, (url.rpartition("/")[2],)).fetchone()
    assert row
    return int(row[0])


def load(case: Case, quick: bool) -> None:
    """Workers that send nothing: what a server bears, and what its sessions wait for when it bears no more."""
    with counting_server() as postgres:
        for rate in RATES[:1] if quick else RATES:
            seen = bear(postgres, rate, WORKERS, SECONDS)
            _note(case, "", seen)
        if not quick:
            _note(case, " with a budget for the job", bear(postgres, RATES[1], WORKERS, SECONDS, 1e6))
    case.targets.append(
        Target(f"{WORKERS} workers that send nothing: pictures a second", "at least", 0.95 * seen.rate, seen.achieved)
    )


def _note(case: Case, how: str, seen: Any) -> None:
    case.notes.append(
        f"{seen.rate:,.0f} a second asked of one server by {seen.workers} workers{how}: {seen.achieved:,.0f} made, recorded"
        f" {seen.lag_ms[0]:.0f} ms after they were due (95 %: {seen.lag_ms[1]:.0f}); {seen.server_cpu_ms:.2f} ms CPU of the server"
        f" a picture, {seen.client_cpu_ms:.2f} of the workers; {seen.statements:.1f} statements, {seen.transactions:.2f}"
        f" transactions; sessions wait for {', '.join(f'{name} {share}' for name, share in seen.waits.items())}"
    )
