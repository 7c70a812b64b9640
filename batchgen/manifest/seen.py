"""Which texts came before among millions, in eight bytes each: by hash, so that hardly ever two are taken for one."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict

_RECENT_MAX = 65_536


class DuplicateFinder:
    """Finds at the end what came twice."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # of a small manifest, few

    def add(self, text: str) -> None:
        value = hash(text)
        self._buckets[value & 0xFF].append(value)

    def repeated_hashes(self) -> frozenset[int]:
        """Hashes that came more than once: of the same string, or (hardly ever) of two."""
        twice: set[int] = set()
        for bucket in self._buckets.values():
            once: set[int] = set()
            if len(set(bucket)) != len(bucket):
                twice.update(value for value in bucket if value in once or once.add(value))  # type: ignore[func-returns-value]
        return frozenset(twice)


class SeenTexts:
    """Knows at once whether a text came before. The recent ones are a set, all others a sorted array."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older = array("q")

    def __contains__(self, text: str) -> bool:
        value = hash(text)
        if value in self._recent:
            return True
        at = bisect_left(self._older, value)
        return at < len(self._older) and self._older[at] == value

    def add(self, text: str) -> None:
        self._recent.add(hash(text))
        if len(self._recent) > _RECENT_MAX:
            self._older = array("q", sorted((*self._older, *self._recent)))
            self._recent.clear()
