"""What a request will cost, and what it did cost. An unknown price is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.profiles.profile import Prices, Profile
from batchgen.records import Item, Question, Sample, Usage

# Text beside the picture in a turn that is sent back, where text was asked for: a sentence or two in recorded answers.
TURN_TEXT_TOKENS = 50


def estimate_usd(profile: Profile, sample: Sample, *, batch: bool = False, tier: str | None = None) -> float | None:
    """Estimate the US dollars of one request with all that it carries; None when the table of prices does not say.

    profile: of the model that serves it. tier: in place of the item's own. The pictures come from the table, what goes
    with them from `typical_usage`; a model without prices per token bills by the picture alone. What `extra` adds is
    unknown here.
    """
    item, prices = sample.item, profile.prices
    each = prices.image_usd.get(item.image_size or profile.default_size)
    factor, quality = _price_factor(profile, batch, tier or item.service_tier), _quality_factor(profile, item.quality)
    if each is None or factor is None or quality is None:
        return None
    usage = typical_usage(profile, item)
    extra_usd = sum(tokens * (rate or 0.0) for tokens, rate in _token_rates(prices, usage)) / 1_000_000
    extra_usd += len(item.references) * (prices.reference_usd or 0.0)
    return (each * quality * sample.images + extra_usd) * factor + usage.queries * (
        prices.search_usd_per_1000 or 0.0
    ) / 1000


def estimate_question_usd(profile: Profile, question: Question) -> float | None:
    """Estimate the US dollars of one judgement, None when a rate is unknown.

    Text and images are counted; how much the answer says and the model thinks is the guess of `profile.typical`. The
    actual cost is `cost_usd` of its usage, with no images made.
    """
    typical, prices = profile.typical, profile.prices
    seen = round(len(question.images) * _tokens_for(typical.reference_tokens, None))
    apart = prices.input_image_usd_per_mtok is not None
    usage = Usage(
        prompt_tokens=text_tokens(question.text) + (0 if apart else seen),
        prompt_image_tokens=seen if apart else 0,
        text_tokens=round(typical.text_tokens),
        thought_tokens=round(_tokens_for(typical.thought_tokens, None)),
    )
    if prices.input_usd_per_mtok is None or prices.text_usd_per_mtok is None:
        return None
    return sum(tokens * (rate or 0.0) for tokens, rate in _token_rates(prices, usage)) / 1_000_000


def typical_usage(profile: Profile, item: Item) -> Usage:
    """The usage that the answer to a request of this item is likely to report beside the tokens of its pictures.

    Each turn of a conversation sends back all that was said and drawn before it, including interim pictures of thoughts
    that are kept.
    """
    typical, turns = profile.typical, max(0, item.turn - 1)
    reply_tokens = turns * TURN_TEXT_TOKENS if "text" in item.modalities else 0
    text = sum(map(text_tokens, (item.prompt, item.system or "", *item.history))) + reply_tokens
    pictures = len(item.references) + turns * (2 if item.keep_thoughts else 1)
    seen = round(pictures * reference_tokens(profile, item))
    apart = profile.prices.input_image_usd_per_mtok is not None
    return Usage(
        prompt_tokens=text if apart else text + seen,
        prompt_image_tokens=seen if apart else 0,
        text_tokens=round(typical.text_tokens),
        thought_tokens=round(_tokens_for(typical.thought_tokens, item.thinking)),
        queries=round(_tokens_for(typical.search_queries, item.search)) if item.search else 0,
    )


def text_tokens(text: str) -> int:
    """Estimate tokens: about four characters of Latin text each, and about four bytes of any other script.

    Source: ai.google.dev/gemini-api/docs/tokens.
    """
    return -(-len(text.encode()) // 4)


def reference_tokens(profile: Profile, item: Item) -> float:
    """The input tokens of one picture that is sent along."""
    return _tokens_for(profile.typical.reference_tokens, item.media_resolution)


def _tokens_for(table: Mapping[str, float], choice: str | None) -> float:
    """Look up a choice. One that nobody has counted gets the dearest; a model that nobody has counted gets 0."""
    value = table.get(choice or "default")
    return value if value is not None else max(table.values(), default=0.0)


def price_is_guess(profile: Profile, tier: str | None, *, batch: bool = False) -> bool:
    """Whether the price at this service tier rests on a factor that nobody has published for the model."""
    return not batch and tier in profile.prices.guessed_tiers


def cost_usd(
    profile: Profile,
    usage: Usage | None,
    images: int,
    estimate_usd: float | None,
    *,
    batch: bool = False,
    tier: str | None = None,
) -> tuple[float | None, str]:
    """Work out (US dollars, where the figure comes from) for one answer.

    "vendor": the answer named the amount. "usage": computed from what it reported. "estimate": it did not say, so the
    estimate made when the request was sent, given as `estimate_usd`, counts. "guess": either of these two, at the price
    of a service tier that is a guess. "unknown": None. tier: the one asked for; the one that served counts where the
    answer names it.
    """
    if usage is not None:
        usd, source = cost_without_picture_usd(profile, usage, images, batch=batch, tier=tier)
        if usd is not None:
            return usd, source
    if estimate_usd is None:
        return None, "unknown"
    return estimate_usd, "guess" if price_is_guess(profile, tier, batch=batch) else "estimate"


def cost_without_picture_usd(
    profile: Profile, usage: Usage | None, pictures: int, *, batch: bool = False, tier: str | None = None
) -> tuple[float | None, str]:
    """Work out (US dollars, where the figure comes from) for an answer without a picture, from its usage alone.

    pictures: how many it may have held. Returns (None, "") when the answer does not report its usage, since a table of
    pictures tells nothing about it.
    """
    if usage is None:
        return None, ""
    if usage.usd is not None:
        return usage.usd, "vendor"
    tier = usage.tier or tier
    usd = _usage_usd(profile, usage, pictures, batch, tier)
    return (None, "") if usd is None else (usd, "guess" if price_is_guess(profile, tier, batch=batch) else "usage")


def _usage_usd(profile: Profile, usage: Usage, images: int, batch: bool, tier: str | None) -> float | None:
    """Image tokens at the image rate, thoughts and text at the text rate, the prompt at the input rate, and searches.

    Source: ai.google.dev/gemini-api/docs/pricing. None when a rate that is needed is unknown, or when pictures came
    without saying how many tokens they took: old models leave the breakdown out, and text prices would be far too low.
    Searches are an upper bound: a project has some thousand free ones a month, shared by all it sends, and no answer
    tells how many of them are left. Neither a batch nor a service tier makes them cheaper.
    """
    if usage.image_tokens == 0 and (images > 0 or not (usage.prompt_tokens or usage.text_tokens)):
        return None
    prices = profile.prices
    rated = [*_token_rates(prices, usage), (usage.image_tokens, prices.image_usd_per_mtok)]
    factor = _price_factor(profile, batch, tier)
    needed = [*rated, (usage.queries, prices.search_usd_per_1000)]
    if factor is None or any(amount and rate is None for amount, rate in needed):
        return None
    tokens_usd = sum(tokens * (rate or 0.0) for tokens, rate in rated) / 1_000_000
    return tokens_usd * factor + usage.queries * (prices.search_usd_per_1000 or 0.0) / 1000


def _token_rates(prices: Prices, usage: Usage) -> list[tuple[int, float | None]]:
    """The tokens beside those of the pictures, each with its rate."""
    return [
        (usage.prompt_tokens, prices.input_usd_per_mtok),
        (usage.prompt_image_tokens, prices.input_image_usd_per_mtok),
        (usage.text_tokens + usage.thought_tokens, prices.text_usd_per_mtok),
    ]


def _price_factor(profile: Profile, batch: bool, tier: str | None) -> float | None:
    """The factor of the batch endpoint, which has no tiers, or of the tier; None where that is unknown."""
    if batch:
        return profile.prices.batch_factor
    return 1.0 if tier in (None, "", "standard") else profile.prices.tier_factor.get(tier)


def _quality_factor(profile: Profile, quality: str | None) -> float | None:
    """The factor of a quality; None where the table does not have it.

    A model that chooses the quality itself may choose the one that `image_usd` is for.
    """
    table = profile.prices.quality_factor
    return 1.0 if quality in (None, "auto") or not table else table.get(quality)
