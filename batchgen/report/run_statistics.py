"""What one run's requests amount to over time and by model, and what held the run back. Pure.

A field's name is its key in the JSON of the page: a new column is one field.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from batchgen.ledger.reader import AttemptRow
from batchgen.ledger.runs import RunRow
from batchgen.planning.batchable import is_batch
from batchgen.records import lane_model
from batchgen.report.run_end import exit_words, stop_words
from batchgen.report.view import view_of

MAX_POINTS = 120
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
MINUTE_S = 60.0
MIN_FAULT_SHARE = 0.25  # of requests that failed from which on faults are what a person should look at first
MIN_QUOTA_SHARE = 0.8
MIN_BUSY_SHARE = 0.7
ESTIMATE_SOURCES = ("estimate", "guess")  # sources of a figure that nobody has charged yet
Rows = Sequence[AttemptRow]
RequestsPerMinute = Mapping[str, int | None]  # by model, None when not known


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from sent to answered, of the `n` requests that succeeded."""

    n: int
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class ModelMoney:
    """USD. maybe: of requests without an answer that may have been billed, an estimate. unknown and maybe_unknown: how many
    of the one and the other kind of requests have no price. As `Money` has them."""

    charged: float
    estimated: float
    maybe: float
    unknown: int
    maybe_unknown: int


class OutcomeCount(NamedTuple):
    outcome: str
    reason: str
    requests: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What limited a run: faults | quota | latency | nothing, and why, in a sentence."""

    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """start: UTC seconds. sent, in_flight: a figure for every `step_s` from then on; cap: requests in flight that are allowed,
    rpm: requests a minute, None when not known. outcomes: the most frequent first. end: how it ended, in words."""

    id: int
    ended: float | None
    exit_code: int | None
    stopped_by: str
    end: str
    start: float
    step_s: int
    sent: Mapping[str, Sequence[float]]
    in_flight: Sequence[float]
    cap: int | None
    rpm: RequestsPerMinute
    latency: Mapping[str, Latency]
    money: Mapping[str, ModelMoney]
    outcomes: Sequence[OutcomeCount]
    verdict: Verdict


def run_statistics(run: RunRow, attempts: Rows, rpm: RequestsPerMinute, concurrency: int | None) -> RunStatistics:
    """attempts: of the run, at least one. concurrency: requests in flight that are allowed, None when not known.

    What went by batch has its money and outcomes here; it says nothing about a quota a minute, latency or places in flight.
    """
    online = [row for row in attempts if not is_batch(row.lane)]
    start_s = min(row.started_at for row in online) if online else max(row.ended_at or 0.0 for row in attempts)
    end_s = max(row.ended_at or row.started_at for row in online) if online else start_s
    step_s = next((step for step in STEPS_S if (end_s - start_s) / step <= MAX_POINTS), STEPS_S[-1])
    points = int((end_s - start_s) / step_s) + 1
    by_model = _by_model(online)
    return view_of(
        RunStatistics,
        run,
        ended=run.ended_at,
        end=stop_words(run.stopped_by) or exit_words(run.exit_code),
        start=start_s,
        step_s=step_s,
        sent={model: per_minute(rows, start_s, step_s, points) for model, rows in by_model.items()},
        in_flight=in_flight(online, start_s, step_s, points),
        cap=concurrency,
        rpm={model: rpm.get(model) for model in by_model},
        latency={model: spread for model, rows in by_model.items() if (spread := latency(rows))},
        money={model: money(rows) for model, rows in _by_model(attempts).items()},
        outcomes=outcomes(attempts),
        verdict=limiting_factor(online, by_model, rpm, end_s - start_s, concurrency)
        if online
        else Verdict("nothing", f"{len(attempts):,} requests, all of them by batch"),
    )


def _by_model(rows: Rows) -> Mapping[str, Rows]:
    found: dict[str, list[AttemptRow]] = defaultdict(list)
    for row in rows:
        found[lane_model(row.lane)].append(row)
    return found


def per_minute(rows: Rows, start_s: float, step_s: float, points: int) -> list[float]:
    """Requests sent in the minute before the end of each step, as a quota counts them; the mean where steps are longer."""
    sent = [0] * points
    for row in rows:
        sent[min(points - 1, int((row.begun_at - start_s) / step_s))] += 1
    if step_s >= MINUTE_S:
        return [round(number * MINUTE_S / step_s, 2) for number in sent]
    window = int(MINUTE_S / step_s)
    return [float(sum(sent[max(0, at - window + 1) : at + 1])) for at in range(points)]


def in_flight(rows: Rows, start_s: float, step_s: float, points: int) -> list[float]:
    """The mean number of requests under way in each step."""
    busy = [0.0] * points
    for row in rows:
        begin, end = row.begun_at - start_s, (row.ended_at or row.begun_at) - start_s
        for at in range(int(begin / step_s), min(points - 1, int(end / step_s)) + 1):
            busy[at] += max(0.0, min(end, (at + 1) * step_s) - max(begin, at * step_s))
    return [round(seconds / step_s, 2) for seconds in busy]


def latency(rows: Rows) -> Latency | None:
    times = sorted(row.seconds for row in rows if row.outcome == "succeeded" and row.seconds is not None)
    if not times:
        return None
    spread = (times[min(len(times) - 1, int(len(times) * part))] for part in (0.1, 0.5, 0.9))
    return Latency(len(times), *(round(seconds, 3) for seconds in (*spread, times[-1])))


def money(rows: Rows) -> ModelMoney:
    charged = sum(row.usd for row in rows if row.usd is not None and row.usd_source not in ESTIMATE_SOURCES)
    estimated = sum(row.usd for row in rows if row.usd is not None and row.usd_source in ESTIMATE_SOURCES)
    maybe = [row.estimate_usd for row in rows if row.usd is None and row.maybe_billed]
    unknown = sum(row.usd is None and not row.maybe_billed and _billed(row) for row in rows)
    return ModelMoney(
        charged=charged,
        estimated=estimated,
        maybe=sum(usd or 0.0 for usd in maybe),
        unknown=unknown,
        maybe_unknown=sum(usd is None for usd in maybe),
    )


def _billed(row: AttemptRow) -> bool:
    return row.outcome == "succeeded" or row.usage not in (None, "{}")


def outcomes(rows: Rows) -> list[OutcomeCount]:
    counts = Counter((row.outcome or "open", row.reason or "") for row in rows)
    return [OutcomeCount(*what, requests) for what, requests in counts.most_common()]


def limiting_factor(
    rows: Rows, by_model: Mapping[str, Rows], rpm: RequestsPerMinute, seconds: float, concurrency: int | None
) -> Verdict:
    used = quota_use(by_model, rpm)
    busiest = max(used, key=lambda model: used[model], default="")
    quota = f"{busiest} used {used[busiest]:.0%} of its {rpm[busiest]} requests a minute" if busiest else ""
    limited = sum(1 for row in rows if row.reason == "rate_limited")
    failed = [row for row in rows if row.outcome in ("failed", "uncertain") and row.reason != "rate_limited"]
    faults = Counter(row.reason or "no reason given" for row in failed)
    if faults.total() >= MIN_FAULT_SHARE * len(rows):
        commonest = faults.most_common(1)[0][0]
        return Verdict("faults", f"{faults.total():,} of {len(rows):,} requests failed, most often: {commonest}")
    if limited >= MIN_FAULT_SHARE * len(rows):
        return Verdict("quota", f"{limited:,} of {len(rows):,} requests were turned away by the vendor's quota")
    if busiest and used[busiest] >= MIN_QUOTA_SHARE:
        return Verdict("quota", quota)
    busy = sum(row.seconds or 0.0 for row in rows) / max(seconds, 0.001)
    most = concurrency or max_in_flight(rows)
    if busy >= MIN_BUSY_SHARE * most:
        spread = latency(rows)
        each = f", {spread.p50:.1f} s each" if spread else ""
        more = f"; {quota}" if quota else ""
        return Verdict("latency", f"{busy:.1f} of at most {most} requests were under way{each}{more}")
    return Verdict("nothing", quota or f"{len(rows):,} requests, {busy:.1f} under way on average")


def quota_use(by_model: Mapping[str, Rows], rpm: RequestsPerMinute) -> dict[str, float]:
    """The share of each model's requests a minute that it used, from its first request to its last. Only of a minute or more."""
    used = {}
    for model, rows in by_model.items():
        times = [row.begun_at for row in rows]
        lasted_s = max(times) - min(times)
        if (limit := rpm.get(model)) and lasted_s >= MINUTE_S:
            used[model] = min(1.0, (len(rows) - 1) * MINUTE_S / lasted_s / limit)
    return used


def max_in_flight(rows: Rows) -> int:
    changes = sorted(change for row in rows for change in ((row.begun_at, 1), (row.ended_at or row.begun_at, -1)))
    return max(1, *accumulate(change for _, change in changes))
