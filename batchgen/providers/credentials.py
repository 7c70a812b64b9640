"""What lets a request in: a header that carries a key, or headers that are worked out for each request. The latter may be a token
that is renewed or a signature, and the codec that needs them brings its own `Credentials`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
