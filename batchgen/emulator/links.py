"""Pictures kept for download, as a content host does: named, bounded in memory, some of them late or missing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

_KEPT_BYTES = 256 * 1024 * 1024


@dataclass(slots=True)
class Link:
    """failures_left: how often it still answers 404."""

    data: bytes
    mime: str
    failures_left: int = 0
    slow: bool = False


class Links:
    """The newest pictures, up to a fixed number of bytes. Filled from worker threads."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, Link] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def keep(self, name: str, link: Link) -> None:
        with self._lock:
            self._links[name] = link
            self._bytes += len(link.data)
            while self._bytes > _KEPT_BYTES and len(self._links) > 1:
                _, oldest = self._links.popitem(last=False)
                self._bytes -= len(oldest.data)

    def take(self, name: str) -> Link | None:
        """The picture, or None for 404; counts down the failures asked for."""
        link = self._links.get(name)
        if link is None:
            return None
        if link.failures_left > 0:
            link.failures_left -= 1
            return None
        return link

    def clear(self) -> None:
        with self._lock:
            self._links.clear()
            self._bytes = 0
