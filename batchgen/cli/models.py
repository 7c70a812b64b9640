"""`batchgen models`: what is known of each AI model, and with `--live` whether its vendor lists it now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import json_option, option_group, pass_invocation
from batchgen.errors import ProviderError, SettingsError
from batchgen.providers.registry import endpoint_of, key_variables, provider_names

if TYPE_CHECKING:
    from batchgen.cli.vendor_client import VendorAccess
    from batchgen.profiles.profile import Profile
    from batchgen.providers.listings import Deprecation, ListedModel


EXIT_INCOMPLETE = 5


@click.command("models")
@option_group(
    click.option("--all", "show_all", is_flag=True, help="Retired ones too."),
    click.option("--live", is_flag=True, help="Ask the APIs there is a key for which models they list now; free."),
    json_option(),
)
@pass_invocation
def command(invocation: Invocation, show_all: bool, live: bool, as_json: bool) -> int:
    """List the AI models with their limits and prices. An id that is not listed may be used all the same.

    Prices are USD for one image of that size, from the vendors' tables; `?` is unknown. Prompt, references, thoughts and
    searches are billed on top: `plan` counts them. The rpm is what batchgen keeps to unless the manifest's `models:` says
    otherwise.

    \b
    Examples:
      batchgen models
      batchgen models --all --json
      batchgen models --live
    """
    from batchgen.profiles.catalogue import load_catalogue

    profiles, found = list(load_catalogue()), None
    if live:
        found = query_live_models(invocation)
        profiles += found.unknown_models(profiles)
    shown = [
        profile
        for profile in profiles
        if show_all or not is_retired(profile) or (found is not None and found.live_status(profile) == "live")
    ]
    if as_json:
        invocation.out.json([model_json(profile) | (found.as_dict(profile) if found else {}) for profile in shown])
    else:
        table(invocation, shown, found)
    return EXIT_INCOMPLETE if found is not None and found.failures else 0


def table(invocation: Invocation, profiles: list[Profile], found: LiveModels | None) -> None:
    head = ("id", "aliases", "status", "rpm", "USD per image by size", "refs", *(["now"] if found else []))
    rows = [
        (profile.id, " ".join(profile.aliases) or "-", status(profile), str(profile.rpm or "?"), prices(profile),
         "?" if profile.references_max is None else str(profile.references_max),
         *([found.live_status_text(profile)] if found else []))
        for profile in profiles
    ]  # fmt: skip
    invocation.out.table(head, rows, right=(3, 5), flexible=2)
    if guessed := ", ".join(profile.id for profile in profiles if profile.prices.guessed_tiers):
        invocation.out.line(f"Prices of the flex and priority tiers are guesses for {guessed}.", "dim")


@dataclass(frozen=True, slots=True)
class LiveModels:
    """listed: by provider, each that was asked and answered; withdrawn: likewise. failures: why one that was asked did not."""

    listed: Mapping[str, Sequence[ListedModel]]
    failures: tuple[str, ...]
    withdrawn: Mapping[str, Sequence[Deprecation]]

    def live_status(self, profile: Profile) -> str:
        """`live`, `absent`, `unlisted by us`, `not asked`, or what the vendor's feed of deprecations calls it."""
        if self._list(profile) is None:
            return "not asked"
        if (deprecation := self._deprecation(profile)) is not None:
            return deprecation.status
        if profile.status == "unknown":
            return "unlisted by us"
        return "live" if self._entry(profile) else "absent"

    def live_status_text(self, profile: Profile) -> str:
        """The same for people."""
        deprecation = self._deprecation(profile)
        return self.live_status(profile) if deprecation is None else deprecation.description

    def as_dict(self, profile: Profile) -> dict[str, Any]:
        """The same as an object, with what the API says of the model."""
        entry = self._entry(profile)
        return {
            "live": self.live_status(profile),
            "deprecation": self._deprecation_facts(profile),
            "input_tokens": entry.input_tokens if entry else None,
            "methods": list(entry.methods) if entry else [],
        }

    def _deprecation(self, profile: Profile) -> Deprecation | None:
        from batchgen.providers.listings import find_deprecation

        return find_deprecation(profile, self.withdrawn.get(profile.provider, ()))

    def _deprecation_facts(self, profile: Profile) -> dict[str, Any] | None:
        found = self._deprecation(profile)
        names = ("status", "shutdown_at", "replaced_by")
        return None if found is None else {name: getattr(found, name) or None for name in names}

    def _list(self, profile: Profile) -> Sequence[ListedModel] | None:
        return self.listed.get(endpoint_of(profile.provider).name)

    def _entry(self, profile: Profile) -> ListedModel | None:
        from batchgen.providers.listings import wire_name

        name = wire_name(profile)
        return next((model for model in self._list(profile) or () if model.id == name), None)

    def unknown_models(self, profiles: Iterable[Profile]) -> list[Profile]:
        """Of image models that an API lists and we do not know."""
        from batchgen.profiles.catalogue import unknown_profile
        from batchgen.providers.listings import unknown_models

        known = list(profiles)
        return [
            unknown_profile(name, provider)
            for provider, models in self.listed.items()
            for name in unknown_models(models, known)
        ]


def query_live_models(invocation: Invocation) -> LiveModels:
    """Raises SettingsError without any key, and when no API that was asked gave its list."""
    import asyncio
    from pathlib import Path

    from batchgen.cli.vendor_client import vendor_accesses
    from batchgen.settings import Settings

    settings = Settings.load(Path.cwd())
    invocation.hide_keys(settings, provider_names())
    if not (asked := vendor_accesses(settings)):
        raise SettingsError("no API key, so no API was asked: set " + key_variables())
    found = asyncio.run(query_vendors(asked))
    if not found.listed:
        raise SettingsError("; ".join(found.failures))
    for failure in found.failures:
        invocation.err.line(failure, "red")
    return found


async def query_vendors(asked: Iterable[VendorAccess]) -> LiveModels:
    from batchgen.cli.vendor_client import VendorClient

    listed, withdrawn, failures = {}, {}, []
    async with VendorClient() as vendors:
        for account in asked:
            try:
                listed[account.provider] = await vendors.models(account)
                withdrawn[account.provider] = await vendors.deprecations(account)
            except SettingsError as error:
                failures.append(f"{account.provider}: {error}")
            except ProviderError as error:
                failures.append(f"{account.provider}: {account.url} answers {error.http_status}: {error.message}")
    return LiveModels(listed, tuple(failures), withdrawn)


def is_retired(profile: Profile) -> bool:
    """Gone by its status, or by its date."""
    import time

    return profile.status == "retired" or (profile.shutdown or "9999") <= time.strftime("%Y-%m-%d", time.gmtime())


def status(profile: Profile) -> str:
    words: str = "retired" if is_retired(profile) else profile.status
    if profile.shutdown:
        words += f" {profile.shutdown}"
    return f"{words}, use {profile.replacement}" if profile.replacement else words


def prices(profile: Profile) -> str:
    """`1K 0.039  2K 0.134  4K ?`."""
    table = profile.prices.image_usd
    sizes = dict.fromkeys((*profile.sizes, *table)) or {profile.default_size: None}
    return "  ".join(f"{size} {table[size]:g}" if size in table else f"{size} ?" for size in sizes)


def model_json(profile: Profile) -> dict[str, Any]:
    return {
        "id": profile.id,
        "provider": profile.provider,
        "title": profile.title,
        "aliases": list(profile.aliases),
        "status": "retired" if is_retired(profile) else profile.status,
        "shutdown": profile.shutdown,
        "replacement": profile.replacement,
        "rpm": profile.rpm,
        "rpd": profile.rpd,
        "sizes": list(profile.sizes),
        "ratios": list(profile.ratios),
        "usd_per_image": dict(profile.prices.image_usd),
        "usd_per_1000_searches": profile.prices.search_usd_per_1000,
        "tier_factor": dict(profile.prices.tier_factor),
        "guessed_tiers": sorted(profile.prices.guessed_tiers),
        "references_max": profile.references_max,
        "images_per_request": profile.images_per_request,
        "note": profile.note,
        "sources": list(profile.sources),
    }
