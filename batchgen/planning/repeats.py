"""Requests that several items of a manifest ask for alike: the same prompt, model, settings and references under two ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from batchgen.item import Item
from batchgen.manifest.seen import DuplicateFinder
from batchgen.planning.fingerprint import wire_facts

SHOWN_MAX = 3


def repeats_note(read: Callable[[], Iterable[Item]]) -> str | None:
    """What a person should know; None when no two items ask for the same. read: all items, once or twice.

    Turns of a conversation belong together and are not looked at.
    """
    found = DuplicateFinder()
    for item in read():
        if not item.turn:
            found.add(wire_facts(item, item.references))
    repeated = found.repeated_hashes()
    if not repeated:
        return None
    ids: dict[str, list[str]] = {}
    for item in read():
        if not item.turn and hash(wire := wire_facts(item, item.references)) in repeated:
            ids.setdefault(wire, []).append(item.id)
    groups = [group for group in ids.values() if len(group) > 1]
    if not groups:
        return None
    extra = sum(len(group) - 1 for group in groups)
    shown = "; ".join(
        " = ".join(group[:SHOWN_MAX]) + (" = …" if len(group) > SHOWN_MAX else "") for group in groups[:SHOWN_MAX]
    )
    more = f"; and {len(groups) - SHOWN_MAX:,} more" if len(groups) > SHOWN_MAX else ""
    asking = "items ask" if extra > 1 else "item asks"
    return (
        f"{extra:,} {asking} for the same as another, with the same prompt and settings: {shown}{more};"
        " `count` makes several images of one item"
    )
