"""What lets a request in: a header that carries a key, or headers that are worked out for each request. The latter may be a token
that is renewed or a signature, and the codec that needs them brings its own `Credentials`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Protocol, runtime_checkable

from batchgen.dataclass import dataclass
from batchgen.records import Request, Response

# Sends a request without credentials to an address, such as the one where tokens are had. Raises ConnectFailed, Unanswered.
Ask = Callable[[str, Request], Awaitable[Response]]


class Credentials(Protocol):
    """Of one account at one API, for all requests of a run.

    account: tells the account from others for its quota and its bill; it is hashed before it is kept, so a secret will do.
    """

    @property
    def account(self) -> str: ...

    async def headers(self, request: Request, ask: Ask) -> Mapping[str, str]:
        """What the request gets besides its own headers. The last word of each value is kept out of logs and answers.

        Called for each request right before it leaves, perhaps by many at once. Raises a ProviderError when there is none:
        KeyRejected when a person has to help, ConnectFailed when trying again may.
        """
        ...


@runtime_checkable
class TokenCredentials(Credentials, Protocol):
    """Whose headers end, or are taken back.

    public_headers: those of its headers that hold no secret, in small letters.
    """

    @property
    def public_headers(self) -> frozenset[str]: ...

    def refused(self, headers: Mapping[str, str]) -> bool:
        """The server has answered 401 to a request with these headers. Whether others can be had: then the request, which has
        not been processed, is sent once more."""
        ...


@dataclass(frozen=True, slots=True)
class FoundCredentials:
    """What lets a codec's requests in, and where they go with it.

    source: where it comes from, for people, "" for a key. base_url: the vendor's address for them, None: that of the
    endpoint. path: what stands before every path of the codec, such as the account that is billed.
    """

    credentials: Credentials
    source: str = ""
    base_url: str | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class KeyHeader:
    """The one header that carries the key."""

    name: str
    value: str = field(repr=False)

    @property
    def account(self) -> str:
        return self.value

    async def headers(self, request: Request, ask: Ask) -> Mapping[str, str]:
        return {self.name: self.value}


def bearer(key: str) -> KeyHeader:
    """RFC 6750, 2.1."""
    return KeyHeader("Authorization", f"Bearer {key}")
