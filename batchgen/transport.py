"""The one place that sends HTTP: time limits, byte caps, whether a request has left, and where it may go."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import pybase64
from aiohttp.abc import ResolveResult

from batchgen import __version__
from batchgen.errors import ConnectFailed, DownloadFailed, Malformed, Unanswered, UploadFailed
from batchgen.lift import THRESHOLD_BYTES, Lifter, Sink
from batchgen.records import Request
from batchgen.settings import is_loopback
from batchgen.store.spool import disk_error

BODY_MAX_BYTES = 512 * 1024 * 1024  # after decompression; ten 4K pictures with signatures stay below it
ERROR_MAX_BYTES = 1024 * 1024
BATCH_BYTES = 256 * 1024  # received bytes that make one trip to a thread worth its while
CONNECT_TIMEOUT_S = 30.0
DOWNLOAD_TIMEOUT_S = 120.0
REDIRECTS_MOST = 3


class Answer:
    """A whole HTTP answer whose long strings are lifted to disk. `envelope()` belongs in a thread: it decodes and writes.

    received_s: when the last byte was in, seconds of `time.monotonic()`.
    """

    __slots__ = ("_lifter", "_rest", "_secret", "headers", "received_s", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], rest: bytes, lifter: Lifter | None, secret: str = ""
    ) -> None:
        self.received_s = time.monotonic()
        self.status = status
        self.headers = headers
        self._rest = rest
        self._lifter = lifter
        self._secret = secret

    def envelope(self) -> bytes:
        """The body without its long strings, and without our key should the server have echoed it; the same every time."""
        if self._lifter is not None and (len(self._rest) >= THRESHOLD_BYTES or self._lifter.begun):
            self._lifter.feed(self._rest)
            self._rest = self._lifter.close()
        self._lifter = None  # what is left holds no long string
        return without_key(self._rest, self._secret)

    @property
    def decoded(self) -> bool:
        """Whether `envelope` has gone through."""
        return self._lifter is None

    def plain_headers(self) -> dict[str, str]:
        """Without our key, should the server have echoed it."""
        return {
            name: without_key(value.encode(errors="replace"), self._secret).decode(errors="replace")
            for name, value in self.headers.items()
        }


class Transport:
    """One session for the APIs and one, without credentials, for links. Use as an async context manager.

    Every request has a connection of its own. On one that is used again, bytes that a faulty server or proxy sends late
    are read as the answer to the next request: another item's picture under this item's name. It costs a handshake.
    """

    def __init__(self, concurrency: int, executor: Executor) -> None:
        self._executor = executor
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_headers_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency + 4, force_close=True),
            headers={"User-Agent": f"batchgen/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            read_bufsize=256 * 1024,
        )
        self._links: dict[bool, aiohttp.ClientSession] = {}  # by whether they lead to this machine

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        for links in self._links.values():
            await links.close()

    async def send(
        self,
        base_url: str,
        request: Request,
        auth: tuple[str, str] | None,
        *,
        on_sent: Callable[[], None],
        open_sink: Callable[[int], Sink],
        signatures: bool = False,
    ) -> Answer:
        """Send once and receive the whole answer; no redirects, no retries.

        on_sent: called when the headers leave. open_sink: opens a file for each long string of a 2xx answer.
        signatures: leave thought signatures in the envelope, where they are otherwise dropped.
        Raises ConnectFailed when nothing left, Unanswered when it did and no whole answer came, Malformed beyond the cap.
        """
        sent = SimpleNamespace(yes=False, tell=on_sent)
        headers = {**_sized(request), "Content-Type": "application/json"}
        if auth is not None:
            headers[auth[0]] = auth[1]
        try:
            async with self._going(base_url, request, headers, sent) as response:
                return await self._receive(
                    response, Lifter(open_sink, signatures=signatures), auth[1].split()[-1] if auth else ""
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _lost(error, sent.yes, request.timeout_s) from None

    def _going(
        self, base_url: str, request: Request, headers: Mapping[str, str], context: SimpleNamespace
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """A request under way: within its time limits, and never to where a redirect would take our key."""
        return self._session.request(
            request.method,
            base_url + request.path,
            data=_body(request),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=request.timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            allow_redirects=False,
            trace_request_ctx=context,
        )

    async def upload(
        self, base_url: str, request: Request, auth: tuple[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One step of an upload, as `ask`. Raises UploadFailed.

        base_url: with an empty path in the request, an address that the server gave; without `auth` then.
        """
        try:
            return await self.ask(base_url, request, auth)
        except (ConnectFailed, Unanswered, Malformed) as error:
            raise UploadFailed(f"the upload broke off: {error.message}") from None

    async def ask(
        self, base_url: str, request: Request, auth: tuple[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A short answer: status, headers and body, without our key should the server have echoed it.

        Raises ConnectFailed when nothing left, Unanswered when it did and no whole answer came, Malformed beyond the cap.
        """
        sent = SimpleNamespace(yes=False, tell=lambda: None)
        headers = {**_sized(request), **dict([auth] if auth else [])}
        try:
            async with self._going(base_url, request, headers, sent) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > ERROR_MAX_BYTES:
                        raise Malformed("the answer is far too long", reason="too_large", http_status=response.status)
                secret = auth[1].split()[-1] if auth else ""
                return response.status, response.headers, without_key(bytes(body), secret)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _lost(error, sent.yes, request.timeout_s) from None

    async def download(
        self, base_url: str, request: Request, auth: tuple[str, str] | None, file: IO[bytes]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A long answer into `file`, from where that ends when the server continues there, else from its start.

        Answers status, headers, and the body of a refusal. Raises DownloadFailed when it breaks off, `file` being good as
        far as it goes.
        """
        headers = {**request.headers, **dict([auth] if auth else [])}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=request.timeout_s)
        context = SimpleNamespace(yes=True)
        loop = asyncio.get_running_loop()
        try:
            async with self._session.get(
                base_url + request.path,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=context,
            ) as response:
                if response.status not in (200, 206):
                    body = await response.content.read(ERROR_MAX_BYTES)
                    return response.status, response.headers, without_key(body, auth[1].split()[-1] if auth else "")
                at = _range_start(response.headers.get("Content-Range", "")) if response.status == 206 else 0
                if at > file.tell():
                    raise DownloadFailed("the server continues a file beyond where it was asked to")
                file.seek(at)
                file.truncate()
                async for chunk in response.content.iter_chunked(BATCH_BYTES):
                    await loop.run_in_executor(self._executor, _write, file, chunk)
                return response.status, response.headers, b""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DownloadFailed(f"the download broke off: {_words(error)}") from None

    async def _receive(self, response: aiohttp.ClientResponse, lifting: Lifter, secret: str) -> Answer:
        good = 200 <= response.status < 300
        lifter = lifting if good else None
        most = BODY_MAX_BYTES if good else ERROR_MAX_BYTES
        loop = asyncio.get_running_loop()
        held: list[bytes] = []
        held_bytes = total = 0
        async for chunk in response.content.iter_any():
            held.append(chunk)
            held_bytes += len(chunk)
            total += len(chunk)
            if total > most:
                raise Malformed(
                    f"the answer is larger than {most} bytes", reason="too_large", http_status=response.status
                )
            if lifter is not None and held_bytes >= BATCH_BYTES:
                data, held, held_bytes = b"".join(held), [], 0
                await loop.run_in_executor(self._executor, lifter.feed, data)
        return Answer(response.status, response.headers, b"".join(held), lifter, secret)

    async def fetch(self, link: str, write: Callable[[bytes], None], *, most_bytes: int, loopback: bool) -> None:
        """Download a picture from a link of an answer, without credentials; every hop is checked.

        loopback: links to this machine over http are wanted (an emulator). Raises DownloadFailed.
        """
        loop = asyncio.get_running_loop()
        received = 0
        try:
            for _ in range(REDIRECTS_MOST + 1):
                check_link(link, loopback=loopback)
                async with self._link_session(is_loopback(urlsplit(link).hostname or "")).get(
                    link, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=DOWNLOAD_TIMEOUT_S)
                ) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        link = urljoin(link, response.headers.get("Location", ""))
                        continue
                    if response.status != 200:
                        raise DownloadFailed(
                            f"the picture's link answered {response.status}", http_status=response.status
                        )
                    async for chunk in response.content.iter_chunked(BATCH_BYTES):
                        received += len(chunk)
                        if received > most_bytes:
                            raise DownloadFailed(
                                f"the picture is larger than {most_bytes} bytes", reason="link_refused"
                            )
                        await loop.run_in_executor(self._executor, write, chunk)
                    return
            raise DownloadFailed(f"the picture's link redirects more than {REDIRECTS_MOST} times")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DownloadFailed(f"the picture's link could not be read: {_words(error)}") from None

    def _link_session(self, loopback: bool) -> aiohttp.ClientSession:
        if loopback not in self._links:
            resolver = None if loopback else PublicResolver()
            self._links[loopback] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, limit=8, use_dns_cache=False, force_close=True),
                headers={"User-Agent": f"batchgen/{__version__}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._links[loopback]


class PublicResolver(aiohttp.ThreadedResolver):
    """Resolves to public addresses only, so that the address that was checked is the one that is connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        public = [entry for entry in found if _is_public(entry["host"])]
        if not public:
            raise DownloadFailed(f"{host} is not a public address", reason="link_refused")
        return public


def without_key(body: bytes, key: str) -> bytes:
    """`body` with the key taken out as it is, in base64, in hex and percent-encoded.

    Vendors do echo keys: Google's 403 "Consumer 'api_key:…' has been suspended" does, and messages are kept.
    """
    if len(key) < 8:  # a placeholder for a server on this machine; no vendor's key is that short
        return body
    plain = key.encode()
    for form in (plain, pybase64.b64encode(plain).rstrip(b"="), plain.hex().encode(), quote(key, safe="").encode()):
        if form in body:
            body = body.replace(form, b"[key]")
    return body


def check_link(link: str, *, loopback: bool) -> None:
    """Raises DownloadFailed(link_refused) unless the link is https to a public host, or loopback where that is wanted."""
    parts = urlsplit(link)
    host = parts.hostname or ""
    try:
        address: Any = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if parts.username is not None or parts.password is not None:
        raise DownloadFailed("the picture's link carries a user name", reason="link_refused")
    if loopback and is_loopback(host) and parts.scheme in ("http", "https"):
        return
    if parts.scheme != "https" or not host:
        raise DownloadFailed("the picture's link is not https", reason="link_refused")
    if is_loopback(host) or (address is not None and not _is_public(host)):
        raise DownloadFailed("the picture's link points into a private network", reason="link_refused")


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%")[0])
    return parsed.is_global and not parsed.is_multicast


def _write(file: IO[bytes], data: bytes) -> None:
    """Raises StoreError: a full disk is no fault of the network."""
    try:
        file.write(data)
    except OSError as error:
        raise disk_error(error, str(file.name)) from error


def _sized(request: Request) -> dict[str, str]:
    """The request's headers, and its length, without which a body in pieces would be sent in chunks."""
    return {**request.headers, "Content-Length": str(len(request.body))} if request.body else dict(request.headers)


def _body(request: Request) -> bytes | AsyncIterator[memoryview]:
    """A large body in pieces of what is there already: aiohttp copies what it gets as BytesIO, and warns of bytes."""
    return request.body if len(request.body) < BATCH_BYTES else _pieces(memoryview(request.body))


async def _pieces(body: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), BATCH_BYTES):
        yield body[start : start + BATCH_BYTES]


def _range_start(text: str) -> int:
    """Of `bytes 100-199/200` (RFC 9110, 14.4); 0 when it says none."""
    start = text.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isascii() and start.isdecimal() else 0


async def _headers_sent(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
) -> None:
    sent = context.trace_request_ctx
    if not sent.yes:
        sent.yes = True
        sent.tell()


def _lost(error: Exception, sent: bool, timeout_s: float) -> ConnectFailed | Unanswered:
    """No whole answer: never sent is free to repeat, sent may have been billed."""
    if not sent:
        return ConnectFailed(f"no connection: {_words(error)}")
    if isinstance(error, TimeoutError):
        return Unanswered(f"no answer within {timeout_s:.0f} s", reason="timeout")
    return Unanswered(f"the connection broke before the answer: {_words(error)}")


def _words(error: Exception) -> str:
    """An error of the network in short, without addresses of credentials."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text)[:200]
