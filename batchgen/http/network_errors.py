"""What becomes of a request that gets no whole answer, in words that name the proxy when it is the proxy's fault."""

from __future__ import annotations

import aiohttp

from batchgen.errors import ConnectFailed, Unanswered
from batchgen.http.proxies import Proxy

NO_ANSWER = (aiohttp.ClientError, OSError, UnicodeError)  # the last: of a host's name that cannot be one


def lost(error: Exception, proxy: Proxy | None, timeout_s: float, *, sent: bool) -> ConnectFailed | Unanswered:
    """No whole answer: never sent is free to repeat, sent may have been billed."""
    if not sent:
        return ConnectFailed(f"no connection: {in_words(error, proxy)}")
    if isinstance(error, TimeoutError):
        return Unanswered(f"no answer within {timeout_s:.0f} s", reason="timeout")
    return Unanswered(f"the connection broke before the answer: {words_of(error)}")


def in_words(error: Exception, proxy: Proxy | None) -> str:
    if proxy is None:
        return words_of(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            return (
                f"the proxy {proxy} wants a user name and a password, or other ones (HTTP 407): correct {proxy.source}"
            )
        return f"the proxy {proxy} did not connect to the server (HTTP {error.status} {words_of(error.message)})"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} cannot be reached: {words_of(error)}"
    return f"{words_of(error)}, through the proxy {proxy}"


def words_of(error: Exception | str) -> str:
    """An error of the network in short. None of them holds credentials."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text)[:200]
