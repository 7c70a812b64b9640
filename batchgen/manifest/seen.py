"""Which texts came before among millions, in eight bytes each: by hash, so that hardly ever two are taken for one."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import defaultdict

_BUCKET_MASK = 0xFF


class DuplicateFinder:
    """Finds at the end what came twice."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # of a small manifest, few

    def add(self, text: str) -> None:
        value = hash(text)
        self._buckets[value & _BUCKET_MASK].append(value)

    def repeated_hashes(self) -> frozenset[int]:
        """Hashes that came more than once: of the same string, or (hardly ever) of two."""
        twice: set[int] = set()
        for bucket in self._buckets.values():
            once: set[int] = set()
            if len(set(bucket)) != len(bucket):
                twice.update(value for value in bucket if value in once or once.add(value))  # type: ignore[func-returns-value]
        return frozenset(twice)


class SeenTexts:
    """Knows at once whether a text came before."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # each sorted, and short

    def __contains__(self, text: str) -> bool:
        value = hash(text)
        bucket = self._buckets.get(value & _BUCKET_MASK, ())
        at = bisect_left(bucket, value)
        return at < len(bucket) and bucket[at] == value

    def add(self, text: str) -> None:
        value = hash(text)
        insort(self._buckets[value & _BUCKET_MASK], value)
