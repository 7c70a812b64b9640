"""Where a request may go: never away from the server that was named, and never by a link of an answer to this machine."""

from __future__ import annotations

from urllib.parse import urljoin

from yarl import URL

from batchgen.errors import (
    BadRequest,
    DownloadFailed,
    UploadAddressRefused,
)
from batchgen.http.public_addresses import is_public
from batchgen.settings import is_loopback
from batchgen.url import split_url


def request_url(base_url: str, path: str) -> URL:
    """Where a request goes: to `path` below the server that the settings name, whatever the path says.

    Raises BadRequest otherwise: a path comes from a model's facts, which a manifest may change, or from a third
    party's codec, and whoever chooses the server is sent the key.
    """
    base = URL(base_url)
    plain = path.startswith("/") and path.isascii() and path.isprintable() and not set(path) & set(" \\#")
    address = base.join(URL(base.raw_path.rstrip("/") + path, encoded=True)) if plain else None
    if address is None or address.origin() != base.origin():
        raise BadRequest(f"{path[:200]!r} is not a path at {base.origin()}: see `wire:` of the model")
    return address


def checked_upload_url(base_url: str, upload_url: str) -> URL:
    """An address that the server gave for the user's files to be sent to. Raises UploadAddressRefused unless it is its own."""
    try:
        address = URL(upload_url, encoded=True)
        own = address.origin() == URL(base_url).origin() and address.user is None and upload_url.isprintable()
    except ValueError:
        own = False
    if not own:
        raise UploadAddressRefused("the address given for an upload is not on the API's own server")
    return address


def check_link(link: str, api_url: str = "") -> URL:
    """The link as it was understood here, which is how it has to be asked for.

    Raises DownloadFailed(link_refused) unless it is https to a public host, or on this machine and to the host and port
    of `api_url`.
    """
    try:
        split_url(link)
    except ValueError as error:
        raise DownloadFailed(f"the picture's link {error}", reason="link_refused") from None
    try:
        url = URL(link)
        host = url.raw_host or ""
        its_own = api_url != "" and is_loopback(host) and url.origin() == URL(api_url).origin()
    except ValueError:
        raise DownloadFailed("the picture's link is not an address", reason="link_refused") from None
    if url.user is not None or url.password is not None:
        raise DownloadFailed("the picture's link carries a user name", reason="link_refused")
    if its_own:
        return url
    if url.scheme != "https" or not host:
        raise DownloadFailed("the picture's link is not https", reason="link_refused")
    if is_loopback(host) or not _may_be_public(host):
        raise DownloadFailed("the picture's link points into a private network", reason="link_refused")
    return url


def _may_be_public(host: str) -> bool:
    """Of an address; a name is looked at when it has been resolved."""
    try:
        return is_public(host)
    except ValueError:
        return True


def redirect_target(link: str, location: str) -> str:
    try:
        return urljoin(link, location)
    except ValueError:
        raise DownloadFailed("the picture's link redirects to a malformed address", reason="link_refused") from None
