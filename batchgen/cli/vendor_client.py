"""Asks the vendors' servers which models a key may use and which are withdrawn, and AIML's balance. Nothing here is billed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from batchgen.engine.routes import base_url_of
from batchgen.errors import ConnectFailed, KeyRejected, Malformed, ModelUnavailable, SettingsError, Unanswered
from batchgen.providers import aimlapi_errors, google_errors
from batchgen.providers.listings import (
    Balance,
    Deprecation,
    ListedModel,
    read_aiml_balance,
    read_aiml_deprecations,
    read_aiml_models,
    read_google_page,
)
from batchgen.providers.registry import provider_class
from batchgen.records import Request
from batchgen.settings import Settings, is_loopback

if TYPE_CHECKING:
    from batchgen.http.transport import Transport

PROVIDERS = ("gemini", "aimlapi")
MAX_PAGES = 20
ANSWER_MAX_BYTES = 8_000_000  # AIML lists some hundreds of models of all kinds, with descriptions
TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class VendorAccess:
    """A provider, where it is asked, and the header with the key."""

    provider: str
    url: str
    auth: tuple[str, str] = field(repr=False)


def vendor_accesses(settings: Settings) -> list[VendorAccess]:
    """Of each provider that has a key; a server on this machine needs none. Raises SettingsError."""
    found = []
    for provider in PROVIDERS:
        access = settings.access(provider)
        key, url = access.key, base_url_of(provider, access)
        if key is not None or is_loopback(urlsplit(url).hostname or ""):
            auth = provider_class(provider).auth_header(key.secret.reveal() if key else "local")
            found.append(VendorAccess(provider, url, auth))
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
        if account.provider == "aimlapi":
            return read_aiml_models(await self._get(account, "/models"))
        found: list[ListedModel] = []
        token = ""
        for _ in range(MAX_PAGES):
            query = urlencode({"pageSize": "1000", **({"pageToken": token} if token else {})})
            page, token = read_google_page(await self._get(account, f"/v1beta/models?{query}"))
            found += page
            if not token:
                break
        return found

    async def balance(self, account: VendorAccess) -> Balance | None:
        """None from an OpenAI-style server other than AIML's own, which has no such page."""
        try:
            return read_aiml_balance(await self._get(account, "/v1/billing/balance"))
        except ModelUnavailable:
            return None

    async def deprecations(self, account: VendorAccess) -> list[Deprecation]:
        """Models that are withdrawn or will be; empty where the vendor, or the server in its place, has no such page.

        It is public, so the key stays here.
        """
        if account.provider != "aimlapi":
            return []
        try:
            return read_aiml_deprecations(await self._get(account, "/v1/models/deprecations", with_key=False))
        except (ModelUnavailable, KeyRejected):
            return []

    async def _get(self, account: VendorAccess, path: str, *, with_key: bool = True) -> bytes:
        request = Request(method="GET", path=path, body=b"", timeout_s=TIMEOUT_S)
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
            errors = aimlapi_errors if account.provider == "aimlapi" else google_errors
            raise errors.read_error(status, headers, body)
        return body
