"""The contents of a bucket, requested in as few requests as possible: what is asked for individually too often is
listed instead."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import takewhile
from math import inf

from batchgen.store.blobs import BlobInfo, BucketUnavailable
from batchgen.store.objects import PAGE, ObjectStorage

LIST_AFTER_QUESTIONS = 8  # in one folder before it is listed, in at most as many requests; then four times as many
MAX_LISTED = 100_000  # objects: after a hundred requests, listing does not help any more
MAX_CACHED = 200_000  # objects of all listings in memory
_MAX_COUNTED_FOLDERS = 65_536


class TooManyObjectsError(Exception):
    """More objects than can be listed."""


class SortedObjects:
    """Objects of a bucket in order of name."""

    def __init__(self, found: list[BlobInfo]) -> None:
        self._found = sorted(found, key=lambda each: each.path)
        self._paths = [each.path for each in self._found]

    def __len__(self) -> int:
        return len(self._found)

    def with_prefix(self, prefix: str) -> Iterator[BlobInfo]:
        """The objects whose names begin with this."""
        start = bisect_left(self._paths, prefix)
        return takewhile(lambda each: each.path.startswith(prefix), (self._found[k] for k in range(start, len(self))))


class Listings:
    """The listings of one bucket. Not thread-safe."""

    def __init__(self, objects: ObjectStorage) -> None:
        self._objects = objects
        self._cached: OrderedDict[str, SortedObjects] = OrderedDict()  # by the common beginning of their names
        self._question_counts: Counter[str] = Counter()  # single questions, by folder
        self._thresholds: dict[str, float] = {}  # by folder that cannot be listed yet: questions before the next try
        self._too_many: set[str] = set()
        ordered = objects.url.startswith(("s3://", "gs://")) and not objects.url.endswith("--x-s3")
        self._ordered = ordered  # whether it lists by name: Azure need not, nor does S3 Express

    def list_prefix(self, prefix: str) -> Iterator[BlobInfo]:
        """All objects whose names begin with this, in order. Raises BucketUnavailable, TooManyObjectsError."""
        listing = self.covering(prefix)
        return (listing if listing is not None else self._list(prefix, MAX_LISTED)).with_prefix(prefix)

    def covering(self, name: str) -> SortedObjects | None:
        """A listing that includes all names with this beginning, if there is one; None: it has to be requested by
        itself."""
        folders = list(_folders(name))
        for prefix in (name, *folders):
            if (known := self._cached.get(prefix)) is not None:
                self._cached.move_to_end(prefix)
                return known
        if len(self._question_counts) > _MAX_COUNTED_FOLDERS:
            self._question_counts.clear()
        self._question_counts.update(folders)
        for folder in folders:
            asked = self._question_counts[folder]
            if asked <= self._thresholds.get(folder, LIST_AFTER_QUESTIONS):
                continue
            try:
                return self._list(folder, min(asked * PAGE, MAX_LISTED))
            except TooManyObjectsError:
                self._postpone(folder, 4 * asked if asked * PAGE < MAX_LISTED else inf)
            except BucketUnavailable:
                self._postpone(folder, inf)  # reading may be allowed where listing is not
        return None

    def _postpone(self, folder: str, questions: float) -> None:
        """Require more questions before this folder, or one that it is in, is listed."""
        for each in (folder, *_folders(folder[:-1])):
            self._thresholds[each] = max(questions, self._thresholds.get(each, 0))

    def _list(self, prefix: str, max_count: int) -> SortedObjects:
        if prefix in self._too_many:
            raise TooManyObjectsError
        try:
            listing = self._cached[prefix] = SortedObjects(list(self._below(prefix, max_count)))
        except TooManyObjectsError:
            if max_count == MAX_LISTED:
                self._too_many.add(prefix)
            raise
        while sum(map(len, self._cached.values())) > MAX_CACHED and len(self._cached) > 1:
            self._cached.popitem(last=False)
        return listing

    def _below(self, prefix: str, max_count: int) -> Iterator[BlobInfo]:
        """The objects below a prefix. Storage only knows folders; for part of a name we can say where to begin, and
        stop after it.

        max_count: objects to receive, wanted or not.
        """
        folder = prefix.rpartition("/")[0]
        after = _name_before(prefix) if self._ordered and len(prefix) > len(folder) + 1 else ""
        for count, found in enumerate(self._objects.list(folder, after), 1):
            if count > max_count:
                raise TooManyObjectsError
            if found.path.startswith(prefix):
                yield found
            elif self._ordered and found.path > prefix:
                break


def _folders(name: str) -> Iterator[str]:
    """The folders that a name is in, the nearest first, the bucket itself ('') last."""
    while name:
        head, slash, _ = name.rpartition("/")
        yield head + slash
        name = head


def _name_before(prefix: str) -> str:
    """A name that comes shortly before all names with this beginning, and after its folder."""
    last = prefix[-1]
    if last.isascii() and last.isalnum() and chr(ord(last) - 1).isalnum():
        return prefix[:-1] + chr(ord(last) - 1) + "~"
    shorter = prefix[:-1].rstrip("/")
    return "" if shorter.rpartition("/")[2] in (".", "..") else shorter
