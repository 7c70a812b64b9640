"""A package's emulator behind HTTP: it sees a request as it was sent, and what it answers arrives as it is."""

from __future__ import annotations

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from batchgen.http.package_emulators import package_routes, respond
from batchgen.records import Response


class Mirror:
    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.asked = []

    def answer(self, request):
        self.asked.append(request)
        if request.method == "DELETE":
            return {}[request.path]
        kind = {"content-type": "image/png"} if request.path.startswith("/image") else {}
        return Response(201, {"X-Seen": request.headers["X-Sent"], **kind}, request.body)


async def test_it_sees_the_request_below_its_path_and_its_answer_arrives():
    mirror, app = Mirror(""), web.Application()

    async def handle(request: web.Request) -> web.Response:
        return await respond(mirror, request, "/below")

    app.router.add_route("*", "/below/{path:.*}", handle)
    async with TestServer(app) as server, aiohttp.ClientSession(headers={"X-Sent": "7"}) as session:
        async with session.post(server.make_url("/below/image/1?a=b%20c"), data=b"\x00body") as answer:
            seen = (answer.status, answer.headers["X-Seen"], answer.content_type, await answer.read())
        async with session.get(server.make_url("/below/other")) as answer:
            assert answer.content_type == "application/json"
        async with session.delete(server.make_url("/below/other")) as answer:
            bug = (answer.status, await answer.text())
    assert seen == (201, "7", "image/png", b"\x00body")
    assert [(asked.method, asked.path) for asked in mirror.asked[:2]] == [
        ("POST", "/image/1?a=b%20c"),
        ("GET", "/other"),
    ]
    assert bug == (500, "a bug in Mirror: KeyError('/other')")


async def test_a_provider_that_brings_none_is_not_found():
    app = web.Application()
    app.add_routes(package_routes())
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/_packages/nobody/v1")) as answer,
    ):
        said = await answer.text()
    assert (answer.status, said) == (404, "provider nobody has no emulator; it can only be run without --emulate")
