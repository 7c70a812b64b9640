"""The cluster beside the single-process engine on the same work, many samples submitted, and twenty workers that share a quota."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.benchmarks import cluster_worker
from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.measure import (
    BENCH,
    ROOT,
    Load,
    Run,
    as_run,
    child,
    environment,
    fresh_folder,
    server,
    stats,
    write_manifest,
)
from tests.benchmarks.watching import watched
from tests.support.postgres import PostgresServer, running

SMALL_BYTES = 2048
PICTURES, ROUNDS = 400, 3
FEW, MANY, WAITING = 10_000, 100_000, 300_000
WORKERS, RPM, SECONDS = 20, 6000, 150
IN_FLIGHT = 5


def cluster(quick: bool) -> Case:
    """PostgreSQL as it is installed: every commit reaches the disk."""
    case = Case("cluster", "8. The cluster: PostgreSQL, its queue and workers, on one machine")
    with running() as postgres:
        overhead(case, postgres, rounds=1 if quick else ROUNDS)
        submitting(case, postgres, 2 * FEW if quick else MANY)
        watching(case, postgres, seconds=5.0 if quick else 30.0)
        if not quick:
            shared_quota(case, postgres)
    cluster_worker.cost(case)
    cluster_worker.load(case, quick)
    return case


def overhead(case: Case, postgres: PostgresServer, rounds: int) -> None:
    runs: list[Run] = []
    load = Load(images=PICTURES, image_bytes=SMALL_BYTES, in_flight=IN_FLIGHT)
    with server(load) as base_url:
        for _ in range(rounds):
            runs.append(at_home(base_url, None))
            runs.append(at_home(base_url, database(postgres)))
            runs.append(by_worker(base_url, database(postgres)))
    case.tables[f"{PICTURES} pictures of 2 KB, 5 in flight"] = runs
    cpu_ms = {
        name: median(run.cpu_s / run.images * 1000 for run in runs if run.contender == name)
        for name in ("ours", "ours_postgresql", "worker")
    }
    case.extra["cpu_ms_per_sample"] = {name: round(value, 2) for name, value in cpu_ms.items()}
    of_server, of_worker = cpu_ms["ours_postgresql"] / cpu_ms["ours"], cpu_ms["worker"] / cpu_ms["ours"]
    case.targets += [
        Target(
            "CPU per picture with the ledger in PostgreSQL, of that with SQLite", "at most", 3.0, of_server, "times"
        ),
        Target("CPU per picture in a worker, its start and end included, of that", "at most", 6.0, of_worker, "times"),
    ]


def submitting(case: Case, postgres: PostgresServer, many: int) -> None:
    runs = [submit("http://127.0.0.1:9", database(postgres), items) for items in (FEW, many)]
    case.tables[f"{FEW:,} and {many:,} samples submitted"] = runs
    few, most = runs
    growth = (most.cpu_s / most.images) / (few.cpu_s / few.images)
    case.targets += [
        Target("CPU of the submitter per sample, many of few", "at most", 1.5, growth, "times"),
        Target("peak memory of the submitter, many of few", "at most", 3.0, most.rss_mb / few.rss_mb, "times"),
        Target("seconds to submit", "at most", 60.0, most.wall_s, "s"),
    ]


def watching(case: Case, postgres: PostgresServer, seconds: float) -> None:
    found = {samples: watched(database(postgres), samples, seconds) for samples in (FEW, WAITING)}
    case.extra["watching_cpu_ms_per_s"] = found
    case.targets.append(
        Target(
            f"CPU of a watcher and its server while {WAITING:,} wait",
            "at most",
            10.0,
            sum(found[WAITING].values()),
            "ms/s",
        )
    )


def shared_quota(case: Case, postgres: PostgresServer) -> None:
    """More work than the time allows: what is counted is how the quota was used, from the first start to the last."""
    url, images = database(postgres), RPM * SECONDS // 60 + 2 * RPM
    load = Load(images=images, image_bytes=SMALL_BYTES, in_flight=IN_FLIGHT * WORKERS, latency_s=0.5, rpm={MODEL: RPM})
    with server(load) as base_url:
        folder = job(images, rpm=RPM)
        submitted(base_url, url, folder)
        with workers(base_url, url, folder, WORKERS):
            time.sleep(SECONDS)
        seen = stats(base_url)["models"][MODEL]
    at_s = seen["at_s"]
    (BENCH / "arrivals.json").write_text(json.dumps(at_s))
    # The window's margin and its first burst counted: in t seconds the quota allows RPM at once and RPM in every minute.
    allowed = RPM * (1 + (at_s[-1] - at_s[0]) // 60)
    case.extra["shared_quota"] = {
        "requests": len(at_s), "seconds": round(at_s[-1] - at_s[0], 1), "refused": seen["refused"],
        "most_in_window": seen["most_in_window"], "use_of_whole_minutes": round(use_of_minutes(at_s), 4), "allowed": allowed,
    }  # fmt: skip
    case.targets += [
        Target(f"{WORKERS} workers at {RPM} a minute: refused", "exactly", 0, seen["refused"]),
        Target("most arrivals in one minute", "at most", RPM, seen["most_in_window"]),
        Target("use of the quota", "at least", 0.98, use_of_minutes(at_s)),
    ]


def use_of_minutes(at_s: list[float]) -> float:
    """Requests in the period of the window that follows the one in which the first RPM came, of those that it allows: until
    then workers start, and their start is no matter of the quota."""
    period_s = 60.5
    begin_s = max(at_s[0] + period_s, at_s[RPM - 1])
    return sum(1 for at in at_s if begin_s <= at < begin_s + period_s) / RPM * (60.0 / period_s)


# --- parts


def database(postgres: PostgresServer) -> str:
    return postgres.new_database(f"bench_{uuid.uuid4().hex[:12]}")


def job(items: int, rpm: int | None = None) -> Path:
    folder = fresh_folder("cluster")
    header = {
        "output": str(folder / "out"),
        "models": {MODEL: {"rpm": rpm}},
        "limits": {"concurrency": IN_FLIGHT, "max_items": items},
    }
    write_manifest(folder, header, [{"id": f"p{n:07}", "prompt": prompt(n)} for n in range(items)])
    return folder


def at_home(base_url: str, ledger: str | None) -> Run:
    """One process, its ledger in a file or on the server."""
    folder = job(PICTURES)
    task = {"manifest": str(folder / "bench.jsonl"), "ledger": ledger}
    facts = child("ours_ledger", task, folder, base_url)
    return as_run("ours" if ledger is None else "ours_postgresql", made(folder), facts)


def submit(base_url: str, ledger: str, items: int) -> Run:
    folder = job(items)
    return as_run("ours_cluster", items, submitted(base_url, ledger, folder))


def submitted(base_url: str, ledger: str, folder: Path) -> dict[str, object]:
    facts = child("ours_cluster", {"manifest": str(folder / "bench.jsonl"), "ledger": ledger}, folder, base_url)
    assert facts["exit_code"] == 9, facts
    return facts


def by_worker(base_url: str, ledger: str) -> Run:
    """Submitted before the clock starts; the worker's start and end are its own."""
    folder = job(PICTURES)
    submitted(base_url, ledger, folder)
    started_s = time.perf_counter()
    process = worker(base_url, ledger, folder, "w", "--until-empty")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Run(
        contender="worker", images=made(folder), wall_s=time.perf_counter() - started_s,
        cpu_s=used.ru_utime + used.ru_stime, import_cpu_s=0.0, rss_mb=used.ru_maxrss / 1e3,
    )  # fmt: skip


@contextmanager
def workers(base_url: str, ledger: str, folder: Path, number: int) -> Iterator[None]:
    processes = [worker(base_url, ledger, folder, f"w{n}") for n in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def worker(base_url: str, ledger: str, folder: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "batchgen", "worker", "--name", name, "--quiet", *options]
    state = environment(folder, base_url) | {"BATCHGEN_LEDGER": ledger, "XDG_STATE_HOME": str(folder / "state" / name)}
    return subprocess.Popen(command, cwd=ROOT, env=state, stderr=subprocess.DEVNULL)


def made(folder: Path) -> int:
    return sum(1 for entry in os.scandir(folder / "out") if entry.name.startswith("p0"))
