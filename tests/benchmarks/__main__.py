"""Measures batchgen beside other clients on one local server: python -m tests.benchmarks [--only NAME] [--quick]."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable

from tests.benchmarks.batch import batch
from tests.benchmarks.case import Case, report
from tests.benchmarks.checks import checks
from tests.benchmarks.cluster import cluster
from tests.benchmarks.cluster_post import cluster_post
from tests.benchmarks.cluster_size import cluster_size
from tests.benchmarks.dashboard import dashboard
from tests.benchmarks.gallery import gallery
from tests.benchmarks.long_manifest import long_manifest
from tests.benchmarks.machine import machine
from tests.benchmarks.measure import BENCH, WORK
from tests.benchmarks.outage import outage
from tests.benchmarks.post import post
from tests.benchmarks.quota import quotas
from tests.benchmarks.references import references
from tests.benchmarks.review import review
from tests.benchmarks.scale import scale
from tests.benchmarks.shared import shared
from tests.benchmarks.start import start
from tests.benchmarks.throughput import unlimited, waiting

CASES: dict[str, Callable[[bool], Case]] = {
    "unlimited": unlimited,
    "latency": waiting,
    "quota": quotas,
    "manifest": long_manifest,
    "scale": scale,
    "references": references,
    "batch": batch,
    "cluster": cluster,
    "start": start,
    "gallery": gallery,
    "post": post,
    "cluster-post": cluster_post,
    "cluster-size": cluster_size,
    "dashboard": dashboard,
    "review": review,
    "shared": shared,
    "outage": outage,
    "checks": checks,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="this case; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="fewer pictures, one round, a shorter manifest, no quotas")
    wanted = parser.parse_args()
    for folder in (BENCH, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    where = machine(WORK)
    print(json.dumps(where, indent=1))
    cases: list[Case] = []
    try:
        for name in wanted.only or CASES:
            started_s = time.perf_counter()
            cases.append(CASES[name](wanted.quick))
            cases[-1].extra["took_s"] = round(time.perf_counter() - started_s, 1)
            print(report(cases[-1]), flush=True)
            keep(where, cases, wanted.quick)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    met = [target.met for case in cases for target in case.targets]
    print(f"\n{sum(met)} of {len(met)} targets met; all figures are in {BENCH.name}/results.json")


def keep(where: dict[str, object], cases: list[Case], quick: bool) -> None:
    """After every case: one that fails must not take the others' figures with it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    document = {"at": at, "quick": quick, "machine": where, "cases": [case.as_json() for case in cases]}
    (BENCH / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
