"""Finds the reference images that an item names, each once, and reports what is wrong with the others. Also checks
which items others need, and that none needs itself indirectly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from batchgen.item import COUNT_MAX, Item
from batchgen.manifest import names
from batchgen.manifest.addresses import is_object_url
from batchgen.manifest.diagnostics import did_you_mean, safe_repr
from batchgen.records import previous_turn_id, reference_key
from batchgen.references.local import BadReferenceError, ReferencePicture, References, link_problem

SUGGESTED_NAMES_MAX = 1000


def find_references(
    references: References, wanted: Iterable[str]
) -> Iterator[tuple[int, list[ReferencePicture] | str]]:
    """For each name, by its number: its images, or why there are none."""
    for index, name in enumerate(wanted):
        try:
            yield index, _find(references, name)
        except BadReferenceError as bad:
            yield index, str(bad)


def _find(references: References, name: str) -> list[ReferencePicture]:
    if name.startswith("@"):
        return [_item_picture(name)]
    if "://" not in name[:12] or is_object_url(name):
        return references.find(name)
    if (problem := link_problem(name)) is not None:
        raise BadReferenceError(f"{safe_repr(name)}: {problem}")
    return [ReferencePicture(name, "image/png", 0)]  # nothing is known about it yet


def _item_picture(name: str) -> ReferencePicture:
    """The image of another item, about which nothing is known yet; whether that item exists is checked at the end."""
    item_id, mark, n = name[1:].partition("#")
    if why := names.id_problem(item_id):
        raise BadReferenceError(f"{safe_repr(item_id)} {why}; write @id, or @id#2 for its second sample")
    if mark and not (n.isascii() and n.isdigit() and 0 < int(n[:9]) <= COUNT_MAX):
        raise BadReferenceError(f"{safe_repr(name)}: what follows '#' is the number of a sample, from 1")
    return ReferencePicture("@" + reference_key(name), "image/png", 0)


class DependencyGraph:
    """What the items of one walk need of each other. Memory grows with the needed ids, not with the items that need
    them."""

    def __init__(self) -> None:
        self._first_use: dict[str, tuple[Any, str]] = {}  # by needed sample key: who named it first, and where
        self._ids: dict[str, None] = {}
        self._counts: dict[str, int] = {}
        self._edges: dict[str, frozenset[str]] = {}
        self._conversations: set[str] = set()  # ids that were named and have turns
        self._names: list[str] = []  # for suggestions

    def __bool__(self) -> bool:
        return bool(self._ids)

    def add(self, item: Item, raw: Any) -> None:
        """Add an item. raw: where it is, returned by `problems`."""
        for name in item.references:
            if name.startswith("@") and name[1:] not in self._first_use:
                self._first_use[name[1:]] = (raw, item.id)
        for item_id in dependency_ids(item):
            self._ids[item_id] = None

    def ids(self) -> frozenset[str]:
        return frozenset(self._ids)

    def check(self, items: Iterable[Item]) -> None:
        """Check in a second walk, which only keeps what is needed."""
        missing = {key.partition("#")[0] for key in self._first_use}
        for item in items:
            if item.id in self._ids:
                self._counts[item.id] = item.count
                self._edges[item.id] = frozenset(dependency_ids(item)) & self._ids.keys()
            if item.turn == 1 and item.id[:-3] in missing:
                self._conversations.add(item.id[:-3])
            if len(self._names) < SUGGESTED_NAMES_MAX:
                self._names.append(item.id)

    def problems(self) -> Iterator[tuple[Any, str]]:
        """Where something is wrong, and what: each unknown id, missing sample and circle once."""
        for key, (raw, needed_by) in self._first_use.items():
            item_id, _, n = key.partition("#")
            count = self._counts.get(item_id)
            if count is None and item_id in self._conversations:
                yield raw, f"{item_id!r} is a conversation: name one of its turns, such as @{item_id}-t1"
            elif count is None:
                suggestion = did_you_mean(item_id, [name for name in self._names if name != needed_by])
                yield raw, f"there is no item {item_id!r}{suggestion}"
            elif int(n or 1) > count:
                yield raw, f"{item_id!r} has {count} sample(s), so there is no @{key}"
        for cycle in _cycles(self._edges):
            raw = next(raw for key, (raw, _) in self._first_use.items() if key.partition("#")[0] in cycle)
            yield raw, f"a circle: {' needs '.join([*cycle, cycle[0]])}"


def dependency_ids(item: Item) -> set[str]:
    ids = {name[1:].partition("#")[0] for name in item.references if name.startswith("@")}
    if item.turn > 1:
        ids.add(previous_turn_id(item))
    return ids


def _cycles(edges: dict[str, frozenset[str]]) -> Iterator[list[str]]:
    """The circles. Repeatedly removes what needs nothing that is left; everything that then remains needs something
    that remains."""
    left = {name: set(needed) & edges.keys() for name, needed in edges.items()}
    users: dict[str, list[str]] = {}
    for name, needed in left.items():
        for other in needed:
            users.setdefault(other, []).append(name)
    free = [name for name, needed in left.items() if not needed]
    while free:
        done = free.pop()
        left.pop(done, None)
        for user in users.get(done, ()):
            if user in left:
                left[user].discard(done)
                if not left[user]:
                    free.append(user)
    seen: set[str] = set()
    for start in left:
        path: list[str] = []
        name = start
        while name not in seen:
            seen.add(name)
            path.append(name)
            name = min(left[name])
        if name in path:
            yield path[path.index(name) :]
