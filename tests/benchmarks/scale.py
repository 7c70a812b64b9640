"""Case 17: what looks at a job, from a thousand to a million items: CPU time and peak memory of each command, and when the first
images of its gallery are in a browser."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from batchgen.ledger.schema import STATE_FOLDER, ledger_path
from batchgen.report.gallery import FILE_NAME
from batchgen.report.thumbnails import FOLDER, shrink
from tests.benchmarks.case import Case, Target
from tests.benchmarks.chart import Series, log_log
from tests.benchmarks.dashboard import in_a_browser
from tests.benchmarks.long_job import COMMANDS, build, link_files
from tests.benchmarks.measure import BENCH, Run, as_run, child, fresh_folder

MISSING = 10
SIZES = (1_000, 10_000, 100_000, 1_000_000)
MAX_MB, MAX_FIRST_IMAGES_S = 150, 1.0
MAX_RATIO = 12.0  # of CPU above that of the shortest job, for ten times the items
MEASURED = {
    **COMMANDS,
    "export parquet": ["export", "{manifest}", "--format", "parquet", "--to", "{folder}/rows.parquet"],
}


def scale(quick: bool) -> Case:
    sizes = SIZES[:-1] if quick else SIZES
    case = Case("scale", f"17. What looks at a job of {sizes[-1]:,} items")
    case.notes.append("the jobs are rows and hard links of small PNGs; in the tables of this case, an image is an item")
    case.notes.append("report: each image has a thumbnail of its own, which is there already")
    points: dict[str, list[Run]] = {name: [] for name in MEASURED}
    for items in sizes:
        folder = fresh_folder(f"scale-{items}")
        manifest = build(folder, items, MISSING)
        for name, command in MEASURED.items():
            if name == "report":
                tell_apart(folder / "out", items - MISSING)
            argv = [word.format(manifest=manifest, folder=folder) for word in command]
            ran = as_run(name, items, child("command", {"argv": argv}, folder, ""))
            points[name].append(ran)
        case.tables[f"{items:,} items"] = [runs[-1] for runs in points.values()]
    for name, runs in points.items():
        first, before, last = runs[0].cpu_s, runs[-2].cpu_s, runs[-1].cpu_s
        case.targets.append(Target(f"{name}: peak memory", "at most", MAX_MB, runs[-1].rss_mb, "MB"))
        ratio = (last - first) / max(0.1, before - first)
        case.targets.append(Target(f"{name}: CPU, ten times the items", "at most", MAX_RATIO, ratio, "times"))
        case.targets.append(Target(f"{name}: exit code", "exactly", 0, max(run.facts["exit_code"] for run in runs)))
    if shown_s := in_a_browser((folder / "out" / FILE_NAME).as_uri()):
        case.extra["shown_s"] = shown_s
        target = Target("images in sight in a browser", "at most", MAX_FIRST_IMAGES_S, shown_s[0], "s")
        case.targets.append(target)
    (BENCH / "scale.svg").write_text(plot(points, sizes), encoding="utf-8")
    case.notes.append("time and memory by items: .bench/scale.svg")
    return case


def tell_apart(out: Path, images: int) -> None:
    """The ledger calls each image another, and a thumbnail is there for each."""
    with sqlite3.connect(ledger_path(out)) as database:
        database.execute("UPDATE image SET sha256 = printf('%02x%062x', attempt_id % 256, attempt_id)")
        first = database.execute("SELECT path FROM image LIMIT 1").fetchone()[0]
    database.close()
    folder = out / STATE_FOLDER / FOLDER
    for number in range(256):
        (folder / f"{number:02x}").mkdir(parents=True)
    names = (f"{folder}/{number % 256:02x}/{number % 256:02x}{number:062x}.webp" for number in range(1, images + 1))
    link_files(names, shrink(out / first))


def plot(points: dict[str, list[Run]], sizes: tuple[int, ...]) -> str:
    seconds = [Series(name, sizes, [run.cpu_s for run in runs]) for name, runs in points.items()]
    memory = [Series(name, sizes, [run.rss_mb for run in runs]) for name, runs in points.items()]
    return log_log([("CPU seconds", seconds), ("peak memory, MB", memory)], "items, all but ten of them made")
