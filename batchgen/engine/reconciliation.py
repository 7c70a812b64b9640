"""The result of walking over a manifest: what a run would do and request in each lane."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchgen.engine.routes import lane_key
from batchgen.events import RunStarted
from batchgen.ledger.runs import FileVersion, ManifestTotals
from batchgen.manifest import Limits
from batchgen.planning.batchable import BatchMode, batch_lane, is_batch, online_only_reason
from batchgen.planning.plan import Forecast, LaneLoad, Move, expected_bytes, forecast
from batchgen.planning.reason import Reason
from batchgen.profiles.catalogue import Catalogue
from batchgen.profiles.price import estimate_question_usd, estimate_usd, price_is_guess
from batchgen.profiles.profile import Profile
from batchgen.providers.registry import endpoint_of, speaks_batches
from batchgen.records import Item, Judge, KnownSample, Sample
from batchgen.review.ruling import ReviewRules, RulesByItem
from batchgen.scheduling.fallback import sample_for_lane

_UNTRIED = ("wanted", "superseded")  # samples in these states count as never requested


@dataclass(slots=True)
class Reconciliation:
    """What a run would do. counts_by_reason: of samples. removed: (item id, n) that the manifest no longer asks for."""

    limits: Limits
    catalogue: Catalogue
    kept: int = 0
    skipped: int = 0
    rejected: int = 0  # samples whose image was rejected earlier and stays so
    counts_by_reason: Counter[Reason] = field(default_factory=Counter)
    loads: dict[str, LaneLoad] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    removed: list[tuple[str, int, str | None]] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)  # images that the ledger never heard of
    chain_s: float = 0.0  # of the longest chain of images that each need the one before
    chain_links: int = 0  # the number of images in the longest such chain
    blocked: int = 0  # of the skipped ones: what they need has failed
    over_limit: int = 0  # of the skipped ones: what they need is beyond --limit
    items: int = 0
    images: int = 0  # that the manifest asks for
    left_out: int = 0  # samples without an image that --only or --limit leaves out
    untried: Counter[str] = field(default_factory=Counter)  # see `ManifestTotals.left_out`
    outdated: int = 0  # see `ManifestTotals`
    wanted: int = 0  # samples to request
    submitted: int = 0  # samples in batches of earlier runs
    online: Counter[Reason] = field(default_factory=Counter)  # requests that cannot go by batch, by reason
    online_only: list[tuple[str, Reason]] = field(default_factory=list)  # (sample, why it cannot go by batch)
    rules: RulesByItem = field(default_factory=RulesByItem)  # for the images of each item
    adopted: int = 0  # of the moves: from a repair without a manifest, so not fully compared
    _has_batch: dict[str, bool] = field(default_factory=dict)  # by AI model

    def add_item(self, item: Item) -> None:
        self.items += 1
        self.images += item.count
        rules = self.rules.add(item)
        if rules.judge is not None:
            self.load_of(self.profile(rules.judge.model))
        if rules.max_images > 1:
            self.load_of(self.profile(item.model))  # also for an image of an earlier run

    def leave_out(self, why: str, known: KnownSample | None, *, outdated: bool = True) -> None:
        """Count a sample that this run will not make. outdated: whether it has an image of an earlier version."""
        if known is None or known.state in _UNTRIED:
            self.untried[why] += 1
        elif known.state == "succeeded" and outdated:
            self.outdated += 1

    def totals(self, manifest: Path, limit: int | None) -> ManifestTotals:
        """The totals for the ledger. manifest: the file that was read."""
        return ManifestTotals(self.images, dict(self.untried), self.outdated, limit, FileVersion.of(manifest))

    def profile(self, model: str) -> Profile:
        profile = self.profiles.get(model)
        if profile is None:
            profile = self.profiles[model] = self.catalogue.resolve(model)
        return profile

    def has_batch(self, profile: Profile) -> bool:
        """Whether a model's codec supports a batch API."""
        if profile.id not in self._has_batch:
            self._has_batch[profile.id] = speaks_batches(profile)
        return self._has_batch[profile.id]

    def load_of(self, profile: Profile, *, batch: bool = False) -> LaneLoad:
        lane = (batch_lane if batch else lane_key)(profile.provider, profile.id)
        load = self.loads.get(lane)
        if load is None:
            load = self.loads[lane] = lane_load(profile, self.limits, batch=batch)
        return load

    def open_lanes_of(self, model: str) -> None:
        """Open the lanes of requests that are out: that of the AI model they were sent to, and that of the model in the
        manifest now."""
        profile = self.profile(model)
        self.load_of(profile)
        if self.has_batch(profile):
            self.load_of(profile, batch=True)

    def open_fallback_lane(self, profile: Profile, sample: Sample) -> None:
        """Open a fallback's lane at the beginning, so that no budget meets an unknown price there later."""
        load, usd = self.load_of(profile), estimate_usd(profile, sample)
        load.max_request_usd = max(load.max_request_usd, usd or 0.0)
        load.may_be_unpriced = load.may_be_unpriced or usd is None

    def add_request(self, group: Sample, *, batch: bool) -> float | None:
        """Count a request, and return its cost in USD, None if its price is unknown."""
        item, profile = group.item, self.profile(group.item.model)
        load, usd = self.load_of(profile, batch=batch), estimate_usd(profile, group, batch=batch)
        size = item.image_size or profile.default_size
        to_choose_from = 1 if item.judge is None else item.judge.of
        load.requests += to_choose_from
        load.images += group.images
        load.total_latency_s += 0.0 if batch else profile.latency(size) * to_choose_from
        load.bytes += expected_bytes(size) * group.images * to_choose_from
        load.usd += (usd or 0.0) * to_choose_from
        load.max_request_usd = max(load.max_request_usd, usd or 0.0)
        load.unpriced += usd is None
        load.guessed += price_is_guess(profile, item.service_tier, batch=batch)
        load.searches += item.search is not None
        self.wanted += group.images
        if item.judge is not None:
            self._add_questions(item, item.judge, group.images * to_choose_from)
        return usd

    def _add_questions(self, item: Item, judge: Judge, images: int) -> None:
        """Count a question to the judge for each image that is made."""
        profile = self.profile(judge.model)
        load = self.load_of(profile)
        usd = estimate_question_usd(profile, ReviewRules.of(item).question(item.prompt))
        load.requests += images
        load.total_latency_s += profile.latency(profile.default_size) * images
        load.usd += (usd or 0.0) * images
        load.max_request_usd = max(load.max_request_usd, usd or 0.0)
        load.unpriced += images if usd is None else 0

    def forecast(self, concurrency: int, budget_usd: float | None, budget_of: str) -> Forecast:
        """The forecast of a run. budget_of: run, day or month."""
        return forecast(list(self.loads.values()), concurrency, budget_usd, budget_of, chain_s=self.chain_s)

    def started_event(self, run_id: int, job: str, run_forecast: Forecast, *, emulated: bool) -> RunStarted:
        by_batch = any(load.batch and load.images for load in self.loads.values())
        wanted = Counter[str]()
        for load in self.loads.values():
            wanted[load.model] += load.images
        return RunStarted(
            at=time.time(),
            run_id=run_id,
            job=job,
            kept=self.kept,
            left_out=dict(self.untried),
            usd=run_forecast.usd,
            known_usd=run_forecast.known_usd,
            unpriced=run_forecast.unpriced,
            eta_s=None if by_batch else run_forecast.seconds,
            samples={model: number for model, number in wanted.items() if number},
            emulated=emulated,
        )


def lane_load(profile: Profile, limits: Limits, *, batch: bool = False) -> LaneLoad:
    """What is known of a lane before anything is requested."""
    account = endpoint_of(profile.provider).base_url or profile.provider  # one key for all its models
    if batch:
        return LaneLoad(profile.id, None, account=account, batch=True)
    rate = limits.spend_rate(profile.provider)
    return LaneLoad(profile.id, profile.rpm, rpd=profile.rpd, spend_rate=rate, account=account)


@dataclass(frozen=True, slots=True)
class Routed:
    """A request and the lane that it waits in. asked: the sample as that lane's model is asked for it."""

    lane: str
    waiting: Sample

    @property
    def asked(self) -> Sample:
        return sample_for_lane(self.waiting, self.lane)

    @property
    def by_batch(self) -> bool:
        return is_batch(self.lane)


def routed_by_mode(group: Sample, found: Reconciliation, batch_mode: BatchMode, awaited: Sequence[str]) -> Routed:
    """The lane of a request in a run without a time to be done by. awaited: samples that have to be made before it."""
    item = group.item
    online = Routed(lane_key(item.provider, item.model), group)
    if batch_mode == "online":
        return online
    profile = found.profile(item.model)
    reason = online_only_reason(item, found.has_batch(profile), batch_mode, awaited)
    if reason is None:
        found.load_of(profile)  # its online lane, to fall back on
        return Routed(batch_lane(item.provider, item.model), group)
    found.online[reason.group] += 1
    if batch_mode == "batch":
        found.online_only.append((group.key, reason))
    return online
