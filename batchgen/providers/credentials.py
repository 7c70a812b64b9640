"""The credentials of a request: a header with a key, or headers that are computed for each request, such as a token
that is renewed or a signature, for which a codec brings its own `Credentials`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from batchgen.records import Request, Response

# Sends a request without credentials, for instance to where tokens are issued. Raises ConnectFailed, Unanswered.
Ask = Callable[[str, Request], Awaitable[Response]]


class Credentials(Protocol):
    """The credentials of one account at one API, for all requests of a run.

    account: distinguishes this account from others for quota and billing. It is hashed before it is stored, so it may
    be a secret.
    """

    @property
    def account(self) -> str: ...

    async def headers(self, request: Request, ask: Ask) -> Mapping[str, str]:
        """The headers to add to a request. The last word of each value is kept out of logs and answers.

        Called for each request right before it leaves, perhaps by many at once. Raises a ProviderError if there are
        none: KeyRejected if a person has to help, ConnectFailed if trying again may.
        """
        ...


@runtime_checkable
class TokenCredentials(Credentials, Protocol):
    """Credentials whose headers expire or are revoked.

    public_headers: the lower-case names of its headers that contain no secret.
    """

    @property
    def public_headers(self) -> frozenset[str]: ...

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Note that the server answered 401 to these headers. Returns whether there may be others: then the request,
        which was not processed, is sent once more."""
        ...


@dataclass(frozen=True, slots=True)
class FoundCredentials:
    """The credentials that a codec found, and where requests with them go.

    source: where they come from, for people, "" for a key. base_url: the vendor's address for them, None for the
    endpoint's. path: the prefix of every path of the codec, such as the account that is billed.
    """

    credentials: Credentials
    source: str = ""
    base_url: str | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class KeyHeader:
    """A single header that carries the key."""

    name: str
    value: str = field(repr=False)

    @property
    def account(self) -> str:
        return self.value

    async def headers(self, request: Request, ask: Ask) -> Mapping[str, str]:
        return {self.name: self.value}


def bearer(key: str) -> KeyHeader:
    """A bearer token: RFC 6750, 2.1."""
    return KeyHeader("Authorization", f"Bearer {key}")
