"""Case 7: derivatives of 4K pictures: what they cost the run beside which they are made, how fast they are, in what memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchgen.engine.derivative_runner import MAX_WORKERS, available_cpus
from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL
from tests.benchmarks.gallery import photograph
from tests.benchmarks.measure import ROOT, Load, environment, fresh_folder, server, stats, write_manifest

PICTURES = 200
SIDE_PX = 4096
IN_FLIGHT = 10
LATENCY_S = 2.0
POST: Mapping[str, Any] = {
    "derivatives": [
        {"name": "web", "format": "webp", "widths": [480, 960, 1920], "quality": 82},
        {"name": "shop", "format": "jpeg", "crop": "4:5", "width": 1200},
        {"name": "thumb", "format": "avif", "width": 256},
    ],
    "embed": "ids",
}


def post(quick: bool) -> Case:
    pictures = PICTURES // 10 if quick else PICTURES
    case = Case(
        "post", f"7. Derivatives of {pictures} JPEGs of {SIDE_PX} x {SIDE_PX}: three WebP, a crop, an AVIF of each"
    )
    folder = fresh_folder("post")
    picture = folder / "picture.jpg"
    photo = next(iter(sorted((ROOT / "jobs" / "photos").glob("*.jpg"))))
    photograph(photo, random.Random(0)).resize((SIDE_PX, SIDE_PX)).save(picture, quality=92)
    plain = run(folder / "plain", picture, pictures, {})
    derived = run(folder / "derived", picture, pictures, {"post": POST})
    alone = command(["post", derived["manifest"], "--json"], folder, "", change=Path(derived["manifest"]))
    workers = min(MAX_WORKERS, max(1, available_cpus() - 1))
    per_core = alone["told"]["made"] / 5 / alone["wall_s"] / workers
    case.extra.update(plain=plain, derived=derived, alone=alone)
    case.targets += [
        Target("requests a minute beside it, against none", "at least", 0.95, derived["per_minute"] / plain["per_minute"], "times"),
        Target("peak memory of the run, against none", "at most", 1.25, derived["peak_mb"] / plain["peak_mb"], "times"),
        Target("peak memory of a worker process", "at most", 400, max(derived["worker_mb"], alone["worker_mb"]), "MB"),
        Target("runs and commands that did not make everything", "exactly", 0, sum(one["code"] != 0 for one in (plain, derived, alone))),
    ]  # fmt: skip
    case.notes += [
        f"a picture of {picture.stat().st_size / 1e6:.1f} MB; {IN_FLIGHT} in flight at {LATENCY_S:.0f} s;"
        f" {plain['per_minute']:.0f} requests a minute without, {derived['per_minute']:.0f} with derivatives",
        f"`batchgen post` alone: {per_core:.2f} pictures a second and core, five files of each, {workers} worker(s);"
        f" {alone['cpu_s'] / pictures:.2f} s CPU a picture",
        f"peak memory: run {plain['peak_mb']:.0f} MB without, {derived['peak_mb']:.0f} MB with;"
        f" worker {max(derived['worker_mb'], alone['worker_mb']):.0f} MB; `batchgen post` itself {alone['peak_mb']:.0f} MB",
        f"wall: run {plain['wall_s']:.0f} s without, {derived['wall_s']:.0f} s with, post alone {alone['wall_s']:.0f} s",
    ]
    return case


def run(folder: Path, picture: Path, pictures: int, more: Mapping[str, Any]) -> dict[str, Any]:
    folder.mkdir()
    header = {
        "output": str(folder / "out"),
        "models": {MODEL: {"rpm": None}},
        "limits": {"concurrency": IN_FLIGHT},
        **more,
    }
    manifest = write_manifest(folder, header, [{"id": f"p{n:04}", "prompt": f"picture {n}"} for n in range(pictures)])
    load = Load(images=pictures, image_bytes=0, in_flight=IN_FLIGHT, latency_s=LATENCY_S)
    with server(load, picture) as base_url:
        measured = command(["run", str(manifest), "--yes", "-q", "--json"], folder, base_url)
        at_s = stats(base_url)["models"][MODEL]["at_s"]
    return {**measured, "manifest": str(manifest), "per_minute": (len(at_s) - 1) / (at_s[-1] - at_s[0]) * 60}


def command(argv: Sequence[str], folder: Path, base_url: str, change: Path | None = None) -> dict[str, Any]:
    """A command as a process, watched. change: a manifest to give another recipe first, so that all is made anew."""
    if change is not None:
        change.write_text(
            change.read_text().replace('"quality": 82', '"quality": 81').replace("1200", "1199").replace("256", "255")
        )
    env = {**environment(folder, base_url), "GEMINI_API_KEY": "benchmark"}
    started_s = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "batchgen", *argv], cwd=ROOT, env=env, stdout=subprocess.PIPE)
    workers = Watch(child.pid)
    assert child.stdout is not None
    told = json.load(child.stdout)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    return {
        "code": child.returncode, "wall_s": time.perf_counter() - started_s, "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": workers.own_mb, "worker_mb": workers.stop(), "told": {"made": told.get("made")},
    }  # fmt: skip


class Watch:
    """Peak memory of a process and of its worker processes, by what the kernel remembers of each (VmHWM)."""

    def __init__(self, pid: int) -> None:
        self.own_mb = self._most_mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._most_mb

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self.own_mb = max(self.own_mb, peak_mb(self._pid))
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and parent(entry) == self._pid:
                    self._most_mb = max(self._most_mb, peak_mb(int(entry.name)))


def parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 0.0)
