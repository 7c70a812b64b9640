"""Requests through a real CONNECT proxy on loopback: what it gets to see, what it may not do, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from batchgen.emulator import EmulatorOptions, serve
from batchgen.errors import ConnectFailed, DownloadFailed, SettingsError
from batchgen.http.transport import Transport
from batchgen.providers.credentials import KeyHeader
from batchgen.records import Request
from batchgen.report.notify import send_heartbeat
from tests.support.command_line import environment
from tests.support.fork_server import PYTHON
from tests.support.http_server import Discard, serving
from tests.support.https import ADDRESS, CDN, HOST, Authority, authority, listening, pipe, proxy
from tests.support.marked_key import KEY

REQUEST = Request(method="POST", path="/v1/x", body=b'{"a": 1}', timeout_s=5.0)
LOGIN = "me:hush%20hush@"
BASIC = "Basic bWU6aHVzaCBodXNo"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _trust(trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusted.client())


class Server:
    """The API and the host of links, over TLS. seen: their requests."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.location = ""
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.seen.append(request)
        if request.path == "/away":
            return web.Response(status=302, headers={"Location": self.location})
        return web.json_response({"for": request.path})


@pytest.fixture
async def server(trusted: Authority) -> AsyncIterator[Server]:
    found = Server()
    async with serving(found.answer, trusted.server) as url:
        found.port = int(url.rpartition(":")[2])
        yield found


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    with ThreadPoolExecutor(2) as executor:
        async with Transport(4, executor) as opened:
            yield opened


async def send(transport: Transport, url: str = f"https://{HOST}", sent: list[int] | None = None):
    marks: list[int] = [] if sent is None else sent
    return await transport.send(
        url, REQUEST, KeyHeader("x-goog-api-key", KEY), on_sent=lambda: marks.append(1), open_sink=lambda _: Discard()
    )


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_request_reaches_its_server_through_the_proxy_which_sees_its_host_and_no_more(
    transport, server, monkeypatch, name
):
    sent: list[int] = []
    async with proxy(server.port) as through:
        monkeypatch.setenv(name, through.url(LOGIN))
        answer = await send(transport, sent=sent)
    assert (answer.envelope(), sent, through.asked) == (b'{"for": "/v1/x"}', [1], [f"CONNECT {HOST}:443 HTTP/1.1"])
    assert server.seen[0].headers["x-goog-api-key"] == KEY
    assert BASIC in through.heads[0] and KEY not in through.heads[0]
    assert not {"proxy-authorization", "via"} & {header.lower() for header in server.seen[0].headers}


async def test_so_do_uploads_and_the_results_of_batches(transport, server, monkeypatch, tmp_path):
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        request = Request(method="POST", path="", body=b"x" * 600_000)
        await transport.upload(f"https://{HOST}", request, None, f"https://{HOST}/upload")
        with (tmp_path / "results").open("w+b") as file:
            await transport.download(f"https://{HOST}", Request(method="GET", path="/results", body=b""), None, file)
    assert (tmp_path / "results").read_bytes() == b'{"for": "/results"}'
    assert through.asked == [f"CONNECT {HOST}:443 HTTP/1.1"] * 2


async def test_a_proxy_may_itself_be_reached_over_tls(transport, server, monkeypatch, trusted):
    async with proxy(server.port, tls=trusted.server) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url(LOGIN, scheme="https"))
        assert (await send(transport)).status == 200


async def test_every_request_through_a_proxy_has_a_connection_of_its_own(transport, server, monkeypatch):
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        await asyncio.gather(*(send(transport) for _ in range(3)))
    assert len(through.heads) == len(server.seen) == 3


REFUSALS = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "wants a user name"),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello", "HTTP 502 Bad Gateway"),
    "403 page": (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>no</html>", "HTTP 403 Forbidden"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "through the proxy"),
    "200 and no TLS": (b"HTTP/1.1 200 OK\r\n\r\n" + b'{"candidates": []}' * 500, "through the proxy"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_proxy_that_refuses_is_named_without_its_password_and_nothing_was_sent(
    transport, server, monkeypatch, name
):
    answer, words = REFUSALS[name]
    sent: list[int] = []
    async with proxy(0, answer=answer) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url(LOGIN))
        with pytest.raises(ConnectFailed) as error:
            await send(transport, sent=sent)
        with pytest.raises(DownloadFailed) as of_link:
            await transport.download_link(f"https://{ADDRESS}/a.png", lambda _: None, max_bytes=100)
    assert (sent, server.seen) == ([], [])
    for said in (error.value.message, of_link.value.message):
        assert words in said and f"the proxy {through.url()} (HTTPS_PROXY)" in said
        assert "hush" not in said and "bWU6" not in said


async def test_a_proxy_that_is_not_there_or_hangs_up_or_hangs_is_named_and_nothing_was_sent(transport, monkeypatch):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = unused.getsockname()[1]
    short = Request(method="POST", path="/", body=b"{}", timeout_s=0.3)
    async with proxy(0) as hangs_up, listening(hang) as hangs:
        for port in (gone, hangs_up.port, hangs):
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            with pytest.raises(ConnectFailed, match=f"the proxy http://127.0.0.1:{port} "):
                await transport.send(f"https://{HOST}", short, None, on_sent=pytest.fail, open_sink=lambda _: Discard())


async def test_a_proxy_that_answers_in_the_servers_place_is_found_out_by_its_certificate(
    transport, monkeypatch, tmp_path
):
    async def pretend(_: web.Request) -> web.Response:
        pytest.fail("a request has reached it")

    async with serving(pretend, authority(tmp_path).server) as url, proxy(int(url.rpartition(":")[2])) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        sent: list[int] = []
        with pytest.raises(ConnectFailed, match="certificate"):
            await send(transport, sent=sent)
        with pytest.raises(DownloadFailed, match="certificate"):
            await transport.download_link(f"https://{ADDRESS}/a.png", lambda _: None, max_bytes=100)
    assert sent == []


async def test_what_is_on_this_machine_is_reached_directly_whatever_the_environment_says(transport, monkeypatch):
    async def look(_: web.Request) -> web.Response:
        return web.json_response({})

    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(look) as url:
        assert (await send(transport, url)).status == 200
        await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=100, api_url=url)


def resolving(monkeypatch: pytest.MonkeyPatch, **addresses: list[str]) -> None:
    """What the name server of this machine says of `cdn` and others; of the rest nothing."""

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        if host == "127.0.0.1":
            found = ["127.0.0.1"]
        elif (found := addresses.get(host.partition(".")[0], [])) == []:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            {"hostname": host, "host": one, "port": port, "family": family, "proto": 0, "flags": 0} for one in found
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


async def download_link(transport: Transport, link: str) -> bytes:
    received: list[bytes] = []
    await transport.download_link(link, received.append, max_bytes=1000)
    return b"".join(received)


async def test_of_a_link_the_proxy_is_asked_for_the_address_that_was_checked_here(transport, server, monkeypatch):
    resolving(monkeypatch, cdn=["10.0.0.1", "2606:2800:220:1::1", ADDRESS])
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url(LOGIN))
        assert await download_link(transport, f"https://{CDN}:8443/a%20b.png?sig=1") == b'{"for": "/a b.png"}'
    assert through.asked == [f"CONNECT {ADDRESS}:8443 HTTP/1.1"]
    (seen,) = server.seen
    assert (seen.headers["Host"], str(seen.rel_url)) == (f"{CDN}:8443", "/a%20b.png?sig=1")


async def test_a_proxy_that_cannot_reach_one_address_is_asked_for_the_next(transport, monkeypatch):
    resolving(monkeypatch, cdn=["2606:2800:220:1::1", ADDRESS])
    async with proxy(0, answer=REFUSALS["502"][0]) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        with pytest.raises(DownloadFailed, match="HTTP 502"):
            await download_link(transport, f"https://{CDN}/a.png")
    assert through.asked == [f"CONNECT {ADDRESS}:443 HTTP/1.1", "CONNECT [2606:2800:220:1::1]:443 HTTP/1.1"]


async def test_a_proxy_that_wants_a_password_is_asked_once(transport, monkeypatch):
    resolving(monkeypatch, cdn=["2606:2800:220:1::1", ADDRESS])
    async with proxy(0, answer=REFUSALS["407"][0]) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        with pytest.raises(DownloadFailed, match="wants a user name"):
            await download_link(transport, f"https://{CDN}/a.png")
    assert len(through.heads) == 1


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("private.test.example", "is not a public address"),
        ("2130706433", "is not a public address"),
        ("unknown.test.example", "cannot be resolved on this machine"),
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
async def test_a_link_whose_host_is_private_or_unknown_here_is_not_asked_of_the_proxy(
    transport, server, monkeypatch, host, words, redirected
):
    resolving(monkeypatch, cdn=[ADDRESS], private=["10.0.0.1"], **{"2130706433": ["127.0.0.1"]})
    server.location = f"https://{host}/a.png"
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        with pytest.raises(DownloadFailed, match=words):
            await download_link(transport, f"https://{CDN}/away" if redirected else server.location)
    assert len(through.heads) == len(server.seen) == redirected


async def test_a_link_is_not_fetched_when_the_certificate_is_of_another_host(transport, server, monkeypatch):
    resolving(monkeypatch, other=[ADDRESS])
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        with pytest.raises(DownloadFailed, match="certificate"):
            await download_link(transport, "https://other.test.example/a.png")
    assert server.seen == []


async def test_a_proxy_that_cannot_be_used_fails_a_link_in_words_and_a_request_as_a_setting(transport, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(DownloadFailed, match="ALL_PROXY: socks5:// proxies"):
        await download_link(transport, f"https://{ADDRESS}/a.png")
    with pytest.raises(SettingsError, match=r"^ALL_PROXY: "):
        await send(transport)


async def test_a_heartbeat_goes_through_the_proxy_too(server, monkeypatch):
    async with proxy(server.port) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url())
        assert await asyncio.to_thread(send_heartbeat, f"https://{ADDRESS}/ping/1") is None
    assert (through.asked, server.seen[0].path) == ([f"CONNECT {ADDRESS}:443 HTTP/1.1"], "/ping/1")


# --- the whole program, whose API is behind the proxy


class Program:
    """`python -m batchgen` in a folder of its own, with an emulator behind a proxy as the vendor's server."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ

    async def run(self, *argv: str, **environ: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "batchgen", *argv, cwd=self.folder, env=environment(**{**self.environ, **environ}),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def program(tmp_path, trusted):
    (tmp_path / "job.yaml").write_text(
        "defaults: {model: gemini-3-pro-image}\nitems: [{id: a, prompt: A mug}, {id: b, prompt: A cup}]\n"
    )
    options = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0)
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(await serve(options))
        plain = int(emulator.base_url.rpartition(":")[2])
        tls = await stack.enter_async_context(listening(lambda *ends: pipe(*ends, plain), trusted.server))
        through = await stack.enter_async_context(proxy(tls))
        environ = {
            "BATCHGEN_GEMINI_BASE_URL": f"https://{HOST}", "GEMINI_API_KEY": KEY, "SSL_CERT_FILE": str(trusted.ca),
            "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "500", "AIMLAPI_API_KEY": "",
        }  # fmt: skip
        yield Program(tmp_path, environ), through


async def test_a_run_makes_its_images_through_the_proxy_and_shows_its_password_nowhere(program, tmp_path):
    batchgen, through = program
    code, out, err = await batchgen.run(
        "run",
        "job.yaml",
        "--yes",
        "--json",
        "--log-file",
        "log",
        "--log-format",
        "json",
        HTTPS_PROXY=through.url(LOGIN),
    )
    assert (code, json.loads(out)["images"]["made"]) == (0, 2), err
    assert through.asked == [f"CONNECT {HOST}:443 HTTP/1.1"] * 2
    kept = [path.read_bytes() for path in (tmp_path / "job").rglob("*") if path.is_file()]
    for text in (out.encode(), err.encode(), (tmp_path / "log").read_bytes(), *kept):
        assert b"hush" not in text and b"bWU6" not in text


async def test_a_proxy_in_the_manifests_folder_is_not_asked(program, tmp_path):
    batchgen, through = program
    (tmp_path / ".env").write_text(f"HTTPS_PROXY={through.url()}\nALL_PROXY={through.url()}\n")
    (tmp_path / "job.yaml").write_text(
        "limits: {attempts: 1}\nitems: [{id: a, prompt: A mug, model: gemini-3-pro-image}]\n"
    )
    code, _, _ = await batchgen.run("run", "job.yaml", "--yes")
    assert (code, through.heads) == (4, [])


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://127.0.0.1:99999", "http://me:hush@[::1"])
async def test_a_proxy_that_cannot_be_used_stops_a_run_before_it_begins(program, tmp_path, value):
    batchgen, _ = program
    code, _, err = await batchgen.run("run", "job.yaml", "--yes", HTTPS_PROXY=value)
    assert (code, "HTTPS_PROXY: " in err, "hush" in err, "bug" in err) == (5, True, False, False)
    assert not (tmp_path / "job" / "results.jsonl").exists()


async def test_doctor_asks_through_the_proxy_and_says_which_is_used_for_what(program):
    batchgen, through = program
    more = {"HTTPS_PROXY": through.url(LOGIN), "NO_PROXY": "api.aimlapi.com"}
    code, out, err = await batchgen.run("doctor", "--online", "--json", **more)
    says = {check["what"]: check["says"] for check in json.loads(out)["checks"]}
    named = f"through the proxy {through.url()} (HTTPS_PROXY)"
    assert (code, named in says["address gemini"], named in says["links"]) == (0, True, True), err
    assert says["address aimlapi"] == "https://api.aimlapi.com, directly because of NO_PROXY"
    assert through.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert "hush" not in out
