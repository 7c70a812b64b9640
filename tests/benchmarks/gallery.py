"""Case 6: the gallery of ten thousand photographs: time, memory and size, the first time and the second."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from batchgen.ledger.schema import ledger_path
from tests.benchmarks.case import Case, Target
from tests.benchmarks.long_job import build
from tests.benchmarks.measure import ROOT, fresh_folder

ITEMS = 10_000
DISTINCT = 40
SIDE_PX = 1024


def gallery(quick: bool) -> Case:
    items = ITEMS // 10 if quick else ITEMS
    case = Case("gallery", f"6. The gallery of {items:,} JPEGs of {SIDE_PX} x {SIDE_PX}")
    case.notes.append(
        f"{DISTINCT} photographs with grain under {items:,} names; the ledger calls each another, so each is made small"
    )
    folder = fresh_folder("gallery")
    build(folder, items, 0)
    link_photographs(folder / "out", items)
    first, second = (report(folder / "out") for _ in range(2))
    case.extra.update(first=first, second=second)
    for words, told in (("first", first), ("second", second)):
        case.notes.append(
            f"{words} report: {told['wall_s']:.1f} s wall, {told['cpu_s']:.1f} s CPU, {told['peak_mb']:.0f} MB at most,"
            f" {told['bytes'] / 1e6:.1f} MB written, {told['made']:,} thumbnails made"
        )
    case.targets += [
        Target("first report: peak memory", "at most", 400, first["peak_mb"], "MB"),
        Target("second report: wall", "at most", 15, second["wall_s"], "s"),
    ]
    return case


def link_photographs(out: Path, items: int) -> None:
    """In place of the small PNGs that the long job has."""
    rng = random.Random(0)
    sources = []
    photos = sorted((ROOT / "jobs" / "photos").glob("*.jpg"))
    for number in range(DISTINCT):
        path = out.parent / f"photo-{number}.jpg"
        photograph(photos[number % len(photos)], rng).save(path, quality=92)
        sources.append(path)
    for number in range(items):
        name = out / f"sku-{number:07}.png"
        name.unlink()
        os.link(sources[number % DISTINCT], name)
    with sqlite3.connect(ledger_path(out)) as database:
        database.execute(
            "UPDATE image SET sha256 = printf('%064x', attempt_id), format = 'jpeg', width = ?, height = ?",
            (SIDE_PX, SIDE_PX),
        )
    database.close()


def photograph(source: Path, rng: random.Random) -> Image.Image:
    with Image.open(source) as small:
        turned = small.convert("RGB").rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC).resize((SIDE_PX, SIDE_PX))
    grain = Image.effect_noise((SIDE_PX, SIDE_PX), 40).convert("RGB")
    detail = Image.effect_noise((SIDE_PX // 4, SIDE_PX // 4), 60).convert("RGB").resize((SIDE_PX, SIDE_PX))
    return Image.blend(Image.blend(turned, detail, 0.2), grain, 0.1)  # so that thumbnails weigh what photographs' do


def report(out: Path) -> dict[str, float]:
    """One `batchgen report` as a process of its own."""
    started_s = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "batchgen", "report", str(out), "--json"], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    told = json.load(child.stdout)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    return {
        "wall_s": time.perf_counter() - started_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1000,
        "bytes": told["bytes"],
        "made": told["made"],
    }
