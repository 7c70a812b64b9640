"""Starts server and contenders as processes, counts what they left on disk, and repeats in turns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import MODEL, prompt

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - where there is room: what a disk takes is not what is compared
MEMORY_DISK_BYTES = 8_000_000_000


def work_folder() -> Path:
    """Of this process: two benchmarks at once disturb each other, but only that."""
    roomy = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > MEMORY_DISK_BYTES
    return (MEMORY_DISK / "batchgen-bench" if roomy else BENCH) / f"work-{os.getpid()}"


WORK = work_folder()
LOOKS_OFF = {"blank": "off", "twin": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the contenders have to do. rpm: what the server allows, by AI model; empty: no quota on either side."""

    images: int
    image_bytes: int
    in_flight: int
    latency_s: float = 0.0
    rpm: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process of one contender. images: files of the right size on disk; wall and CPU: of the work, without imports."""

    contender: str
    images: int
    wall_s: float
    cpu_s: float
    import_cpu_s: float
    rss_mb: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images_per_s(self) -> float:
        return self.images / self.wall_s


@contextmanager
def server(load: Load, picture: Path | None = None) -> Iterator[str]:
    """The address of a server of its own process, ended by closing its standard input. picture: in place of noise."""
    options = {"image_bytes": load.image_bytes, "latency_s": load.latency_s, "rpm": dict(load.rpm)}
    options |= {} if picture is None else {"picture": str(picture)}
    command = [sys.executable, "-m", "tests.benchmarks.server", json.dumps(options)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(30)


def stats(base_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base_url}/stats") as answer:  # noqa: S310 - our own server on loopback
        seen: dict[str, Any] = json.load(answer)
    return seen


def fresh_folder(name: str) -> Path:
    """Never one that was used before, and nothing is deleted before all is measured: ext4 is slow to create files for
    half a minute after many were deleted, for it steps over every inode that went recently (ialloc.c, recently_deleted).
    Memory is not."""
    WORK.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=WORK))


def write_manifest(folder: Path, header: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / "bench.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for line in ({"version": 1, "name": "bench", **header}, *items):
            file.write(json.dumps(line) + "\n")
    return path


def environment(folder: Path, base_url: str) -> dict[str, str]:
    """The caller's, without keys, with compiled code as users have it, and with state of this run's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_API_KEY_FILE", "_BASE_URL", "DONTWRITEBYTECODE"))
    }
    return kept | {"XDG_STATE_HOME": str(folder / "state"), "BATCHGEN_GEMINI_BASE_URL": base_url}


def child(contender: str, task: Mapping[str, Any], folder: Path, base_url: str) -> dict[str, Any]:
    """Run one contender to its end and answer what it printed."""
    os.sync()  # what the one before left in the page cache is not this one's to wait for
    command = [sys.executable, "-m", "tests.benchmarks.contenders", contender, json.dumps(task)]
    done = subprocess.run(command, cwd=ROOT, env=environment(folder, base_url), stdout=subprocess.PIPE, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def run_once(contender: str, load: Load, base_url: str) -> Run:
    folder = fresh_folder("pictures")
    header = {
        "output": str(folder / "out"),
        "models": {MODEL: {"rpm": load.rpm.get(MODEL)}},
        "limits": {"concurrency": load.in_flight},
        **({"check": LOOKS_OFF} if contender == "ours" else {}),
    }
    items = [{"id": f"p{number:07}", "prompt": prompt(number)} for number in range(load.images)]
    is_ours = contender.startswith("ours")
    manifest = write_manifest(folder, header, items) if is_ours else None
    pictures = folder / "out"
    if not is_ours:
        pictures.mkdir()
    task = {"base_url": base_url, "folder": str(pictures), "images": load.images, "in_flight": load.in_flight,
            "manifest": str(manifest), "image_bytes": load.image_bytes}  # fmt: skip
    facts = child(contender, task, folder, base_url)
    images = sum(
        1 for entry in os.scandir(pictures) if entry.name.endswith(".png") and entry.stat().st_size == load.image_bytes
    )
    if WORK.is_relative_to(MEMORY_DISK):
        shutil.rmtree(folder)
    return as_run(contender, images, facts)


def as_run(contender: str, images: int, facts: dict[str, Any]) -> Run:
    measured = {name: facts.pop(name) for name in ("wall_s", "cpu_s", "import_cpu_s", "rss_mb")}
    return Run(contender=contender, images=images, facts=facts, **measured)


def in_turns(load: Load, contenders: Sequence[str], rounds: int) -> list[Run]:
    """Every contender once, then every one again: a machine that slows down slows all of them."""
    with server(load) as base_url:
        return [run_once(contender, load, base_url) for _ in range(rounds) for contender in contenders]


def of(runs: Sequence[Run], contender: str) -> list[Run]:
    return [run for run in runs if run.contender == contender]


def ratio(runs: Sequence[Run], ours: str, theirs: str) -> float:
    """Median over the rounds of our images a second by theirs."""
    pairs = zip(of(runs, ours), of(runs, theirs), strict=True)
    return median(mine.images_per_s / other.images_per_s for mine, other in pairs)


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [asdict(run) for run in runs]
