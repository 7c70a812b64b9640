"""Where an API is reached and which variables of the environment say so, as its codec declares and settings read it; and http(s)
addresses taken apart, or said in words what is wrong with one: urllib finds a bad port only when asked for it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from batchgen.dataclass import dataclass

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One API and the account that a key opens there; providers of the same account share their endpoint.

    base_url: the vendor's own, None when only the environment knows one. key_names and base_url_names: variables, the one
    that wins first. A base URL's variable ends in _BASE_URL, by which one in a folder's `.env` is recognised.
    credential_names: variables, of the environment alone, with the path of a file that lets requests in without a key.
    hosts: further ones of the vendor that its key may be sent to, over https: names, or `*.name` for all below one.
    """

    name: str
    key_names: tuple[str, ...]
    base_url_names: tuple[str, ...]
    base_url: str | None = None
    credential_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str, base_url: str | None = None) -> Endpoint:
        """With the usual variables: NAME_API_KEY and BATCHGEN_NAME_BASE_URL."""
        prefix = name.upper().replace("-", "_")
        return cls(
            name=name,
            key_names=(f"{prefix}_API_KEY",),
            base_url_names=(f"BATCHGEN_{prefix}_BASE_URL",),
            base_url=base_url,
        )

    def __post_init__(self) -> None:
        if wrong := [name for name in self.base_url_names if not name.endswith("_BASE_URL")]:
            raise ValueError(f"{self.name}: the variable {wrong[0]} of a base URL must end in _BASE_URL")

    def is_vendor_url(self, base_url: str | None) -> bool:
        """Whether requests reach the vendor itself; an emulator or gateway may still serve what the vendor retired."""
        if not base_url or self.base_url is None:
            return self.base_url is not None
        host = urlsplit(base_url).hostname or ""
        return host == urlsplit(self.base_url).hostname or self.has_host(host)

    def has_host(self, host: str) -> bool:
        """Whether it is one of `hosts`. host: in lower case, without a port."""
        return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self.hosts)


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
