"""One generation request from arrival to answer: the steps that all the APIs share, in one order."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

from aiohttp import web

from batchgen.emulator.accounting import QuotaExceeded, Quotas, RequestRecord, Statistics
from batchgen.emulator.answers import PIECES, Answer, ApiError, Cut, as_json, origin_of, read_body, send
from batchgen.emulator.faults import (
    CallFaults,
    Places,
    drawing_of,
    fault_for,
    unknown_marker,
    unreadable_marker,
    without_markers,
)
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import Links, Picture, render, scaled, sha256

_PARSED_ON_LOOP_BYTES = 64 * 1024  # larger bodies are parsed in a thread; for smaller ones the hop costs more
SpecT = TypeVar("SpecT", bound="Spec")


def _page(status: int, title: str, head: str, text: str) -> Answer:
    html = f"<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n<p><b>{head}</b>\n<p>{text}\n"
    return Answer(status=status, body=html.encode(), content_type="text/html; charset=UTF-8")


_PAGES = {  # sent in place of JSON
    "502html": _page(502, "Error 502 (Server Error)!!1", "502.", "The server encountered a temporary error."),
    "html200": _page(200, "Sign in", "Sign in to the network", "This page was not sent by the API."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A request that was understood. prompt: the last turn's text. turn: the user's turns, this one included.

    history: the texts of the user's earlier turns. references: sha256 of each picture sent along. mime: what its
    pictures are served as.
    """

    model: Model
    prompt: str
    ratio: str = "1:1"
    size: str = "1K"
    count: int = 1
    mime: str = "image/png"
    quality: int = 86
    seed: int | None = None
    references: tuple[str, ...] = ()
    turn: int = 1
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[SpecT]):
    """One request being worked on. n: its number; attempt: how often this prompt was asked, from 1.

    origin: scheme and host the client used, for links. places: of the markers that ask for one thing after another.
    """

    spec: SpecT
    n: int
    attempt: int
    fault: str | None
    options: EmulatorOptions
    draw: random.Random
    origin: str
    places: Places

    @property
    def mime(self) -> str:
        """The MIME type that is claimed for its pictures, which a fault may make wrong."""
        return "image/png" if self.fault == "mislabelled" else self.spec.mime

    def paint(self, index: int = 0) -> bytes:
        """Paint one picture, broken in the way the fault asks for."""
        spec = self.spec
        width, height = scaled(spec.model.pixels(spec.ratio, spec.size), self.options.longest_px)
        turn = f" · turn {spec.turn}" if spec.turn > 1 else ""
        flaw, text = drawing_of(spec.prompt, self.places, f"{self.n}/{index}")
        picture = Picture(
            prompt=spec.prompt,
            title=text or without_markers(spec.prompt),
            flaw=flaw,
            model=spec.model.id,
            caption=f"{spec.model.id} · {spec.ratio} · {spec.size}{turn}",
            mime="image/jpeg" if self.fault == "mislabelled" else spec.mime,
            pixels=(max(1, width // 2), max(1, height // 2)) if self.fault == "wrong_size" else (width, height),
            n=self.n,
            index=index,
            seed=spec.seed,
            references=spec.references,
            history=spec.history,
            nonce=self.attempt,
        )
        data = render(picture, spec.quality)
        return data[: len(data) // 2] if self.fault == "half_image" else data

    def in_base64(self, data: bytes) -> str:
        text = base64.b64encode(data).decode("ascii")
        middle = len(text) // 2
        return f"{text[:middle]}!{text[middle:]}" if self.fault == "bad_base64" else text


def with_pictures(body: Any, pictures: Sequence[bytes], **more: Any) -> Answer:
    """Make an answer of JSON, with each of the pictures billed."""
    return Answer(body=as_json(body), billed_images=len(pictures), sha256=tuple(map(sha256, pictures)), **more)


class Api:
    """What the endpoints of one vendor's server share. A subclass says what is its own:

    scheme: of the Authorization header, as a regular expression. bad_keys: how wrong keys begin; paid_methods: those
    for which a key that begins with `nocredits` is refused. worded: the vendor's form of an error, made of a status and
    words. errors: the errors by fault, and for `key` and `too_large`. Their words may contain {model}, {key} and {path}
    of the request, {retry_s}, the same in whole seconds as {wait_s}, and {id}, a random one.
    """

    headers: ClassVar[Mapping[str, str]] = {}
    scheme: ClassVar[str] = "(?i:bearer)"
    bad_keys: ClassVar[tuple[str, ...]] = ("bad", "leaked")
    paid_methods: ClassVar[tuple[str, ...]] = ("GET", "POST")
    worded: ClassVar[Callable[..., ApiError]]
    errors: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def named(self, name: str, *, retry_s: float = 1.0, **facts: str) -> ApiError:
        status, *words = self.errors[name]
        wait_s, number = max(1, round(retry_s)), uuid.uuid4().hex
        return self.worded(status, *(one.format(retry_s=retry_s, wait_s=wait_s, id=number, **facts) for one in words))

    def sent_key(self, request: web.Request) -> str:
        """The key that was sent; empty if there is none, or one by another scheme."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return key.strip() if re.fullmatch(self.scheme, scheme) else ""

    def key(self, request: web.Request) -> str:
        """The key of a request that may ask for pictures. Raises ApiError."""
        key = self.sent_key(request)
        if not key or key.startswith(self.bad_keys):
            raise self.named("key", key=key[:4], path=request.path)
        if key.startswith("nocredits") and request.method in self.paid_methods:
            raise self.named("credits", path=request.path)
        return key

    def too_large(self, limit_bytes: int) -> ApiError:
        return self.named("too_large")

    def over_quota(self, model: Model, over: QuotaExceeded) -> ApiError:
        return self.named("429", model=model.id, retry_s=max(0.001, round(over.retry_s, 3)))

    def error(self, fault: str, job: Job[Any]) -> ApiError | None:
        """The vendor's body for an error fault, None for other faults."""
        facts = {"model": job.spec.model.id, "path": ""}
        return self.named(fault, retry_s=job.options.fault_delay_s, **facts) if fault in self.errors else None

    def refused(self, text: str) -> ApiError:
        """A 400 with a sentence of ours."""
        return self.worded(400, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One way to ask for pictures. `parse` and `compose` run in threads and share nothing that changes.

    faults: names that can happen here. shared: where two vendors have one path, whose a request is by its body.
    takes_jobs: it answers at once, and the latency is that of the job.
    """

    api: Api
    faults: frozenset[str]
    parse: Callable[[web.Request, bytes], Spec]
    compose: Callable[[Job[Any]], Answer]
    shared: Callable[[bytes], Endpoint] | None = None
    takes_jobs: bool = False


class Pipeline:
    """Takes requests of every API, and keeps what outlives one.

    That is quotas, counts, attempts per prompt, faults of calls, and linked images.
    """

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.statistics = Statistics(minute_s=options.minute_s)
        self.call_faults = CallFaults(options.batch.faults)
        self.links = Links()
        self._closing = asyncio.Event()
        self._quotas = Quotas(options.minute_s, rejected_counts=options.rejected_counts)
        self._attempts: Counter[tuple[str | int, ...]] = Counter()
        self._places = Places()
        self._attempts_lock = Lock()  # lines of batches are counted in a thread
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="emulator")
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def clear(self) -> None:
        """Start counts, quotas and attempts anew."""
        for kept in (self.statistics, self._quotas, self._attempts, self._places, self.call_faults, self.links):
            kept.clear()

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        now_s = self._loop.time()
        # The AI model as the path names it; empty where the body does.
        record = self.statistics.arrive(now_s - self._started_s, request.match_info.get("model", ""))
        try:
            try:
                answer = await self._work(request, endpoint, record, now_s)
            except ApiError as error:
                answer = error.answer
                if request.match_info.get("method") == "streamGenerateContent":
                    answer = replace(answer, body=b"[" + answer.body + b"]")
            answer = replace(answer, headers={**endpoint.api.headers, **answer.headers})
            # Counted just before the last byte, so that a client that has its answer is never seen as still in flight.
            return await send(request, answer, partial(self.statistics.leave, record, answer.status))
        except BaseException:  # cut, cancelled, or a bug: it is no longer in flight
            self.statistics.lost(record)
            raise

    async def _work(self, request: web.Request, endpoint: Endpoint, record: RequestRecord, now_s: float) -> Answer:
        """Make the answer to one request. Raises ApiError and Cut."""
        api, options = endpoint.api, self.options
        body = await read_body(request, options.max_request_bytes, api.too_large)
        if endpoint.shared is not None:
            endpoint = endpoint.shared(body)
            api = endpoint.api
        key = api.key(request)
        small = len(body) <= _PARSED_ON_LOOP_BYTES
        spec = endpoint.parse(request, body) if small else await self._threaded(endpoint.parse, request, body)
        model = spec.model.id
        record.model, record.prompt = model, spec.prompt
        exceeded = self._quotas.admit(key, model, now_s, rpm=options.rpm_of(model), rpd=options.rpd_of(model))
        if exceeded is not None:
            raise api.over_quota(spec.model, exceeded)
        job = self.job(spec, record.n, endpoint, origin_of(request))
        if job.fault == "reset_early":
            raise Cut
        if job.fault == "hang":
            self.statistics.bill(record, spec.count, ())
            await self._closing.wait()
            raise Cut
        error = api.error(job.fault, job) if job.fault else None
        if not endpoint.takes_jobs and (error is None or error.answer.status >= 500):
            await self._take_time(job, request, api)
        if error is not None:
            raise error
        return await self._finish(endpoint, job, record)

    def job(self, spec: Spec, n: int, endpoint: Endpoint, origin: str = "") -> Job[Any]:
        """Make the job of a request. Raises ApiError for a marker that this endpoint has no fault for."""
        if problem := unknown_marker(spec.prompt, endpoint.faults, "this API") or unreadable_marker(spec.prompt):
            raise endpoint.api.refused(problem)
        asked: tuple[str | int, ...] = (spec.model.id, spec.prompt, spec.turn, *spec.history)
        with self._attempts_lock:
            self._attempts[asked] += 1
            attempt = self._attempts[asked]
        draw = random.Random(f"{self.options.seed}|{'|'.join(map(str, asked))}|{attempt}")
        fault = fault_for(spec.prompt, attempt, self.options.faults, draw)
        fault = fault if fault in endpoint.faults else None
        return Job(
            spec=spec,
            n=n,
            attempt=attempt,
            fault=fault,
            options=self.options,
            draw=draw,
            origin=origin,
            places=self._places,
        )

    async def _take_time(self, job: Job[Any], request: web.Request, api: Api) -> None:
        """Wait out the latency; a client's X-Server-Timeout ends it early with 504, as google-genai documents the
        header."""
        delay_s = job.draw.uniform(*self.options.latency_of(job.spec.model.id))
        limit_s = float("inf")
        with suppress(ValueError):
            limit_s = float(request.headers.get("X-Server-Timeout") or "inf")
        await self._pause(min(delay_s, limit_s))
        if delay_s > limit_s and (late := api.error("504", job)):
            raise late

    async def _pause(self, delay_s: float) -> None:
        """Wait. Raises Cut when the server closes meanwhile."""
        if delay_s <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
            raise Cut

    async def drip(self) -> None:
        """Wait between the pieces of a slow answer, which takes `drip_s` in all. Raises Cut."""
        await self._pause(self.options.drip_s / PIECES)

    async def _finish(self, endpoint: Endpoint, job: Job[Any], record: RequestRecord) -> Answer:
        if page := _PAGES.get(job.fault or ""):
            return page
        answer: Answer = await self._threaded(endpoint.compose, job)
        self.statistics.bill(record, answer.billed_images, answer.sha256)
        match job.fault:
            case "reset":
                raise Cut
            case "truncated_json":
                return replace(answer, body=answer.body[: len(answer.body) * 3 // 5])
            case "slow_drip":
                return replace(answer, pause=self.drip)
        return answer

    async def _threaded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._threads, function, *arguments)
