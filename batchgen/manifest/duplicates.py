"""Which of a million strings came twice, in eight bytes each: hashes first, the strings only for the few suspects."""

from __future__ import annotations

from array import array

_BUCKETS = 256


class DuplicateFinder:
    """Remembers hashes. Split into buckets so that looking for repeats needs memory for one bucket at a time."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]

    def add(self, text: str) -> None:
        value = hash(text)
        self._buckets[value & 255].append(value)

    def repeated_hashes(self) -> frozenset[int]:
        """Hashes that came more than once: of the same string, or (hardly ever) of two."""
        twice: set[int] = set()
        for bucket in self._buckets:
            once: set[int] = set()
            if len(set(bucket)) != len(bucket):
                twice.update(value for value in bucket if value in once or once.add(value))  # type: ignore[func-returns-value]
        return frozenset(twice)
