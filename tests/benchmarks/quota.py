"""Case 3: the quota is used fully and never overrun, as the server counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks.case import Case, Target
from tests.benchmarks.contenders import MODEL, prompt
from tests.benchmarks.measure import Load, Run, as_run, child, fresh_folder, server, stats, write_manifest

PRO = "gemini-3-pro-image"
IN_FLIGHT = 5
SHORT_S, LONG_S = 0.05, 0.2  # with 5 in flight: what the quota binds, and what the cap has a part in
Seen = dict[str, Any]


def quotas(quick: bool) -> Case:
    """Two runs, each against a server of its own, at the same time: a quota leaves the machine idle."""
    case = Case("quota", "3. Quotas over a sliding minute, 5 in flight")
    if quick:
        case.notes.append("skipped: a minute is a minute, and a shorter window would measure something else")
        return case
    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(against_quota, "one", SHORT_S, {MODEL: 60}, {MODEL: 100})
        together = pool.submit(against_quota, "two", LONG_S, {MODEL: 60, PRO: 15}, {MODEL: 90, PRO: 20})
    run, seen = alone.result()
    case.tables["100 pictures at 50 ms, 60 a minute"] = [run]
    case.targets.append(Target("100 at 60 a minute: seconds", "at most", 61.5, run.wall_s, "s"))
    case.targets += kept(seen, {MODEL: 60})
    run, seen = together.result()
    case.tables["90 at 60 a minute and 20 at 15 a minute, together, at 0.2 s"] = [run]
    case.targets += kept(seen, {MODEL: 60, PRO: 15})
    case.targets += unhindered(seen)
    case.extra["arrivals_s"] = {model: facts["at_s"] for model, facts in seen["models"].items()}
    return case


def against_quota(name: str, latency_s: float, rpm: Mapping[str, int], images: Mapping[str, int]) -> tuple[Run, Seen]:
    folder = fresh_folder(f"quota-{name}")
    load = Load(images=sum(images.values()), image_bytes=12_400, in_flight=IN_FLIGHT, latency_s=latency_s, rpm=rpm)
    header = {
        "output": str(folder / "out"),
        "models": {model: {"rpm": limit} for model, limit in rpm.items()},
        "limits": {"concurrency": IN_FLIGHT},
    }
    items = [
        {"id": f"{model}-{number}", "prompt": prompt(number), "model": model}
        for model, count in images.items()
        for number in range(count)
    ]
    manifest = write_manifest(folder, header, items)
    with server(load) as base_url:
        facts = child("ours", {"manifest": str(manifest)}, folder, base_url)
        seen = stats(base_url)
    made = len(list((folder / "out").glob("*.png")))
    return as_run("ours", made, facts), seen


def kept(seen: Seen, rpm: Mapping[str, int]) -> Sequence[Target]:
    targets = []
    for model, limit in rpm.items():
        facts = seen["models"][model]
        targets.append(Target(f"{model}: most arrivals in one minute", "at most", limit, facts["most_in_window"]))
        targets.append(Target(f"{model}: refused", "exactly", 0, facts["refused"]))
    return targets


def unhindered(seen: Seen) -> Sequence[Target]:
    """Each AI model ends when it would have ended alone: its quota's second minute begins at 60.5 s with a burst.

    The first 60 and 15 share 5 places at 0.2 s (75 / 25 a second = 3 s); none of the 60 may wait for the 15's next minute.
    """
    flash, pro = seen["models"][MODEL]["at_s"], seen["models"][PRO]["at_s"]
    return [
        Target(
            "the first 60 of the fast AI model have started, the slow one waiting, after",
            "at most",
            4.0,
            flash[59],
            "s",
        ),
        Target("the first 15 of the slow one after", "at most", 4.0, pro[14], "s"),
        Target("the last of the fast AI model starts at", "at most", 64.0, flash[-1], "s"),
        Target("the last of the slow one starts at", "at most", 64.0, pro[-1], "s"),
    ]
