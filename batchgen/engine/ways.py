"""The ways in which the requests of a run with a deadline can go, and the choice between them."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from batchgen.engine.reconciliation import Reconciliation, Routed, lane_load
from batchgen.engine.routes import lane_key
from batchgen.ledger.reader import Reader
from batchgen.planning.batchable import batch_lane, online_only_reason
from batchgen.planning.plan import LaneLoad
from batchgen.planning.ways import (
    WAY_KINDS,
    Basis,
    Choice,
    Demand,
    LaneRoom,
    Latency,
    Terms,
    Way,
    WayKind,
    WayTotal,
    choose,
    totals,
)
from batchgen.profiles.price import estimate_usd
from batchgen.profiles.profile import Profile
from batchgen.records import Item, Sample, lane_model
from batchgen.scheduling.window import quota_day_start

MIN_ANSWERS = 5  # with fewer, the table of models is used instead of the ledger
SAFE_SHARE = 0.9  # of the answers are as quick as that
MIN_BATCHES, MAX_BATCHES = 3, 10  # enough to measure by; the last ones that are used
# "Target turnaround 24 hours" (ai.google.dev/gemini-api/docs/batch-api), "1-15 min" (.../docs/flex-inference).
BATCH_AIM = Latency(86400.0, Basis.DOCUMENTED)
FLEX_AIM = Latency(900.0, Basis.DOCUMENTED)
WAY_WORDS: Mapping[WayKind, str] = {"batch": "by batch", "flex": "by flex", "online": "online"}
GRACE_S, SUBMIT_GRACE_S = 60.0, 600.0
USD_DIGITS = 5  # requests whose prices differ by less are treated alike


class Ways:
    """Chooses ways. In a first walk each request is asked which ways it could go, and these are counted; after
    `decide`, the ways are assigned in the same order.

    by: UTC seconds.
    """

    def __init__(self, by: float, reader: Reader | None) -> None:
        self.by = by
        self._reader = reader
        self._times = _answer_times(reader)
        self._measured: dict[tuple[str, str, str], Latency | None] = {}
        self._batches: dict[str, Latency] = {}
        self.demands: Counter[Demand] = Counter()
        self.terms: Terms | None = None
        self.choices: Mapping[Demand, Sequence[Choice]] = {}
        self._dealt: Counter[Demand] = Counter()

    def route(self, group: Sample, found: Reconciliation, awaited: Sequence[str], *, chained: bool) -> Routed:
        """The way of a request; any possible one before `decide`. awaited: samples that have to be made before it;
        chained: or after it."""
        way = self._deal(Demand(tuple(self._ways(group, found, awaited)), group.images, chained))
        if way.kind == "batch":
            found.load_of(found.profile(lane_model(way.lane)))  # its online lane, to fall back on
            return Routed(batch_lane(*way.lane.split("/", 1)), group)
        return Routed(way.lane, _at_flex(group, self.by - way.latency.seconds) if way.kind == "flex" else group)

    def _deal(self, demand: Demand) -> Way:
        ways = demand.ways
        if self.terms is None:
            self.demands[demand] += 1
            return ways[-1]
        number = self._dealt[demand]
        self._dealt[demand] += 1
        for choice in self.choices.get(demand, ()):
            if number < choice.requests:
                return choice.way
            number -= choice.requests
        return ways[-1]  # the manifest changed between the two walks

    def _ways(self, group: Sample, found: Reconciliation, awaited: Sequence[str]) -> Iterator[Way]:
        """The ways to the models that the item names, the plain one of its own model last."""
        item, by_price = group.item, "price" in group.item.fallback_on
        lanes = [lane_key(item.provider, item.model)]
        lanes += item.fallback if by_price or "quota" in item.fallback_on else ()
        for rank, lane in reversed([*enumerate(lanes)]):
            profile, rank = found.profile(lane_model(lane)), 0 if by_price else rank
            if online_only_reason(item, found.has_batch(profile), "auto", awaited) is None:
                usd = _rounded(estimate_usd(profile, group, batch=True))
                yield Way("batch", lane, usd, self._batch_latency(profile), rank)
            if item.service_tier is None and profile.offers_tier("flex"):
                usd = _rounded(estimate_usd(profile, group, tier="flex"))
                yield Way("flex", lane, usd, self._latency(profile, item, "flex") or FLEX_AIM, rank)
            expected = FLEX_AIM if item.service_tier == "flex" else _expected(profile, item)
            latency = self._latency(profile, item, item.service_tier or "standard") or expected
            yield Way("online", lane, _rounded(estimate_usd(profile, group)), latency, rank)

    def _latency(self, profile: Profile, item: Item, tier: str) -> Latency | None:
        """The measured latency at the service tier that served, None if too little was measured."""
        lane, size = lane_key(profile.provider, profile.id), item.image_size or profile.default_size
        key = lane, tier, size
        if key not in self._measured:
            unnamed = self._times.get((lane, tier, ""), ()) if size == profile.default_size else ()
            times = sorted([*self._times.get(key, ()), *unnamed])
            safe_s = times[int(len(times) * SAFE_SHARE)] if len(times) >= MIN_ANSWERS else 0.0
            self._measured[key] = Latency(safe_s, Basis.MEASURED, len(times)) if len(times) >= MIN_ANSWERS else None
        return self._measured[key]

    def _batch_latency(self, profile: Profile) -> Latency:
        """The longest time of the last batches."""
        lane = batch_lane(profile.provider, profile.id)
        if lane not in self._batches:
            times = self._reader.batch_durations(lane, MAX_BATCHES) if self._reader is not None else []
            enough = len(times) >= MIN_BATCHES
            self._batches[lane] = Latency(max(times), Basis.MEASURED, len(times)) if enough else BATCH_AIM
        return self._batches[lane]

    def decide(self, reconciliation: Reconciliation, concurrency: int) -> None:
        """Choose between the ways. reconciliation: of the walk that counted."""
        lanes = {way.lane for demand in self.demands for way in demand.ways}
        rooms = {lane: self._room(reconciliation.profile(lane_model(lane)), reconciliation) for lane in lanes}
        seconds = max(0.0, self.by - time.time())
        seconds += min(GRACE_S, seconds * 0.01)  # `--by 24h` leaves time for a batch although reading took a moment
        self.terms = Terms(seconds, concurrency, rooms, max(1, reconciliation.chain_links))
        self.choices = choose(self.demands, self.terms)

    def _room(self, profile: Profile, reconciliation: Reconciliation) -> LaneRoom:
        load, lane = lane_load(profile, reconciliation.limits), lane_key(profile.provider, profile.id)
        parked = self._reader.parked().get(lane) if self._reader is not None else None
        closed = parked is not None and parked.until > time.time() and not parked.is_by_declared_rpd
        rpd_left = 0 if closed else requests_left(load, lane, self._reader)
        return LaneRoom(load.rpm, rpd_left, load.account, load.spend_rate)

    def totals(self) -> list[WayTotal]:
        return totals(self.choices)

    def totals_with(self, more_s: float = 0.0, times_in_flight: int = 1) -> list[WayTotal]:
        """The totals if there were this many seconds more, or this many times as many requests in flight."""
        if self.terms is None:
            return []
        seconds, concurrency = self.terms.seconds + more_s, self.terms.concurrency * times_in_flight
        return totals(choose(self.demands, replace(self.terms, seconds=seconds, concurrency=concurrency)))

    @property
    def text(self) -> str:
        """The choice in one line, empty without any."""
        found, images = self.totals(), Counter[str]()
        for total in found:
            images[total.kind] += total.images
        late = sum(total.images for total in found if total.late)
        ways = ", ".join(f"{images[kind]:,} image(s) {WAY_WORDS[kind]}" for kind in WAY_KINDS if images[kind])
        return f"{ways}; {late:,} of them will probably be late" if late else ways

    @property
    def submit_until(self) -> float | None:
        """UTC seconds after which a batch would be late, None without batches."""
        batches = [
            each.way.latency for choices in self.choices.values() for each in choices if each.way.kind == "batch"
        ]
        latency_s = max((each.seconds for each in batches), default=0.0)
        return self.by - latency_s + min(SUBMIT_GRACE_S, latency_s * 0.1) if batches else None


def requests_left(load: LaneLoad, lane: str, reader: Reader | None) -> int | None:
    """How many of the day's declared requests are left, as far as this job's ledger knows; None without a limit."""
    if load.rpd is None or reader is None:
        return load.rpd
    return max(0, load.rpd - reader.sent_count_since(lane, quota_day_start(time.time())))


def _at_flex(sample: Sample, until: float) -> Sample:
    return replace(sample, item=replace(sample.item, service_tier="flex", tier_until=until))


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, USD_DIGITS)


def _expected(profile: Profile, item: Item) -> Latency:
    return Latency(profile.latency(item.image_size), Basis.DOCUMENTED if profile.latency_s else Basis.GUESS)


def _answer_times(reader: Reader | None) -> Mapping[tuple[str, str, str], Sequence[float]]:
    """Times in seconds by lane, service tier and requested size, which is empty if none was requested."""
    found = defaultdict[tuple[str, str, str], list[float]](list)
    for lane, usage, wire, seconds in reader.recent_latencies() if reader is not None else ():
        tier, size = json.loads(usage).get("tier") or "standard", json.loads(wire or "{}").get("image_size") or ""
        found[lane, tier, size].append(seconds)
    return found
