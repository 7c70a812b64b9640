"""Cases 1 and 2: how fast, and in how much memory, answers become files."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.case import Case, Target
from tests.benchmarks.measure import Load, Run, in_turns, of, ratio

ALL = ("ours", "careful", "sdk", "bare")
MB = 1_000_000
RIVALS = (
    "the bare loop decodes with json of the standard library and pybase64 (validate=True), the fastest decoder there is,"
    " and neither it nor the SDK loop checks, syncs or records anything; batchgen does all of it",
    "pictures are stored-noise PNGs, the dearer of the two checks (every chunk's CRC; a JPEG is read at both ends)",
    "wall and CPU are of the work after imports: for batchgen from opening the manifest to the last record",
)


def unlimited(quick: bool) -> Case:
    """No latency, no quota, 5 in flight: what the machine itself allows."""
    case = Case("unlimited", "1. No latency, no quota, 5 in flight", notes=list(RIVALS))
    rounds, scale = (1, 4) if quick else (3, 1)
    large = case.tables["8.9 MB pictures"] = in_turns(load(60 // scale, 8.9 * MB), ALL, rounds)
    medium = case.tables["1.1 MB pictures"] = in_turns(load(400 // scale, 1.1 * MB), ALL, rounds)
    small = case.tables["2 KB pictures"] = in_turns(load(4000 // scale, 2048), ALL, rounds)
    for size, runs in (("1.1 MB", medium), ("8.9 MB", large)):
        case.targets.append(
            Target(f"{size}: images/s against the bare loop", "at least", 0.9, ratio(runs, "ours", "bare"), "times")
        )
        case.targets.append(
            Target(f"{size}: images/s against the SDK", "at least", 1.5, ratio(runs, "ours", "sdk"), "times")
        )
    per_s = median(run.images_per_s for run in of(small, "ours"))
    case.targets.append(Target("2 KB: images a second", "at least", 2000, per_s))
    bare_per_s = median(run.images_per_s for run in of(small, "bare"))
    case.notes.append(
        f"2 KB: the bare loop reaches {bare_per_s:,.0f} a second on this machine, one core being the limit"
    )
    memory(case, large, medium, small, scale)
    complete(case)
    return case


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
