"""The local server: the routes of all vendors' paths to their endpoints, and its own counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from ssl import SSLContext
from typing import Any, Self

from aiohttp import web

from batchgen.emulator import aimlapi, bfl, fal, google, openai, replicate, vertex
from batchgen.emulator.accounting import Statistics
from batchgen.emulator.answers import Answer, answering, endings
from batchgen.emulator.gemini_api import GeminiApi
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import LINKS_PATH, is_loopback
from batchgen.emulator.pipeline import Endpoint, Pipeline


class _Server:
    """All vendors of one emulator, what they share, and its own counters."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.pipeline = Pipeline(options)
        self.gemini = GeminiApi(self.pipeline)
        self.tokens = vertex.Tokens(options.token_life_s)
        self.job_vendors = [vendor(self.pipeline) for vendor in (replicate.Predictions, bfl.Tasks, fal.Queue)]

    def routes(self) -> list[web.RouteDef]:
        return [
            *aimlapi.routes(self.pipeline),  # before Google's, which takes the last word of a path for a model
            web.get(f"{google.VERSION}/models", answering(self.models, google.HEADERS)),
            web.post(aimlapi.PATH, partial(self.pipeline.handle, endpoint=self.generations())),
            *openai.routes(self.pipeline),
            *self.gemini.routes(),
            *vertex.routes(self.pipeline, self.tokens),
            *(route for vendor in self.job_vendors for route in vendor.routes()),
            web.get(LINKS_PATH + "/{name:.+}", answering(self.picture)),
            web.get("/_emulator/stats", self.stats),
            web.get("/_emulator/served", self.served),
            web.post("/_emulator/reset", self.reset),
        ]

    def generations(self) -> Endpoint:
        """The endpoint at the one path that AIML and OpenAI share."""
        at_aiml, at_openai = aimlapi.endpoint(self.pipeline), openai.generations(self.pipeline.options)
        return replace(at_aiml, shared=lambda body: at_openai if openai.asks_for(body) else at_aiml)

    def models(self, request: web.Request) -> dict[str, Any]:
        """List Google's models or, by a bearer key, OpenAI's, at the one path that they share."""
        if "Authorization" in request.headers and request.match_info["version"] == "v1":
            return openai.listing(request, self.pipeline.options)
        return self.gemini.models(request)

    def picture(self, request: web.Request) -> Answer:
        """Serve a picture as the content host, which wants no credentials."""
        link = self.pipeline.links.take(request.match_info["name"])
        if link is None:
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            return Answer(status=404, body=body, content_type="application/xml; charset=utf-8")
        return Answer(body=link.data, content_type=link.mime, pause=self.pipeline.drip if link.slow else None)

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.as_json())

    async def served(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.served_json())

    async def reset(self, request: web.Request) -> web.Response:
        await self.gemini.clear()
        for kept in (self.pipeline, self.tokens, *self.job_vendors):
            kept.clear()
        return web.json_response({})


class RunningEmulator:
    """A server that listens. `async with` closes it; requests in flight are cut off then."""

    def __init__(self, runner: web.AppRunner, server: _Server, scheme: str) -> None:
        self._runner = runner
        self._server = server
        host, port = runner.addresses[0][:2]
        self.base_url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def stats(self) -> Statistics:
        """Live counts, the same as `GET /_emulator/stats`."""
        return self._server.pipeline.statistics

    @property
    def tokens_issued(self) -> int:
        """How many of Google's access tokens were issued."""
        return self._server.tokens.issued

    def end_tokens(self) -> None:
        """End all access tokens issued so far, as when an administrator revokes them."""
        self._server.tokens.end_all()

    async def close(self) -> None:
        self._server.pipeline.close()
        await self._runner.cleanup()
        await self._server.gemini.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def serve(
    options: EmulatorOptions | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    allow_remote: bool = False,
    more_routes: Iterable[web.RouteDef] = (),
    tls: SSLContext | None = None,
) -> RunningEmulator:
    """Start to listen; port 0 takes a free one.

    more_routes: after ours; tls: for SDKs that speak nothing but https. Raises ValueError for a host that other
    machines can reach, unless allowed.
    """
    if not allow_remote and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines; allow_remote must be set for that")
    server = _Server(options or EmulatorOptions())
    # Handlers read bodies and limit their size themselves.
    app = web.Application(middlewares=[endings], client_max_size=0)
    app.add_routes([*server.routes(), *more_routes])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024, ssl_context=tls).start()
    except BaseException:
        await runner.cleanup()
        raise
    return RunningEmulator(runner, server, "https" if tls else "http")
