"""Transport over real sockets: what counts as sent, what is bounded, and where a request or a key may never go."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.endpoint import Endpoint
from batchgen.errors import (
    BadRequest,
    ConnectFailed,
    DownloadFailed,
    Malformed,
    SettingsError,
    Unanswered,
    UploadFailed,
)
from batchgen.http import transport as transport_module
from batchgen.http.addresses import check_link, request_url
from batchgen.http.answer import STEP_BYTES, Decompressor, HttpAnswer, redact_keys
from batchgen.http.transport import Transport
from batchgen.providers.credentials import KeyHeader
from batchgen.records import Request
from batchgen.settings import check_base_url
from tests.support.http_server import Discard, serving, speaking

REQUEST = Request(method="POST", path="/v1/x", body=b'{"a": 1}', timeout_s=5.0)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    with ThreadPoolExecutor(2) as executor:
        async with Transport(4, executor) as opened:
            yield opened


async def send(transport: Transport, url: str, request: Request = REQUEST, sent: list[int] | None = None) -> HttpAnswer:
    marks: list[int] = [] if sent is None else sent
    return await transport.send(
        url,
        request,
        KeyHeader("x-goog-api-key", "SECRET-KEY-123"),
        on_sent=lambda: marks.append(1),
        open_sink=lambda _: Discard(),
    )


async def test_nothing_listening_means_that_nothing_left(transport):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    sent: list[int] = []
    with pytest.raises(ConnectFailed):
        await send(transport, f"http://127.0.0.1:{port}", sent=sent)
    assert sent == []


async def test_a_connection_that_breaks_after_the_request_is_unanswered(transport):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    sent: list[int] = []
    async with speaking(hang_up) as url:
        with pytest.raises(Unanswered):
            await send(transport, url, sent=sent)
    assert sent == [1]


async def test_an_answer_that_breaks_off_half_way_is_unanswered(transport):
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        await writer.drain()
        writer.close()

    async with speaking(half) as url:
        with pytest.raises(Unanswered):
            await send(transport, url)


async def test_a_server_that_never_answers_is_given_up_at_the_time_limit_as_unanswered(transport):
    given_up = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await given_up.wait()
        return web.Response()

    async with serving(hang) as url:
        with pytest.raises(Unanswered) as error:
            await send(transport, url, Request(method="POST", path="/", body=b"", timeout_s=0.3))
        given_up.set()  # or the runner waits for it
    assert error.value.reason == "timeout"


async def test_the_key_travels_in_a_header_and_never_in_the_address(transport):
    seen: list[web.Request] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response({})

    async with serving(look) as url:
        await send(transport, url)
    assert seen[0].headers["x-goog-api-key"] == "SECRET-KEY-123"
    assert "SECRET" not in str(seen[0].url)


async def test_a_redirect_is_not_followed_so_that_no_key_reaches_another_host(transport):
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": other})

    async def never(_: web.Request) -> web.Response:
        arrived.append(1)
        return web.json_response({})

    arrived: list[int] = []
    async with serving(never) as other, serving(elsewhere) as url:
        answer = await send(transport, url)
    assert (answer.status, arrived) == (307, [])


async def test_a_body_that_unpacks_without_end_is_cut_at_the_cap(transport, monkeypatch):
    monkeypatch.setattr(transport_module, "BODY_MAX_BYTES", 4_000_000)

    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})

    async with serving(bomb) as url:
        with pytest.raises(Malformed) as error:
            await send(transport, url)
    assert error.value.reason == "too_large"


async def test_an_error_answer_without_end_is_cut_and_keeps_its_status(transport):
    async def endless(_: web.Request) -> web.Response:
        return web.Response(status=500, body=b"x" * 3_000_000)

    async with serving(endless) as url:
        answer = await send(transport, url)
    assert (answer.status, len(answer.envelope()) <= 20_000) == (500, True)


async def test_nothing_is_lifted_out_of_an_error_answer(transport):
    async def long(_: web.Request) -> web.Response:
        return web.json_response({"error": "A" * 100_000}, status=400)

    async with serving(long) as url:
        answer = await transport.send(url, REQUEST, None, on_sent=lambda: None, open_sink=pytest.fail)
        assert b"A" * 100_000 in answer.envelope()


def self_signed(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_a_byte_of_the_request_leaves(
    transport, tmp_path
):
    arrived: list[int] = []

    async def never(_: web.Request) -> web.Response:
        arrived.append(1)
        return web.json_response({})

    sent: list[int] = []
    async with serving(never, self_signed(tmp_path)) as url:
        with pytest.raises(ConnectFailed):
            await send(transport, url, sent=sent)
    assert (sent, arrived) == ([], [])


@pytest.mark.parametrize(
    "link",
    [
        "http://cdn.example.com/a.png",
        "ftp://cdn.example.com/a.png",
        "file:///etc/passwd",
        "https:///a.png",
        "https://user@cdn.example.com/a.png",
        "https://127.0.0.1/a.png",
        "https://localhost/a.png",
        "https://10.0.0.5/a.png",
        "https://192.168.1.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/a.png",
        "https://[::ffff:10.0.0.1]/a.png",
        "https://[64:ff9b::a00:1]/a.png",
        "https://[2002:a00:1::1]/a.png",
        "https://[fe80::1]/a.png",
        "https://0.0.0.0/a.png",
        "https://100.64.0.1/a.png",
        "https://[::1/a.png",
        "https://cdn.example.com:99999/a.png",
        "https://cdn..example.com/a.png",
    ],
)
def test_a_link_that_is_not_https_to_a_public_host_is_refused(link):
    with pytest.raises(DownloadFailed) as error:
        check_link(link)
    assert error.value.reason == "link_refused"


@pytest.mark.parametrize("api_url", ["", "http://127.0.0.1:443", "https://127.0.0.1"])
@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "private.example"])
async def test_a_name_that_turns_out_to_be_a_private_address_is_refused(transport, monkeypatch, host, api_url):
    async def to_loopback(*_: object, **__: object) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": 443, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", to_loopback)
    with pytest.raises(DownloadFailed) as error:
        await transport.download_link(f"https://{host}/a.png", lambda _: None, max_bytes=10, api_url=api_url)
    assert any(words in str(error.value) for words in ("not a public address", "not a canonical IPv4 address"))


async def test_a_download_carries_no_credentials(transport):
    seen: list[web.Request] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"picture")

    received: list[bytes] = []
    async with serving(look) as url:
        await transport.download_link(f"{url}/a.png", received.append, max_bytes=100, api_url=url)
    assert b"".join(received) == b"picture"
    assert not {"x-goog-api-key", "authorization", "cookie"} & {name.lower() for name in seen[0].headers}


async def test_a_redirect_of_a_download_is_checked_like_the_link_itself(transport):
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://10.0.0.1/a.png"})

    async with serving(away) as url:
        with pytest.raises(DownloadFailed) as error:
            await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=100, api_url=url)
    assert error.value.reason == "link_refused"


@pytest.mark.parametrize("location", ["https://[::1", "https://cdn.example.com:x/a.png", "https:///a.png", "http://[x"])
async def test_a_redirect_to_a_malformed_address_is_refused(transport, location):
    async def away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with speaking(away) as url:
        with pytest.raises(DownloadFailed) as error:
            await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=100, api_url=url)
    assert error.value.reason == "link_refused"


@pytest.mark.parametrize("hops", [0, 1, 2])
async def test_a_link_on_this_machine_leads_to_the_api_s_own_host_and_port_and_nowhere_else(transport, hops):
    asked: list[str] = []

    async def other(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"of another service")

    async def api_url(request: web.Request) -> web.Response:
        left = int(request.match_info["rest"])
        return web.Response(status=302, headers={"Location": f"/{left - 1}" if left else f"{there}/secret"})

    async with serving(other) as there, serving(api_url) as url:
        link = f"{url}/{hops - 1}" if hops else f"{there}/secret"
        with pytest.raises(DownloadFailed) as error:
            await transport.download_link(link, lambda _: None, max_bytes=100, api_url=url)
    assert (error.value.reason, asked) == ("link_refused", [])


@pytest.mark.parametrize(
    "link", ["http://[::1", "https://[x]/a.png", "https://h:port/a.png", "https://h:99999/a.png", ""]
)
async def test_a_link_that_is_no_address_is_refused(transport, link):
    with pytest.raises(DownloadFailed) as error:
        await transport.download_link(link, lambda _: None, max_bytes=100, api_url="http://127.0.0.1:1")
    assert error.value.reason == "link_refused"


STRAYING = [
    ":1/x", ".evil.example/x", "//evil.example/x", "@evil.example/x", "\\evil.example/x", "/\\evil.example/x", "?x", "#x",
    "/x#y", "", "x", "https://evil.example/x", "/a b", "/x\r\nHost: evil.example", "/\t/evil.example", "/\u2044evil.example",
]  # fmt: skip


@pytest.mark.parametrize("base", ["https://api.example.com", "https://api.example.com/tenant", "http://127.0.0.1:8080"])
@pytest.mark.parametrize("path", STRAYING)
def test_no_path_leads_away_from_the_server_that_the_settings_name(base, path):
    try:
        address = request_url(base, Request(method="GET", path=path))
    except BadRequest:
        return
    assert str(address) == "https://api.example.com/tenant//evil.example/x"  # a folder of its own


@pytest.mark.parametrize(
    ("base", "path", "address"),
    [
        ("https://h", "/v1beta/models/a%2Fb:generateContent", "https://h/v1beta/models/a%2Fb:generateContent"),
        ("https://h/tenant/", "/v1/images", "https://h/tenant/v1/images"),
        ("http://[::1]:8080", "/v1/batches?pageSize=1&pageToken=a%3D", "http://[::1]:8080/v1/batches?pageSize=1&pageToken=a%3D"),
    ],
)  # fmt: skip
def test_a_path_is_joined_to_the_base_url_as_the_codec_wrote_it(base, path, address):
    assert str(request_url(base, Request(method="GET", path=path))) == address


VENDOR = Endpoint(
    name="bfl",
    key_names=("BFL_API_KEY",),
    base_url_names=("BATCHGEN_BFL_BASE_URL",),
    base_url="https://api.bfl.ai",
    hosts=("*.bfl.ai", "list.example.com"),
)
MADE_UP = [
    "https://evil.example/x", "https://bfl.ai/x", "https://evilbfl.ai/x", "https://api.bfl.ai.evil.example/x", "http://api.us.bfl.ai/x",
    "https://api.us.bfl.ai:8443/x", "https://user@api.us.bfl.ai/x", "https://:pw@api.us.bfl.ai/x", "https://evil.example\\@api.us.bfl.ai/x",
    "https://evil.example#@api.us.bfl.ai/x", "https://evil.example?@api.us.bfl.ai/x", "//api.us.bfl.ai/x", "/x", "x", "https://[::1", "https://",
    "https://api.us.bfl.ai/x\r\nHost: evil.example", "https://api.us.bfl.ai./x", "https://api.us.bfl.ai:99999/x", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("base", ["https://api.bfl.ai", "https://gateway.example.com/bfl", "http://127.0.0.1:8080"])
@pytest.mark.parametrize("url", MADE_UP)
def test_an_address_of_an_answer_is_asked_at_no_host_that_its_codec_has_not_declared(base, url):
    with pytest.raises(BadRequest):
        request_url(base, Request(method="GET", url=url, endpoint=VENDOR))


@pytest.mark.parametrize(
    ("base", "url", "endpoint", "asked"),
    [
        ("https://api.bfl.ai", "https://api.us6.bfl.ai/v1/get_result?id=a%2Fb", VENDOR, "https://api.us6.bfl.ai/v1/get_result?id=a%2Fb"),
        ("https://api.eu.bfl.ai", "https://api.bfl.ai/v1/x", VENDOR, "https://api.bfl.ai/v1/x"),
        ("https://api.bfl.ai", "https://list.example.com/v1/x", VENDOR, "https://list.example.com/v1/x"),
        ("https://api.bfl.ai", "https://api.bfl.ai/v1/x", None, "https://api.bfl.ai/v1/x"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/x?id=1", None, "http://127.0.0.1:8080/v1/x?id=1"),
        # Someone else's server stands for all of the vendor's.
        ("http://127.0.0.1:8080", "https://list.example.com/v1/x?page=2", VENDOR, "http://127.0.0.1:8080/v1/x?page=2"),
        ("https://gateway.example.com/bfl", "https://api.us6.bfl.ai/v1/x", VENDOR, "https://gateway.example.com/bfl/v1/x"),
    ],
)  # fmt: skip
def test_an_address_of_the_vendors_is_asked_as_given_and_a_gateway_stands_for_all_of_them(base, url, endpoint, asked):
    assert str(request_url(base, Request(method="GET", url=url, endpoint=endpoint))) == asked


@pytest.mark.parametrize("path", STRAYING)
async def test_nothing_that_sends_goes_where_a_path_would_lead_it(transport, tmp_path, path):
    arrived: list[str] = []

    async def never(request: web.Request) -> web.Response:
        arrived.append(request.path)
        return web.json_response({})

    request = Request(method="POST", path=path, body=b"", timeout_s=5.0)
    key = KeyHeader("x-goog-api-key", "SECRET-KEY-123")
    async with serving(never) as url:
        with pytest.raises(BadRequest):
            await send(transport, url, request)
        with pytest.raises(BadRequest):
            await transport.request(url, request, key)
        with pytest.raises(BadRequest):
            await transport.upload(url, request, key)
        with (tmp_path / "file").open("wb") as file, pytest.raises(BadRequest):
            await transport.download(url, request, key, file)
    assert arrived == []


@pytest.mark.parametrize(
    "granted",
    ["https://storage.example.com/x", "http://127.0.0.1:1/x", "https://127.0.0.1/x", "//evil.example/x", "/x", "x\r\ny", "http://[",
     "http://u@127.0.0.1:8080/x"],
)  # fmt: skip
async def test_a_file_of_the_user_goes_to_no_server_but_the_api_s_own(transport, granted):
    request = Request(method="POST", path="", body=b"picture", timeout_s=5.0)
    with pytest.raises(UploadFailed, match="not on the API's own server"):
        await transport.upload("http://127.0.0.1:8080", request, None, granted)


async def test_an_address_granted_for_an_upload_stands_for_the_key(transport):
    seen: list[web.Request] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response({})

    request = Request(method="POST", path="", body=b"picture", timeout_s=5.0)
    async with serving(look) as url:
        await transport.upload(url, request, KeyHeader("x-goog-api-key", "SECRET-KEY-123"), f"{url}/upload?id=a%2Fb")
    assert (seen[0].raw_path, "x-goog-api-key" in seen[0].headers) == ("/upload?id=a%2Fb", False)


async def test_a_download_that_redirects_in_circles_ends(transport):
    async def around(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": str(request.url)})

    async with serving(around) as url:
        with pytest.raises(DownloadFailed, match="redirects"):
            await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=100, api_url=url)


async def test_a_download_is_cut_at_its_cap(transport):
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(1000))

    async with serving(large) as url:
        with pytest.raises(DownloadFailed) as error:
            await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=100, api_url=url)
    assert error.value.reason == "link_refused"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "ftp://x",
        "api.example.com",
        "https://u:p@x",
        "https://x/?key=1",
        "https://h:port",
        "https://h:99999",
        "https://[::1",
    ],
)
def test_a_base_url_that_would_show_the_key_or_is_none_is_refused(url):
    with pytest.raises(SettingsError):
        check_base_url(url, "BATCHGEN_GEMINI_BASE_URL")


@pytest.mark.parametrize(
    "url", ["https://api.example.com/x/", "http://127.0.0.1:8080", "http://localhost:1/", "http://[::1]:1"]
)
def test_a_base_url_over_https_or_to_this_machine_is_taken(url):
    assert check_base_url(url, "X") == url.rstrip("/")


def test_only_whole_keys_are_taken_out_of_an_answer_and_placeholders_are_left():
    assert redact_keys(b'{"m": "key AIzaSyExample99"}', ["AIzaSyExample99"]) == b'{"m": "key [key]"}'
    assert redact_keys(b"local", ["local"]) == b"local"


def whole(text: str) -> bytes:
    body = b'{"for": "%s"}' % text.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "delay_s", [0.0, 0.05, 0.4], ids=["at once", "while nothing is asked", "during the next request"]
)
async def test_an_answer_that_nobody_asked_for_is_never_given_to_the_next_request(transport, delay_s):
    arrived: list[bytes] = []

    async def one_too_many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split()[0])
            arrived.append(await reader.readexactly(length))
            await asyncio.sleep(0.3 if len(arrived) > 1 else 0)
            writer.write(whole(arrived[-1].decode()))
            asyncio.get_running_loop().call_later(delay_s, writer.write, whole("a stale one"))

    async with speaking(one_too_many) as url:
        for name in ("first", "second", "third"):
            answer = await send(transport, url, Request(method="POST", path="/", body=name.encode(), timeout_s=5.0))
            assert answer.envelope() == b'{"for": "%s"}' % name.encode()
            await asyncio.sleep(0.15)
    assert arrived == [b"first", b"second", b"third"]


async def test_a_stale_answer_is_never_taken_for_the_next_picture_of_a_link(transport):
    async def one_too_many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(whole(head.split()[1].decode()))
            asyncio.get_running_loop().call_later(0.02, writer.write, whole("a stale one"))

    async with speaking(one_too_many) as url:
        for name in ("/a.png", "/b.png"):
            received: list[bytes] = []
            await transport.download_link(url + name, received.append, max_bytes=1000, api_url=url)
            assert b"".join(received) == b'{"for": "%s"}' % name.encode()
            await asyncio.sleep(0.1)


async def test_an_answer_that_drips_for_ever_is_given_up_at_the_time_limit_as_unanswered(transport):
    async with speaking(drip) as url:
        with pytest.raises(Unanswered) as error:
            await send(transport, url, Request(method="POST", path="/", body=b"", timeout_s=0.3))
    assert error.value.reason == "timeout"


async def test_a_picture_that_drips_for_ever_behind_its_link_is_given_up_at_the_time_limit(transport, monkeypatch):
    monkeypatch.setattr(transport_module, "DOWNLOAD_TIMEOUT_S", 0.3)
    async with speaking(drip) as url:
        with pytest.raises(DownloadFailed):
            await transport.download_link(f"{url}/a.png", lambda _: None, max_bytes=10**9, api_url=url)


async def test_a_server_that_never_finishes_the_handshake_is_given_up_and_nothing_counts_as_sent(transport):
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    sent: list[int] = []
    async with speaking(mute) as url:
        with pytest.raises(ConnectFailed):
            await send(
                transport,
                url.replace("http:", "https:"),
                Request(method="POST", path="/", body=b"", timeout_s=0.3),
                sent=sent,
            )
    assert sent == []


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
async def test_an_answer_that_comes_compressed_though_nobody_asked_for_it_is_read(transport, encoding):
    body = b'{"for": "%s"}' % (b"me " * 200_000)

    async def packed(_: web.Request) -> web.Response:
        data = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
        return web.Response(body=data, headers={"Content-Encoding": encoding})

    received: list[bytes] = []
    async with serving(packed) as url:
        answer = await send(transport, url)
        asked = (await transport.request(url, REQUEST, None)).body
        await transport.download_link(f"{url}/a.png", received.append, max_bytes=len(body), api_url=url)
    assert answer.envelope() == asked == b"".join(received) == body


@pytest.mark.parametrize(("encoding", "words"), [("br", "compressed as 'br'"), ("gzip", "cannot be decompressed")])
async def test_an_answer_that_cannot_be_decompressed_says_so(transport, encoding, words):
    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=b'{"not": "compressed"}', headers={"Content-Encoding": encoding})

    async with serving(packed) as url:
        with pytest.raises(Malformed, match=words) as error:
            await send(transport, url)
    assert (error.value.reason, error.value.http_status) == ("compressed", 200)


@given(data=st.binary(max_size=2000), chunk=st.integers(1, 100), times=st.integers(1, 2000))
@settings(deadline=None, max_examples=50)
def test_whatever_the_chunks_what_was_compressed_comes_out_whole_and_in_small_pieces(data, chunk, times):
    packed, unpacker = gzip.compress(data * times), Decompressor("gzip", 200)
    pieces = [piece for at in range(0, len(packed), chunk) for piece in unpacker.feed(packed[at : at + chunk])]
    assert b"".join(pieces) == data * times
    assert all(len(piece) <= STEP_BYTES for piece in pieces)


async def test_who_is_cancelled_while_a_picture_is_written_ends_when_the_writing_has(transport):
    writing, go_on, done = threading.Event(), threading.Event(), []

    class Slow:
        def write(self, data: bytes) -> None:
            writing.set()
            go_on.wait(5)
            done.append(len(data))

    async def large(_: web.Request) -> web.Response:
        return web.json_response({"data": "A" * 3_000_000})

    async with serving(large) as url:
        sending = transport.send(url, REQUEST, None, on_sent=lambda: None, open_sink=lambda _: Slow())
        task = asyncio.ensure_future(sending)
        await asyncio.to_thread(writing.wait, 5)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(done) == 1


async def test_a_download_may_take_longer_than_its_limit_as_long_as_something_comes(transport, tmp_path):
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(6):
            await response.write(b"line\n")
            await asyncio.sleep(0.25)
        return response

    request = Request(method="GET", path="/", body=b"", timeout_s=1.0)
    async with serving(slow) as url:
        with (tmp_path / "results").open("w+b") as file:
            await transport.download(url, request, None, file)
    assert (tmp_path / "results").read_bytes() == b"line\n" * 6


async def test_a_download_from_which_nothing_comes_any_more_is_given_up_at_its_limit(transport, tmp_path):
    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nline\n")
        await reader.read()

    request = Request(method="GET", path="/", body=b"", timeout_s=0.2)
    async with speaking(stuck) as url:
        with (tmp_path / "results").open("w+b") as file, pytest.raises(DownloadFailed):
            await transport.download(url, request, None, file)
    assert (tmp_path / "results").read_bytes() == b"line\n"
