"""Checks whether an AI model can do what an item asks, suggests models that can, and decides in which form a model gets
a reference image. Pure; the facts are in the profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Protocol

from batchgen.errors import UsageError
from batchgen.item import SENT_FIELDS
from batchgen.profiles.profile import SUPPORTABLE, Profile
from batchgen.providers import contract, registry

# Converted to PNG if a model does not accept them; the second ones also if it is unknown what it accepts.
_ALWAYS_CONVERTED = frozenset({"image/avif", "image/tiff", "image/bmp"})
CONVERTIBLE = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"}) | _ALWAYS_CONVERTED
# Fields with a choice of values, and the fact of a profile that lists these.
_CHOICES = {
    "image_size": "sizes",
    **{field: field for field in ("person_generation", "thinking", "search", "quality", "background", "output_format")},
    "service_tier": "service_tiers",
}
FieldProblem = tuple[str, str]  # field and message


def seed_max(profile: Profile) -> int:
    return contract.seed_max_of(registry.provider_class(profile.provider))


def check(profile: Profile, fields: Mapping[str, Any], others: Iterable[Profile]) -> Iterator[FieldProblem]:
    """What this model cannot do of what is requested. Of an unknown model only what its codec cannot send is known to
    be wrong.

    fields: only what was requested. others: all models, to suggest one that can. Raises UsageError without such a
    codec.
    """
    seed = fields.get("seed")
    if seed is not None and not 0 <= seed <= seed_max(profile):
        yield "seed", f"must be from 0 to {seed_max(profile)}, not {seed}"
    known, encoded = profile.status != "unknown", registry.encoded_fields(profile)
    for field in SENT_FIELDS:
        if field not in fields or fields[field] is False:
            continue
        if known and field in SUPPORTABLE and field not in profile.supports:
            yield field, f"{profile.id} does not take it{_suggest_senders(others, profile, field)}"
        elif field not in encoded:
            yield field, f"{_cannot_send(profile, encoded)}{_suggest_senders(others, profile, field)}"
    if fields.get("count", 1) > 1 and profile.images_per_request > 1 and "count" not in encoded:
        yield "count", _one_image_a_request(profile)
    if known:
        yield from _check_facts(profile, fields, others)


def _cannot_send(profile: Profile, encoded: frozenset[str]) -> str:
    remedy = ", unless you put it into `extra` under the API's own name" if "extra" in encoded else ""
    return f"provider {profile.provider} does not send it for {profile.id}{remedy}"


def _one_image_a_request(profile: Profile) -> str:
    return (
        f"{profile.id} has images_per_request {profile.images_per_request}, and provider {profile.provider} cannot ask for"
        f" more than one: write `models: {{{profile.id}: {{images_per_request: 1}}}}` at the head"
    )


def _suggest_senders(others: Iterable[Profile], profile: Profile, field: str) -> str:
    """The models that accept a field and whose codec sends it."""
    return _suggest_models(
        others, profile, lambda other: field in other.supports | {"extra"} and field in registry.encoded_fields(other)
    )


def _check_facts(profile: Profile, fields: Mapping[str, Any], others: Iterable[Profile]) -> Iterator[FieldProblem]:
    """What the model accepts, but not in this way."""
    for field, fact in _CHOICES.items():
        yield from _check_choice(profile, fields, others, field, fact)
    if "safety" in profile.supports:
        yield from _check_safety(profile, fields.get("safety") or {})
    yield from _check_ratio(profile, fields, others)
    if fields.get("background") == "transparent" and fields.get("output_format") == "jpeg":
        yield "background", "a JPEG has no transparency: leave output_format out, or make it png or webp"
    prompt, max_chars = fields.get("prompt", ""), profile.prompt_max_chars
    if suffix := fields.get("no_image_suffix"):
        prompt = f"{prompt} {suffix}"
    if max_chars is not None and len(prompt) > max_chars:
        suggestion = _suggest_models(
            others, profile, lambda other: len(prompt) <= (other.prompt_max_chars or len(prompt))
        )
        yield "prompt", f"has {len(prompt):,} characters, {profile.id} takes at most {max_chars:,}{suggestion}"


def accepts_mime_type(profile: Profile, mime_type: str) -> bool:
    if not profile.reference_mime_types:
        return mime_type not in _ALWAYS_CONVERTED
    return mime_type in profile.reference_mime_types


class Picture(Protocol):
    """A reference image."""

    @property
    def path(self) -> str: ...
    @property
    def mime_type(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def redraw(self) -> bool: ...


def check_references(profile: Profile, pictures: Sequence[Picture], *, mask: bool) -> Iterator[FieldProblem]:
    """What the model cannot do with the reference images of an item. mask: the last of them is one, and counts
    separately."""
    max_count, count = profile.references_max, len(pictures) - mask
    if max_count is not None and count > max_count and "references" in profile.supports:
        yield "references", f"{profile.id} takes at most {max_count} reference images, not {count}"
    for picture in pictures:
        if not accepts_mime_type(profile, picture.mime_type) and picture.mime_type not in CONVERTIBLE:
            names = ", ".join(name.removeprefix("image/") for name in profile.reference_mime_types)
            yield (
                "references",
                f"{picture.path!r} is {picture.mime_type}; {profile.id} takes {names}; save it as PNG or JPEG",
            )
    if isinstance(registry.provider_for(profile), contract.SupportsUploads):
        return  # what does not fit into a request is uploaded
    body_bytes = sum(4 * ((picture.bytes + 2) // 3) for picture in pictures)
    if body_bytes > profile.request_max_bytes:
        megabytes = (
            f"{body_bytes / 1e6:.1f} MB in a request, {profile.id} takes {profile.request_max_bytes / 1e6:.1f} MB"
        )
        yield "references", f"the images make {megabytes}; send fewer or smaller ones"


@dataclass(frozen=True, slots=True)
class Redrawing:
    """What is sent instead of an image. why: for people."""

    kind: Literal["PNG", "JPEG"]
    why: str


def redrawing(picture: Picture, profile: Profile) -> Redrawing | None:
    """What a model gets instead of a reference image; None: the image unchanged. Raises UsageError if no form is
    possible."""
    accepted = accepts_mime_type(profile, picture.mime_type)
    if accepted and not picture.redraw:
        return None
    was = picture.mime_type.removeprefix("image/")
    if picture.mime_type not in CONVERTIBLE:
        raise UsageError(f"is {picture.mime_type}, which {profile.id} does not take: save it as PNG or JPEG")
    if accepted:
        kind: Literal["PNG", "JPEG"] = "JPEG" if was == "jpeg" else "PNG"
        return Redrawing(kind, f"sent as {kind}, upright and in RGB, since models ignore EXIF rotation and CMYK")
    frame = " (of several frames the first)" if was == "gif" else ""
    return Redrawing("PNG", f"sent as PNG{frame}, for {profile.id} does not take {was}")


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


def _check_safety(profile: Profile, settings: Mapping[str, str]) -> Iterator[FieldProblem]:
    categories, thresholds = contract.safety_words_of(registry.provider_class(profile.provider))
    for kind, known, prefix, given in (
        ("harm category", categories, "HARM_CATEGORY_", settings),
        ("threshold", thresholds, "BLOCK_", settings.values()),
    ):
        for name in given:
            if known and name not in known:
                short = {each.removeprefix(prefix): each for each in known}
                near = get_close_matches(name[:60].upper().removeprefix(prefix), short, n=1)
                hint = f" (did you mean {short[near[0]]!r}?)" if near else f"; choose from {', '.join(sorted(known))}"
                yield "safety", f"{name!r} is not a {kind}{hint}"


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
    """Text such as `; for 2K use X or Y`: available models that can, of the same provider if there are any."""
    can = [other for other in others if other.status == "live" and other.id != profile.id and can_do_it(other)]
    same = [other for other in can if other.provider == profile.provider] or can
    named = " or ".join(other.id for other in same[:2])
    return f"; {f'for {wanted} use' if wanted else 'instead use'} {named}" if same else ""
