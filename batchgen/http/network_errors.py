"""What becomes of a request that gets no whole answer, in words that name the proxy when it is the proxy's fault."""

from __future__ import annotations

import aiohttp

from batchgen.errors import ConnectFailed, Unanswered
from batchgen.http.proxies import Proxy

NETWORK_ERRORS = (aiohttp.ClientError, OSError, UnicodeError)  # the last: of a host's name that cannot be one


def no_answer_error(
    error: Exception, proxy: Proxy | None, timeout_s: float, *, sent: bool
) -> ConnectFailed | Unanswered:
    """No whole answer: never sent is free to repeat, sent may have been billed."""
    if not sent:
        return ConnectFailed(f"no connection: {describe_network_error(error, proxy)}")
    if isinstance(error, TimeoutError):
        return Unanswered(f"no answer within {timeout_s:.0f} s", reason="timeout")
    return Unanswered(f"the connection broke before the answer: {short_text(error)}")


def describe_network_error(error: Exception, proxy: Proxy | None) -> str:
    if proxy is None:
        return short_text(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            return (
                f"the proxy {proxy} wants a user name and a password, or other ones (HTTP 407): correct {proxy.source}"
            )
        return f"the proxy {proxy} did not connect to the server (HTTP {error.status} {short_text(error.message)})"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} cannot be reached: {short_text(error)}"
    return f"{short_text(error)}, through the proxy {proxy}"


def short_text(error: Exception | str) -> str:
    """An error of the network in short. None of them holds credentials."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text)[:200]
