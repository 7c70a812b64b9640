"""Takes an http(s) address apart, or says in words what is wrong with it: urllib finds a bad port only when asked for it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def split_url(url: str) -> SplitResult:
    """Its `hostname` is not None, and its `port` can be asked for.

    Raises ValueError in words that follow "the address" and do not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets, or characters that mean others in a host
        raise ValueError("has a malformed host") from None
    if not parts.hostname:
        raise ValueError("names no host")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has a port that is not a number from 1 to 65535")
    behind = parts.netloc.partition("]")[2]
    if not _is_host(parts.hostname) or (behind and not behind.startswith(":")):
        raise ValueError("has a malformed host")
    return parts


def _is_host(host: str) -> bool:
    """Whether a name server can be asked for it, or an address literal. RFC 1123, 2.1; underscores occur."""
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
    try:
        name = host.encode("idna").decode().removesuffix(".")
    except UnicodeError:
        return False
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))
