"""Case 7: the dashboard of ten thousand items: time to the first view, memory, bytes; and what being watched costs a run."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.gallery import ITEMS, link_photographs
from tests.benchmarks.long_job import build
from tests.benchmarks.measure import (
    ROOT,
    Load,
    Run,
    as_run,
    child,
    environment,
    fresh_folder,
    of,
    server,
    stats,
    write_manifest,
)

CHROMIUM = "/usr/bin/chromium"
CLIENTS = 3
THUMBNAILS = 30  # about what a screen shows
LOAD = Load(images=400, image_bytes=200_000, in_flight=8, latency_s=0.15)


def dashboard(quick: bool) -> Case:
    items = ITEMS // 10 if quick else ITEMS
    case = Case("dashboard", f"7. The dashboard of {items:,} items, and a run that {CLIENTS} clients watch")
    first_view(case, items)
    rounds = 1 if quick else 4
    runs: list[Run] = []
    with server(LOAD) as base_url:
        for _ in range(rounds):
            runs += [one_run("alone", base_url, 0), one_run("watched", base_url, CLIENTS)]
    case.tables[f"{LOAD.images} pictures, {LOAD.in_flight} in flight, {LOAD.latency_s} s each"] = runs
    alone, watched = of(runs, "alone"), of(runs, "watched")
    wall = median(b.wall_s / a.wall_s for a, b in zip(alone, watched, strict=True))
    cpu = median(b.cpu_s / a.cpu_s for a, b in zip(alone, watched, strict=True))
    case.targets += [
        Target(
            "requests of a watched run against one alone", "exactly", 1.0, requests(watched) / requests(alone), "times"
        ),
        Target("wall of a watched run against one alone", "at most", 1.05, wall, "times"),
        Target("CPU of a watched run's process against one alone", "at most", 1.1, cpu, "times"),
    ]
    return case


def requests(runs: list[Run]) -> float:
    return float(sum(run.facts["requests"] for run in runs))


def first_view(case: Case, items: int) -> None:
    folder = fresh_folder("dashboard")
    build(folder, items, 0)
    link_photographs(folder / "out", items)
    with serving(folder, folder / "out") as (address, pid):
        job = re.search(r'"id":"(\w+)"', read(address).decode())
        assert job is not None
        page = f"{address}jobs/{job[1]}/"
        took_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            body = read(page)
            took_s.append(time.perf_counter() - started_s)
        wire = read(page, gzipped=True)
        shown_s = in_a_browser(page)
        peak_mb = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1000  # type: ignore[index]
    case.extra.update(first_s=took_s, shown_s=shown_s, peak_mb=peak_mb, bytes=len(body), wire_bytes=len(wire))
    views = (
        "no browser here"
        if not shown_s
        else f"pictures in the browser after {shown_s[0]:.2f} s, again after {shown_s[1]:.2f} s"
    )
    case.notes.append(
        f"page: {took_s[0]:.2f} s the first time, then {min(took_s[1:]):.2f} s; {len(body) / 1e6:.1f} MB,"
        f" {len(wire) / 1e6:.2f} MB on the wire; {views}; {peak_mb:.0f} MB at most"
    )
    case.targets += [
        Target("first page: seconds", "at most", 3, took_s[0], "s"),
        Target("server: peak memory", "at most", 300, peak_mb, "MB"),
    ]
    if shown_s:
        case.targets.append(Target("first pictures in a browser: seconds", "at most", 5, shown_s[0], "s"))


def read(address: str, *, gzipped: bool = False) -> bytes:
    request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"} if gzipped else {})  # noqa: S310 - our own
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        body: bytes = answer.read()
    assert not gzipped or gzip.decompress(body)
    return body


@contextmanager
def serving(state: Path, job: Path) -> Iterator[tuple[str, int]]:
    """(address, process) of a dashboard of its own process."""
    command = [sys.executable, "-m", "batchgen", "serve", str(job), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(state, ""), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def in_a_browser(page: str) -> list[float]:
    """Seconds until every picture in sight has come, for two visits; empty without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    if not Path(CHROMIUM).exists():
        return []
    images = "[...document.querySelectorAll('.card img')]"
    there = f"{images}.length && {images}.every((i) => i.complete && i.naturalWidth)"
    took_s = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(2):
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            started_s = time.perf_counter()
            tab.goto(page, wait_until="commit")
            while not tab.evaluate(there):
                time.sleep(0.01)
            took_s.append(time.perf_counter() - started_s)
            tab.close()
        browser.close()
    return took_s


def one_run(name: str, base_url: str, clients: int) -> Run:
    """One run of its own process, in a new folder; before it begins the clients are there."""
    folder = fresh_folder("watched")
    header = {
        "output": str(folder / "out"),
        "models": {MODEL: {"rpm": None}},
        "limits": {"concurrency": LOAD.in_flight},
    }
    lines = [{"id": f"p{number:07}", "prompt": prompt(number)} for number in range(LOAD.images)]
    manifest = write_manifest(folder, header, lines)
    task = {"base_url": base_url, "folder": str(folder / "out"), "images": LOAD.images, "in_flight": LOAD.in_flight,
            "manifest": str(manifest)}  # fmt: skip
    before, told = total(base_url), list[int]()
    with ExitStack() as stack:
        if clients:
            address, _ = stack.enter_context(serving(folder, manifest))
            watch(address, clients, told)
        facts = child("ours", task, folder, base_url)
        made = len(list((folder / "out").glob("*.png")))
    assert not clients or max(told) >= LOAD.images * 0.8, "the clients saw too little"
    facts["requests"] = total(base_url) - before
    return as_run(name, made, facts)


def total(base_url: str) -> int:
    return sum(int(model["arrivals"]) for model in stats(base_url)["models"].values())


def watch(address: str, clients: int, told: list[int]) -> None:
    """The first looks at the overview, the others at the job and the pictures of a screen."""
    job = re.search(r'"id":"(\w+)"', read(address).decode())
    assert job is not None
    told += [0] * clients
    for number in range(clients):
        page = address if number == 0 else f"{address}jobs/{job[1]}/"
        threading.Thread(target=follow, args=(page, number, told), daemon=True).start()


def follow(page: str, number: int, told: list[int]) -> None:
    """Counts the pictures it was told of; ends with the server."""
    seen = set[str]()
    with suppress(OSError, ValueError), urllib.request.urlopen(f"{page}events", timeout=60) as stream:  # noqa: S310
        for line in stream:
            if not line.startswith(b"data:"):
                continue
            facts: dict[str, Any] = json.loads(line[5:])
            for sample in facts.get("samples", ()) if isinstance(facts.get("samples"), list) else ():
                if sample["state"] == "succeeded" and sample["id"] not in seen:
                    seen.add(sample["id"])
                    if len(seen) <= THUMBNAILS and sample["pictures"]:
                        read(f"{page}thumbnails/{sample['pictures'][0]['thumbnail']}")
            told[number] = len(seen)
