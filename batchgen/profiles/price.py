"""What a request will cost, and what it did cost. A price that is unknown is None, never 0."""

from __future__ import annotations

from batchgen.profiles.profile import Profile
from batchgen.records import Usage


def estimate_usd(
    profile: Profile, size: str | None, images: int = 1, *, batch: bool = False, tier: str | None = None
) -> float | None:
    """US dollars for this many pictures of one size, from the table; None when the table does not say.

    tier: the service tier it is asked for at, None for the vendor's default.
    """
    each = profile.prices.image_usd.get(size or profile.default_size)
    factor = _factor(profile, batch, tier)
    return None if each is None or factor is None else each * images * factor


def cost_usd(
    profile: Profile,
    usage: Usage | None,
    size: str | None,
    images: int,
    *,
    batch: bool = False,
    tier: str | None = None,
) -> tuple[float | None, str]:
    """(US dollars, where the figure comes from) for one answer.

    "vendor": the answer named the amount. "usage": computed from the tokens it reported. "estimate": from the table.
    "unknown": None. tier: asked for; the one that served counts where the answer names it.
    """
    tier = usage.tier or tier if usage is not None else tier
    if usage is not None and usage.usd is not None:
        return usage.usd, "vendor"
    usd = _usd_of_tokens(profile, usage, images, batch, tier) if usage is not None else None
    if usd is not None:
        return usd, "usage"
    usd = estimate_usd(profile, size, images, batch=batch, tier=tier)
    return (None, "unknown") if usd is None else (usd, "estimate")


def lost_usd(
    profile: Profile, usage: Usage | None, pictures: int, *, batch: bool = False, tier: str | None = None
) -> tuple[float | None, str]:
    """The same for an answer that became no picture: by its usage alone. pictures: how many it may have held.

    (None, "") when it does not say what was used: a table of pictures tells nothing about it.
    """
    if usage is None:
        return None, ""
    if usage.usd is not None:
        return usage.usd, "vendor"
    usd = _usd_of_tokens(profile, usage, pictures, batch, usage.tier or tier)
    return (None, "") if usd is None else (usd, "usage")


def _usd_of_tokens(profile: Profile, usage: Usage, images: int, batch: bool, tier: str | None) -> float | None:
    """Image tokens at the image rate, thoughts and text at the text rate, the prompt at the input rate.

    Source: ai.google.dev/gemini-api/docs/pricing. None when a rate that is needed is unknown, or when pictures came
    without saying how many tokens they took: old models leave the breakdown out, and text prices would be far too low.
    """
    if usage.image_tokens == 0 and (images > 0 or not (usage.prompt_tokens or usage.text_tokens)):
        return None
    usd = 0.0
    for tokens, rate in (
        (usage.image_tokens, profile.prices.image_usd_per_mtok),
        (usage.text_tokens + usage.thought_tokens, profile.prices.text_usd_per_mtok),
        (usage.prompt_tokens, profile.prices.input_usd_per_mtok),
    ):
        if tokens and rate is None:
            return None
        usd += tokens * (rate or 0.0) / 1_000_000
    factor = _factor(profile, batch, tier)
    return None if factor is None else usd * factor


def _factor(profile: Profile, batch: bool, tier: str | None) -> float | None:
    """The batch endpoint has no tiers. A tier whose price is not known makes the price unknown."""
    if batch:
        return profile.prices.batch_factor
    return 1.0 if tier in (None, "", "standard") else profile.prices.tier_factor.get(tier)
