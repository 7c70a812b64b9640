"""Case 4: a manifest of a million lines of which all but ten are done."""

from __future__ import annotations

import os
import time

from tests.benchmarks.case import Case, Target
from tests.benchmarks.chart import Series, log_log
from tests.benchmarks.long_job import PICTURE_BYTES, build
from tests.benchmarks.measure import BENCH, Load, Run, as_run, child, fresh_folder, server, stats

MISSING = 10
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def long_manifest(quick: bool) -> Case:
    sizes = SIZES[:-1] if quick else SIZES
    case = Case("manifest", f"4. A manifest of {sizes[-1]:,} lines of which all but {MISSING} are done")
    case.notes.append("the done ones are rows and hard links of small PNGs, written in bulk, not by a run")
    case.notes.append("in the tables of this case, an image is a line of the manifest")
    points: dict[int, tuple[Run, Run]] = {}
    for items in sizes:
        points[items] = planned, ran = one_size(items, case)
        case.tables[f"{items:,} lines"] = [planned, ran]
    planned, ran = points[sizes[-1]]
    share = sizes[-1] / SIZES[-1]
    case.targets += [
        Target("plan and finish: wall", "at most", 20 * share, ran.wall_s, "s"),
        Target("plan and finish: CPU", "at most", 20 * share, ran.cpu_s, "s"),
        Target("plan and finish: peak memory", "at most", 200, ran.rss_mb, "MB"),
        Target("plan alone: peak memory", "at most", 200, planned.rss_mb, "MB"),
    ]
    (BENCH / "plan.svg").write_text(plot(points), encoding="utf-8")
    case.notes.append("time and memory by length of the manifest: .bench/plan.svg")
    return case


def one_size(items: int, case: Case) -> tuple[Run, Run]:
    """The plan alone, then the run, each in a process of its own."""
    folder = fresh_folder(f"long-{items}")
    started_s = time.perf_counter()
    manifest = build(folder, items, MISSING)
    case.extra[f"build_{items}_s"] = round(time.perf_counter() - started_s, 1)
    with server(Load(images=MISSING, image_bytes=PICTURE_BYTES, in_flight=5)) as base_url:
        task = {"manifest": str(manifest)}
        planned = as_run("ours_plan", items, child("ours_plan", task, folder, base_url))
        facts = child("ours", task, folder, base_url)
        asked = sum(model["arrivals"] for model in stats(base_url)["models"].values())
    ran = as_run("ours", items, facts)
    there = sum(1 for entry in os.scandir(folder / "out") if entry.name.endswith(".png"))
    case.targets += [
        Target(f"{items:,} lines: requests", "exactly", MISSING, asked),
        Target(f"{items:,} lines: pictures at the end", "exactly", items, there),
        Target(f"{items:,} lines: kept by the plan", "exactly", items - MISSING, planned.facts["kept"]),
    ]
    return planned, ran


def plot(points: dict[int, tuple[Run, Run]]) -> str:
    lines = list(points)
    seconds = [
        Series("plan and finish", lines, [ran.wall_s for _, ran in points.values()]),
        Series("plan alone", lines, [planned.wall_s for planned, _ in points.values()]),
    ]
    memory = [
        Series("plan and finish", lines, [ran.rss_mb for _, ran in points.values()]),
        Series("plan alone", lines, [planned.rss_mb for planned, _ in points.values()]),
    ]
    return log_log(
        [("seconds", seconds), ("peak memory, MB", memory)], "lines of the manifest, all but ten of them done"
    )
