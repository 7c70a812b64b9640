"""Which addresses are public, and a resolver that finds no others: links of strangers lead nowhere else."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import aiohttp
from aiohttp.abc import ResolveResult

from batchgen.errors import DownloadFailed
from batchgen.http.network_errors import short_text

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the address of version 4 is in the last 32 bits


def is_public(address: str) -> bool:
    """One of version 6 that stands for one of version 4 is judged as that: it leads there."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed.sixtofour is not None:  # RFC 3056
            parsed = parsed.sixtofour
    return parsed.is_global and not parsed.is_multicast


class PublicResolver(aiohttp.ThreadedResolver):
    """Resolves to public addresses only, so that the address that was checked is the one that is connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        public = [entry for entry in found if is_public(entry["host"])]
        if not public:
            raise DownloadFailed(f"{host} is not a public address", reason="link_refused")
        return public


async def public_addresses(host: str, port: int) -> list[str]:
    """Those of version 4 first, which every proxy knows. host: no private address literal. Raises DownloadFailed."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    try:
        found = await PublicResolver().resolve(host, port, socket.AF_UNSPEC)
    except OSError as error:
        raise DownloadFailed(
            f"{host} cannot be resolved on this machine ({short_text(error)}): where a link leads is checked here, also when"
            " a proxy is used"
        ) from None
    return sorted((entry["host"] for entry in found), key=lambda address: ":" in address)
