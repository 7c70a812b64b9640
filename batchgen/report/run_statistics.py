"""The statistics of one run's requests over time and by model, and what limited the run. Pure.

A field's name is its key in the JSON of the page: a new column is one field.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from batchgen.ledger.reader import AttemptRow, LaneSpan
from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.planning.batchable import is_batch
from batchgen.records import lane_model
from batchgen.report.run_state import exit_words, stop_words
from batchgen.report.view import view_of

MAX_POINTS = 120
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
MINUTE_S = 60.0
MIN_FAULT_SHARE = 0.25  # share of failed requests from which faults are the first thing to look at
MIN_QUOTA_SHARE = 0.8
MIN_BUSY_SHARE = 0.7
RequestsPerMinute = Mapping[str, int | None]  # by model, None if unknown


@dataclass(frozen=True, slots=True)
class Latency:
    """The seconds from sent to answered, for the `n` requests that succeeded."""

    n: int
    p10: float
    p50: float
    p90: float
    max: float


@dataclass(frozen=True, slots=True)
class ModelMoney:
    """USD. maybe: an estimate for requests without an answer that may have been billed. unknown and maybe_unknown: how
    many requests of the two kinds have no price. See `Money`."""

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
    """The statistics of a run. start: UTC seconds. sent, in_flight: a figure for every `step_s` from then on. cap: the
    allowed requests in flight; rpm: requests per minute, None if unknown. outcomes: the most frequent first. end: how
    it ended, in words."""

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


def run_statistics(
    run: RunRow,
    spans: Sequence[LaneSpan],
    attempts: Iterable[AttemptRow],
    money: Mapping[str, Money],
    rpm: RequestsPerMinute,
    concurrency: int | None,
) -> RunStatistics:
    """Compute the statistics. attempts: of the run, at least one, in the order of their start; read once, and none is
    kept. spans: of their lanes. money: of the run, by model. concurrency: the allowed requests in flight, None if
    unknown.

    What went by batch counts in money and outcomes, but says nothing about a quota per minute, latency or requests in
    flight.
    """
    online, start_s = [span for span in spans if not is_batch(span.lane)], start_of(spans)
    end_s = max(span.last for span in online) if online else start_s
    step_s = next((step for step in STEPS_S if (end_s - start_s) / step <= MAX_POINTS), STEPS_S[-1])
    points = int((end_s - start_s) / step_s) + 1
    sent = defaultdict[str, Sent](partial(Sent, start_s, step_s, points))
    latencies = defaultdict[str, Latencies](Latencies)
    under_way, answers = UnderWay(start_s, step_s, points), Outcomes()
    total = 0
    for row in attempts:
        model, total = lane_model(row.lane), total + 1
        if is_batch(row.lane):
            answers.add_by_batch(row)
            continue
        answers.add(row)
        sent[model].add(row)
        latencies[model].add(row)
        under_way.add(row)
    return view_of(
        RunStatistics,
        run,
        ended=run.ended_at,
        end=stop_words(run.stopped_by) or exit_words(run.exit_code),
        start=start_s,
        step_s=step_s,
        sent={model: each.per_minute() for model, each in sent.items()},
        in_flight=under_way.mean(),
        cap=concurrency,
        rpm={model: rpm.get(model) for model in sent},
        latency={model: spread for model, each in latencies.items() if (spread := each.spread())},
        money={model: _model_money(money.get(model, Money())) for model in {lane_model(span.lane) for span in spans}},
        outcomes=answers.counts(),
        verdict=limiting_factor(answers, sent, latencies, rpm, end_s - start_s, concurrency or under_way.most)
        if online
        else Verdict("nothing", f"{total:,} requests, all of them by batch"),
    )


def start_of(spans: Sequence[LaneSpan]) -> float:
    """UTC seconds of the first request that did not go by batch; of the last answer if all did."""
    online = [span.first for span in spans if not is_batch(span.lane)]
    return min(online) if online else max(span.answered for span in spans)


def _model_money(money: Money) -> ModelMoney:
    return view_of(ModelMoney, money, charged=money.spent)


class Sent:
    """The requests of one model by the step in which they were sent."""

    def __init__(self, start_s: float, step_s: float, points: int) -> None:
        self._start_s, self._step_s, self._counts = start_s, step_s, [0] * points
        self._first_s, self._last_s = math.inf, -math.inf

    def add(self, row: AttemptRow) -> None:
        at = row.begun_at
        self._counts[min(len(self._counts) - 1, int((at - self._start_s) / self._step_s))] += 1
        self._first_s, self._last_s = min(self._first_s, at), max(self._last_s, at)

    def per_minute(self) -> list[float]:
        """The requests in the minute before the end of each step, as a quota counts them; the mean if steps are
        longer."""
        if self._step_s >= MINUTE_S:
            return [round(number * MINUTE_S / self._step_s, 2) for number in self._counts]
        window = int(MINUTE_S / self._step_s)
        return [float(sum(self._counts[max(0, at - window + 1) : at + 1])) for at in range(len(self._counts))]

    def quota_use(self, rpm: int | None) -> float | None:
        """The share of the requests per minute that was used, from the first request to the last; None if that is less
        than a minute."""
        lasted_s = self._last_s - self._first_s
        return min(1.0, (sum(self._counts) - 1) * MINUTE_S / lasted_s / rpm) if rpm and lasted_s >= MINUTE_S else None


class UnderWay:
    """Requests under way at the same time, added in about the order of their start. most: at any moment, about."""

    def __init__(self, start_s: float, step_s: float, points: int) -> None:
        self._start_s, self._step_s, self._busy_s = start_s, step_s, [0.0] * points
        self._ends: list[float] = []  # a heap, of those that have not ended when the last one began
        self.most = 1

    def add(self, row: AttemptRow) -> None:
        begin, end, step_s = row.begun_at - self._start_s, (row.ended_at or row.begun_at) - self._start_s, self._step_s
        for at in range(int(begin / step_s), min(len(self._busy_s) - 1, int(end / step_s)) + 1):
            self._busy_s[at] += max(0.0, min(end, (at + 1) * step_s) - max(begin, at * step_s))
        while self._ends and self._ends[0] <= begin:
            heapq.heappop(self._ends)
        heapq.heappush(self._ends, end)
        self.most = max(self.most, len(self._ends))

    def mean(self) -> list[float]:
        """The mean number of requests under way in each step."""
        return [round(seconds / self._step_s, 2) for seconds in self._busy_s]


class Latencies:
    """The seconds from sent to answered of successful requests. Memory grows with the number of different
    milliseconds."""

    def __init__(self, parts: Iterable[Latencies] = ()) -> None:
        self._counts = Counter[float]()
        for part in parts:
            self._counts += part._counts

    def add(self, row: AttemptRow) -> None:
        if row.outcome == "succeeded" and row.seconds is not None:
            self._counts[round(row.seconds, 3)] += 1

    def spread(self) -> Latency | None:
        times, total = sorted(self._counts), self._counts.total()
        if not total:
            return None
        up_to = list(accumulate(self._counts[seconds] for seconds in times))
        p10, p50, p90 = (times[bisect_right(up_to, min(total - 1, int(total * part)))] for part in (0.1, 0.5, 0.9))
        return Latency(total, p10, p50, p90, times[-1])


class Outcomes:
    """How requests ended. Without batches: how many, the faults among them, and seconds under way."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str]]()
        self.faults = Counter[str]()
        self.online, self.limited, self.busy_s = 0, 0, 0.0

    def add_by_batch(self, row: AttemptRow) -> None:
        self._counts[row.outcome or "open", row.reason or ""] += 1

    def add(self, row: AttemptRow) -> None:
        self.add_by_batch(row)
        self.online += 1
        self.busy_s += row.seconds or 0.0
        if row.reason == "rate_limited":
            self.limited += 1
        elif row.outcome in ("failed", "uncertain"):
            self.faults[row.reason or "no reason given"] += 1

    def counts(self) -> list[OutcomeCount]:
        return [OutcomeCount(*what, requests) for what, requests in self._counts.most_common()]


def limiting_factor(
    answers: Outcomes,
    sent: Mapping[str, Sent],
    latencies: Mapping[str, Latencies],
    rpm: RequestsPerMinute,
    seconds: float,
    most: int,
) -> Verdict:
    """What limited the run. most: the most requests in flight."""
    used = {model: use for model, each in sent.items() if (use := each.quota_use(rpm.get(model))) is not None}
    busiest = max(used, key=lambda model: used[model], default="")
    quota = f"{busiest} used {used[busiest]:.0%} of its {rpm[busiest]} requests a minute" if busiest else ""
    faults, online = answers.faults.total(), answers.online
    if faults >= MIN_FAULT_SHARE * online:
        commonest = answers.faults.most_common(1)[0][0]
        return Verdict("faults", f"{faults:,} of {online:,} requests failed, most often: {commonest}")
    if answers.limited >= MIN_FAULT_SHARE * online:
        return Verdict("quota", f"{answers.limited:,} of {online:,} requests were turned away by the vendor's quota")
    if busiest and used[busiest] >= MIN_QUOTA_SHARE:
        return Verdict("quota", quota)
    busy = answers.busy_s / max(seconds, 0.001)
    if busy >= MIN_BUSY_SHARE * most:
        spread = Latencies(latencies.values()).spread()
        each = f", {spread.p50:.1f} s each" if spread else ""
        more = f"; {quota}" if quota else ""
        return Verdict("latency", f"{busy:.1f} of at most {most} requests were under way{each}{more}")
    return Verdict("nothing", quota or f"{online:,} requests, {busy:.1f} under way on average")
