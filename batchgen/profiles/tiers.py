"""What a vendor lets a project spend, by usage tier, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from batchgen.profiles.catalogue import profile_files


@dataclass(frozen=True, slots=True)
class UsageTier:
    """USD in any ten minutes and in a calendar month, of one account at one of `providers`."""

    usd_per_10_min: float
    usd_per_month: float
    providers: frozenset[str]


@lru_cache(maxsize=1)
def load_usage_tiers() -> dict[int, UsageTier]:
    facts = next(file["spend_tiers"] for file in profile_files() if "spend_tiers" in file)
    providers = frozenset(facts["providers"])
    return {
        int(number): UsageTier(float(tier["usd_per_10_min"]), float(tier["usd_per_month"]), providers)
        for number, tier in facts["tiers"].items()
    }
