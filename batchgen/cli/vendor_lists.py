"""Asks the vendors' servers for what they list: models that a key may use, and AIML's balance. Nothing here is billed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.engine.lanes import base_url_of
from batchgen.errors import ModelUnavailable, SettingsError
from batchgen.providers import aimlapi_errors, google_errors
from batchgen.providers.listings import Balance, Listed, aiml_balance, aiml_list, google_page
from batchgen.providers.registry import provider_class
from batchgen.settings import Settings, is_loopback
from batchgen.transport import address_of

if TYPE_CHECKING:
    import aiohttp

PROVIDERS = ("gemini", "aimlapi")
PAGES_MOST = 20
ANSWER_MAX_BYTES = 16_000_000  # AIML lists some hundreds of models of all kinds, with descriptions
TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Account:
    """A provider, where it is asked, and the header with the key."""

    provider: str
    url: str
    auth: tuple[str, str] = field(repr=False)


def accounts(settings: Settings) -> list[Account]:
    """Of each provider that has a key; a server on this machine needs none. Raises SettingsError."""
    found = []
    for provider in PROVIDERS:
        access = settings.access(provider)
        key, url = access.key, base_url_of(provider, access)
        if key is not None or is_loopback(urlsplit(url).hostname or ""):
            auth = provider_class(provider).auth_header(key.secret.reveal() if key else "local")
            found.append(Account(provider, url, auth))
    return found


class Lists:
    """One session for all questions. Each raises SettingsError when the server cannot be reached or answers strangely,
    and the ProviderError of its codec for any other status than 200.
    """

    def __init__(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self.date: str | None = None  # the header of the last answer

    async def __aenter__(self) -> Lists:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def models(self, account: Account) -> list[Listed]:
        """Image models."""
        if account.provider == "aimlapi":
            return aiml_list(await self._get(account, "/models"))
        found: list[Listed] = []
        token = ""
        for _ in range(PAGES_MOST):
            query = {"pageSize": "1000", **({"pageToken": token} if token else {})}
            page, token = google_page(await self._get(account, "/v1beta/models", query))
            found += page
            if not token:
                break
        return found

    async def balance(self, account: Account) -> Balance | None:
        """None from an OpenAI-style server other than AIML's own, which has no such page."""
        try:
            return aiml_balance(await self._get(account, "/v1/billing/balance"))
        except ModelUnavailable:
            return None

    async def _get(self, account: Account, path: str, query: Mapping[str, str] | None = None) -> bytes:
        import aiohttp

        try:
            async with self._session.get(
                address_of(account.url, path), params=query, headers=[account.auth], allow_redirects=False
            ) as response:
                body = await _whole(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SettingsError(f"{account.url} does not answer: {error or type(error).__name__}") from None
        self.date = response.headers.get("Date")
        if response.status != 200:
            errors = aimlapi_errors if account.provider == "aimlapi" else google_errors
            raise errors.read_error(response.status, response.headers, body)
        return body


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    async for piece in response.content.iter_any():
        pieces += piece
        if len(pieces) > ANSWER_MAX_BYTES:
            raise SettingsError(f"{response.url.origin()} answers with more than {ANSWER_MAX_BYTES} bytes")
    return bytes(pieces)
