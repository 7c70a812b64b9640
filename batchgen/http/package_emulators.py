"""Serves the emulators of installed packages beside batchgen's own: each answers as its vendor does, below a path of
its own."""

from __future__ import annotations

from aiohttp import web

from batchgen.errors import UsageError
from batchgen.providers.contract import Emulator
from batchgen.providers.registry import PACKAGES_PATH, emulator_class
from batchgen.records import Request, Response


def package_routes() -> list[web.RouteDef]:
    """The routes for an emulator's server. A package's emulator is created at the first request for it."""
    made: dict[str, Emulator] = {}

    async def handle(request: web.Request) -> web.Response:
        name = request.match_info["provider"]
        path = f"{PACKAGES_PATH}/{name}"
        if name not in made:
            try:
                made[name] = emulator_class(name)(f"{request.scheme}://{request.host}{path}")
            except UsageError as error:
                return web.Response(status=404, text=str(error))
        return await respond(made[name], request, path)

    return [web.route("*", f"{PACKAGES_PATH}/{{provider}}{{path:/.*}}", handle)]


async def respond(emulator: Emulator, request: web.Request, below: str = "") -> web.Response:
    """Answer a request with a package's emulator. below: the path of that emulator, which it does not see itself."""
    asked = Request(
        method=request.method,
        path=request.path_qs.removeprefix(below),
        body=await request.read(),
        headers=dict(request.headers),
    )
    try:
        said = emulator.answer(asked)
    except Exception as error:  # whatever a third party's code does
        said = Response(500, {"Content-Type": "text/plain"}, f"a bug in {type(emulator).__name__}: {error!r}".encode())
    headers = dict(said.headers)
    if said.header("Content-Type") is None:
        headers["Content-Type"] = "application/json"
    return web.Response(status=said.status, headers=headers, body=said.body)
