"""The README's table of fields, made of their one declaration in `Item` and of what each codec and profile says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from batchgen.item import Item
from batchgen.profiles.catalogue import load_catalogue, profile_files, unknown_profile
from batchgen.profiles.profile import SUPPORTABLE
from batchgen.providers.registry import encoded_fields


def field_table() -> str:
    """In Markdown: what the models of each provider take. Its notes are the descriptions."""
    providers = {file["provider"]: file["title"] for file in profile_files()}
    rows = [("field", *providers.values(), "notes"), ("---",) * (len(providers) + 2)]
    hints = get_type_hints(Item)
    for slot in fields(Item):
        if (declared := slot.metadata.get("manifest")) is not None:
            name = declared.name or slot.name
            cells = ["yes" if declared.use == "own" else _support(name, provider) for provider in providers]
            choices = ", ".join(f"`{choice}`" for choice in _choices(hints[slot.name]))
            rows.append((f"`{name}`", *cells, f"{declared.description} {choices}".rstrip()))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _choices(hint: Any) -> tuple[str, ...]:
    """The values that a type allows, when it names them."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for inner in get_args(hint) if (found := _choices(inner))), ())


def _support(name: str, provider: str) -> str:
    profiles = [profile for profile in load_catalogue() if profile.provider == provider]
    served = [profile for profile in profiles if profile.status != "retired"] or profiles
    taken = [name in profile.supports or name not in SUPPORTABLE for profile in served]
    if any(taken):
        return "yes" if all(taken) else "some models"
    return "by `models:`" if name in encoded_fields(unknown_profile("", provider)) else "–"
