"""What `plan --by` adds to a plan: which way the requests go and why, when that ends, and what more time would save."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from batchgen.engine.ways import WAY_WORDS, Ways
from batchgen.money import rounded
from batchgen.planning.ways import WAY_KINDS, Basis, Latency, Obstacle, WayKind, WayTotal
from batchgen.records import lane_model
from batchgen.report import formatting

MORE_S = {"hour": 3600.0, "day": 86400.0}
OBSTACLE_WORDS = {Obstacle.SLOW: "is too slow", Obstacle.FULL: "has no room for more"}
AIM_WORDS = "the vendor's aim, not measured yet"
EXPECTED_WORDS = {"batch": AIM_WORDS, "flex": AIM_WORDS, "online": "expected, not measured yet"}


def by_lines(ways: Ways) -> Iterator[tuple[str, str]]:
    """(label, text) as `plan` shows them below its cost."""
    now, found = time.time(), ways.totals()
    late = sum(total.images for total in found if total.late)
    until = f"{clock(ways.by, now)}, {formatting.duration(ways.by - now)} from now"
    if late:
        yield "by", f"{until}: {formatting.count(late, 'image')} will probably be late; none starts after that time"
    else:
        done = max((_ends_at(total, ways.by, now) for total in found), default=now)
        yield "by", f"{until}: all in time, the last by about {clock(done, now)}"
    for number, total in enumerate(found):
        yield ("" if number else "way"), _way_text(total, ways.by, now)
    for number, text in enumerate(_latency_texts(found)):
        yield ("" if number else "takes"), text
    yield "more", _more_text(ways, found)


def _ends_at(total: WayTotal, by: float, now: float) -> float:
    """UTC seconds at which a way ends."""
    return now + total.end_s if total.late else min(by, now + total.end_s)


def _way_text(total: WayTotal, by: float, now: float) -> str:
    images, cost = formatting.count(total.images, "image"), formatting.total_usd(total.usd, total.unpriced)
    end = "late" if total.late else f"by {clock(_ends_at(total, by, now), now)}"
    return f"{lane_model(total.lane)}: {images} {WAY_WORDS[total.kind]}, {cost}, {end}: {why_text(total)}"


def why_text(total: WayTotal) -> str:
    """Why it is this way and not a better one."""
    if total.late:
        return "no way is in time, and this is the fastest"
    if not total.passed:
        return "the cheapest"
    others = dict.fromkeys(lane_model(lane) for _, lane, _ in total.passed if lane != total.lane)
    words = [f"{model} is not in time" for model in others]
    own = {kind: why for kind, lane, why in reversed(total.passed) if lane == total.lane}
    return "; ".join([*words, *(f"{kind} {OBSTACLE_WORDS[own[kind]]}" for kind in WAY_KINDS if kind in own)])


def _latency_texts(found: Sequence[WayTotal]) -> Iterator[str]:
    """A text for each latency, with its models if a kind of way has several."""
    models: dict[tuple[WayKind, Latency], list[str]] = {}
    for total in found:
        models.setdefault((total.kind, total.latency), []).append(lane_model(total.lane))
    several = Counter(kind for kind, _ in models)
    for (kind, latency), names in models.items():
        whose = f" for {', '.join(dict.fromkeys(names))}" if several[kind] > 1 else ""
        yield f"{kind} within {formatting.duration(latency.seconds)}{whose}: {_basis_text(kind, latency)}"


def _basis_text(kind: WayKind, latency: Latency) -> str:
    if latency.basis is Basis.MEASURED:
        return f"{'the longest' if kind == 'batch' else 'nine in ten'} of {latency.measured:,} measured in this job"
    return "a guess" if latency.basis is Basis.GUESS else EXPECTED_WORDS[kind]


def _more_text(ways: Ways, found: Sequence[WayTotal]) -> str:
    """What an hour more would change, and a day more or twice as many requests in flight if that changes something
    else."""
    hour, day = (_saving_text(*_saving(found, ways.totals_with(more_s=more_s))) for more_s in MORE_S.values())
    words = [f"an hour more {hour}"] + [f"a day more {day}"] * (day != hour)
    twice = _saving(found, ways.totals_with(times_in_flight=2))
    if ways.terms is not None and any(each > 0 for each in twice):
        words.append(f"--concurrency {2 * ways.terms.concurrency} {_saving_text(*twice)}")
    return "; ".join(words)


def _saving(found: Sequence[WayTotal], other: Sequence[WayTotal]) -> tuple[float, int]:
    """The USD saved, of known prices and to the cent, and how many images are no longer late."""
    usd = sum(total.usd for total in found) - sum(total.usd for total in other)
    late, later = (sum(total.images for total in each if total.late) for each in (found, other))
    return round(usd, 2), late - later


def _saving_text(usd: float, images: int) -> str:
    words = [f"would bring {formatting.count(images, 'more image')} in time"] if images > 0 else []
    words += [f"would save {formatting.usd(usd)}"] if usd > 0 else []
    words += [f"would cost {formatting.usd(-usd)} more, with fewer fallbacks"] if usd < 0 else []
    return " and ".join(words) or "would save nothing"


def by_json(ways: Ways) -> dict[str, Any]:
    """The choice of ways as JSON. Times are UTC. seconds: from now, estimated. basis of a latency: measured, documented
    or guess."""
    now, found = time.time(), ways.totals()
    return {
        "at": formatting.utc_iso(ways.by),
        "late_images": sum(total.images for total in found if total.late),
        "ways": [_total_json(total, ways.by, now) for total in found],
        "more_time": {
            span: {"saved_usd": rounded(usd), "images_in_time": images}
            for span, (usd, images) in (
                (span, _saving(found, ways.totals_with(more_s=more_s))) for span, more_s in MORE_S.items()
            )
        },
    }


def _total_json(total: WayTotal, by: float, now: float) -> dict[str, Any]:
    return {
        "way": total.kind,
        "model": lane_model(total.lane),
        "requests": total.requests,
        "images": total.images,
        "usd": None if total.unpriced else rounded(total.usd),
        "known_usd": rounded(total.usd),
        "late": total.late,
        "ends_at": formatting.utc_iso(_ends_at(total, by, now)),
        "latency": {
            "seconds": round(total.latency.seconds, 1),
            "basis": total.latency.basis.value,
            "measured": total.latency.measured,
        },
        "passed": [
            {"way": kind, "model": lane_model(lane), "because": obstacle.value} for kind, lane, obstacle in total.passed
        ],
    }


def clock(at: float, now: float) -> str:
    """`06:00`, `Mon 06:00` within a week, else with the date. at, now: UTC seconds."""
    then, far = time.localtime(at), at - now > 6 * 86400.0
    same_day = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M" if same_day else "%d %b %H:%M" if far else "%a %H:%M", then)
