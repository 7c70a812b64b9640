"""One generation request from arrival to answer: what all the APIs share, in one order of steps."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from socket import SO_LINGER, SOL_SOCKET
from threading import Lock
from typing import Any

from aiohttp import web

from batchgen.emulator.faults import fault_for, markers
from batchgen.emulator.models import Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import Answer, Job, Order, Refusal
from batchgen.emulator.quota import Over, Quotas
from batchgen.emulator.statistics import Statistics, Visit

_LOOP_FRIENDLY_BYTES = 64 * 1024  # smaller bodies are parsed on the loop: a thread hop costs more
_DRIPS = 20
_HTML = b"<!DOCTYPE html>\n<html lang=en>\n<title>%s</title>\n<p><b>%s</b>\n<p>%s\n"


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the APIs. `parse` and `compose` run in threads and share nothing that changes.

    faults: names this API can show. refuse: the API's own body for an error fault, None if it is not one.
    in_list: error bodies come as a list of one, as on the streaming path.
    """

    faults: frozenset[str]
    key: Callable[[web.Request], str]
    too_large: Callable[[int], Refusal]
    parse: Callable[[bytes], Order]
    over_quota: Callable[[Model, Over], Refusal]
    refuse: Callable[[str, Job[Any]], Refusal | None]
    compose: Callable[[Job[Any]], Answer]
    bad_fault: Callable[[str], Refusal]
    headers: Mapping[str, str]
    in_list: bool = False


class Reception:
    """Takes requests of every API and keeps what outlives one: quotas, counts, attempts per prompt."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.statistics = Statistics(minute_s=options.minute_s)
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

    async def receive(self, request: web.Request, dialect: Dialect, name: str) -> web.StreamResponse:
        """name: the AI model as the path says it, empty where the body says it."""
        now_s = self._loop.time()
        statistics = self.statistics
        visit = statistics.arrive(now_s - self._started_s)
        visit.model = name
        drip = False
        try:
            answer, drip = await self._work(request, dialect, visit, now_s)
        except Refusal as refusal:
            body = b"[" + refusal.body + b"]" if dialect.in_list else refusal.body
            answer = Answer(status=refusal.status, body=body, content_type=refusal.content_type)
        except Cut:
            statistics.leave(visit, 0)
            return cut(request)
        except BaseException:  # cancelled, or a bug: it is in flight no longer
            statistics.leave(visit, 0)
            raise
        answer = replace(answer, headers={**dialect.headers, **answer.headers})
        # Counted just before the last byte, so that a client that has its answer is never seen as still in flight.
        if drip:
            return await self._drip(request, answer, visit)
        statistics.leave(visit, answer.status)
        return await send(request, answer, lambda: statistics.lost(visit))

    async def _work(self, request: web.Request, dialect: Dialect, visit: Visit, now_s: float) -> tuple[Answer, bool]:
        body = await read_body(request, self.options.max_request_bytes)
        if body is None:
            raise dialect.too_large(self.options.max_request_bytes)
        key = dialect.key(request)
        order = await self._threaded(dialect.parse, body) if len(body) > _LOOP_FRIENDLY_BYTES else dialect.parse(body)
        model = order.model.id
        visit.model, visit.prompt = model, order.prompt
        limits = {"rpm": self.options.rpm_of(model), "rpd": self.options.rpd_of(model)}
        over = self._quotas.admit(key, model, now_s, **limits)
        if over is not None:
            raise dialect.over_quota(order.model, over)
        job = self.job(order, visit.n, dialect, f"{request.scheme}://{request.host}")
        if job.fault == "reset_early":
            raise Cut
        if job.fault == "hang":
            self.statistics.bill(visit, order.count, ())
            await self.closing.wait()
            raise Cut
        refusal = dialect.refuse(job.fault, job) if job.fault else None
        if refusal is None or refusal.status >= 500:
            await self._take_time(job, request, dialect)
        if refusal is not None:
            raise refusal
        return await self._finish(dialect, job, visit)

    def job(self, order: Order, n: int, dialect: Dialect, origin: str) -> Job[Any]:
        """Raises Refusal for a marker that this API has no fault for."""
        for name, _ in markers(order.prompt):
            if name not in dialect.faults:
                raise dialect.bad_fault(name)
        place: tuple[str | int, ...] = (order.model.id, order.prompt, order.turn, *order.history)
        with self._attempts_lock:
            self._attempts[place] += 1
            attempt = self._attempts[place]
        draw = random.Random(f"{self.options.seed}|{'|'.join(map(str, place))}|{attempt}")
        fault = fault_for(order.prompt, attempt, self.options.faults, draw)
        return Job(
            order=order,
            n=n,
            attempt=attempt,
            fault=fault if fault in dialect.faults else None,
            options=self.options,
            draw=draw,
            origin=origin,
        )

    async def _take_time(self, job: Job[Any], request: web.Request, dialect: Dialect) -> None:
        """The latency; a client's X-Server-Timeout ends it early with 504, as google-genai documents the header."""
        delay_s = job.draw.uniform(*self.options.latency_of(job.order.model.id))
        limit_s = _seconds(request.headers.get("X-Server-Timeout"))
        await self._pause(min(delay_s, limit_s))
        if delay_s > limit_s and (late := dialect.refuse("504", job)):
            raise late

    async def _pause(self, delay_s: float) -> None:
        if delay_s <= 0:
            return
        try:
            async with asyncio.timeout(delay_s):
                await self.closing.wait()
        except TimeoutError:
            return
        raise Cut

    async def _finish(self, dialect: Dialect, job: Job[Any], visit: Visit) -> tuple[Answer, bool]:
        if job.fault == "502html":
            text = (b"Error 502 (Server Error)!!1", b"502.", b"The server encountered a temporary error.")
            return Answer(status=502, body=_HTML % text, content_type="text/html; charset=UTF-8"), False
        if job.fault == "html200":
            text = (b"Sign in", b"Sign in to the network", b"This page was not sent by the API.")
            return Answer(body=_HTML % text, content_type="text/html; charset=UTF-8"), False
        answer = await self._threaded(dialect.compose, job)
        self.statistics.bill(visit, answer.billed_images, answer.sha256)
        if job.fault == "reset":
            raise Cut
        if job.fault == "truncated_json":
            answer = replace(answer, body=answer.body[: len(answer.body) * 3 // 5])
        return answer, job.fault == "slow_drip"

    async def _threaded(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return await self._loop.run_in_executor(self._threads, function, argument)

    async def _drip(self, request: web.Request, answer: Answer, visit: Visit) -> web.StreamResponse:
        headers = {"Content-Type": answer.content_type, **answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        left = False

        def leave() -> None:
            nonlocal left
            left = True
            self.statistics.leave(visit, answer.status)

        try:
            await self.drip(request, response, answer.body, leave)
        except (ConnectionError, Cut):
            if left:
                self.statistics.lost(visit)
            else:
                self.statistics.leave(visit, 0)
            return cut(request)
        return response

    async def drip(
        self,
        request: web.Request,
        response: web.StreamResponse,
        body: bytes,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """All of the body in small pieces over `drip_s` seconds. Raises ConnectionError or Cut when it cannot end."""
        response.content_length = len(body)
        await response.prepare(request)
        step = max(1, -(-len(body) // _DRIPS))
        for start in range(0, len(body), step):
            if start:
                await self._pause(self.options.drip_s / _DRIPS)
            if start + step >= len(body):
                before_last()
            await response.write(body[start : start + step])
        await response.write_eof()


def _seconds(text: str | None) -> float:
    try:
        return float(text) if text else float("inf")
    except ValueError:
        return float("inf")


async def read_body(request: web.Request, limit_bytes: int) -> bytes | None:
    """The body, or None if it is longer; it is read to its end, so that the client gets to see the answer."""
    pieces: list[bytes] = []
    total = 0
    async for piece in request.content.iter_chunked(1 << 18):
        total += len(piece)
        if total <= limit_bytes:
            pieces.append(piece)
    return None if total > limit_bytes else b"".join(pieces)


async def send(request: web.Request, answer: Answer, lost: Callable[[], None] = lambda: None) -> web.StreamResponse:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        lost()
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
