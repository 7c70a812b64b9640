"""Cases 1 and 2: how fast, and in how much memory, answers become files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.case import NAMES, Case, Target
from tests.benchmarks.measure import Load, Run, in_turns, of, ratio

ALL = ("ours", "ours_looking", "careful", "sdk", "bare")
MB = 1_000_000
RIVALS = (
    "the bare loop decodes with json of the standard library and pybase64 (validate=True), the fastest decoder there is,"
    " and neither it nor the SDK loop checks, syncs or records anything; the careful client does, with one connection for"
    " many requests; batchgen has one for each, so that a late answer is never taken for that to another prompt",
    "`looks too` is the default: a process of its own looks whether images are blank or twins, and its CPU is in the figure;"
    " the targets are for `batchgen` without it, which checks structure as the careful client does",
    "pictures are stored-noise PNGs, the dearer of the two checks (every chunk's CRC; a JPEG is read at both ends)",
    "wall and CPU are of the work after imports: for batchgen from opening the manifest to the last record",
)


@dataclass(frozen=True, slots=True)
class Size:
    """Images a second against two rivals, and CPU an image, in terms of the bare loop's, that are aimed at."""

    name: str
    image_bytes: float
    images: int
    times_careful: float | None
    times_bare: float | None
    cpu_times_bare: float


SIZES = (
    Size("8.9 MB", 8.9 * MB, 60, None, 1.4, 0.75),
    Size("1.1 MB", 1.1 * MB, 400, 1.1, 0.65, 2.0),
    Size("2 KB", 2048, 4000, 0.9, None, 4.2),
)
EXPOSED_MS = 20  # from the last byte of an answer to its durable record, at 1.1 MB


def unlimited(quick: bool) -> Case:
    """No latency, no quota, 5 in flight: what the machine itself allows."""
    case = Case("unlimited", "1. No latency, no quota, 5 in flight", notes=list(RIVALS))
    rounds, scale = (1, 4) if quick else (3, 1)
    tables = dict[str, list[Run]]()
    for size in SIZES:
        runs = in_turns(load(size.images // scale, size.image_bytes), ALL, rounds)
        tables[size.name] = case.tables[f"{size.name} pictures"] = runs
        case.targets += targets(size, runs)
    exposed_ms = median(run.facts["exposed_ms"] for run in of(tables["1.1 MB"], "ours"))
    case.targets.append(Target("1.1 MB: last byte to durable record", "at most", EXPOSED_MS, exposed_ms, "ms"))
    memory(case, tables["8.9 MB"], tables["1.1 MB"], tables["2 KB"], scale)
    complete(case)
    return case


def targets(size: Size, runs: list[Run]) -> Iterator[Target]:
    for rival, wanted in (("careful", size.times_careful), ("bare", size.times_bare)):
        if wanted is not None:
            measured = ratio(runs, "ours", rival)
            yield Target(f"{size.name}: images/s against {NAMES[rival]}", "at least", wanted, measured, "times")
    mine, bare = (median(run.cpu_s for run in of(runs, name)) for name in ("ours", "bare"))
    yield Target(
        f"{size.name}: CPU an image against {NAMES['bare']}", "at most", size.cpu_times_bare, mine / bare, "times"
    )


def memory(case: Case, large: list[Run], medium: list[Run], small: list[Run], scale: int) -> None:
    """Peak memory against size and number of pictures."""
    more_large = case.tables["8.9 MB pictures, three times as many"] = in_turns(
        load(180 // scale, 8.9 * MB), ("ours",), 1
    )
    more_small = case.tables["2 KB pictures, three times as many"] = in_turns(load(12_000 // scale, 2048), ("ours",), 1)
    at_large, at_medium, at_small = peak_mb(large), peak_mb(medium), peak_mb(small)
    case.targets += [
        Target("peak memory with 5 x 8.9 MB in flight", "at most", 100, at_large, "MB"),
        Target("memory for three times as many of 8.9 MB", "at most", 1.1, peak_mb(more_large) / at_large, "times"),
        Target("memory for three times as many of 2 KB", "at most", 1.1, peak_mb(more_small) / at_small, "times"),
        Target("memory at 8.9 MB against 1.1 MB", "at most", 1.25, at_large / at_medium, "times"),
    ]


def waiting(quick: bool) -> Case:
    """Latency as a server has it: the waiting must overlap."""
    case = Case("latency", "2. With latency, no quota", notes=list(RIVALS))
    rounds = 1 if quick else 3
    small_load = load(500 if quick else 2000, 12_400, in_flight=50, latency_s=0.05)  # 64 x 64 pixels
    small = case.tables["64 px pictures at 50 ms, 50 in flight"] = in_turns(small_load, ALL, rounds)
    large_load = load(60 if quick else 200, 3 * MB, in_flight=20, latency_s=1.0)
    large = case.tables["3 MB pictures at 1 s, 20 in flight"] = in_turns(large_load, ALL, 1 if quick else 2)
    ideal_s = large_load.images / large_load.in_flight * large_load.latency_s
    wall_s = median(run.wall_s for run in of(large, "ours"))
    case.targets += [
        Target("64 px: images/s against the SDK", "at least", 1.3, ratio(small, "ours", "sdk"), "times"),
        Target("64 px: peak memory", "at most", 90, peak_mb(small), "MB"),
        Target(f"3 MB: seconds, of an ideal {ideal_s:.0f}", "at most", ideal_s * 1.08, wall_s, "s"),
    ]
    bare_s = median(run.wall_s for run in of(large, "bare"))
    case.notes.append(
        f"3 MB: the bare loop needs {bare_s:.1f} s; the ideal leaves out that answers come in bursts over one wire"
    )
    complete(case)
    return case


def complete(case: Case) -> None:
    """A contender that loses pictures is fast for nothing."""
    ours = [run for runs in case.tables.values() for run in of(runs, "ours")]
    wrong = sum(1 for run in ours if run.facts.get("exit_code") != 0)
    case.targets.append(Target("batchgen's runs that did not end with every picture", "exactly", 0, wrong))


def load(images: int, image_bytes: float, in_flight: int = 5, latency_s: float = 0.0) -> Load:
    return Load(images=images, image_bytes=int(image_bytes), in_flight=in_flight, latency_s=latency_s)


def peak_mb(runs: list[Run]) -> float:
    return max(run.rss_mb for run in of(runs, "ours"))
