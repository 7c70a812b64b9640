"""Asks the vendors' servers which models a key may use and which are withdrawn, and for a balance. Nothing here is billed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from batchgen.engine.routes import base_url_of
from batchgen.errors import ConnectFailed, KeyRejected, Malformed, ModelUnavailable, SettingsError, Unanswered
from batchgen.providers.contract import SupportsListing
from batchgen.providers.listings import Balance, Deprecation, ListedModel, Listing
from batchgen.providers.registry import endpoints, provider_class, provider_names
from batchgen.records import Request
from batchgen.settings import Settings, is_loopback

if TYPE_CHECKING:
    from batchgen.http.transport import Transport

MAX_PAGES = 20
ANSWER_MAX_BYTES = 8_000_000  # one vendor lists some hundreds of models of all kinds, with descriptions


@dataclass(frozen=True, slots=True)
class VendorAccess:
    """A provider, where it is asked, and the header with the key."""

    provider: str
    url: str
    auth: tuple[str, str] = field(repr=False)

    @property
    def listing(self) -> Listing:
        return listing_of(self.provider)


def listing_of(provider: str) -> Listing:
    """Of a provider that has one."""
    return cast("type[SupportsListing]", provider_class(provider)).listing


def vendor_accesses(settings: Settings) -> list[VendorAccess]:
    """Of each provider that has a key; a server on this machine needs none. Raises SettingsError."""
    found = []
    for endpoint in endpoints(provider_names()):
        codec = provider_class(endpoint.name)
        if getattr(codec, "listing", None) is None:
            continue
        access = settings.access(endpoint)
        key, url = access.key, base_url_of(endpoint, access)
        if key is not None or is_loopback(urlsplit(url).hostname or ""):
            auth = codec.auth_header(key.secret.reveal() if key else "local")
            found.append(VendorAccess(endpoint.name, url, auth))
    return found


class VendorClient:
    """One session for all questions. Each raises SettingsError when the server cannot be reached or answers strangely,
    and the ProviderError of its codec for any other status than 200.
    """

    def __init__(self) -> None:
        self._opened = AsyncExitStack()
        self._transport: Transport
        self.date: str | None = None  # the header of the last answer

    async def __aenter__(self) -> VendorClient:
        from batchgen.http.transport import Transport  # imports aiohttp, and most commands ask nobody

        threads = self._opened.enter_context(ThreadPoolExecutor(1))
        self._transport = await self._opened.enter_async_context(Transport(1, threads))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def models(self, account: VendorAccess) -> list[ListedModel]:
        """Image models."""
        found: list[ListedModel] = []
        token = ""
        for _ in range(MAX_PAGES):
            page, token = account.listing.read_models(await self._get(account, account.listing.models(token)))
            found += page
            if not token:
                break
        return found

    async def balance(self, account: VendorAccess) -> Balance | None:
        """None from a server that has no such page, as another than the vendor's own may be."""
        if (page := account.listing.balance) is None:
            return None
        try:
            return page.read(await self._get(account, page.request))
        except ModelUnavailable:
            return None

    async def deprecations(self, account: VendorAccess) -> list[Deprecation]:
        """Models that are withdrawn or will be; empty where the vendor, or the server in its place, has no such page.

        It is public, so the key stays here.
        """
        if (page := account.listing.deprecations) is None:
            return []
        try:
            return page.read(await self._get(account, page.request, with_key=False))
        except (ModelUnavailable, KeyRejected):
            return []

    async def _get(self, account: VendorAccess, request: Request, *, with_key: bool = True) -> bytes:
        try:
            status, headers, body = await self._transport.request(
                account.url, request, account.auth if with_key else None, max_bytes=ANSWER_MAX_BYTES
            )
        except (ConnectFailed, Unanswered) as error:
            raise SettingsError(f"{account.url} does not answer: {error.message}") from None
        except Malformed as error:
            raise SettingsError(f"{account.url}: {error.message}") from None
        self.date = headers.get("Date")
        if status != 200:
            raise account.listing.read_error(status, headers, body)
        return body
