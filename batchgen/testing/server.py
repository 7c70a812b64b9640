"""A vendor on loopback for the tests of a codec: its emulator behind HTTP, and what it was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager

from aiohttp import web

from batchgen.http.package_emulators import respond
from batchgen.providers.contract import Emulator
from batchgen.records import Request, Response


class VendorServer:
    """Use `serving`. asked: method and path of each request."""

    def __init__(self, url: str, emulator: Emulator) -> None:
        self.url = url
        self.asked: list[tuple[str, str]] = []
        self._emulator = emulator

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path_qs))
        return await respond(self._emulator, request)

    def bought(self, buying: Set[tuple[str, str]]) -> int:
        """How often something was asked for that costs. buying: method of what does, and how its path ends."""
        return sum(any(one == method and path.endswith(end) for one, end in buying) for method, path in self.asked)


class EchoingVendor:
    """Refuses each request, and repeats all its headers."""

    def __init__(self, base_url: str) -> None:
        pass

    def answer(self, request: Request) -> Response:
        return Response(400, {"Content-Type": "text/plain"}, f"no: {dict(request.headers)}".encode())


@asynccontextmanager
async def serving(make: Callable[[str], Emulator]) -> AsyncIterator[VendorServer]:
    app = web.Application(client_max_size=1 << 30)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    servers: list[VendorServer] = []

    async def handle(request: web.Request) -> web.Response:
        return await servers[0].handle(request)

    app.router.add_route("*", "/{path:.*}", handle)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        servers.append(VendorServer(url, make(url)))
        yield servers[0]
    finally:
        await runner.cleanup()
