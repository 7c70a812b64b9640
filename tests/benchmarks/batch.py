"""Many small items through the Batch API: memory that does not grow with them, and time per item beside requests one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.measure import ROOT, Run, as_run, child, fresh_folder, write_manifest

ONLINE = 2000
FEW, MANY = 10_000, 100_000
EMULATOR = ("--picture", "tiny", "--latency", "0", "--rpm", "0", "--signature-bytes", "64", "--batch-running", "0")


def batch(quick: bool) -> Case:
    case = Case("batch", "6. Small items in batches of 2,000, beside the same items one by one")
    with emulator() as base_url:
        online = run_once("ours", base_url, job(ONLINE), ONLINE)
    few_submit, few = in_batches(FEW)
    many_submit, many = in_batches(2 * FEW if quick else MANY)
    case.tables["online"] = [online]
    for title, runs in (("submitted", (few_submit, many_submit)), ("collected", (few, many))):
        for run in runs:
            case.tables[f"{run.images:,} {title}"] = [run]
    once = online.cpu_s / online.images
    case.targets += [
        Target("peak memory to collect, of that with fewer items", "at most", 1.15, many.rss_mb / few.rss_mb, "times"),
        Target("peak memory to submit", "at most", 1.15, many_submit.rss_mb / few_submit.rss_mb, "times"),
        Target("CPU per item to collect, of one online", "at most", 2.0, many.cpu_s / many.images / once, "times"),
        Target("CPU per item to submit", "at most", 1.0, many_submit.cpu_s / many_submit.images / once, "times"),
        Target("runs that ended otherwise than foreseen", "exactly", 0, sum(
            run.facts["exit_code"] != wanted
            for run, wanted in ((online, 0), (few_submit, 9), (few, 0), (many_submit, 9), (many, 0))
        )),
    ]  # fmt: skip
    return case


def in_batches(items: int) -> tuple[Run, Run]:
    """Submitted by one run, and when all is answered collected by another."""
    with emulator() as base_url:
        folder = job(items)
        submit = run_once("ours_batch", base_url, folder, items)
        wait_for(base_url, items)
        return submit, run_once("ours_batch", base_url, folder, items)


@contextmanager
def emulator() -> Iterator[str]:
    """Its address; a process of its own."""
    command = [sys.executable, "-m", "batchgen.emulator", *EMULATOR]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()
            process.wait(30)


def job(items: int) -> Path:
    folder = fresh_folder("batch")
    header = {"output": str(folder / "out"), "models": {MODEL: {"rpm": None}}, "limits": {"concurrency": 5}}
    write_manifest(folder, header, [{"id": f"p{n:07}", "prompt": prompt(n)} for n in range(items)])
    return folder


def run_once(contender: str, base_url: str, folder: Path, items: int) -> Run:
    """images: of the run, whether they were made or submitted."""
    facts = child(contender, {"manifest": str(folder / "bench.jsonl")}, folder, base_url)
    made = sum(1 for entry in os.scandir(folder / "out") if entry.name.startswith("p0"))
    if facts["exit_code"] == 0:
        assert made == items
    return as_run(contender, items, facts)


def wait_for(base_url: str, items: int) -> None:
    while True:
        with urllib.request.urlopen(f"{base_url}/_emulator/batches") as answer:  # noqa: S310 - our own, on loopback
            if sum(json.load(answer)["answered"].values()) >= items:
                return
        time.sleep(2.0)
