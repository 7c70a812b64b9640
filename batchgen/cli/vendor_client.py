"""Asks the vendors' servers which models a key may use, which are withdrawn, and for a balance. Nothing here is
billed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from batchgen.cli.invocation import Invocation
from batchgen.engine.routes import open_account
from batchgen.errors import (
    ConnectFailed,
    KeyRejected,
    Malformed,
    ModelUnavailable,
    ProviderError,
    SettingsError,
    Unanswered,
)
from batchgen.profiles.catalogue import unknown_profile
from batchgen.profiles.profile import Profile
from batchgen.providers.contract import SupportsListing
from batchgen.providers.credentials import Credentials, TokenCredentials
from batchgen.providers.listings import (
    Balance,
    Deprecation,
    ListedModel,
    Listing,
    find_deprecation,
    unknown_models,
    wire_name,
)
from batchgen.providers.registry import endpoint_of, endpoints, key_variables, provider_class, provider_names
from batchgen.records import Request
from batchgen.settings import Settings

if TYPE_CHECKING:
    from batchgen.http.transport import Transport

MAX_PAGES = 20
ANSWER_MAX_BYTES = 8_000_000  # one vendor lists hundreds of models of all kinds with descriptions


@dataclass(frozen=True, slots=True)
class VendorAccess:
    """A provider, its address, and the header with the key."""

    provider: str
    url: str
    credentials: Credentials

    @property
    def listing(self) -> Listing:
        return listing_of(self.provider)


def listing_of(provider: str) -> Listing:
    """The listing of a provider that has one."""
    return cast("type[SupportsListing]", provider_class(provider)).listing


def vendor_accesses(settings: Settings) -> list[VendorAccess]:
    """Access to each provider that has a key; a server on this machine needs none. Raises SettingsError."""
    found = []
    for endpoint, provider in endpoints(provider_names()).items():
        if getattr(provider_class(provider), "listing", None) is None:
            continue
        account = open_account(provider, settings.access(endpoint), settings.values)
        if account is not None:
            found.append(VendorAccess(provider, account.base_url + account.path, account.credentials))
    return found


def token_accesses(settings: Settings) -> list[VendorAccess]:
    """Access to each provider whose requests need a token that has to be requested. Raises SettingsError."""
    found = []
    for endpoint, provider in endpoints(provider_names()).items():
        if not endpoint.credential_names:
            continue
        account = open_account(provider, settings.access(endpoint), settings.values)
        if account is not None and isinstance(account.credentials, TokenCredentials):
            found.append(VendorAccess(provider, account.base_url, account.credentials))
    return found


class VendorClient:
    """One session for all questions. Each raises SettingsError if the server cannot be reached or answers strangely,
    and the ProviderError of its codec for any status other than 200."""

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

    async def obtain_token(self, account: VendorAccess) -> None:
        """Obtain a token for the account's requests, and ask nothing else. Raises ProviderError."""
        asking = Request(method="GET", path="/", body=b"")
        await account.credentials.headers(asking, lambda url, asked: self._transport.request(url, asked, None))

    async def models(self, account: VendorAccess) -> list[ListedModel]:
        """The image models that a key may use."""
        found: list[ListedModel] = []
        token = ""
        for _ in range(MAX_PAGES):
            page, token = account.listing.read_models(await self._get(account, account.listing.models(token)))
            found += page
            if not token:
                break
        return found

    async def balance(self, account: VendorAccess) -> Balance | None:
        """The balance; None if the server has no such page, which may be the case if it is not the vendor's own."""
        if (page := account.listing.balance) is None:
            return None
        try:
            return page.read(await self._get(account, page.request))
        except ModelUnavailable:
            return None

    async def deprecations(self, account: VendorAccess) -> list[Deprecation]:
        """Models that are or will be withdrawn; empty if the server has no such page.

        The page is public, so the key is not sent.
        """
        if (page := account.listing.deprecations) is None:
            return []
        try:
            return page.read(await self._get(account, page.request, with_key=False))
        except (ModelUnavailable, KeyRejected):
            return []

    async def _get(self, account: VendorAccess, request: Request, *, with_key: bool = True) -> bytes:
        try:
            response = await self._transport.request(
                account.url, request, account.credentials if with_key else None, max_bytes=ANSWER_MAX_BYTES
            )
        except (ConnectFailed, Unanswered) as error:
            raise SettingsError(f"{account.url} does not answer: {error.message}") from None
        except Malformed as error:
            raise SettingsError(f"{account.url}: {error.message}") from None
        self.date = response.header("Date")
        if response.status != 200:
            raise account.listing.read_error(response)
        return response.body


@dataclass(frozen=True, slots=True)
class LiveModels:
    """What vendors say about models. listed: by provider, for each that answered; withdrawn: likewise. failures: why a
    provider did not answer."""

    listed: Mapping[str, Sequence[ListedModel]]
    failures: tuple[str, ...]
    withdrawn: Mapping[str, Sequence[Deprecation]]

    def live_status(self, profile: Profile) -> str:
        """`live`, `absent`, `unlisted by us`, `not asked`, or the term in the vendor's list of deprecations."""
        if self._list(profile) is None:
            return "not asked"
        if (deprecation := self._deprecation(profile)) is not None:
            return deprecation.status
        if profile.status == "unknown":
            return "unlisted by us"
        return "live" if self._entry(profile) else "absent"

    def live_status_text(self, profile: Profile) -> str:
        """The live status, for people."""
        deprecation = self._deprecation(profile)
        return self.live_status(profile) if deprecation is None else deprecation.description

    def as_dict(self, profile: Profile) -> dict[str, Any]:
        """The live status as an object, with what the API says about the model."""
        entry = self._entry(profile)
        return {
            "live": self.live_status(profile),
            "deprecation": self._deprecation_facts(profile),
            "input_tokens": entry.input_tokens if entry else None,
            "methods": list(entry.methods) if entry else [],
        }

    def _deprecation(self, profile: Profile) -> Deprecation | None:
        return find_deprecation(profile, self.withdrawn.get(profile.provider, ()))

    def _deprecation_facts(self, profile: Profile) -> dict[str, Any] | None:
        found = self._deprecation(profile)
        names = ("status", "shutdown_at", "replaced_by")
        return None if found is None else {name: getattr(found, name) or None for name in names}

    def _list(self, profile: Profile) -> Sequence[ListedModel] | None:
        account = endpoint_of(profile.provider)
        return next((models for provider, models in self.listed.items() if endpoint_of(provider) == account), None)

    def _entry(self, profile: Profile) -> ListedModel | None:
        name = wire_name(profile)
        return next((model for model in self._list(profile) or () if model.id == name), None)

    def unknown_models(self, profiles: Iterable[Profile]) -> list[Profile]:
        """The image models that an API lists and batchgen does not know."""
        known = list(profiles)
        return [
            unknown_profile(name, provider)
            for provider, models in self.listed.items()
            for name in unknown_models(models, known)
        ]


def query_live_models(invocation: Invocation) -> LiveModels:
    """Ask about all models. Raises SettingsError without any key, and if no API that was asked returned its list."""
    settings = Settings.load(Path.cwd())
    invocation.hide_keys(settings)
    if not (asked := vendor_accesses(settings)):
        raise SettingsError("no API key, so no API was asked: set " + key_variables())
    found = asyncio.run(query_vendors(asked))
    if not found.listed:
        raise SettingsError("; ".join(found.failures))
    for failure in found.failures:
        invocation.err.line(failure, "red")
    return found


async def query_vendors(asked: Iterable[VendorAccess]) -> LiveModels:
    listed, withdrawn, failures = {}, {}, []
    async with VendorClient() as vendors:
        for account in asked:
            try:
                listed[account.provider] = await vendors.models(account)
                withdrawn[account.provider] = await vendors.deprecations(account)
            except SettingsError as error:
                failures.append(f"{account.provider}: {error}")
            except ProviderError as error:
                failures.append(f"{account.provider}: {account.url} answers {error.http_status}: {error.message}")
    return LiveModels(listed, tuple(failures), withdrawn)
