"""What stays on this machine: which hosts those are, and how a picture is fetched from one."""

from __future__ import annotations

import urllib.error
import urllib.request
from ipaddress import ip_address
from typing import Any

_MOST_BYTES = 20 * 1024 * 1024


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
            data: bytes = response.read(_MOST_BYTES + 1)
    except (OSError, ValueError, urllib.error.HTTPError):
        return None
    return data if len(data) <= _MOST_BYTES else None
