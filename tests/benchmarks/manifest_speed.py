"""How long a line of a manifest takes from text to item, and how much memory a million of them need.

python tests/benchmarks/manifest_speed.py [LINES]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from batchgen.manifest import open_manifest
from batchgen.planning.fingerprint import fingerprint, wire_facts

PROMPT = "A photograph of red fox number {n} in the snow, morning light, 85 mm lens, shallow depth of field"


def plain(lines: int) -> Iterator[dict[str, Any]]:
    """The contract: below 12 microseconds a line, duplicate detection included."""
    for n in range(lines):
        yield {"id": f"p{n}", "prompt": PROMPT.format(n=n), "aspect_ratio": "1:1"}


def varied(lines: int) -> Iterator[dict[str, Any]]:
    ratios = ("1:1", "3:4", "16:9")
    for n in range(lines):
        tags = [f"t{n % 5}"]
        yield {"id": f"p{n}", "prompt": PROMPT.format(n=n), "aspect_ratio": ratios[n % 3], "seed": n, "tags": tags}


def without_ids(lines: int) -> Iterator[dict[str, Any]]:
    for n in range(lines):
        yield {"prompt": PROMPT.format(n=n)}


def templated(lines: int) -> Iterator[dict[str, Any]]:
    """The long way: every line goes through Jinja2 and the schema."""
    yield {"version": 1, "vars": {"light": "morning light"}}
    for n in range(lines):
        yield {"id": f"p{n}", "prompt": "A red fox, {{ light }}"}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(folder: str, entries: Iterable[dict[str, Any]]) -> Path:
    path = Path(folder) / "manifest.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    return path


def measure(name: str, path: Path, with_fingerprint: bool = False) -> None:
    items = open_manifest(path).items()
    first = next(items)
    before_mb, start_s, count = peak_mb(), time.perf_counter(), 1
    for item in items:
        count += 1
        if with_fingerprint:
            fingerprint(wire_facts(item))
    line_us = (time.perf_counter() - start_s) / count * 1e6
    grown_mb = peak_mb() - before_mb
    print(f"{name:28} {count:>9,} lines {line_us:7.2f} us/line {grown_mb:6.1f} MB more at the peak ({first.id} first)")


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        measure("plain", write(folder, plain(lines)))
        measure("plain, with fingerprint", write(folder, plain(lines // 5)), with_fingerprint=True)
        measure("ratio, seed and tags", write(folder, varied(lines // 5)))
        measure("without ids", write(folder, without_ids(lines // 5)))
        measure("templates", write(folder, templated(lines // 50)))


if __name__ == "__main__":
    main()
