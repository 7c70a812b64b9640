"""One generation request from arrival to answer: what all the APIs share, in one order of steps."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from socket import SO_LINGER, SOL_SOCKET
from threading import Lock
from typing import Any

from aiohttp import web

from batchgen.emulator.accounting import QuotaExceeded, Quotas, RequestRecord, Statistics
from batchgen.emulator.faults import CallFaults, fault_for, markers
from batchgen.emulator.jobs import Answer, ApiError, Job, Spec, as_json
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions

_PARSED_ON_LOOP_BYTES = 64 * 1024  # larger bodies are parsed in a thread; for smaller ones the hop costs more
_DRIPS = 20


def _page(status: int, title: str, head: str, text: str) -> Answer:
    html = f"<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n<p><b>{head}</b>\n<p>{text}\n"
    return Answer(status=status, body=html.encode(), content_type="text/html; charset=UTF-8")


_PAGES = {  # what comes in place of JSON
    "502html": _page(502, "Error 502 (Server Error)!!1", "502.", "The server encountered a temporary error."),
    "html200": _page(200, "Sign in", "Sign in to the network", "This page was not sent by the API."),
}


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What a vendor's server does alike for all its endpoints.

    key: of a request that may ask for pictures. error: the vendor's body for an error fault, None if it is not one.
    """

    key: Callable[[web.Request], str]
    too_large: Callable[[int], ApiError]
    over_quota: Callable[[Model, QuotaExceeded], ApiError]
    error: Callable[[str, Job[Any]], ApiError | None]
    unknown_fault: Callable[[str], ApiError]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One way to ask for pictures. `parse` and `compose` run in threads and share nothing that changes.

    faults: names that can happen here. in_list: error bodies come as a list of one, as on the streaming path.
    """

    api: Api
    faults: frozenset[str]
    parse: Callable[[bytes], Spec]
    compose: Callable[[Job[Any]], Answer]
    in_list: bool = False


class Pipeline:
    """Takes requests of every API and keeps what outlives one: quotas, counts, attempts per prompt, faults of calls."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.statistics = Statistics(minute_s=options.minute_s)
        self.call_faults = CallFaults(options.batch.faults)
        self.closing = asyncio.Event()
        self._quotas = Quotas(options.minute_s, rejected_counts=options.rejected_counts)
        self._attempts: Counter[tuple[str | int, ...]] = Counter()
        self._attempts_lock = Lock()  # lines of batches are counted in a thread
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="emulator")
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()

    def close(self) -> None:
        self.closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def reset(self) -> None:
        """Counts, quotas and attempts start anew."""
        self.statistics.clear()
        self._quotas.clear()
        self._attempts.clear()
        self.call_faults.clear()

    async def handle(self, request: web.Request, endpoint: Endpoint, model: str = "") -> web.StreamResponse:
        """model: the AI model as the path says it, empty where the body says it."""
        now_s = self._loop.time()
        record = self.statistics.arrive(now_s - self._started_s)
        record.model = model
        try:
            slowly = False
            try:
                answer, slowly = await self._work(request, endpoint, record, now_s)
            except ApiError as error:
                answer = error.answer
                if endpoint.in_list:
                    answer = replace(answer, body=b"[" + answer.body + b"]")
            answer = replace(answer, headers={**endpoint.api.headers, **answer.headers})
            # Counted just before the last byte, so that a client that has its answer is never seen as still in flight.
            count = partial(self.statistics.leave, record, answer.status)
            return await send(request, answer, count, self.drip if slowly else None)
        except (Cut, ConnectionError):
            self.statistics.lost(record)
            return cut(request)
        except BaseException:  # cancelled, or a bug: it is in flight no longer
            self.statistics.lost(record)
            raise

    async def _work(
        self, request: web.Request, endpoint: Endpoint, record: RequestRecord, now_s: float
    ) -> tuple[Answer, bool]:
        """The answer, and whether it arrives slowly. Raises ApiError and Cut."""
        api, options = endpoint.api, self.options
        body = await read_body(request, options.max_request_bytes, api.too_large)
        key = api.key(request)
        small = len(body) <= _PARSED_ON_LOOP_BYTES
        spec = endpoint.parse(body) if small else await self._threaded(endpoint.parse, body)
        model = spec.model.id
        record.model, record.prompt = model, spec.prompt
        exceeded = self._quotas.admit(key, model, now_s, rpm=options.rpm_of(model), rpd=options.rpd_of(model))
        if exceeded is not None:
            raise api.over_quota(spec.model, exceeded)
        job = self.job(spec, record.n, endpoint, f"{request.scheme}://{request.host}")
        if job.fault == "reset_early":
            raise Cut
        if job.fault == "hang":
            self.statistics.bill(record, spec.count, ())
            await self.closing.wait()
            raise Cut
        error = api.error(job.fault, job) if job.fault else None
        if error is None or error.answer.status >= 500:
            await self._take_time(job, request, api)
        if error is not None:
            raise error
        return await self._finish(endpoint, job, record)

    def job(self, spec: Spec, n: int, endpoint: Endpoint, origin: str = "") -> Job[Any]:
        """Raises ApiError for a marker that this endpoint has no fault for."""
        for name, _ in markers(spec.prompt):
            if name not in endpoint.faults:
                raise endpoint.api.unknown_fault(name)
        asked: tuple[str | int, ...] = (spec.model.id, spec.prompt, spec.turn, *spec.history)
        with self._attempts_lock:
            self._attempts[asked] += 1
            attempt = self._attempts[asked]
        draw = random.Random(f"{self.options.seed}|{'|'.join(map(str, asked))}|{attempt}")
        fault = fault_for(spec.prompt, attempt, self.options.faults, draw)
        return Job(
            spec=spec,
            n=n,
            attempt=attempt,
            fault=fault if fault in endpoint.faults else None,
            options=self.options,
            draw=draw,
            origin=origin,
        )

    async def _take_time(self, job: Job[Any], request: web.Request, api: Api) -> None:
        """The latency; a client's X-Server-Timeout ends it early with 504, as google-genai documents the header."""
        delay_s = job.draw.uniform(*self.options.latency_of(job.spec.model.id))
        try:
            limit_s = float(request.headers.get("X-Server-Timeout") or "inf")
        except ValueError:
            limit_s = float("inf")
        await self._pause(min(delay_s, limit_s))
        if delay_s > limit_s and (late := api.error("504", job)):
            raise late

    async def _pause(self, delay_s: float) -> None:
        """Raises Cut when the server closes meanwhile."""
        if delay_s <= 0:
            return
        try:
            async with asyncio.timeout(delay_s):
                await self.closing.wait()
        except TimeoutError:
            return
        raise Cut

    async def _finish(self, endpoint: Endpoint, job: Job[Any], record: RequestRecord) -> tuple[Answer, bool]:
        if page := _PAGES.get(job.fault or ""):
            return page, False
        answer = await self._threaded(endpoint.compose, job)
        self.statistics.bill(record, answer.billed_images, answer.sha256)
        if job.fault == "reset":
            raise Cut
        if job.fault == "truncated_json":
            answer = replace(answer, body=answer.body[: len(answer.body) * 3 // 5])
        return answer, job.fault == "slow_drip"

    async def _threaded(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return await self._loop.run_in_executor(self._threads, function, argument)

    async def drip(self) -> None:
        """Waits between the pieces of a slow answer, which takes `drip_s` in all. Raises Cut."""
        await self._pause(self.options.drip_s / _DRIPS)


def answering(
    call: Callable[[web.Request], Awaitable[Any]],
    headers: Mapping[str, str],
    error_headers: Mapping[str, str] | None = None,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler of aiohttp for a call without pictures that returns JSON, an Answer or a response that is sent already.

    ApiError is answered, and Cut ends the connection. error_headers: of client errors only.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            try:
                answer = await call(request)
            except ApiError as error:
                answer = error.answer
                if error_headers and answer.status < 500:
                    answer = replace(answer, headers=error_headers)
            if isinstance(answer, web.StreamResponse):
                return answer
            if not isinstance(answer, Answer):
                answer = Answer(body=as_json(answer))
            return await send(request, replace(answer, headers={**headers, **answer.headers}))
        except (Cut, ConnectionError):
            return cut(request)

    return handle


async def read_body(request: web.Request, limit_bytes: int, too_large: Callable[[int], ApiError]) -> bytes:
    """Read to its end also when it is too large, so that the client gets to see the answer. Raises ApiError."""
    pieces: list[bytes] = []
    total = 0
    async for piece in request.content.iter_chunked(1 << 18):
        total += len(piece)
        if total <= limit_bytes:
            pieces.append(piece)
    if total > limit_bytes:
        raise too_large(limit_bytes)
    return b"".join(pieces)


async def send(
    request: web.Request,
    answer: Answer,
    before_last: Callable[[], None] = lambda: None,
    pause: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """In one piece, or in small ones with a pause between them. Raises ConnectionError, and what `pause` raises."""
    body = answer.body
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type, **answer.headers})
    response.content_length = len(body)
    await response.prepare(request)
    step = max(1, -(-len(body) // _DRIPS) if pause else len(body))
    for start in range(0, max(1, len(body)), step):
        if start and pause:
            await pause()
        if start + step >= len(body):
            before_last()
        await response.write(body[start : start + step])
    await response.write_eof()
    return response


def cut(request: web.Request) -> web.StreamResponse:
    """Close with a TCP reset and no answer."""
    transport = request.transport
    if transport is not None:
        socket = transport.get_extra_info("socket")
        if socket is not None:
            socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()
