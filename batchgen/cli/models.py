"""`batchgen models`: what is known of each AI model, and with `--live` whether its vendor lists it now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from batchgen.cli.invocation import Invocation
from batchgen.money import usd
from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.profile import Profile

if TYPE_CHECKING:
    from batchgen.cli.vendor_client import LiveModels

EXIT_INCOMPLETE = 5


def models_command(invocation: Invocation, show_all: bool, live: bool, as_json: bool) -> int:
    catalogue = load_catalogue().with_packages()
    profiles, judges, found = list(catalogue), list(catalogue.judges), None
    if live:
        from batchgen.cli.vendor_client import query_live_models  # the codecs bring pydantic, 0.2 s

        found = query_live_models(invocation)
        profiles += found.unknown_models(profiles)

    def is_shown(profile: Profile) -> bool:
        return show_all or not is_retired(profile) or (found is not None and found.live_status(profile) == "live")

    profiles, judges = list(filter(is_shown, profiles)), list(filter(is_shown, judges))
    if as_json:
        known = [*profiles, *(judge for judge in judges if not judge.may_make_images)]
        invocation.out.json([model_json(profile) | (found.as_dict(profile) if found else {}) for profile in known])
    else:
        table(invocation, profiles, found)
        if judges:
            invocation.out.line()
            judge_table(invocation, judges, found)
    for problem in catalogue.problems:
        invocation.err.line(problem, "red")
    return EXIT_INCOMPLETE if catalogue.problems or (found is not None and found.failures) else 0


def table(invocation: Invocation, profiles: list[Profile], found: LiveModels | None) -> None:
    head = ("id", "aliases", "status", "rpm", "price per image by size", "refs", *(["now"] if found else []))
    rows = [(*_columns(profile), *([found.live_status_text(profile)] if found else [])) for profile in profiles]
    invocation.out.table(head, rows, right=(3, 5), flexible=None)
    if guessed := ", ".join(profile.id for profile in profiles if profile.prices.guessed_tiers):
        invocation.out.line(f"Prices of the flex and priority tiers are guesses for {guessed}.", "dim")


def judge_table(invocation: Invocation, profiles: list[Profile], found: LiveModels | None) -> None:
    """Models that look at images and answer with text; most of them make none."""
    head = ("for `judge: model`", "aliases", "status", "rpm", "price per million tokens", *(["now"] if found else []))
    rows = [
        (*_columns(profile)[:4], token_prices(profile), *([found.live_status_text(profile)] if found else []))
        for profile in profiles
    ]
    invocation.out.table(head, rows, right=(3,), flexible=None)


def token_prices(profile: Profile) -> str:
    """The prices of tokens: `in $0.25 out $1.50`."""
    rates = {"in": profile.prices.input_usd_per_mtok, "out": profile.prices.text_usd_per_mtok}
    return "  ".join(f"{way} {'?' if rate is None else usd(rate, exact=True)}" for way, rate in rates.items())


def _columns(profile: Profile) -> tuple[str, ...]:
    references = "?" if profile.references_max is None else str(profile.references_max)
    names = " ".join(profile.aliases) or "-"
    return profile.id, names, status(profile), str(profile.rpm or "?"), prices(profile), references


def is_retired(profile: Profile) -> bool:
    """Whether a model is retired, by its status or by its date."""
    return profile.status == "retired" or (profile.shutdown or "9999") <= time.strftime("%Y-%m-%d", time.gmtime())


def status(profile: Profile) -> str:
    words: str = "retired" if is_retired(profile) else profile.status
    if profile.shutdown:
        words += f" {profile.shutdown}"
    return f"{words}, use {profile.replacement}" if profile.replacement else words


def prices(profile: Profile) -> str:
    """The prices of images: `1K $0.039 2K $0.134 4K ?`."""
    table = profile.prices.image_usd
    sizes = dict.fromkeys((*profile.sizes, *table)) or {profile.default_size: None}
    return "  ".join(f"{size} {usd(table[size], exact=True)}" if size in table else f"{size} ?" for size in sizes)


def model_json(profile: Profile) -> dict[str, Any]:
    return {
        "id": profile.id,
        "provider": profile.provider,
        "title": profile.title,
        "aliases": list(profile.aliases),
        "status": "retired" if is_retired(profile) else profile.status,
        "shutdown": profile.shutdown,
        "replacement": profile.replacement,
        "makes": list(profile.makes),
        "rpm": profile.rpm,
        "rpd": profile.rpd,
        "max_jobs": profile.max_jobs,
        "sizes": list(profile.sizes),
        "ratios": list(profile.ratios),
        "usd_per_image": dict(profile.prices.image_usd),
        "usd_per_mtok": {"input": profile.prices.input_usd_per_mtok, "text": profile.prices.text_usd_per_mtok},
        "usd_per_1000_searches": profile.prices.search_usd_per_1000,
        "tier_factor": dict(profile.prices.tier_factor),
        "guessed_tiers": sorted(profile.prices.guessed_tiers),
        "references_max": profile.references_max,
        "images_per_request": profile.images_per_request,
        "note": profile.note,
        "sources": list(profile.sources),
    }
