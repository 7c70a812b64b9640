"""Whether an AI model can do what an item asks, and what could instead. Pure; the facts are in the profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

from batchgen.profiles.profile import SUPPORTABLE, Profile

# Gemini and Imagen: int32 in the API's reference (ai.google.dev/api/generate-content, GenerationConfig.seed).
# AIML API: 0 … 4294967295 in its OpenAPI (docs.aimlapi.com, image models, Google).
SEED_MAX: Mapping[str, int] = {"gemini": 2**31 - 1, "imagen": 2**31 - 1, "aimlapi": 2**32 - 1}
ANY_SEED_MAX = 2**63 - 1
PROVIDERS_WITH_UPLOADS = frozenset(
    {"gemini"}
)  # providers with a store for files: what does not fit into a request goes there
CONVERTIBLE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})  # to PNG, where a model needs it
_SUPPORTABLE_FIELDS = tuple(sorted(SUPPORTABLE))
# ai.google.dev/api/generate-content, HarmCategory and HarmBlockThreshold, as far as this API takes them.
HARM_CATEGORIES = frozenset(
    f"HARM_CATEGORY_{name}"
    for name in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY")
)
HARM_THRESHOLDS = frozenset(("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"))

FieldProblem = tuple[str, str]  # field and message


def seed_max(profile: Profile) -> int:
    return SEED_MAX.get(profile.provider, ANY_SEED_MAX)


def check(profile: Profile, fields: Mapping[str, Any], others: Iterable[Profile]) -> Iterator[FieldProblem]:
    """What this model cannot do of what is asked. An unknown model passes: nothing is known to be wrong.

    fields: only what was asked for. others: all models, to name one that can.
    """
    seed = fields.get("seed")
    if seed is not None and not 0 <= seed <= seed_max(profile):
        yield "seed", f"must be from 0 to {seed_max(profile)}, not {seed}"
    if profile.status == "unknown":
        return
    for field in _SUPPORTABLE_FIELDS:
        if field in fields and fields[field] is not False and field not in profile.supports:
            suggestion = _suggest_models(others, profile, lambda other, field=field: field in other.supports)  # type: ignore[misc]
            yield field, f"{profile.id} does not take it{suggestion}"
    yield from _check_choice(profile, fields, others, "image_size", "sizes")
    yield from _check_choice(profile, fields, others, "person_generation", "person_generation")
    yield from _check_choice(profile, fields, others, "thinking", "thinking")
    yield from _check_choice(profile, fields, others, "search", "search")
    yield from _check_choice(profile, fields, others, "service_tier", "service_tiers")
    if profile.provider == "gemini" and "safety" in profile.supports:
        yield from _check_safety(fields.get("safety") or {})
    yield from _check_ratio(profile, fields, others)
    prompt, max_chars = fields.get("prompt", ""), profile.prompt_max_chars
    if suffix := fields.get("no_image_suffix"):
        prompt = f"{prompt} {suffix}"
    if max_chars is not None and len(prompt) > max_chars:
        suggestion = _suggest_models(
            others, profile, lambda other: len(prompt) <= (other.prompt_max_chars or len(prompt))
        )
        yield "prompt", f"has {len(prompt):,} characters, {profile.id} takes at most {max_chars:,}{suggestion}"


def accepts_mime_type(profile: Profile, mime_type: str) -> bool:
    return not profile.reference_mime_types or mime_type in profile.reference_mime_types


class SizedPicture(Protocol):
    """A reference picture."""

    @property
    def path(self) -> str: ...
    @property
    def mime_type(self) -> str: ...
    @property
    def bytes(self) -> int: ...


def check_references(profile: Profile, pictures: Sequence[SizedPicture]) -> Iterator[FieldProblem]:
    """The same for the reference pictures of an item, each once."""
    max_count = profile.references_max
    if max_count is not None and len(pictures) > max_count and "references" in profile.supports:
        yield "references", f"{profile.id} takes at most {max_count} reference pictures, not {len(pictures)}"
    for picture in pictures:
        if not accepts_mime_type(profile, picture.mime_type) and picture.mime_type not in CONVERTIBLE:
            names = ", ".join(name.removeprefix("image/") for name in profile.reference_mime_types)
            yield "references", f"{picture.path!r} is {picture.mime_type}; {profile.id} takes {names}"
    if profile.provider in PROVIDERS_WITH_UPLOADS:
        return
    body_bytes = sum(4 * ((picture.bytes + 2) // 3) for picture in pictures)
    if body_bytes > profile.request_max_bytes:
        megabytes = (
            f"{body_bytes / 1e6:.1f} MB in a request, {profile.id} takes {profile.request_max_bytes / 1e6:.1f} MB"
        )
        yield "references", f"the pictures make {megabytes}; send fewer or smaller ones"


def _check_choice(
    profile: Profile, fields: Mapping[str, Any], others: Iterable[Profile], field: str, fact: str
) -> Iterator[FieldProblem]:
    wanted, offered = fields.get(field), getattr(profile, fact)
    if wanted is None or not offered or wanted in offered or field not in profile.supports:
        return
    if isinstance(wanted, str) and wanted.upper() in offered:  # the vendor silently takes "2k" for 1K
        yield field, f"write {wanted.upper()!r}, not {wanted!r}"
        return
    suggestion = _suggest_models(
        others, profile, lambda other: field in other.supports and wanted in getattr(other, fact), wanted
    )
    yield field, f"{profile.id} has {', '.join(offered)}, not {wanted}{suggestion}"


def _check_safety(settings: Mapping[str, str]) -> Iterator[FieldProblem]:
    for kind, known, prefix, given in (
        ("harm category", HARM_CATEGORIES, "HARM_CATEGORY_", settings),
        ("threshold", HARM_THRESHOLDS, "BLOCK_", settings.values()),
    ):
        for name in given:
            if name not in known:
                short = {each.removeprefix(prefix): each for each in known}
                near = get_close_matches(name[:60].upper().removeprefix(prefix), short, n=1)
                hint = f" (did you mean {short[near[0]]!r}?)" if near else f"; there are {', '.join(sorted(known))}"
                yield "safety", f"{name!r} is no {kind}{hint}"


def _check_ratio(profile: Profile, fields: Mapping[str, Any], others: Iterable[Profile]) -> Iterator[FieldProblem]:
    wanted = fields.get("aspect_ratio")
    if wanted is None or not profile.ratios or wanted in profile.ratios or "aspect_ratio" not in profile.supports:
        return
    near = min(profile.ratios, key=lambda ratio: abs(_ratio_value(ratio) / max(_ratio_value(wanted), 1e-9) - 1))
    suggestion = _suggest_models(others, profile, lambda other: wanted in other.ratios, wanted)
    yield "aspect_ratio", f"{profile.id} has no {wanted}; its nearest is {near}{suggestion}"


def _ratio_value(ratio: str) -> float:
    width, height = map(int, ratio.split(":"))
    return width / height if height else 0.0


def _suggest_models(
    others: Iterable[Profile], profile: Profile, can_do_it: Callable[[Profile], bool], wanted: str = ""
) -> str:
    """`; for 2K use X or Y`: live models that can, of the same provider if there are any."""
    can = [other for other in others if other.status == "live" and other.id != profile.id and can_do_it(other)]
    same = [other for other in can if other.provider == profile.provider] or can
    named = " or ".join(other.id for other in same[:2])
    return f"; {f'for {wanted} use' if wanted else 'instead use'} {named}" if same else ""
