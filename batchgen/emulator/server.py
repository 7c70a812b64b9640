"""The local server: routes of the vendors' paths to their dialects, and its own counters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from batchgen.emulator import aimlapi, faults, gemini, imagen
from batchgen.emulator import google_errors as errors
from batchgen.emulator.batch_faults import BatchFaults
from batchgen.emulator.batch_lines import LineWork
from batchgen.emulator.batch_routes import BatchRoutes
from batchgen.emulator.batch_run import BatchRuns
from batchgen.emulator.downloads import Downloads
from batchgen.emulator.file_routes import FileRoutes
from batchgen.emulator.files import Files
from batchgen.emulator.gemini_answer import Stream
from batchgen.emulator.links import Links
from batchgen.emulator.loopback import is_loopback
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Job, Order, Refusal, encoded
from batchgen.emulator.pages import page_of
from batchgen.emulator.quota import Over
from batchgen.emulator.reception import Cut, Dialect, Reception, cut, send
from batchgen.emulator.statistics import Statistics

_GOOGLE_HEADERS = {"Vary": "Origin, X-Origin, Referer", "Server-Timing": "gfet4t7; dur=1"}
_GOOGLE_ERRORS = faults.ERRORS - {"credits", "maintenance"}
_RAI = frozenset({"rai_filtered", "rai_all"})
_ONE_PICTURE = faults.PICTURES - {"many_images", "thought_images"}
_GEMINI_FAULTS = _GOOGLE_ERRORS | faults.WIRE | (faults.REFUSALS - _RAI) | faults.PICTURES | faults.LINES
_IMAGEN_FAULTS = _GOOGLE_ERRORS | faults.WIRE | _RAI | _ONE_PICTURE
_AIML_ERRORS = faults.ERRORS - {"429limit0", "429spend"}
_AIML_FAULTS = _AIML_ERRORS | faults.WIRE | {"no_image", "empty"} | _ONE_PICTURE | faults.LINKS | faults.SHAPES
_DAY_HINT_S = 6776.409571576  # of a recorded per-day answer: "Please retry in 1h52m56.409571576s."


def _known_key(request: web.Request) -> str:
    """Header or query parameter, as both are documented. Raises Refusal for keys that a test can choose."""
    key = request.headers.get("x-goog-api-key") or request.query.get("key", "")
    if key.startswith("leaked"):
        raise errors.key_leaked()
    if not key or key.startswith("bad"):
        raise errors.key_invalid()
    return key


def _google_key(request: web.Request) -> str:
    """A key that may ask for pictures; looking at models and keeping files cost nothing."""
    key = _known_key(request)
    if key.startswith("nocredits"):
        raise errors.credits_depleted()
    return key


def _must_pay(request: web.Request, model: str) -> None:
    """A key of the free tier has a quota of 0 for every AI model that makes pictures (google-gemini/gemini-cli#8437)."""
    if _known_key(request).startswith("free"):
        raise errors.over_quota(model, 0, 26.66, window="Minute", free_tier=True)


def _bearer(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip()
    if key.startswith("nocredits"):
        raise aimlapi.no_credits(request.path)
    if scheme.lower() != "bearer" or not key or key.startswith(("bad", "leaked")):
        raise aimlapi.no_key(request.path)
    return key


def _google_refusal(fault: str, job: Job[Any]) -> Refusal | None:
    model, options = job.order.model.id, job.options
    match fault:
        case "429":
            return errors.over_quota(model, options.rpm_of(model) or 60, options.fault_delay_s, window="Minute")
        case "429day":
            return errors.over_quota(model, options.rpd_of(model) or 250, _DAY_HINT_S, window="Day")
        case "429limit0":
            return errors.over_quota(model, 0, 26.66, window="Minute", free_tier=True)
        case "429spend":
            return errors.spend_cap()
        case "429bare":
            return errors.exhausted_bare()
        case "408" | "500" | "503" | "504":
            return errors.server_fault(int(fault), job.draw)
    return None


def _google_over(model: Model, over: Over) -> Refusal:
    return errors.over_quota(model.id, over.limit, over.retry_s, window=over.window)


def _google_bad_fault(name: str) -> Refusal:
    return errors.refusal(400, f"emulator: this API has no fault named {name!r}")


@dataclass(slots=True)
class _Routes:
    """The handlers. Each builds the dialect of its request and hands it to the reception."""

    reception: Reception
    links: Links
    files: Files
    batches: BatchRoutes

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/models/deprecations", self.aiml_deprecations)  # else taken for a model of Google's
        version = "/{version:v1(?:beta)?}"
        app.router.add_post(version + "/models/{model:[^:/]+}:{method}", self.model_method)
        app.router.add_get(version + "/models", self.model_list)
        app.router.add_get(version + "/models/{model:[^:/]+}", self.model_one)
        app.router.add_post(aimlapi.PATH, self.generations)
        app.router.add_get("/v1/billing/balance", self.balance)
        app.router.add_get("/models", self.aiml_models)
        app.router.add_get("/cdn/generations/{name:.+}", self.download)
        app.router.add_get("/_emulator/stats", self.stats)
        app.router.add_get("/_emulator/served", self.served)
        app.router.add_post("/_emulator/reset", self.reset)

    async def model_method(self, request: web.Request) -> web.StreamResponse:
        version, name, method = (request.match_info[part] for part in ("version", "model", "method"))
        options = self.reception.options
        if method in ("generateContent", "streamGenerateContent"):
            stream: Stream = ""
            if method == "streamGenerateContent":
                stream = "sse" if request.query.get("alt") == "sse" else "array"

            def parse_content(body: bytes) -> Order:
                model = gemini.find_model(name, version, method, options)
                _must_pay(request, name)
                find_file = partial(self.files.usable, _google_key(request))
                return gemini.parse(body, model, options, find_file, stream=stream)

            dialect = _google_dialect(_GEMINI_FAULTS, parse_content, gemini.answer, in_list=bool(stream))
        elif method == "predict":

            def parse_predict(body: bytes) -> Order:
                model = imagen.find_model(name, version, method, options)
                _must_pay(request, name)
                return imagen.parse(body, model)

            dialect = _google_dialect(_IMAGEN_FAULTS, parse_predict, imagen.answer)
        elif method == "batchGenerateContent":

            def admitted() -> Model:
                model = gemini.find_model(name, version, method, options)
                _must_pay(request, name)
                _google_key(request)
                return model

            return await self.batches.create(request, admitted)
        else:
            return await _refuse(request, errors.unknown_model(name, version, method))
        return await self.reception.receive(request, dialect, name)

    async def model_list(self, request: web.Request) -> web.StreamResponse:
        try:
            _known_key(request)
            body = page_of("models", self._models(), request.query, default=50, most=1000)
        except Refusal as refusal:
            return await _refuse(request, refusal)
        return await send(request, Answer(body=encoded(body), headers=_GOOGLE_HEADERS))

    async def model_one(self, request: web.Request) -> web.StreamResponse:
        version, name = request.match_info["version"], request.match_info["model"]
        try:
            _known_key(request)
            found = next((model for model in self._models() if model["name"] == f"models/{name}"), None)
            if found is None:
                raise errors.unknown_model(name, version, "getModel")
        except Refusal as refusal:
            return await _refuse(request, refusal)
        return await send(request, Answer(body=encoded(found), headers=_GOOGLE_HEADERS))

    def _models(self) -> list[dict[str, Any]]:
        options = self.reception.options
        return gemini.listing(options) + imagen.listing(options)

    async def generations(self, request: web.Request) -> web.StreamResponse:
        dialect = Dialect(
            faults=_AIML_FAULTS,
            key=_bearer,
            too_large=lambda _: aimlapi.refusal(413, "request entity too large"),
            parse=partial(aimlapi.parse, options=self.reception.options),
            over_quota=lambda model, over: aimlapi.refusal(429, "Too Many Requests"),
            refuse=lambda fault, job: aimlapi.fault_refusal(fault),
            compose=partial(aimlapi.answer, links=self.links),
            bad_fault=lambda name: aimlapi.refusal(400, f"emulator: this API has no fault named {name!r}"),
            headers={},
        )
        return await self.reception.receive(request, dialect, "")

    async def balance(self, request: web.Request) -> web.StreamResponse:
        try:
            _bearer(request)
        except Refusal as refusal:
            return await _refuse(request, refusal)
        images = self.reception.statistics.images_of(aimlapi.OFFERS)
        return await send(request, Answer(body=encoded(aimlapi.balance(images, self.reception.options.credit))))

    async def aiml_models(self, request: web.Request) -> web.StreamResponse:
        return await send(request, Answer(body=encoded(aimlapi.listing(self.reception.options))))

    async def aiml_deprecations(self, request: web.Request) -> web.StreamResponse:
        return await send(request, Answer(body=encoded(aimlapi.deprecations(self.reception.options))))

    async def download(self, request: web.Request) -> web.StreamResponse:
        """The content host; it wants no credentials."""
        link = self.links.take(request.match_info["name"])
        if link is None:
            return web.Response(
                status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml"
            )
        if not link.slow:
            return web.Response(body=link.data, content_type=link.mime)
        response = web.StreamResponse(headers={"Content-Type": link.mime})
        try:
            await self.reception.drip(request, response, link.data)
        except (ConnectionError, Cut):
            return cut(request)
        return response

    async def stats(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.reception.statistics.as_json())

    async def served(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.reception.statistics.served_json())

    async def reset(self, request: web.Request) -> web.StreamResponse:
        await self.batches.clear()
        self.reception.reset()
        self.links.clear()
        self.files.clear()
        return web.json_response({})


def _google_dialect(names: frozenset[str], parse: Any, compose: Any, *, in_list: bool = False) -> Dialect:
    return Dialect(
        faults=names,
        key=_google_key,
        too_large=errors.too_large,
        parse=parse,
        over_quota=_google_over,
        refuse=_google_refusal,
        compose=compose,
        bad_fault=_google_bad_fault,
        headers=_GOOGLE_HEADERS,
        in_list=in_list,
    )


async def _refuse(request: web.Request, refusal: Refusal) -> web.StreamResponse:
    answer = Answer(status=refusal.status, body=refusal.body, content_type=refusal.content_type)
    return await send(request, answer)


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

    def __init__(
        self, runner: web.AppRunner, reception: Reception, files: Files, batches: BatchRoutes, base_url: str
    ) -> None:
        self._runner = runner
        self._reception = reception
        self._files = files
        self._batches = batches
        self.base_url = base_url

    @property
    def stats(self) -> Statistics:
        """Live counts, the same as `GET /_emulator/stats`."""
        return self._reception.statistics

    def reset(self) -> None:
        self._reception.reset()

    async def close(self) -> None:
        self._reception.close()
        await self._runner.cleanup()
        await self._batches.clear()
        self._batches.runs.close()
        self._files.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def serve(
    options: EmulatorOptions | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    allow_remote: bool = False,
) -> RunningEmulator:
    """Listen; port 0 takes a free one. Raises ValueError for a host other machines reach, unless allowed."""
    if not allow_remote and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines; allow_remote must be set for that")
    reception = Reception(options or EmulatorOptions())
    # Bodies are read and bounded by the reception itself.
    app = web.Application(middlewares=[_google_404], client_max_size=0)
    files, mishaps = Files(reception.options), BatchFaults(reception.options.batch.faults)
    common: dict[str, Any] = {"files": files, "faults": mishaps, "key": _known_key, "headers": _GOOGLE_HEADERS}
    counting: dict[str, Any] = {"statistics": reception.statistics, "options": reception.options}
    lines = _google_dialect(_GEMINI_FAULTS, gemini.parse, gemini.answer)
    batches = BatchRoutes(runs=BatchRuns(LineWork(reception, lines, files), mishaps), **counting, **common)
    _Routes(reception, Links(), files, batches).add_to(app)
    FileRoutes(**counting, **common).add_to(app)
    batches.add_to(app)
    Downloads(ranges=reception.options.batch.ranges, **common).add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    bound_host, bound_port = runner.addresses[0][:2]
    shown = f"[{bound_host}]" if ":" in bound_host else bound_host
    return RunningEmulator(runner, reception, files, batches, f"http://{shown}:{bound_port}")
