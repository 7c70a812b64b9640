"""The local server: routes of the vendors' paths to their endpoints, and its own counters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from batchgen.emulator import aimlapi, gemini, google, imagen
from batchgen.emulator.accounting import Statistics
from batchgen.emulator.batches import BatchesApi
from batchgen.emulator.faults import faults_of
from batchgen.emulator.files import Files, FilesApi
from batchgen.emulator.gemini_response import GeminiSpec, Stream, compose
from batchgen.emulator.imagen import ImagenSpec
from batchgen.emulator.jobs import Answer
from batchgen.emulator.links import Links, is_loopback
from batchgen.emulator.models import GEMINI, IMAGEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pipeline import Endpoint, Pipeline, answering, send


@dataclass(frozen=True, slots=True)
class _Routes:
    """The handlers of everything but the Files and Batch APIs."""

    pipeline: Pipeline
    links: Links
    files: Files
    batches: BatchesApi

    def add_to(self, app: web.Application) -> None:
        version, get, post = google.VERSION, app.router.add_get, app.router.add_post
        # Before Google's models: else its last word is taken for one of them.
        get("/v1/models/deprecations", answering(self.aiml_deprecations, {}))
        get(version + "/models", answering(self.model_list, google.HEADERS))
        get(version + "/models/{model:[^:/]+}", answering(self.model_one, google.HEADERS))
        post(version + "/models/{model:[^:/]+}:{method:generateContent|streamGenerateContent}", self.generate_content)
        post(version + "/models/{model:[^:/]+}:{method:predict}", self.predict)
        post(version + "/models/{model:[^:/]+}:{method}", answering(self.other_method, google.HEADERS))
        post(aimlapi.PATH, partial(self.pipeline.handle, endpoint=aimlapi.endpoint(self.pipeline.options, self.links)))
        get("/v1/billing/balance", answering(self.aiml_balance, {}))
        get("/models", answering(self.aiml_models, {}))
        get("/cdn/generations/{name:.+}", answering(self.picture, {}))
        get("/_emulator/stats", self.stats)
        get("/_emulator/served", self.served)
        post("/_emulator/reset", self.reset)

    async def generate_content(self, request: web.Request) -> web.StreamResponse:
        stream: Stream = ""
        if request.match_info["method"] == "streamGenerateContent":
            stream = "sse" if request.query.get("alt") == "sse" else "array"

        def parse(body: bytes) -> GeminiSpec:
            model, key = self._admitted(request, GEMINI)
            return gemini.parse(
                google.load_json(body), model, self.pipeline.options, partial(self.files.at_uri, key), stream=stream
            )

        endpoint = _gemini_endpoint(parse, in_list=bool(stream))
        return await self.pipeline.handle(request, endpoint, request.match_info["model"])

    async def predict(self, request: web.Request) -> web.StreamResponse:
        def parse(body: bytes) -> ImagenSpec:
            return imagen.parse(body, self._admitted(request, IMAGEN)[0])

        endpoint = Endpoint(api=google.API, faults=faults_of("predict"), parse=parse, compose=imagen.compose)
        return await self.pipeline.handle(request, endpoint, request.match_info["model"])

    async def other_method(self, request: web.Request) -> dict[str, Any]:
        version, name, method = (request.match_info[part] for part in ("version", "model", "method"))
        if method == "batchGenerateContent":
            return await self.batches.create(request, lambda: self._admitted(request, GEMINI)[0])
        raise google.unknown_model(name, version, method)

    def _admitted(self, request: web.Request, models: dict[str, Model]) -> tuple[Model, str]:
        """The AI model that the path names, and the key. Raises ApiError."""
        version, name, method = (request.match_info[part] for part in ("version", "model", "method"))
        model = google.find_model(models, name, version, method, self.pipeline.options)
        return model, google.paying_key(request, name)

    async def model_list(self, request: web.Request) -> dict[str, Any]:
        google.known_key(request)
        return google.page_of("models", self._models(), request.query, default=50, most=1000)

    async def model_one(self, request: web.Request) -> dict[str, Any]:
        google.known_key(request)
        name = request.match_info["model"]
        found = next((model for model in self._models() if model["name"] == f"models/{name}"), None)
        if found is None:
            raise google.unknown_model(name, request.match_info["version"], "getModel")
        return found

    def _models(self) -> list[dict[str, Any]]:
        options = self.pipeline.options
        entries = google.listed(GEMINI, ["generateContent", "countTokens", "batchGenerateContent"], options)
        return entries + google.listed(IMAGEN, ["predict"], options)

    async def aiml_balance(self, request: web.Request) -> dict[str, Any]:
        aimlapi.known_key(request)
        images = self.pipeline.statistics.images_of(aimlapi.OFFERS)
        return aimlapi.balance(images, self.pipeline.options.credit)

    async def aiml_models(self, request: web.Request) -> list[dict[str, Any]]:
        return aimlapi.listing(self.pipeline.options)

    async def aiml_deprecations(self, request: web.Request) -> dict[str, Any]:
        return aimlapi.deprecations(self.pipeline.options)

    async def picture(self, request: web.Request) -> Answer | web.StreamResponse:
        """The content host; it wants no credentials."""
        link = self.links.take(request.match_info["name"])
        if link is None:
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            return Answer(status=404, body=body, content_type="application/xml; charset=utf-8")
        answer = Answer(body=link.data, content_type=link.mime)
        return await send(request, answer, pause=self.pipeline.drip) if link.slow else answer

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.as_json())

    async def served(self, request: web.Request) -> web.Response:
        return web.json_response(self.pipeline.statistics.served_json())

    async def reset(self, request: web.Request) -> web.Response:
        await self.batches.clear()
        self.pipeline.reset()
        self.links.clear()
        self.files.clear()
        return web.json_response({})


def _gemini_endpoint(parse: Any, *, in_list: bool = False) -> Endpoint:
    return Endpoint(api=google.API, faults=faults_of("generateContent"), parse=parse, compose=compose, in_list=in_list)


@web.middleware
async def _google_404(request: web.Request, handler: Any) -> web.StreamResponse:
    """Paths that do not exist get the plain HTML page that Google's front end sends, not JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPNotFound:
        text = "<!DOCTYPE html>\n<title>Error 404 (Not Found)!!1</title>\n<p><b>404.</b> That's an error.\n"
        return web.Response(status=404, text=text, content_type="text/html")
    return response


class RunningEmulator:
    """A server that listens. `async with` closes it; requests in flight are cut off then."""

    def __init__(self, runner: web.AppRunner, pipeline: Pipeline, files: Files, batches: BatchesApi) -> None:
        self._runner = runner
        self._pipeline = pipeline
        self._files = files
        self._batches = batches
        host, port = runner.addresses[0][:2]
        self.base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def stats(self) -> Statistics:
        """Live counts, the same as `GET /_emulator/stats`."""
        return self._pipeline.statistics

    async def close(self) -> None:
        self._pipeline.close()
        await self._runner.cleanup()
        await self._batches.close()
        self._files.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def serve(
    options: EmulatorOptions | None = None, host: str = "127.0.0.1", port: int = 0, *, allow_remote: bool = False
) -> RunningEmulator:
    """Listen; port 0 takes a free one. Raises ValueError for a host other machines reach, unless allowed."""
    if not allow_remote and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines; allow_remote must be set for that")
    pipeline = Pipeline(options or EmulatorOptions())
    files = Files(pipeline.options)
    # A line of a batch is parsed by the batch itself.
    batches = BatchesApi(pipeline, files, _gemini_endpoint(None))
    # Bodies are read and bounded by the handlers themselves.
    app = web.Application(middlewares=[_google_404], client_max_size=0)
    _Routes(pipeline, Links(), files, batches).add_to(app)
    FilesApi(pipeline, files).add_to(app)
    batches.add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except BaseException:
        await runner.cleanup()
        raise
    return RunningEmulator(runner, pipeline, files, batches)
