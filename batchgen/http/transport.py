"""The one place that sends HTTP: time limits, byte caps, whether a request has left, and where it may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from batchgen import __version__
from batchgen.errors import ConnectFailed, DownloadFailed, Malformed, SettingsError, Unanswered, UploadFailed
from batchgen.http.addresses import (
    PublicResolver,
    check_link,
    checked_upload_url,
    public_addresses,
    redirect_target,
    request_url,
)
from batchgen.http.answer import (
    ERROR_MAX_BYTES,
    NETWORK_ERRORS,
    HttpAnswer,
    decompressor_for,
    describe_network_error,
    no_answer_error,
    read_body,
    read_error_body,
    redact_keys,
    too_large_error,
    with_http_status,
)
from batchgen.http.base64_stream import BodyDecoder, ImageBodyDecoder, Sink, StreamingBase64Decoder
from batchgen.http.proxies import Proxy, proxy_for
from batchgen.http.time_limit import TimeLimit
from batchgen.providers.credentials import Credentials, TokenCredentials
from batchgen.records import Request, Response
from batchgen.settings import environment, is_loopback
from batchgen.store.spool import disk_error

BODY_MAX_BYTES = 512 * 1024 * 1024  # after decompression; ten 4K images with signatures are less
BATCH_BYTES = 256 * 1024  # enough received bytes for a call in a thread
HELD_BYTES = 8 * 1024 * 1024  # of all short answers in flight, each decoded in one call once it is whole
LARGE_BLOCK_BYTES = 4 * 1024 * 1024  # glibc reuses blocks up to the largest freed so far (mallopt(3), M_MMAP_THRESHOLD)
CONNECT_TIMEOUT_S = 30.0
DOWNLOAD_TIMEOUT_S = 120.0
MAX_REDIRECTS = 3
AnswerT = TypeVar("AnswerT", HttpAnswer, Response)
CLIENT_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)  # TimeLimit does the rest


class Transport:
    """One session for the APIs and one, without credentials, for links. Use it as an async context manager.

    Every request has a connection of its own. On a reused connection, bytes that a faulty server or proxy sends late
    are read as the answer to the next request: another item's image under this item's name. The price is a handshake.
    """

    def __init__(self, concurrency: int, executor: Executor) -> None:
        bytes(LARGE_BLOCK_BYTES)  # freed at once; else clearing new memory takes half of the CPU of large answers
        self._executor = executor
        self._short_bytes = max(BATCH_BYTES, HELD_BYTES // concurrency)
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_headers_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency + 4, force_close=True),
            headers={"User-Agent": f"batchgen/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            read_bufsize=256 * 1024,
            auto_decompress=False,
        )
        self._links: dict[bool, aiohttp.ClientSession] = {}  # by whether they connect to public addresses only

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
        credentials: Credentials | None,
        *,
        on_sent: Callable[[], None],
        open_sink: Callable[[int], Sink],
        signatures: bool = False,
    ) -> HttpAnswer:
        """Send once and receive the whole answer, without redirects and retries.

        on_sent: called when the headers leave. open_sink: opens a file for each long string of a 2xx answer.
        signatures: leave thought signatures in the envelope, where they are otherwise dropped. Raises ConnectFailed if
        nothing left, Unanswered if it did and no whole answer came, Malformed beyond the cap, BadRequest as
        `request_url`.
        """
        url = request_url(base_url, request)

        async def exchange(headers: CIMultiDict[str], secrets: tuple[str, ...]) -> HttpAnswer:
            headers.setdefault("Content-Type", "application/json")
            sent = _send_context(str(url), on_sent)
            try:
                async with TimeLimit(request.timeout_s), self._open_request(url, request, headers, sent) as response:
                    if not 200 <= response.status < 300:
                        body = await read_error_body(response)
                        return HttpAnswer(response.status, response.headers, body, None, secrets)
                    decoder = _body_decoder(response, open_sink, signatures=signatures)
                    return await self._receive(response, decoder, secrets)
            except NETWORK_ERRORS as error:
                raise no_answer_error(error, sent.proxy, request.timeout_s, sent=sent.yes) from None

        return await self._let_in(request, credentials, exchange)

    async def _let_in(
        self,
        request: Request,
        credentials: Credentials | None,
        exchange: Callable[[CIMultiDict[str], tuple[str, ...]], Awaitable[AnswerT]],
    ) -> AnswerT:
        """The answer to an exchange with headers that authorize it. A request refused for an expired token was not
        processed (RFC 9110, 15.5.2), so it is sent once more with a new token."""
        headers, secrets = await self._headers(request, credentials)
        answer = await exchange(headers, secrets)
        if answer.status != 401 or not isinstance(credentials, TokenCredentials) or not credentials.refused(headers):
            return answer
        return await exchange(*await self._headers(request, credentials))

    async def _headers(
        self, request: Request, credentials: Credentials | None
    ) -> tuple[CIMultiDict[str], tuple[str, ...]]:
        """The request's headers with credentials and its length (without which a body in pieces would be sent in
        chunks), and the parts of them that are secret: a key may have a word before it."""
        headers = CIMultiDict(request.headers)
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        if credentials is None:
            return headers, ()
        added = await credentials.headers(request, lambda base_url, asked: self.request(base_url, asked, None))
        headers.update(added)
        public = getattr(credentials, "public_headers", ())  # of TokenCredentials
        secret = [value for name, value in added.items() if name.lower() not in public and value.strip()]
        return headers, tuple(value.split()[-1] for value in secret)

    def _open_request(
        self, url: URL, request: Request, headers: Mapping[str, str], context: SimpleNamespace
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Open a request, never following a redirect with the key."""
        return self._session.request(
            request.method,
            url,
            data=_body(request),
            headers=headers,
            timeout=CLIENT_TIMEOUT,
            allow_redirects=False,
            trace_request_ctx=context,
            **_proxy_arguments(context.proxy),
        )

    async def upload(
        self, base_url: str, request: Request, credentials: Credentials | None, upload_url: str = ""
    ) -> Response:
        """Send one step of an upload, as `request` does. Raises UploadFailed.

        upload_url: the server's address for this upload, which takes the place of the request's path and the key.
        """
        try:
            if upload_url:
                return await self._request(checked_upload_url(base_url, upload_url), request, None)
            return await self.request(base_url, request, credentials)
        except (ConnectFailed, Unanswered, Malformed) as error:
            raise UploadFailed(f"the upload broke off: {error.message}") from None

    async def request(
        self, base_url: str, request: Request, credentials: Credentials | None, *, max_bytes: int = ERROR_MAX_BYTES
    ) -> Response:
        """A short answer, without the key if the server echoed it.

        Raises ConnectFailed if nothing left, Unanswered if it did and no whole answer came, Malformed beyond the cap,
        BadRequest as `request_url`.
        """
        return await self._request(request_url(base_url, request), request, credentials, max_bytes)

    async def _request(
        self, url: URL, request: Request, credentials: Credentials | None, max_bytes: int = ERROR_MAX_BYTES
    ) -> Response:
        async def exchange(headers: CIMultiDict[str], secrets: tuple[str, ...]) -> Response:
            sent = _send_context(str(url))
            try:
                async with TimeLimit(request.timeout_s), self._open_request(url, request, headers, sent) as response:
                    body = redact_keys(await read_body(response, max_bytes), secrets)
                    return Response(response.status, response.headers, body)
            except NETWORK_ERRORS as error:
                raise no_answer_error(error, sent.proxy, request.timeout_s, sent=sent.yes) from None

        return await self._let_in(request, credentials, exchange)

    async def download(
        self, base_url: str, request: Request, credentials: Credentials | None, file: IO[bytes]
    ) -> Response:
        """Download a long answer into `file`, from its end if the server continues there, else from its start.

        Only a refusal has a body in the returned answer. Raises DownloadFailed if it breaks off, with `file` good as
        far as it goes, BadRequest as `request_url`.
        """
        url = request_url(base_url, request)
        headers, secrets = await self._headers(request, credentials)
        context = _send_context(str(url))
        try:
            async with (
                TimeLimit(request.timeout_s) as limit,
                self._open_request(url, request, headers, context) as response,
            ):
                if response.status not in (200, 206):
                    body = redact_keys(await read_body(response, ERROR_MAX_BYTES), secrets)
                    return Response(response.status, response.headers, body)
                at = _range_start(response.headers.get("Content-Range", "")) if response.status == 206 else 0
                if at > file.tell():
                    raise DownloadFailed("the server continues a file beyond where it was asked to")
                file.seek(at)
                file.truncate()
                decompressor = decompressor_for(response)
                async for chunk in response.content.iter_any():
                    limit.restart()
                    for piece in decompressor.feed(chunk):
                        await self._run_in_thread(_write, file, piece)
                return Response(response.status, response.headers, b"")
        except NETWORK_ERRORS as error:
            raise DownloadFailed(f"the download broke off: {describe_network_error(error, context.proxy)}") from None
        except Malformed as error:
            raise DownloadFailed(error.message, http_status=error.http_status) from None

    async def _receive(
        self, response: aiohttp.ClientResponse, decoder: BodyDecoder, secrets: Sequence[str]
    ) -> HttpAnswer:
        held: list[bytes] = []
        held_bytes = total = 0
        is_long = (response.content_length or BODY_MAX_BYTES) > self._short_bytes
        decompressor = decompressor_for(response)
        async for chunk in response.content.iter_any():
            for piece in decompressor.feed(chunk):
                held.append(piece)
                held_bytes += len(piece)
                total += len(piece)
                if total > BODY_MAX_BYTES:
                    raise too_large_error(response, BODY_MAX_BYTES)
                if held_bytes >= (BATCH_BYTES if is_long else self._short_bytes):
                    data, held, held_bytes = b"".join(held), [], 0
                    with with_http_status(response.status):
                        await self._run_in_thread(decoder.feed, data)
        return HttpAnswer(response.status, response.headers, b"".join(held), decoder, secrets)

    async def _run_in_thread(self, call: Callable[..., None], *args: object) -> None:
        """Return when the thread is done, even if cancelled: what it writes to is closed next."""
        doing = asyncio.get_running_loop().run_in_executor(self._executor, call, *args)
        try:
            await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait([doing])
            if not doing.cancelled():
                doing.exception()  # or asyncio complains that nobody retrieved it
            raise

    async def download_link(
        self, link: str, write: Callable[[bytes], None], *, max_bytes: int, api_url: str = ""
    ) -> None:
        """Download an image from a link in an answer, without credentials; every hop is checked.

        api_url: the API's address; if on this machine, links may lead to its host and port. Raises DownloadFailed.
        """
        received = 0
        proxy: Proxy | None = None
        try:
            for _ in range(MAX_REDIRECTS + 1):
                url = check_link(link, api_url)
                proxy = proxy_for(str(url), environment())
                async with TimeLimit(DOWNLOAD_TIMEOUT_S), await self._get_link(url, proxy) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        link = redirect_target(str(url), response.headers.get("Location", ""))
                        continue
                    if response.status != 200:
                        raise DownloadFailed(
                            f"the image's link answered {response.status}", http_status=response.status
                        )
                    decompressor = decompressor_for(response)
                    async for chunk in response.content.iter_any():
                        for piece in decompressor.feed(chunk):
                            received += len(piece)
                            if received > max_bytes:
                                raise DownloadFailed(
                                    f"the image is larger than {max_bytes} bytes", reason="link_refused"
                                )
                            await self._run_in_thread(write, piece)
                    return
            raise DownloadFailed(f"the image's link redirects more than {MAX_REDIRECTS} times")
        except NETWORK_ERRORS as error:
            raise DownloadFailed(
                f"the image's link could not be read: {describe_network_error(error, proxy)}"
            ) from None
        except SettingsError as error:  # a faulty proxy setting
            raise DownloadFailed(str(error)) from None
        except Malformed as error:
            raise DownloadFailed(error.message, http_status=error.http_status) from None

    async def _get_link(self, url: URL, proxy: Proxy | None) -> aiohttp.ClientResponse:
        """Request a link. A proxy gets the address that was checked: it might find another one for the name."""
        if proxy is None:
            session = self._link_session(public=not is_loopback(url.raw_host or ""))
            return await session.get(url, allow_redirects=False, timeout=CLIENT_TIMEOUT)
        parts = urlsplit(str(url))
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port or 443
        refused: aiohttp.ClientHttpProxyError | None = None
        for address in await public_addresses(host, port):
            literal = f"[{address}]" if ":" in address else address
            try:
                return await self._link_session(public=False).get(
                    parts._replace(netloc=f"{literal}:{port}").geturl(),
                    headers={"Host": parts.netloc.encode("idna").decode()},
                    server_hostname=host,
                    allow_redirects=False,
                    timeout=CLIENT_TIMEOUT,
                    **_proxy_arguments(proxy),
                )
            except aiohttp.ClientHttpProxyError as error:
                refused = error
                if error.status == 407:
                    break
        raise refused or OSError("no address")

    def _link_session(self, *, public: bool) -> aiohttp.ClientSession:
        """The session for links. public: it connects to public addresses only."""
        if public not in self._links:
            resolver = PublicResolver() if public else None
            self._links[public] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, limit=8, use_dns_cache=False, force_close=True),
                headers={"User-Agent": f"batchgen/{__version__}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._links[public]


def _write(file: IO[bytes], data: bytes) -> None:
    """Write data. Raises StoreError: a full disk is not the network's fault."""
    try:
        file.write(data)
    except OSError as error:
        raise disk_error(error, str(file.name)) from error


def _body_decoder(
    response: aiohttp.ClientResponse, open_sink: Callable[[int], Sink], *, signatures: bool
) -> BodyDecoder:
    if response.content_type.startswith("image/"):
        return ImageBodyDecoder(open_sink)
    return StreamingBase64Decoder(open_sink, signatures=signatures)


def _body(request: Request) -> bytes | AsyncIterator[memoryview]:
    """A large body in pieces of existing memory: aiohttp copies a BytesIO, and warns about bytes."""

    async def pieces(body: memoryview) -> AsyncIterator[memoryview]:
        for start in range(0, len(body), BATCH_BYTES):
            yield body[start : start + BATCH_BYTES]

    return request.body if len(request.body) < BATCH_BYTES else pieces(memoryview(request.body))


def _send_context(url: str, on_sent: Callable[[], None] = lambda: None) -> SimpleNamespace:
    """Whether a request's headers have left, whom to notify when they do, and its proxy. Raises SettingsError."""
    return SimpleNamespace(yes=False, on_sent=on_sent, proxy=proxy_for(url, environment()))


def _proxy_arguments(proxy: Proxy | None) -> dict[str, Any]:
    sent_to_it = {"User-Agent": f"batchgen/{__version__}", **(proxy.headers if proxy else {})}
    return {"proxy": proxy.url, "proxy_headers": sent_to_it} if proxy else {}


def _range_start(text: str) -> int:
    """The start of a range such as `bytes 100-199/200` (RFC 9110, 14.4), 0 if it is not stated."""
    start = text.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isascii() and start.isdecimal() else 0


async def _headers_sent(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
) -> None:
    sent = context.trace_request_ctx
    if not sent.yes:
        sent.yes = True
        sent.on_sent()
