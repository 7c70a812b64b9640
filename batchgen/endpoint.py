"""An API's address and the environment variables that configure it, and parsing of http(s) addresses. Unlike urllib, which
only notices a bad port once it is read, the parser says at once what is wrong with an address."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An API and the account that a key opens there. Providers that use the same account share their endpoint.

    base_url: the vendor's own, None if only the environment has one. key_names, base_url_names: variables, the one that takes
    precedence first. A base URL's variable ends in _BASE_URL, which is how one in a folder's `.env` is recognised.
    credential_names: environment variables with the path of a file that authorizes requests without a key.
    hosts: further hosts of the vendor that its key may be sent to over https, as a name, or as `*.name` for all below it.
    """

    name: str
    key_names: tuple[str, ...]
    base_url_names: tuple[str, ...]
    base_url: str | None = None
    credential_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str, base_url: str | None = None) -> Endpoint:
        """An endpoint with the usual variables: NAME_API_KEY and BATCHGEN_NAME_BASE_URL."""
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
        """Whether requests go to the vendor itself. An emulator or gateway may still serve what the vendor has retired."""
        if not base_url or self.base_url is None:
            return self.base_url is not None
        host = urlsplit(base_url).hostname or ""
        return host == urlsplit(self.base_url).hostname or self.has_host(host)

    def has_host(self, host: str) -> bool:
        """Whether `host` is one of `hosts`. host: in lower case, without a port."""
        return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self.hosts)


def split_url(url: str) -> SplitResult:
    """The parts of an address, with a `hostname` that is not None and a `port` that can be read safely.

    Raises ValueError with a message that follows "the address" and does not repeat it: it may contain a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets, or characters that change their meaning in a host name
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
    """Whether it is a name that a name server can look up, or an IP address. RFC 1123, 2.1; underscores do occur."""
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
