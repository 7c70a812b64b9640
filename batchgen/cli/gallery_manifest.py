"""What galleries and dashboards show of a job that is in its manifest but not in a ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import batchgen
from batchgen.cli.invocation import Invocation
from batchgen.errors import BatchgenError
from batchgen.ledger.location import server_address
from batchgen.manifest.post_section import post_fields
from batchgen.manifest.review_section import review_fields
from batchgen.records import Item, Post
from batchgen.report.gallery_data import ManifestInfo, is_elsewhere
from batchgen.report.gallery_pages import GalleryIndex, ItemFacts, with_items
from batchgen.settings import state_folder


def manifest_info(manifest: str, invocation: Invocation, index: GalleryIndex | None = None) -> ManifestInfo:
    """The manifest's quotas, limits and order; if it is gone or broken, the quotas that batchgen knows. index: receives its
    items; without one they are in the answer."""
    try:
        info, items = _open_manifest(manifest, invocation)
        if index is None:
            return with_items(info, items)
        index.add_items(items)
    except (BatchgenError, OSError, ValueError):
        return ManifestInfo()
    return info


def _open_manifest(manifest: str, invocation: Invocation) -> tuple[ManifestInfo, Iterator[ItemFacts]]:
    """What the manifest says about all items, and about each. Raises BatchgenError, OSError, ValueError, also while the
    items are read."""
    loaded = batchgen.load(manifest, emulate=True)  # accepts models that have been retired since
    invocation.hide_keys(loaded.settings, loaded.manifest.catalogue.providers)
    found = loaded.manifest
    found.references.remote_references = None  # a page about a job has nothing to ask of a bucket
    spans = {
        "run": found.limits.budget_usd,
        "day": found.limits.budget_usd_per_day,
        "month": found.limits.budget_usd_per_month,
    }
    info = ManifestInfo(
        catalogue=found.catalogue,
        concurrency=found.limits.concurrency,
        folder=found.folder,
        post=post_fields(found.post),
        budgets={span: usd for span, usd in spans.items() if usd is not None},
        state=server_address(loaded.folder, None) or state_folder(loaded.settings),
    )
    return info, (item_facts(item, found.references.folder, found.post) for item in found.items())


def item_facts(item: Item, folder: str, post: Post | None) -> ItemFacts:
    """The facts of an item. folder, post: see `unfingerprinted_fields`."""
    more = unfingerprinted_fields(item, folder, post)
    if not item.turn:
        return ItemFacts(item.id, more)
    return ItemFacts(item.id, more, item.id.removesuffix(f"-t{item.turn}"), [*item.history, item.prompt])


def unfingerprinted_fields(item: Item, folder: str, post: Post | None) -> dict[str, Any]:
    """The fields of an item that are in no fingerprint, as a manifest beside its own would write them; a mask is the
    last reference. folder: the manifest's; post: the manifest's default."""
    named = [
        name if is_elsewhere(name) else os.path.relpath(name, folder).replace(os.sep, "/") for name in item.references
    ]
    wanted = {
        "references": named,
        "service_tier": item.service_tier,
        "fallback": [lane.partition("/")[2] for lane in item.fallback],
        "fallback_on": sorted(item.fallback_on) if item.fallback else [],
    }
    own = {**({} if item.post == post else {"post": post_fields(item.post)}), **review_fields(item)}
    return {**{name: value for name, value in wanted.items() if value}, **own}
