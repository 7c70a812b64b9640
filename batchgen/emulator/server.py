"""The local server: routes of the vendors' paths to their endpoints, and its own counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from ssl import SSLContext
from typing import Any, Self

from aiohttp import web

from batchgen.emulator import aimlapi, bfl, chat, fal, gemini, google, imagen, openai, replicate, vertex
from batchgen.emulator.accounting import Statistics
from batchgen.emulator.answers import Answer, answering, endings
from batchgen.emulator.batches import Batches
from batchgen.emulator.files import Files
from batchgen.emulator.google_tokens import Tokens
from batchgen.emulator.models import GEMINI, IMAGEN
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import Links, is_loopback
from batchgen.emulator.pipeline import Endpoint, Pipeline


class _Server:
    """All that one emulator keeps, and the handlers of everything but the Files and Batch APIs."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.pipeline = Pipeline(options)
        self.links = Links()
        self.files = Files(self.pipeline)
        self.gemini = gemini.endpoint(options, self.files)
        self.batches = Batches(self.pipeline, self.files, self.gemini)
        self.predictions = replicate.Predictions(self.pipeline, self.links)
        self.tokens = Tokens(options.token_life_s)
        self.tasks = bfl.Tasks(self.pipeline, self.links)
        self.queue = fal.Queue(self.pipeline, self.links)

    def routes(self) -> list[web.RouteDef]:
        models = f"{google.VERSION}/models"
        one = models + "/{model:[^:/]+}"
        handle, options = self.pipeline.handle, self.options
        on_google = partial(answering, headers=google.HEADERS)
        generating = partial(handle, endpoint=self.gemini)
        return [
            # Before Google's models: else its last word is taken for one of them.
            web.get("/v1/models/deprecations", answering(lambda _: aimlapi.deprecations(options), {})),
            web.get(models, on_google(self.model_list)),
            web.get(one, on_google(self.model_one)),
            web.post(one + ":{method:generateContent|streamGenerateContent}", generating),
            web.post(one + ":{method:predict}", partial(handle, endpoint=imagen.endpoint(options))),
            *self.batches.routes(),
            *vertex.routes(self.pipeline, self.tokens),
            *self.tokens.routes(),
            web.post(one + ":{method}", on_google(self.other_method)),
            *self.files.routes(),
            web.post(aimlapi.PATH, partial(handle, endpoint=self.generations())),
            web.post(chat.PATH, partial(handle, endpoint=chat.endpoint(options))),
            web.post(openai.EDITS, partial(handle, endpoint=openai.edits(options))),
            *self.predictions.routes(),
            *self.tasks.routes(),
            *self.queue.routes(),
            web.get("/v1/billing/balance", answering(self.aiml_balance, {})),
            web.get("/models", answering(lambda _: aimlapi.listing(options), {})),
            web.get("/cdn/generations/{name:.+}", answering(self.picture, {})),
            web.get("/_emulator/stats", self.stats),
            web.get("/_emulator/served", self.served),
            web.post("/_emulator/reset", self.reset),
        ]

    def generations(self) -> Endpoint:
        """AIML's and OpenAI's."""
        at_aiml, at_openai = aimlapi.endpoint(self.options, self.links), openai.generations(self.options)
        return replace(at_aiml, shared=lambda body: at_openai if openai.asks_for(body) else at_aiml)

    def other_method(self, request: web.Request) -> None:
        raise google.unknown_model(request)

    def model_list(self, request: web.Request) -> dict[str, Any]:
        """Google's; OpenAI's has the same path, and its keys come as bearers."""
        if "Authorization" in request.headers and request.match_info["version"] == "v1":
            return openai.listing(request, self.options)
        google.known_key(request)
        return google.page_of("models", list(self.models().values()), request.query, default=50, most=1000)

    def model_one(self, request: web.Request) -> dict[str, Any]:
        google.known_key(request)
        found = self.models().get(f"models/{request.match_info['model']}")
        if found is None:
            raise google.unknown_model(request)
        return found

    def models(self) -> dict[str, dict[str, Any]]:
        entries = google.listed(GEMINI, ["generateContent", "countTokens", "batchGenerateContent"], self.options)
        return {one["name"]: one for one in entries + google.listed(IMAGEN, ["predict"], self.options)}

    def aiml_balance(self, request: web.Request) -> dict[str, Any]:
        aimlapi.known_key(request)
        return aimlapi.balance(self.pipeline.statistics.images_of(aimlapi.OFFERS), self.options.credit)

    def picture(self, request: web.Request) -> Answer:
        """The content host; it wants no credentials."""
        link = self.links.take(request.match_info["name"])
        if link is None:
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            return Answer(status=404, body=body, content_type="application/xml; charset=utf-8")
        return Answer(body=link.data, content_type=link.mime, pause=self.pipeline.drip if link.slow else None)

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.as_json())

    async def served(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.served_json())

    async def reset(self, request: web.Request) -> web.Response:
        await self.batches.clear()
        self.pipeline.reset()
        self.links.clear()
        self.predictions.clear()
        self.tokens.clear()
        self.tasks.clear()
        self.queue.clear()
        self.files.clear()
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
        """Access tokens of Google's."""
        return self._server.tokens.issued

    def end_tokens(self) -> None:
        """Access tokens issued so far end now, as when an administrator takes them back."""
        self._server.tokens.end_all()

    async def close(self) -> None:
        self._server.pipeline.close()
        await self._runner.cleanup()
        await self._server.batches.close()
        self._server.files.clear()

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
    """Listen; port 0 takes a free one. more_routes: after ours; tls: for SDKs that speak nothing but https. Raises ValueError
    for a host other machines reach, unless allowed."""
    if not allow_remote and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines; allow_remote must be set for that")
    server = _Server(options or EmulatorOptions())
    # Bodies are read and bounded by the handlers themselves.
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
