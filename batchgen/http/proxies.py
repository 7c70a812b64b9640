"""Finds the proxy that the environment sets for an address: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in lower
case too."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from batchgen.endpoint import split_url
from batchgen.errors import SettingsError
from batchgen.settings import is_loopback

LINK_LOCAL = re.compile(r"169\.254\.\d+\.\d+", re.ASCII)  # RFC 3927: not forwarded by routers
PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?")  # an entry of NO_PROXY; an IPv6 address with a port has brackets


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. url: without credentials, which are only in the header. source: the variable that sets it."""

    url: str
    source: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for an address, None if requests go there directly, as they always do to this machine and to link-local
    addresses. url: one that `split_url` accepts.

    environ: the process's own, never with what `.env` says: a manifest's folder may be a stranger's. Raises
    SettingsError, naming the variable, for a proxy that is malformed or neither http nor https.
    """
    parts = split_url(url)
    host = (parts.hostname or "").rstrip(".")
    if (
        is_loopback(host)
        or LINK_LOCAL.fullmatch(host)
        or _matches_no_proxy(host, parts.port or PORTS.get(parts.scheme, 0), environ)
    ):
        return None
    source = next((name for name in _variable_names(f"{parts.scheme}_proxy", "all_proxy") if environ.get(name)), None)
    return None if source is None else _proxy(environ[source], source)


def bypass_variable(url: str, environ: Mapping[str, str]) -> str:
    """The variable by which an address is reached directly that would otherwise have a proxy, else ''. Raises
    SettingsError."""
    without = {name: value for name, value in environ.items() if name.lower() != "no_proxy"}
    if proxy_for(url, environ) is not None or proxy_for(url, without) is None:
        return ""
    return next(name for name in _variable_names("no_proxy") if environ.get(name))


def _variable_names(*names: str) -> list[str]:
    """The variables in curl's order: lower case takes precedence."""
    return [form for name in names for form in (name, name.upper())]


def _proxy(value: str, source: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise SettingsError(
            f"{source}: {scheme}:// proxies are not supported: name one of http:// or https://, or unset it"
        )
    try:
        parts = split_url(url)
        if not url.isprintable() or " " in url:
            raise ValueError("holds a space or a control character")
    except ValueError as error:
        raise SettingsError(f"{source}: the address {error}; write it as http://host:port") from None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"  # RFC 7617
    return Proxy(f"{scheme}://{host}:{parts.port or PORTS[scheme]}", source, headers)


def proxy_passwords(environ: Mapping[str, str]) -> set[str]:
    """The passwords of all proxies in the environment, as written there and decoded."""
    found = set()
    for name in _variable_names("https_proxy", "http_proxy", "all_proxy"):
        login = environ.get(name, "").rpartition("://")[2].rpartition("@")[0]
        password = login.partition(":")[2]
        found |= {password, unquote(password)}
    return found - {""}


def _matches_no_proxy(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY contains the host, a domain or network that it is in, or `*`; each with or without a port."""
    listed = next((environ[name] for name in _variable_names("no_proxy") if environ.get(name)), "")
    address = None
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
    for entry in listed.lower().replace(",", " ").split():
        if entry == "*":
            return True
        name, its_port = entry, None
        if entry.count(":") < 2 or entry.startswith("["):
            match = _ENTRY.fullmatch(entry)
            if match is None:
                continue
            name, its_port = match[1].strip("[]"), match[2]
        if its_port in (None, str(port)) and (_is_in_network(address, name) if address else _is_in_domain(host, name)):
            return True
    return False


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, name: str) -> bool:
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _is_in_domain(host: str, name: str) -> bool:
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
