"""Items that other items need: whether there are such, and that none needs itself by a detour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from batchgen.manifest.diagnostics import did_you_mean
from batchgen.records import Item, previous_turn_id

SUGGESTED_NAMES_MAX = 1000


class DependencyGraph:
    """What the items of one walk need of each other. Memory grows with the needed ids, not with those who need them."""

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
        """raw: where the item stands, given back by `wrong`."""
        for name in item.references:
            if name.startswith("@") and name[1:] not in self._first_use:
                self._first_use[name[1:]] = (raw, item.id)
        for item_id in dependency_ids(item):
            self._ids[item_id] = None

    def ids(self) -> frozenset[str]:
        return frozenset(self._ids)

    def check(self, items: Iterable[Item]) -> None:
        """A second walk, which keeps only what is needed."""
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
        """Where, and what is wrong there: each unknown id, missing sample and circle once."""
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
    """Take away what needs nothing that is left, again and again; whoever then remains needs somebody that remains."""
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
