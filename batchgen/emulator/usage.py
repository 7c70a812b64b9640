"""Token counts of an answer, in the proportions of recorded ones."""

from __future__ import annotations

from typing import Any

from batchgen.emulator.models import Model


def text_tokens(text: str) -> int:
    """About four characters a token (ai.google.dev/gemini-api/docs/tokens)."""
    return max(1, (len(text) + 3) // 4) if text else 0


def usage(
    model: Model,
    *,
    prompt_tokens: int,
    references: int,
    reference_tokens: int,
    size: str,
    images: int,
    text: str = "",
    thoughts: int = 0,
    overhead: int = 0,
    tool: int = 0,
    tier: str = "standard",
) -> dict[str, Any]:
    """usageMetadata. total = prompt + candidates + thoughts + tool use.

    prompt_tokens: of all text that was sent, earlier turns included; references: pictures that were, likewise.
    overhead: recorded answers of Gemini 3 have 88 to 630 candidate tokens more than the details add up to; they are
    billed as text. Answers without a picture have no candidatesTokensDetails (recorded), refusals no candidates.
    """
    details: list[dict[str, Any]] = [{"modality": "TEXT", "tokenCount": prompt_tokens}]
    if references:
        details.append({"modality": "IMAGE", "tokenCount": references * reference_tokens})
    prompt_tokens += references * reference_tokens
    image_tokens = images * model.tokens.get(size, 1120)
    candidates = image_tokens + text_tokens(text) + overhead
    found: dict[str, Any] = {"promptTokenCount": prompt_tokens}
    if candidates:
        found["candidatesTokenCount"] = candidates
    found["totalTokenCount"] = prompt_tokens + candidates + thoughts + tool
    found["promptTokensDetails"] = details
    if images:
        found["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": image_tokens}]
    if tool:
        found["toolUsePromptTokenCount"] = tool
        found["toolUsePromptTokensDetails"] = [{"modality": "TEXT", "tokenCount": tool}]
    if thoughts:
        found["thoughtsTokenCount"] = thoughts
    found["serviceTier"] = tier
    return found
