"""Case 5: how long `batchgen --help` takes."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from tests.benchmarks.case import Case, Target
from tests.benchmarks.measure import ROOT


def start(quick: bool) -> Case:
    case = Case("start", "6. Starting the command line, median of 10")
    pass_ms = median(elapsed_ms("-c", "pass") for _ in range(10))
    case.notes.append(f"python -c pass takes {pass_ms:.0f} ms here")
    if not (ROOT / "batchgen" / "__main__.py").is_file():
        case.notes.append("skipped: there is no command line yet")
        return case
    for words in (("--help",), ("--version",), ("run", "--help")):
        took_ms = median(elapsed_ms("-m", "batchgen", *words) for _ in range(10))
        case.targets.append(Target(f"batchgen {' '.join(words)}", "at most", 120, took_ms, "ms"))
    return case


def elapsed_ms(*arguments: str) -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started_s) * 1000
