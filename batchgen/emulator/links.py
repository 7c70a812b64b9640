"""Pictures behind links: those kept for download, and those of this machine that a request refers to."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Lock
from typing import Any

_KEPT_BYTES = 256 * 1024 * 1024
_MOST_FETCHED_BYTES = 20 * 1024 * 1024


@dataclass(slots=True)
class Link:
    """failures_left: how often it still answers 404."""

    data: bytes
    mime: str
    failures_left: int = 0
    slow: bool = False


class Links:
    """The newest pictures by name, up to a fixed number of bytes. Filled from worker threads."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, Link] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def add(self, name: str, link: Link) -> None:
        with self._lock:
            self._links[name] = link
            self._bytes += len(link.data)
            while self._bytes > _KEPT_BYTES and len(self._links) > 1:
                _, oldest = self._links.popitem(last=False)
                self._bytes -= len(oldest.data)

    def take(self, name: str) -> Link | None:
        """The picture, or None for 404; counts down the failures asked for."""
        link = self._links.get(name)
        if link is not None and link.failures_left > 0:
            link.failures_left -= 1
            return None
        return link

    def clear(self) -> None:
        with self._lock:
            self._links.clear()
            self._bytes = 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead anywhere: it is an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fetch(url: str) -> bytes | None:
    """The bytes behind a link whose host is loopback; None if they cannot be had. Blocks: for worker threads."""
    try:
        with _OPENER.open(url, timeout=10) as response:
            data: bytes = response.read(_MOST_FETCHED_BYTES + 1)
    except (OSError, ValueError, urllib.error.HTTPError):
        return None
    return data if len(data) <= _MOST_FETCHED_BYTES else None
