"""What one run's requests amount to over time and by model, and what held the run back. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.ledger.reader import AttemptRow
from batchgen.planning.batchable import is_batch

MAX_POINTS = 120
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
MINUTE_S = 60.0
MIN_FAULT_SHARE = 0.25  # of requests that failed from which on faults are what a person should look at first
MIN_QUOTA_SHARE = 0.8
MIN_BUSY_SHARE = 0.7
ESTIMATE_SOURCES = ("estimate", "guess")  # sources of a figure that nobody has charged yet
Facts = dict[str, Any]


def run_statistics(attempts: Sequence[AttemptRow], rpm: Mapping[str, int | None], concurrency: int | None) -> Facts:
    """attempts: of one run, at least one. rpm: requests a minute by model. concurrency: requests in flight, None when not known.

    What went by batch has its money and outcomes here; it says nothing about a quota a minute, latency or places in flight.
    """
    online = [row for row in attempts if not is_batch(row.lane)]
    start_s = min(row.started_at for row in online) if online else max(row.ended_at or 0.0 for row in attempts)
    end_s = max(row.ended_at or row.started_at for row in online) if online else start_s
    step_s = next((step for step in STEPS_S if (end_s - start_s) / step <= MAX_POINTS), STEPS_S[-1])
    points = int((end_s - start_s) / step_s) + 1
    by_model: dict[str, list[AttemptRow]] = defaultdict(list)
    for row in online:
        by_model[model_of(row)].append(row)
    paid: dict[str, list[AttemptRow]] = defaultdict(list)
    for row in attempts:
        paid[model_of(row)].append(row)
    return {
        "start": start_s,
        "step_s": step_s,
        "sent": {model: per_minute(rows, start_s, step_s, points) for model, rows in by_model.items()},
        "in_flight": in_flight(online, start_s, step_s, points),
        "cap": concurrency,
        "rpm": {model: rpm.get(model) for model in by_model},
        "latency": {model: spread for model, rows in by_model.items() if (spread := latency(rows))},
        "money": {model: money(rows) for model, rows in paid.items()},
        "outcomes": outcomes(attempts),
        "verdict": limiting_factor(online, by_model, rpm, end_s - start_s, concurrency)
        if online
        else {"by": "nothing", "why": f"{len(attempts):,} requests, all of them by batch"},
    }


def model_of(row: AttemptRow) -> str:
    """The AI model of a lane's key `provider/model`."""
    return row.lane.partition("/")[2] or row.lane


def sent_or_started_at(row: AttemptRow) -> float:
    return row.sent_at or row.started_at


def per_minute(rows: Sequence[AttemptRow], start_s: float, step_s: float, points: int) -> list[float]:
    """Requests sent in the minute before the end of each step, as a quota counts them; the mean where steps are longer."""
    sent = [0] * points
    for row in rows:
        sent[min(points - 1, int((sent_or_started_at(row) - start_s) / step_s))] += 1
    if step_s >= MINUTE_S:
        return [round(number * MINUTE_S / step_s, 2) for number in sent]
    window = int(MINUTE_S / step_s)
    return [float(sum(sent[max(0, at - window + 1) : at + 1])) for at in range(points)]


def in_flight(rows: Sequence[AttemptRow], start_s: float, step_s: float, points: int) -> list[float]:
    """The mean number of requests under way in each step."""
    busy = [0.0] * points
    for row in rows:
        begin, end = sent_or_started_at(row) - start_s, (row.ended_at or sent_or_started_at(row)) - start_s
        for at in range(int(begin / step_s), min(points - 1, int(end / step_s)) + 1):
            busy[at] += max(0.0, min(end, (at + 1) * step_s) - max(begin, at * step_s))
    return [round(seconds / step_s, 2) for seconds in busy]


def latency(rows: Sequence[AttemptRow]) -> Facts | None:
    """Seconds from sent to answered, of requests that succeeded."""
    times = sorted(
        row.ended_at - sent_or_started_at(row) for row in rows if row.outcome == "succeeded" and row.ended_at
    )
    if not times:
        return None
    at = {name: times[min(len(times) - 1, int(len(times) * part))] for name, part in _PERCENTILES.items()}
    return {"n": len(times), **{name: round(seconds, 3) for name, seconds in at.items()}, "max": round(times[-1], 3)}


_PERCENTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def money(rows: Sequence[AttemptRow]) -> Facts:
    """USD. maybe: of requests without an answer that may have been billed, an estimate. unknown and maybe_unknown: how many
    of the one and the other kind of requests have no price. As `Money` has them."""
    charged = sum(row.usd for row in rows if row.usd is not None and row.usd_source not in ESTIMATE_SOURCES)
    estimated = sum(row.usd for row in rows if row.usd is not None and row.usd_source in ESTIMATE_SOURCES)
    maybe = [row.estimate_usd for row in rows if row.usd is None and row.maybe_billed]
    unknown = sum(row.usd is None and not row.maybe_billed and _billed(row) for row in rows)
    known = {"charged": charged, "estimated": estimated, "maybe": sum(usd or 0.0 for usd in maybe)}
    return {
        **{name: round(usd, 6) for name, usd in known.items()},
        "unknown": unknown,
        "maybe_unknown": sum(usd is None for usd in maybe),
    }


def _billed(row: AttemptRow) -> bool:
    return row.outcome == "succeeded" or row.usage not in (None, "{}")


def outcomes(rows: Sequence[AttemptRow]) -> list[list[Any]]:
    """[outcome, reason, how many], the most frequent first."""
    counts = Counter((row.outcome or "open", row.reason or "") for row in rows)
    return [[outcome, reason, number] for (outcome, reason), number in counts.most_common()]


def limiting_factor(
    rows: Sequence[AttemptRow],
    by_model: Mapping[str, Sequence[AttemptRow]],
    rpm: Mapping[str, int | None],
    seconds: float,
    concurrency: int | None,
) -> Facts:
    """What limited the run: faults | quota | latency | nothing, and why, in a sentence."""
    used = quota_use(by_model, rpm)
    busiest = max(used, key=lambda model: used[model], default="")
    quota = f"{busiest} used {used[busiest]:.0%} of its {rpm[busiest]} requests a minute" if busiest else ""
    limited = sum(1 for row in rows if row.reason == "rate_limited")
    faults = Counter(
        row.reason or "no reason given"
        for row in rows
        if row.outcome in ("failed", "uncertain") and row.reason != "rate_limited"
    )
    if faults.total() >= MIN_FAULT_SHARE * len(rows):
        commonest = faults.most_common(1)[0][0]
        return {"by": "faults", "why": f"{faults.total():,} of {len(rows):,} requests failed, most often: {commonest}"}
    if limited >= MIN_FAULT_SHARE * len(rows):
        return {"by": "quota", "why": f"{limited:,} of {len(rows):,} requests were turned away by the vendor's quota"}
    if busiest and used[busiest] >= MIN_QUOTA_SHARE:
        return {"by": "quota", "why": quota}
    busy = sum((row.ended_at or sent_or_started_at(row)) - sent_or_started_at(row) for row in rows) / max(
        seconds, 0.001
    )
    most = concurrency or max_in_flight(rows)
    if busy >= MIN_BUSY_SHARE * most:
        spread = latency(rows)
        each = f", {spread['p50']:.1f} s each" if spread else ""
        more = f"; {quota}" if quota else ""
        return {"by": "latency", "why": f"{busy:.1f} of at most {most} requests were under way{each}{more}"}
    return {"by": "nothing", "why": quota or f"{len(rows):,} requests, {busy:.1f} under way on average"}


def quota_use(by_model: Mapping[str, Sequence[AttemptRow]], rpm: Mapping[str, int | None]) -> dict[str, float]:
    """The share of each model's requests a minute that it used, from its first request to its last. Only of a minute or more."""
    used = {}
    for model, rows in by_model.items():
        times = [sent_or_started_at(row) for row in rows]
        lasted_s = max(times) - min(times)
        if (limit := rpm.get(model)) and lasted_s >= MINUTE_S:
            used[model] = min(1.0, (len(rows) - 1) * MINUTE_S / lasted_s / limit)
    return used


def max_in_flight(rows: Sequence[AttemptRow]) -> int:
    changes = sorted(
        [(sent_or_started_at(row), 1) for row in rows] + [(row.ended_at or sent_or_started_at(row), -1) for row in rows]
    )
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return max(1, most)
