"""Decides which lane an item belongs to, and where that lane's requests go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from batchgen.endpoint import Endpoint, split_url
from batchgen.errors import SettingsError, UsageError
from batchgen.http.proxies import proxy_for
from batchgen.planning.batchable import batch_lane
from batchgen.profiles.price import estimate_question_usd, estimate_usd
from batchgen.profiles.profile import Profile
from batchgen.providers.contract import Provider, SupportsBatches, SupportsJobList, SupportsJobs, find_credentials
from batchgen.providers.credentials import Credentials
from batchgen.providers.registry import emulated_url, endpoint_of, provider_class
from batchgen.records import Sample
from batchgen.review.judge import JudgeSample
from batchgen.scheduling.blame import Upstream
from batchgen.scheduling.window import account_key
from batchgen.settings import Access, Settings, environment, is_loopback


@dataclass(frozen=True, slots=True)
class Route:
    """Where a lane's requests go. credentials: None if none are needed. loopback: the server is on this machine.

    batch: requests go as lines of a file, through the API's batch endpoint. jobs, job_list: the codec if it supports
    these, looked up once because every request asks.
    """

    profile: Profile
    codec: Provider
    base_url: str
    credentials: Credentials | None
    loopback: bool
    batch: bool = False
    jobs: SupportsJobs | None = field(init=False)
    job_list: SupportsJobList | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", self.codec if isinstance(self.codec, SupportsJobs) else None)
        object.__setattr__(self, "job_list", self.codec if isinstance(self.codec, SupportsJobList) else None)

    @property
    def upstream(self) -> Upstream:
        """The account and the host that answer the lane's requests."""
        return Upstream(account_key(self.base_url, self.account), urlsplit(self.base_url).netloc)

    @property
    def account(self) -> str:
        """The account, as its credentials name it. It may be a secret."""
        return self.credentials.account if self.credentials else ""


def lane_key(provider: str, model: str) -> str:
    """The quota key of an AI model. There is one API project for each provider and process, identified by the key in
    the environment."""
    return f"{provider}/{model}"


def estimated_usd(routes: Mapping[str, Route], sample: Sample) -> float | None:
    """The expected cost of a request for the sample, None if its price is unknown."""
    profile = routes[lane_key(sample.item.provider, sample.item.model)].profile
    if isinstance(sample, JudgeSample):
        return estimate_question_usd(profile, sample.question())
    return estimate_usd(profile, sample)


def reserved_usd(routes: Mapping[str, Route], sample: Sample) -> float | None:
    """The amount that a budget must have room for: a cheaper service tier may be refused and the request served at
    standard."""
    if sample.item.service_tier == "flex":
        sample = replace(sample, item=replace(sample.item, service_tier="standard"))
    return estimated_usd(routes, sample)


def base_url_of(endpoint: Endpoint, access: Access) -> str:
    """The address that is configured, or else the vendor's. Raises SettingsError if there is neither."""
    url = access.base_url or endpoint.base_url
    if url is None:
        raise SettingsError(f"provider {endpoint.name}: set {endpoint.base_url_names[0]} to its address")
    return url


@dataclass(frozen=True, slots=True)
class Account:
    """The credentials for a provider's requests, where the requests go, and the prefix of their paths there. source:
    see FoundCredentials."""

    credentials: Credentials
    base_url: str
    path: str
    source: str


def open_account(provider: str, access: Access, environ: Mapping[str, str]) -> Account | None:
    """The account of a provider, None if there is no key for it. Raises SettingsError.

    A server on this machine without a key gets a placeholder, as it has nothing to protect. Credentials named by the
    environment take precedence over a key in a folder's `.env`, and are never sent to an address from there.
    """
    codec, endpoint = provider_class(provider), endpoint_of(provider)
    key = access.key.secret.reveal() if access.key else None
    own_url = access.base_url or endpoint.base_url
    if _is_set(environ, endpoint.credential_names) and not _is_set(environ, endpoint.key_names):
        key = key if access.from_dotenv else None
    elif key is None and own_url and on_this_machine(own_url):
        key = "local"
    found = find_credentials(codec, key, environ)
    if found is None:
        return None
    url = access.base_url or found.base_url or base_url_of(endpoint, access)
    return Account(found.credentials, url, found.path, found.source)


def _is_set(environ: Mapping[str, str], names: Iterable[str]) -> bool:
    return any(environ.get(form) for name in names for form in (name, f"{name}_FILE"))


def missing_key_remedy(endpoint: Endpoint) -> str:
    names = (*endpoint.key_names, *endpoint.credential_names)
    return f"set {' or '.join(names)} (or {names[0]}_FILE), or try it with --emulate"


def unused_credentials(endpoint: Endpoint, settings: Settings) -> list[str]:
    """Warnings about credential files that a folder's `.env` names: it may be a stranger's, and so may they."""
    dotenv = settings.dotenv
    named = [name for name in endpoint.credential_names if dotenv is not None and dotenv.values.get(name)]
    return [f"{name} in {dotenv and dotenv.env_file} is not used: set it in the environment" for name in named]


def open_routes(
    profiles: Iterable[Profile], settings: Settings, emulator_url: str | None
) -> tuple[dict[str, Route], list[str]]:
    """A route for each lane of each AI model, and the warnings about them. Raises SettingsError if a key is missing,
    UsageError if a provider has no emulator."""
    routes: dict[str, Route] = {}
    notes: dict[str, None] = {}
    accounts: dict[Endpoint, Account | None] = {}
    for profile in profiles:
        codec_class, endpoint = provider_class(profile.provider), endpoint_of(profile.provider)
        access = _access(profile.provider, endpoint, settings, emulator_url)
        if endpoint not in accounts:
            accounts[endpoint] = open_account(profile.provider, access, {} if emulator_url else settings.values)
        account = accounts[endpoint]
        if account is None:
            what = "API key or credentials" if endpoint.credential_names else "API key"
            raise SettingsError(f"no {what} for {profile.id}: {missing_key_remedy(endpoint)}")
        url = account.base_url
        proxy_for(url, environment())  # a proxy that cannot be used is reported before the run begins
        notes |= dict.fromkeys([access.warning] if access.warning else [])
        if access.source and not endpoint.is_vendor_url(url):
            notes[f"requests for {profile.provider} go to {url}, as {access.source} says"] = None
        notes |= dict.fromkeys(unused_credentials(endpoint, settings))
        route = Route(profile, codec_class(profile), url + account.path, account.credentials, on_this_machine(url))
        routes[lane_key(profile.provider, profile.id)] = route
        if isinstance(route.codec, SupportsBatches):
            routes[batch_lane(profile.provider, profile.id)] = replace(route, batch=True)
    return routes, list(notes)


def link_routes(profiles: Iterable[Profile], settings: Settings, emulator_url: str | None) -> dict[str, Route]:
    """Routes for the links in earlier answers, by where these came from. They need no key. An API without an address,
    or whose codec is no longer installed, has no route."""
    routes: dict[str, Route] = {}
    for profile in profiles:
        with suppress(SettingsError, UsageError):
            endpoint = endpoint_of(profile.provider)
            access = _access(profile.provider, endpoint, settings, emulator_url)
            url = base_url_of(endpoint, access)
            codec = provider_class(profile.provider)(profile)
            routes[lane_key(profile.provider, profile.id)] = Route(profile, codec, url, None, on_this_machine(url))
    return routes


def _access(provider: str, endpoint: Endpoint, settings: Settings, emulator_url: str | None) -> Access:
    return Access(None, emulated_url(provider, emulator_url)) if emulator_url else settings.access(endpoint)


def on_this_machine(url: str) -> bool:
    return is_loopback(split_url(url).hostname or "")
