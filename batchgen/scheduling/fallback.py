"""Decides which AI model gets a sample when its own cannot serve it, and for which causes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchgen.errors import (
    ConnectFailed,
    DailyQuotaReached,
    ModelUnavailable,
    NoImage,
    NotTheApi,
    OutputRefused,
    ProviderError,
    Refused,
    ServerFault,
)
from batchgen.planning.batchable import online_lane
from batchgen.records import Item, Sample

# A refusal is only tried elsewhere on request: it costs, and may be right.
DEFAULT_FALLBACK_CAUSES = ("quota", "outage")


def fallback_cause(error: ProviderError) -> str | None:
    """quota, outage or refusal; None if no other model would help, or if this one may have been paid already."""
    if error.maybe_billed:
        return None
    if isinstance(error, DailyQuotaReached):
        return "quota"
    if isinstance(error, ModelUnavailable | ServerFault | ConnectFailed | NotTheApi):
        return "outage"
    return "refusal" if isinstance(error, Refused | OutputRefused | NoImage) else None


def next_fallback_lane(item: Item, lane: str, cause: str | None, is_available: Callable[[str], bool]) -> str | None:
    """The lane to continue in after `lane`: the first open one of the item's further fallbacks."""
    if cause is None or cause not in item.fallback_on:
        return None
    start = item.fallback.index(lane) + 1 if lane in item.fallback else 0
    return next((other for other in item.fallback[start:] if is_available(other)), None)


def sample_for_lane(sample: Sample, lane: str) -> Sample:
    """A sample as another lane's model is asked for it. The fingerprint stays, because the wish is the same."""
    provider, _, model = online_lane(lane).partition("/")
    if (sample.item.provider, sample.item.model) == (provider, model):
        return sample
    return replace(sample, item=replace(sample.item, provider=provider, model=model))
