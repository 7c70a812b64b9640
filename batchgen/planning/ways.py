"""Chooses for each request the cheapest way that is in time, by price, latency and the room in each quota. Pure.

A way is batch, flex or online with one AI model. Quality is the user's choice: only models that an item names count,
and a fallback comes after every way with the models before it, unless the item lets the price decide.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Literal

from batchgen.planning.plan import quota_wait_s, spend_wait_s

WayKind = Literal["batch", "flex", "online"]  # online: at the item's own service tier
# At the same price, in this order: a batch uses none of the online quotas, and is not refused for lack of capacity.
WAY_KINDS: tuple[WayKind, ...] = ("batch", "flex", "online")
ROUNDING_S = 1e-6


class Basis(StrEnum):
    """Where a latency comes from: the ledger, the vendor's documents, or a guess."""

    MEASURED = auto()
    DOCUMENTED = auto()
    GUESS = auto()


class Obstacle(StrEnum):
    """Why a better way was not taken: it takes longer than there is time, or has no room for another request."""

    SLOW = auto()
    FULL = auto()


@dataclass(frozen=True, slots=True)
class Latency:
    """The seconds that an answer takes, on the safe side. measured: the number of answers or batches it is based on."""

    seconds: float
    basis: Basis
    measured: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """A way. lane: `provider/model`, also for a batch. usd: of one request, None if unknown. rank: 0 for the item's own
    model, 1 for its first fallback; 0 for all of them if the price decides."""

    kind: WayKind
    lane: str
    usd: float | None
    latency: Latency
    rank: int = 0

    @property
    def preference(self) -> tuple[int, bool, float, int]:
        """A sort key: the smallest is best. An unknown price is not taken for a low one, and of equal ways the plain
        one comes first."""
        order = WAY_KINDS.index(self.kind)
        return self.rank, self.usd is None, self.usd or 0.0, order if self.usd is not None else -order

    @property
    def load_s(self) -> float:
        """How long it takes a place in flight."""
        return 0.0 if self.kind == "batch" else self.latency.seconds


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that have the same ways. images: of each; chained: they need images of one another."""

    ways: tuple[Way, ...]
    images: int = 1
    chained: bool = False


@dataclass(frozen=True, slots=True)
class LaneRoom:
    """The room in a lane. None: no limit is known. rpd_left: of the day's requests; usd_per_10_min: for all lanes of
    the account."""

    rpm: int | None = None
    rpd_left: int | None = None
    account: str = ""
    usd_per_10_min: float | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a choice. seconds: until the deadline. concurrency: the most requests in flight. chain: the most
    images that need one another in a row."""

    seconds: float
    concurrency: int
    lanes: Mapping[str, LaneRoom]
    chain: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The way of some requests of a demand. passed: better ways, and why they were not taken. late: no way is in time,
    and this is the fastest with the item's own model. end_s: estimated seconds from now until the last of them is
    done."""

    way: Way
    requests: int
    passed: tuple[tuple[Way, Obstacle], ...]
    late: bool
    end_s: float


@dataclass(frozen=True, slots=True)
class WayTotal:
    """The choices of one kind of way with one model. usd: for requests with a known price; unpriced: the number of
    others. latency: the longest of them. passed: by kind and lane, better ways that some of them did not get, and
    why."""

    kind: WayKind
    lane: str
    late: bool
    passed: tuple[tuple[WayKind, str, Obstacle], ...]
    requests: int
    images: int
    usd: float
    unpriced: int
    latency: Latency
    end_s: float


def choose(demands: Mapping[Demand, int], terms: Terms) -> dict[Demand, list[Choice]]:
    """The choices for each demand, the best way first. demands: the number of requests of each.

    First all get the way that uses least of what is scarce, so that as many as possible are in time. Then each is moved
    to a better way while all stay in time, those first that save most for a second in flight.
    """
    plan, late, moved = _Assignment(terms), dict(demands), 1
    in_time = {demand: [way for way in demand.ways if plan.span_s(demand, way) <= terms.seconds] for demand in demands}
    lightest = {demand: sorted(ways, key=lambda way: (way.load_s, way.preference)) for demand, ways in in_time.items()}
    moves = sorted(
        (
            (_urgency(was, better), demand, was, better)
            for demand in demands
            for was in in_time[demand]
            for better in in_time[demand]
            if better.preference < was.preference
        ),
        key=lambda move: move[0],
    )
    while moved:  # which may have left room for others
        # The quick ones first, as then most are in time; of equal ones, those without another way.
        for demand in sorted(
            demands, key=lambda each: ([way.load_s for way in lightest[each]][:1], len(in_time[each]))
        ):
            for way in lightest[demand]:
                late[demand] -= plan.add_most(demand, way, late[demand])
        moved = sum(plan.move_most(demand, was, better) for _, demand, was, better in moves)
    return {demand: list(_choices(plan, demand, late[demand])) for demand in demands}


def _urgency(was: Way, better: Way) -> tuple[bool, float]:
    """The order of moves: first to a model that the item names earlier, then what saves most for a second in flight."""
    saved = math.inf if was.usd is None else was.usd - (better.usd or 0.0)
    return better.rank == was.rank, -saved / max(better.load_s - was.load_s, ROUNDING_S)


def _choices(plan: _Assignment, demand: Demand, late: int) -> Iterator[Choice]:
    ways = sorted(demand.ways, key=lambda way: way.preference)
    passed: list[tuple[Way, Obstacle]] = []
    for way in ways:
        span_s = plan.span_s(demand, way)
        if requests := plan.counts[demand, way]:
            yield Choice(way, requests, tuple(passed), False, span_s if way.kind == "batch" else plan.end_s)
        passed.append((way, Obstacle.FULL if span_s <= plan.terms.seconds else Obstacle.SLOW))
    if late:
        fastest = min(ways, key=lambda way: (way.rank, way.latency.seconds))
        end_s = max(plan.span_s(demand, fastest), plan.end_with(demand, fastest, late))
        yield Choice(fastest, late, tuple(each for each in passed if each[0] != fastest), True, end_s)


def totals(chosen: Mapping[Demand, Sequence[Choice]]) -> list[WayTotal]:
    """The totals for people, with what is late at the end."""
    groups: dict[tuple[WayKind, str, bool], list[tuple[Demand, Choice]]] = {}
    for demand, choices in chosen.items():
        for choice in choices:
            groups.setdefault((choice.way.kind, choice.way.lane, choice.late), []).append((demand, choice))
    found = [
        WayTotal(
            *key,
            passed=tuple(dict.fromkeys((way.kind, way.lane, why) for _, choice in group for way, why in choice.passed)),
            requests=sum(choice.requests for _, choice in group),
            images=sum(choice.requests * demand.images for demand, choice in group),
            usd=sum(choice.requests * (choice.way.usd or 0.0) for _, choice in group),
            unpriced=sum(choice.requests for _, choice in group if choice.way.usd is None),
            latency=max((choice.way.latency for _, choice in group), key=lambda latency: latency.seconds),
            end_s=max(choice.end_s for _, choice in group),
        )
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda total: (total.late, WAY_KINDS.index(total.kind), total.lane))


class _Assignment:
    """How many requests of each demand go which way, and when the online ones have ended."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.counts: Counter[tuple[Demand, Way]] = Counter()
        self._busy_s = 0.0  # of all places in flight together
        self._tails: Counter[float] = Counter()  # how long after its start each request, or its chain, may end
        self._starts: Counter[str] = Counter()  # by lane
        self._usd: defaultdict[str, float] = defaultdict(float)  # by account

    def span_s(self, demand: Demand, way: Way) -> float:
        """The time from a start to the end, in sequence if the images need one another."""
        return way.latency.seconds * (self.terms.chain if demand.chained else 1)

    @property
    def end_s(self) -> float:
        """When the last answer comes at the latest, if places in flight are never idle while a quota has room."""
        tail_s = max((tail for tail, number in self._tails.items() if number), default=0.0)
        waits = [(self._busy_s - tail_s) / self.terms.concurrency]
        waits += [quota_wait_s(number, self._room(lane).rpm) for lane, number in self._starts.items()]
        rates = {self._room(lane).account: self._room(lane).usd_per_10_min for lane in self._starts}
        waits += [spend_wait_s(self._usd[account], rate) for account, rate in rates.items()]
        return tail_s + max(0.0, *waits)

    def end_with(self, demand: Demand, way: Way, requests: int) -> float:
        self._add(demand, way, requests)
        end_s = self.end_s
        self._add(demand, way, -requests)
        return end_s

    def add_most(self, demand: Demand, way: Way, most: int) -> int:
        """Assign as many requests as stay in time. Returns how many."""
        return self._most(most, lambda number: self._add(demand, way, number))

    def move_most(self, demand: Demand, was: Way, better: Way) -> int:
        def move(number: int) -> None:
            self._add(demand, was, -number)
            self._add(demand, better, number)

        return self._most(self.counts[demand, was], move)

    def _most(self, most: int, change: Callable[[int], None]) -> int:
        """Make a change as large as everything can bear: more of it makes the end later."""
        fits, beyond = 0, most + 1
        number = most  # usually all
        while fits + 1 < beyond:
            change(number)
            if self._is_in_time():
                fits = number
            else:
                beyond = number
            change(-number)
            number = (fits + beyond) // 2
        change(fits)
        return fits

    def _is_in_time(self) -> bool:
        lefts = ((self._room(lane).rpd_left, number) for lane, number in self._starts.items())
        return self.end_s <= self.terms.seconds + ROUNDING_S and all(
            left is None or number <= left for left, number in lefts
        )

    def _room(self, lane: str) -> LaneRoom:
        return self.terms.lanes.get(lane) or LaneRoom()

    def _add(self, demand: Demand, way: Way, number: int) -> None:
        self.counts[demand, way] += number
        if way.kind != "batch":
            self._busy_s += number * way.load_s
            self._tails[self.span_s(demand, way)] += number
            self._starts[way.lane] += number
            self._usd[self._room(way.lane).account] += number * (way.usd or 0.0)
