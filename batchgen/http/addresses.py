"""Decides where a request may go: never to another server than the configured one, and never by a link in an answer to
this machine or a private network."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from batchgen.endpoint import split_url
from batchgen.errors import BadRequest, DownloadFailed, UploadAddressRefused
from batchgen.http.answer import short_text
from batchgen.records import Request
from batchgen.settings import is_loopback

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def request_url(base_url: str, request: Request) -> URL:
    """Where a request goes: to the configured server, or to one that its codec has declared.

    Raises BadRequest otherwise: a path comes from a model's facts, which a manifest may change, an address from an
    answer, and both from a codec that may be a third party's. Whoever chooses the server gets the key.
    """
    if not request.url:
        return _joined(base_url, request.path)
    try:
        split_url(request.url)
        address = URL(request.url, encoded=True)
        origin, plain = address.origin(), _is_plain(request.url) and "@" not in address.raw_authority
    except ValueError:
        raise BadRequest("the API gave an address that is malformed, which is not asked") from None
    if plain and origin == URL(base_url).origin():
        return address
    endpoint = request.endpoint
    declared = endpoint is not None and origin.scheme == "https" and origin.is_default_port()
    if not plain or endpoint is None or not declared or not endpoint.has_host((origin.raw_host or "").lower()):
        raise BadRequest(
            f"{str(origin)[:200]} is neither {URL(base_url).origin()} nor known as its vendor's: it is not asked"
        )
    return address if endpoint.is_vendor_url(base_url) else _joined(base_url, address.raw_path_qs)


def _joined(base_url: str, path: str) -> URL:
    base = URL(base_url)
    plain = path.startswith("/") and _is_plain(path)
    address = base.join(URL(base.raw_path.rstrip("/") + path, encoded=True)) if plain else None
    if address is None or address.origin() != base.origin():
        raise BadRequest(f"{path[:200]!r} is not a path at {base.origin()}: see `wire:` of the model")
    return address


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(" \\#")


def checked_upload_url(base_url: str, upload_url: str) -> URL:
    """An address from the server for uploading the user's files. Raises UploadAddressRefused unless it is on the same
    server."""
    try:
        address = URL(upload_url, encoded=True)
        own = address.origin() == URL(base_url).origin() and address.user is None and upload_url.isprintable()
    except ValueError:
        own = False
    if not own:
        raise UploadAddressRefused("the address given for an upload is not on the API's own server")
    return address


def check_link(link: str, api_url: str = "") -> URL:
    """Check a link, and return it as it was understood here, which is how it has to be requested.

    Raises DownloadFailed(link_refused) unless it is https to a public host, or on this machine and to the host and port
    of `api_url`.
    """
    try:
        split_url(link)
    except ValueError as error:
        raise DownloadFailed(f"the image's link {error}", reason="link_refused") from None
    try:
        url = URL(link)
        host = url.raw_host or ""
        its_own = api_url != "" and is_loopback(host) and url.origin() == URL(api_url).origin()
    except ValueError:
        raise DownloadFailed("the image's link is not an address", reason="link_refused") from None
    if url.user is not None or url.password is not None:
        raise DownloadFailed("the image's link carries a user name", reason="link_refused")
    if its_own:
        return url
    if url.scheme != "https" or not host:
        raise DownloadFailed("the image's link is not https", reason="link_refused")
    if is_loopback(host) or not _may_be_public(host):
        raise DownloadFailed("the image's link points into a private network", reason="link_refused")
    return url


def _may_be_public(host: str) -> bool:
    """Whether an address literal is public; a name is checked once it is resolved."""
    try:
        return is_public(host)
    except ValueError:
        return True


def redirect_target(link: str, location: str) -> str:
    try:
        return urljoin(link, location)
    except ValueError:
        raise DownloadFailed("the image's link redirects to a malformed address", reason="link_refused") from None


def is_public(address: str) -> bool:
    """Whether an address is public. An IPv6 address that stands for an IPv4 one is judged as that, because it leads
    there."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed.sixtofour is not None:  # RFC 3056
            parsed = parsed.sixtofour
    return parsed.is_global and not parsed.is_multicast


class PublicResolver(aiohttp.ThreadedResolver):
    """Resolves to public addresses only, so that the address that was checked is the one connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        public = [entry for entry in found if is_public(entry["host"])]
        if not public:
            raise DownloadFailed(f"{host} is not a public address", reason="link_refused")
        return public


async def public_addresses(host: str, port: int) -> list[str]:
    """The public addresses of a host, IPv4 first because every proxy supports it. host: not a private address literal.
    Raises DownloadFailed."""
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
