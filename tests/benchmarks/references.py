"""Many items that share one large reference: read and encoded once, and memory that does not grow with the items."""

from __future__ import annotations

import os
import random

from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.measure import Load, Run, as_run, child, fresh_folder, server, write_manifest
from tests.benchmarks.noise import noise_png

REFERENCE_BYTES = 5_000_000
IN_FLIGHT = 5


def references(quick: bool) -> Case:
    case = Case("references", f"5. One reference of 5 MB for all items, {IN_FLIGHT} in flight")
    load = Load(images=0, image_bytes=20_000, in_flight=IN_FLIGHT)
    picture = noise_png(REFERENCE_BYTES, random.Random(1))
    runs = {}
    with server(load) as base_url:
        for images, shared in ((100, b""), (100, picture), (300 if quick else 1000, picture)):
            run = run_once(base_url, images, shared)
            title = f"{images} items{'' if shared else ', without a reference'}"
            runs[title] = run
            case.tables[title] = [run]
    bare, few, many = runs.values()
    case.targets += [
        Target("times the reference is encoded", "exactly", 1, many.facts["encoded"]),
        Target("times it is opened: to find, to hash, to send", "exactly", 3, many.facts["opened"]),
        Target("peak memory, of that with 100 items", "at most", 1.2, many.rss_mb / few.rss_mb, "times"),
        Target(
            "runs that did not end with every picture",
            "exactly",
            0,
            sum(r.facts["exit_code"] != 0 for r in (few, many)),
        ),
    ]
    body_mb = REFERENCE_BYTES * 4 / 3 / 1e6
    case.notes.append(
        f"a request has {body_mb:.1f} MB; beside what a run without references needs, {many.rss_mb - bare.rss_mb:.0f} MB"
        f" are {(many.rss_mb - bare.rss_mb) / body_mb:.1f} of them for {IN_FLIGHT} in flight"
    )
    return case


def run_once(base_url: str, images: int, picture: bytes) -> Run:
    folder = fresh_folder("references")
    if picture:
        (folder / "logo.png").write_bytes(picture)
    header = {
        "output": str(folder / "out"),
        "models": {MODEL: {"rpm": None}},
        "limits": {"concurrency": IN_FLIGHT},
        "defaults": {"references": ["logo.png"]} if picture else {},
    }
    items = [{"id": f"p{number:07}", "prompt": prompt(number)} for number in range(images)]
    task = {"manifest": str(write_manifest(folder, header, items))}
    facts = child("ours_references", task, folder, base_url)
    made = sum(1 for entry in os.scandir(folder / "out") if entry.name.endswith(".png"))
    return as_run("ours_references", made, facts)
