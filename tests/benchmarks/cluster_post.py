"""Derivatives by workers of the cluster: one worker against two, and both beside the single-process engine on the same pictures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from batchgen.ledger.postgresql import PostgreSQL
from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL
from tests.benchmarks.gallery import photograph
from tests.benchmarks.measure import ROOT, Load, Run, environment, fresh_folder, server, write_manifest
from tests.benchmarks.post import IN_FLIGHT, SIDE_PX
from tests.support.postgres import running

PICTURES, ROUNDS = 60, 2
FILES = 5
WAYS = ("here", "one worker", "two workers")


def cluster_post(quick: bool) -> Case:
    """Each worker has one process. In turns, with other recipes each time, so that all files are made anew."""
    pictures, rounds = (12, 1) if quick else (PICTURES, ROUNDS)
    title = f"Derivatives in the cluster: {FILES} files of each of {pictures} JPEGs of {SIDE_PX} x {SIDE_PX}"
    case = Case("cluster-post", title)
    folder = fresh_folder("cluster-post")
    picture = folder / "picture.jpg"
    photo = next(iter(sorted((ROOT / "jobs" / "photos").glob("*.jpg"))))
    photograph(photo, random.Random(0)).resize((SIDE_PX, SIDE_PX)).save(picture, quality=92)
    runs: list[Run] = []
    with running() as postgres:
        url = postgres.new_database(f"bench_{uuid.uuid4().hex[:12]}")
        jobs = {"here": Job(folder / "here", pictures, None), "cluster": Job(folder / "cluster", pictures, url)}
        for job in jobs.values():
            job.make(picture)
        for number in range(rounds):
            runs.append(jobs["here"].derive("here", number, 0))
            runs += [jobs["cluster"].derive(way, 2 * number + n, n + 1) for n, way in enumerate(WAYS[1:])]
    case.tables[f"{pictures} pictures"] = runs
    wall_s = {way: median(run.wall_s for run in runs if run.contender == way) for way in WAYS}
    cpu_s = {way: median(run.cpu_s / run.images for run in runs if run.contender == way) for way in WAYS}
    case.extra.update(wall_s=wall_s, cpu_s_per_picture=cpu_s, load=os.getloadavg())
    beside_here, beside_one = cpu_s["one worker"] / cpu_s["here"], cpu_s["two workers"] / cpu_s["one worker"]
    case.targets += [
        Target("CPU of a picture by one worker, of the single-process engine's", "at most", 1.25, beside_here, "times"),
        Target("CPU of a picture by two workers, of one worker's", "at most", 1.25, beside_one, "times"),
        Target("commands that did not make everything", "exactly", 0, sum(run.facts["code"] != 0 for run in runs)),
    ]  # fmt: skip
    case.notes += [
        f"two workers are {wall_s['one worker'] / wall_s['two workers']:.2f} times as fast as one; one takes"
        f" {wall_s['one worker'] / wall_s['here']:.2f} times as long as the single-process engine",
        "CPU is of workers, their processes and the submitter, from their start to their end: "
        + ", ".join(f"{way} {cpu_s[way]:.2f} s a picture" for way in WAYS),
        f"wall is from the command's start to its end, of workers that are up already; load of the machine {os.getloadavg()[0]:.1f}",
    ]
    return case


class Job:
    """ledger: of a server; None: in the folder."""

    def __init__(self, folder: Path, pictures: int, ledger: str | None) -> None:
        folder.mkdir()
        self._folder = folder
        self._ledger = ledger
        self._pictures = pictures
        self.manifest = self._write({})

    def _write(self, more: Mapping[str, Any]) -> Path:
        header = {
            "output": str(self._folder / "out"),
            "models": {MODEL: {"rpm": None}},
            "limits": {"concurrency": IN_FLIGHT},
            **more,
        }
        items = [{"id": f"p{n:04}", "prompt": f"picture {n}"} for n in range(self._pictures)]
        return write_manifest(self._folder, header, items)

    def _environment(self, base_url: str = "") -> dict[str, str]:
        given = {} if self._ledger is None else {"BATCHGEN_LEDGER": self._ledger}
        return {**environment(self._folder, base_url), "GEMINI_API_KEY": "benchmark", **given}

    def make(self, picture: Path) -> None:
        with server(Load(images=self._pictures, image_bytes=0, in_flight=IN_FLIGHT), picture) as base_url:
            command = [sys.executable, "-m", "batchgen", "run", str(self.manifest), "--yes", "-q"]
            subprocess.run(command, cwd=ROOT, env=self._environment(base_url), stdout=subprocess.DEVNULL, check=True)

    def derive(self, way: str, number: int, workers: int) -> Run:
        """number: of the recipe. workers: of the cluster; 0: without it."""
        self._write({"post": recipe(number)})
        engine = ["--engine", "cluster"] if workers else []
        command = [sys.executable, "-m", "batchgen", "post", str(self.manifest), "--json", *engine]
        used_s: list[float] = []
        with self._workers(workers, used_s):
            started_s = time.perf_counter()
            child = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=subprocess.PIPE)
            assert child.stdout is not None
            told = json.load(child.stdout)
            used_s.append(ended(child))
            wall_s = time.perf_counter() - started_s
            child.stdout.close()
        made = told.get("made", 0) // FILES
        return Run(contender=way, images=made, wall_s=wall_s, cpu_s=sum(used_s), import_cpu_s=0.0, rss_mb=0.0,
                   facts={"code": child.returncode if made == self._pictures else -1})  # fmt: skip

    @contextmanager
    def _workers(self, number: int, used_s: list[float]) -> Iterator[None]:
        """Up when the block begins; their CPU seconds are known when it has ended."""
        command = [sys.executable, "-m", "batchgen", "worker", "--post-processes", "1", "-q"]
        found = [subprocess.Popen(command, cwd=ROOT, env=self._environment()) for _ in range(number)]
        try:
            if self._ledger is not None:
                until_up(self._ledger, [child.pid for child in found])
            yield
        finally:
            for child in found:
                child.send_signal(signal.SIGTERM)
            used_s += [ended(child) for child in found]


def ended(child: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process and of those that it had."""
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def until_up(url: str, pids: Sequence[int]) -> None:
    database = PostgreSQL(url, "public", "benchmark")
    try:
        while True:
            there = database.execute("SELECT to_regclass('batchgen.worker')").fetchone()[0]
            rows = database.execute("SELECT pid FROM batchgen.worker").fetchall() if there else []
            if set(pids) <= {pid for (pid,) in rows}:
                return
            time.sleep(0.1)
    finally:
        database.close()


def recipe(number: int) -> dict[str, Any]:
    return {
        "derivatives": [
            {"name": "web", "format": "webp", "widths": [480, 960, 1920], "quality": 82 - number},
            {"name": "shop", "format": "jpeg", "crop": "4:5", "width": 1200, "quality": 85 - number},
            {"name": "thumb", "format": "avif", "width": 256, "quality": 60 - number},
        ],
        "embed": "ids",
    }
