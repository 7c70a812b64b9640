"""Case 11: ten workers share one quota on a PostgreSQL server; and what a reservation costs, in a file and there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from batchgen.ledger.quota_store import QuotaStore
from batchgen.scheduling.window import Reserved
from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.measure import ROOT, Load, environment, fresh_folder, server, stats, write_manifest
from tests.support.postgres import running

WORKERS, RPM, MINUTES = 10, 600, 3
PERIOD_S = 60.5
FAST_RPM, FEW = 10_000, 4


def shared(quick: bool) -> Case:
    case = Case("shared", "11. A quota that workers share")
    with running() as postgres:
        for name, place in (("SQLite", str(fresh_folder("book"))), ("PostgreSQL", postgres.new_database("book"))):
            alone, together = reservations(place, "alone", 1), reservations(place, "together", FEW)
            case.extra[name] = {"alone": alone, "together": together}
            case.notes.append(
                f"{name}: one process makes {alone['per_s']:,.0f} reservations a second, {alone['cpu_ms']:.2f} ms CPU each;"
                f" {FEW} that share {FAST_RPM:,} a minute make {together['per_s']:,.0f}, {together['cpu_ms']:.2f} ms CPU each"
            )
            case.targets.append(Target(f"{name}: reservations a minute", "at least", FAST_RPM, 60 * together["per_s"]))
        if quick:
            case.notes.append("ten workers are left out: three minutes are three minutes")
            return case
        case.targets += ten_workers(postgres.new_database("ledger"))
    return case


def ten_workers(ledger: str) -> list[Target]:
    """Each is a run of a job of its own, its ledger on the server; all have the same key and AI model."""
    load = Load(images=MINUTES * RPM // WORKERS, image_bytes=12_400, in_flight=5, latency_s=0.05, rpm={MODEL: RPM})
    with server(load) as base_url, ThreadPoolExecutor(WORKERS) as pool:
        ended = list(pool.map(lambda number: run(number, load, base_url, ledger), range(WORKERS)))
        seen = stats(base_url)["models"][MODEL]
    # Between its first request and the first of the third minute stand two minutes' worth of them.
    use = (MINUTES - 1) * 60.0 / seen["at_s"][(MINUTES - 1) * RPM]
    return [
        Target(f"{WORKERS} workers at {RPM} a minute: refused", "exactly", 0, seen["refused"]),
        Target("most arrivals in one minute", "at most", RPM, seen["most_in_window"]),
        Target("use of the quota", "at least", 0.97, use),
        Target("runs that did not end well", "exactly", 0, sum(map(bool, ended))),
    ]


def run(number: int, load: Load, base_url: str, ledger: str) -> int:
    folder = fresh_folder(f"worker-{number}")
    header = {"output": str(folder / "out"), "models": {MODEL: {"rpm": RPM}}, "limits": {"concurrency": load.in_flight}}
    items = [{"id": f"p{each:05}", "prompt": f"{prompt(each)} of {number}"} for each in range(load.images)]
    command = [sys.executable, "-m", "batchgen", "run", str(write_manifest(folder, header, items)), "--quiet", "--yes"]
    where = environment(folder, base_url) | {"BATCHGEN_LEDGER": ledger, "GEMINI_API_KEY": "the-same-for-all"}
    return subprocess.run(command, cwd=ROOT, env=where, check=False).returncode


def reservations(place: str, quota: str, processes: int) -> dict[str, float]:
    """Of all processes together, from the first to the last: a window's worth of them."""
    command = [sys.executable, "-m", "tests.benchmarks.shared", place, quota, str(FAST_RPM // processes)]
    children = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # it is ready
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    done: list[dict[str, Any]] = [json.loads(child.communicate()[0]) for child in children]
    wall_s = max(one["ended"] for one in done) - min(one["began"] for one in done)
    cpu_s = sum(one["cpu_s"] for one in done)
    return {"per_s": FAST_RPM / wall_s, "cpu_ms": 1e3 * cpu_s / FAST_RPM}


async def reserve(place: Path | str, quota: str, number: int) -> None:
    book = QuotaStore(place, print)
    log = book.start_log(quota, PERIOD_S)
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu_s = time.monotonic(), time.process_time()
    for _ in range(number):
        answer = await log.reserve(FAST_RPM, 0.01)
        assert isinstance(answer, Reserved), answer
        assert answer.quota_slot is not None
        log.sent(answer.quota_slot)
        log.record_cost(answer.quota_slot, 0.01)
    ended = time.monotonic()
    book.close()
    print(json.dumps({"began": began, "ended": ended, "cpu_s": time.process_time() - cpu_s}))


if __name__ == "__main__":
    place, quota, number = sys.argv[1:]
    asyncio.run(reserve(place if "://" in place else Path(place), quota, int(number)))
