"""The facts of one AI model, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from batchgen.item import SENT_FIELDS

Makes = Literal["image", "text"]
Status = Literal["live", "deprecated", "retired", "unverified", "unknown"]

SUPPORTABLE = frozenset(SENT_FIELDS) - {"prompt", "extra"}  # fields that a model may lack
DEFAULT_TIME_LIMIT_S = 600.0  # where a profile says nothing: the longest any documented model needs
DEFAULT_LATENCY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars. None or a missing size means unknown, never free.

    image_usd: one picture, by size. batch_factor: the price of the vendor's batch endpoint as a share of the normal
    one; tier_factor: the same for each service tier of the model beside `standard`; guessed_tiers: those of them whose
    factor no vendor has published for this model. quality_factor: the price of an image at each `quality` as a share of
    `image_usd`; empty where the price does not depend on it. reference_usd: an image that is sent along, where it is
    billed as such; about a megapixel, for estimates.
    """

    image_usd: Mapping[str, float] = field(default_factory=dict)
    input_usd_per_mtok: float | None = None
    input_image_usd_per_mtok: float | None = None  # where images sent along have a price of their own
    text_usd_per_mtok: float | None = None  # thoughts and text
    image_usd_per_mtok: float | None = None
    search_usd_per_1000: float | None = None  # queries; no batch and no tier makes them cheaper
    batch_factor: float | None = None
    tier_factor: Mapping[str, float] = field(default_factory=dict)
    guessed_tiers: frozenset[str] = frozenset()
    quality_factor: Mapping[str, float] = field(default_factory=dict)
    reference_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypicalUsage:
    """What one request takes beside the pictures it asks for. For estimates only: bills go by the answer's own usage.

    Each table has `default` for requests that leave the choice to the model. reference_tokens: of one picture that is
    sent along, by `media_resolution`. thought_tokens: by `thinking`. search_queries: by `search`. text_tokens: what an
    answer bills as text, most of which is never shown.
    """

    reference_tokens: Mapping[str, float] = field(default_factory=dict)
    thought_tokens: Mapping[str, float] = field(default_factory=dict)
    search_queries: Mapping[str, float] = field(default_factory=dict)
    text_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One AI model. An empty tuple or None means that a fact is unknown, so it is not checked.

    makes: what it answers with; a model that judges answers with text. supports: manifest fields the model accepts.
    pixels: ratio -> size -> (width, height) as the vendor documents it. images_per_request: how many samples of an item
    one request may ask for. max_jobs: how many jobs its API runs at once for an account; None: unknown, or it answers
    at once. request_max_bytes: body, base64 included. wire: facts that only the codec of this provider reads.
    """

    id: str
    provider: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    status: Status = "unknown"
    shutdown: str | None = None  # ISO date
    replacement: str | None = None
    note: str = ""
    makes: tuple[Makes, ...] = ("image",)
    ratios: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    default_size: str = "1K"
    pixels: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    references_max: int | None = None
    reference_mime_types: tuple[str, ...] = ()
    request_max_bytes: int = 20_971_520
    supports: frozenset[str] = SUPPORTABLE
    thinking: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    person_generation: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    output_format: tuple[str, ...] = ()
    rpm: int | None = None
    rpd: int | None = None
    max_jobs: int | None = None
    batch_tokens: Mapping[int, int] = field(default_factory=dict)  # how many may be enqueued in batches, by usage tier
    images_per_request: int = 1
    prompt_max_chars: int | None = None
    prices: Prices = field(default_factory=Prices)
    typical: TypicalUsage = field(default_factory=TypicalUsage)
    time_limit_s: Mapping[str, float] = field(default_factory=dict)
    latency_s: Mapping[str, float] = field(default_factory=dict)
    wire: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @property
    def may_make_images(self) -> bool:
        return not self.makes or "image" in self.makes

    @property
    def may_judge(self) -> bool:
        """Whether it may be asked about images, as far as is known; its codec must support that, too."""
        return not self.makes or "text" in self.makes

    @property
    def service_tiers(self) -> tuple[str, ...]:
        return ("standard", *self.prices.tier_factor) if self.prices.tier_factor else ()

    def offers_tier(self, tier: str) -> bool:
        """Whether requests may ask for this service tier."""
        return tier in self.service_tiers and "service_tier" in self.supports

    def time_limit(self, size: str | None = None) -> float:
        """Seconds after which we give up on one request; generous, since hanging up does not stop the bill."""
        return _by_size(self.time_limit_s, size or self.default_size, DEFAULT_TIME_LIMIT_S)

    def latency(self, size: str | None = None) -> float:
        """Seconds one request typically takes. For estimates only."""
        return _by_size(self.latency_s, size or self.default_size, DEFAULT_LATENCY_S)

    def expected_pixels(self, ratio: str | None, size: str | None) -> tuple[int, int] | None:
        """The (width, height) the vendor documents; None where there is none or the ratio was left to the model."""
        return self.pixels.get(ratio, {}).get(size or self.default_size) if ratio else None


def _by_size(table: Mapping[str, float], size: str, default: float) -> float:
    """Look up a size. An unknown one gets the largest value known: too long a wait is cheaper than a lost picture."""
    value = table.get(size)
    return value if value is not None else max(table.values(), default=default)


def status_note(profile: Profile, today: date) -> str | None:
    """What a person should hear before using this model; None when there is nothing to say."""
    words = _status_words(profile, today)
    if words is None:
        return None
    instead = f"; use {profile.replacement} instead" if profile.replacement else ""
    note = f" ({profile.note})" if profile.note else ""
    return f"{profile.id} {words}{instead}{note}"


def is_shut_down(profile: Profile, today: date) -> bool:
    return profile.status == "retired" or (
        profile.shutdown is not None and date.fromisoformat(profile.shutdown) <= today
    )


def _status_words(profile: Profile, today: date) -> str | None:
    if profile.status == "unknown":
        return "is not in the list of known models: nothing about it is checked and its price is unknown"
    if is_shut_down(profile, today):
        return f"was shut down on {profile.shutdown}" if profile.shutdown else "was shut down"
    if profile.shutdown:
        return f"will be shut down on {profile.shutdown}"
    if profile.status == "deprecated":
        return "is deprecated"
    return "is unverified" if profile.status == "unverified" else None
