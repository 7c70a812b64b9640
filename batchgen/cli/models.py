"""`batchgen models`: what is known of each AI model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.options import chain, json_option, pass_invocation

if TYPE_CHECKING:
    from batchgen.profiles.profile import Profile


@click.command("models")
@chain(click.option("--all", "show_all", is_flag=True, help="Retired ones too."), json_option())
@pass_invocation
def command(invocation: Invocation, show_all: bool, as_json: bool) -> None:
    """List the AI models with their limits and prices. An id that is not listed may be used all the same.

    Prices are USD for one image of that size, from the vendors' tables; `?` is unknown. The rpm is what batchgen keeps
    to unless the manifest's `models:` says otherwise.

    \b
    Examples:
      batchgen models
      batchgen models --all --json
    """
    from batchgen.profiles.catalogue import load_catalogue

    profiles = [profile for profile in load_catalogue() if show_all or not retired(profile)]
    if as_json:
        invocation.out.json([as_object(profile) for profile in profiles])
        return
    head = ("id", "aliases", "status", "rpm", "USD per image by size", "refs")
    rows = [
        (profile.id, " ".join(profile.aliases) or "-", status(profile), str(profile.rpm or "?"), prices(profile),
         "?" if profile.references_max is None else str(profile.references_max))
        for profile in profiles
    ]  # fmt: skip
    invocation.out.table(head, rows, right=(3, 5), flexible=2)


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
        "references_max": profile.references_max,
        "images_per_request": profile.images_per_request,
        "note": profile.note,
        "sources": list(profile.sources),
    }
