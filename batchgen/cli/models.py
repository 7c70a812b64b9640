"""`batchgen models`: what is known of each AI model, and with `--live` whether its vendor lists it now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import chain, json_option, pass_invocation
from batchgen.errors import ProviderError, SettingsError

if TYPE_CHECKING:
    from batchgen.cli.vendor_lists import Account
    from batchgen.profiles.profile import Profile
    from batchgen.providers.listings import Deprecation, Listed


NOT_ALL = 5


@click.command("models")
@chain(
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
        found = ask(invocation)
        profiles += found.strangers(profiles)
    shown = [
        profile
        for profile in profiles
        if show_all or not retired(profile) or (found is not None and found.word(profile) == "live")
    ]
    if as_json:
        invocation.out.json([as_object(profile) | (found.facts(profile) if found else {}) for profile in shown])
    else:
        table(invocation, shown, found)
    return NOT_ALL if found is not None and found.failures else 0


def table(invocation: Invocation, profiles: list[Profile], found: Found | None) -> None:
    head = ("id", "aliases", "status", "rpm", "USD per image by size", "refs", *(["now"] if found else []))
    rows = [
        (profile.id, " ".join(profile.aliases) or "-", status(profile), str(profile.rpm or "?"), prices(profile),
         "?" if profile.references_max is None else str(profile.references_max),
         *([found.words(profile)] if found else []))
        for profile in profiles
    ]  # fmt: skip
    invocation.out.table(head, rows, right=(3, 5), flexible=2)
    if guessed := ", ".join(profile.id for profile in profiles if profile.prices.guessed_tiers):
        invocation.out.line(f"Prices of the flex and priority tiers are guesses for {guessed}.", "dim")


@dataclass(frozen=True, slots=True)
class Found:
    """listed: by provider, each that was asked and answered; withdrawn: likewise. failures: why one that was asked did not."""

    listed: Mapping[str, Sequence[Listed]]
    failures: tuple[str, ...]
    withdrawn: Mapping[str, Sequence[Deprecation]]

    def word(self, profile: Profile) -> str:
        """`live`, `absent`, `unlisted by us`, `not asked`, or what the vendor's feed of deprecations calls it."""
        if self._list(profile) is None:
            return "not asked"
        if (deprecation := self._deprecation(profile)) is not None:
            return deprecation.status
        if profile.status == "unknown":
            return "unlisted by us"
        return "live" if self._entry(profile) else "absent"

    def words(self, profile: Profile) -> str:
        """The same for people."""
        deprecation = self._deprecation(profile)
        return self.word(profile) if deprecation is None else deprecation.words

    def facts(self, profile: Profile) -> dict[str, Any]:
        """The same as an object, with what the API says of the model."""
        entry = self._entry(profile)
        return {
            "live": self.word(profile),
            "deprecation": self._deprecation_facts(profile),
            "input_tokens": entry.input_tokens if entry else None,
            "methods": list(entry.methods) if entry else [],
        }

    def _deprecation(self, profile: Profile) -> Deprecation | None:
        from batchgen.providers.listings import deprecation_of

        return deprecation_of(profile, self.withdrawn.get(profile.provider, ()))

    def _deprecation_facts(self, profile: Profile) -> dict[str, Any] | None:
        found = self._deprecation(profile)
        names = ("status", "shutdown_at", "replaced_by")
        return None if found is None else {name: getattr(found, name) or None for name in names}

    def _list(self, profile: Profile) -> Sequence[Listed] | None:
        return self.listed.get("gemini" if profile.provider == "imagen" else profile.provider)

    def _entry(self, profile: Profile) -> Listed | None:
        from batchgen.providers.listings import name_on_wire

        name = name_on_wire(profile)
        return next((model for model in self._list(profile) or () if model.id == name), None)

    def strangers(self, profiles: Iterable[Profile]) -> list[Profile]:
        """Of image models that an API lists and we do not know."""
        from batchgen.profiles.catalogue import stranger
        from batchgen.providers.listings import strangers

        known = list(profiles)
        return [
            stranger(name, provider) for provider, models in self.listed.items() for name in strangers(models, known)
        ]


def ask(invocation: Invocation) -> Found:
    """Raises SettingsError without any key, and when no API that was asked gave its list."""
    import asyncio
    from pathlib import Path

    from batchgen.cli.vendor_lists import accounts
    from batchgen.settings import Settings

    settings = Settings.load(Path.cwd())
    invocation.keep_secret(settings)
    if not (asked := accounts(settings)):
        raise SettingsError("no API key, so no API was asked: set GEMINI_API_KEY or AIMLAPI_API_KEY")
    found = asyncio.run(ask_all(asked))
    if not found.listed:
        raise SettingsError("; ".join(found.failures))
    for failure in found.failures:
        invocation.err.line(failure, "red")
    return found


async def ask_all(asked: Iterable[Account]) -> Found:
    from batchgen.cli.vendor_lists import Lists

    listed, withdrawn, failures = {}, {}, []
    async with Lists() as lists:
        for account in asked:
            try:
                listed[account.provider] = await lists.models(account)
                withdrawn[account.provider] = await lists.deprecations(account)
            except SettingsError as error:
                failures.append(f"{account.provider}: {error}")
            except ProviderError as error:
                failures.append(f"{account.provider}: {account.url} answers {error.http_status}: {error.message}")
    return Found(listed, tuple(failures), withdrawn)


def retired(profile: Profile) -> bool:
    """Gone by its status, or by its date."""
    import time

    return profile.status == "retired" or (profile.shutdown or "9999") <= time.strftime("%Y-%m-%d", time.gmtime())


def status(profile: Profile) -> str:
    words: str = "retired" if retired(profile) else profile.status
    if profile.shutdown:
        words += f" {profile.shutdown}"
    return f"{words}, use {profile.replacement}" if profile.replacement else words


def prices(profile: Profile) -> str:
    """`1K 0.039  2K 0.134  4K ?`."""
    table = profile.prices.image_usd
    sizes = dict.fromkeys((*profile.sizes, *table)) or {profile.default_size: None}
    return "  ".join(f"{size} {table[size]:g}" if size in table else f"{size} ?" for size in sizes)


def as_object(profile: Profile) -> dict[str, Any]:
    return {
        "id": profile.id,
        "provider": profile.provider,
        "title": profile.title,
        "aliases": list(profile.aliases),
        "status": "retired" if retired(profile) else profile.status,
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
