"""A bare HTTP server that answers generateContent with bytes prepared beforehand, so that the clients are what is measured.

    python -m tests.benchmarks.server '{"image_bytes": 1100000, "latency_s": 0.05, "rpm": {"gemini-3-pro-image": 15}}'

Prints its port and serves until its standard input ends. GET /stats tells what it saw. Imports nothing of batchgen.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import gemini_answer, noise_png

PIECE_BYTES = 256 * 1024  # written at once: what the kernel does not take is copied
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb"/models/([^:/ ]+):")


@dataclass(slots=True)
class Seen:
    """What one AI model's requests looked like. Seconds count from the server's first request."""

    arrivals: int = 0
    refused: int = 0
    most_in_window: int = 0  # arrivals, refused ones included
    at_s: list[float] = field(default_factory=list)
    accepted: deque[float] = field(default_factory=deque)
    arrived: deque[float] = field(default_factory=deque)


class Desk:
    """Counts arrivals and keeps the quota: at most `rpm` accepted requests in any `window_s`, per AI model."""

    def __init__(self, rpm: dict[str, int], window_s: float) -> None:
        self._rpm = rpm
        self._window_s = window_s
        self._first_s: float | None = None
        self.seen: dict[str, Seen] = {}
        self.in_flight = self.most_in_flight = 0

    def arrive(self, model: str, now_s: float) -> float | None:
        """None: accepted. Else the seconds until the window has a place."""
        if self._first_s is None:
            self._first_s = now_s
        seen = self.seen.setdefault(model, Seen())
        seen.arrivals += 1
        seen.at_s.append(round(now_s - self._first_s, 4))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        limit = self._rpm.get(model)
        if limit is None:
            return None
        for log in (seen.arrived, seen.accepted):
            while log and log[0] <= now_s - self._window_s:
                log.popleft()
        seen.arrived.append(now_s)
        seen.most_in_window = max(seen.most_in_window, len(seen.arrived))
        if len(seen.accepted) >= limit:
            seen.refused += 1
            return seen.accepted[0] + self._window_s - now_s
        seen.accepted.append(now_s)
        return None

    def stats(self) -> bytes:
        models = {name: asdict(seen) | {"accepted": None, "arrived": None} for name, seen in self.seen.items()}
        return json.dumps({"most_in_flight": self.most_in_flight, "models": models}).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request with Content-Length, its answer, the next request. RFC 9112, 6.3 and 9.3."""

    transport: asyncio.Transport

    def __init__(self, desk: Desk, answer: bytes, latency_s: float) -> None:
        self._desk = desk
        self._answer = answer
        self._latency_s = latency_s
        self._held = bytearray()
        self._left = memoryview(b"")
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._held, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._held) < whole:
                return
            head, self._held = self._held[:end], self._held[whole:]
            self._request(head)

    def _request(self, head: bytes) -> None:
        line = head[: head.find(b"\r\n")]
        model = _MODEL.search(line)
        if model is None:
            found = line.startswith(b"GET /stats ")
            self._send(http(200, self._desk.stats()) if found else http(404, b"{}"))
            return
        wait_s = self._desk.arrive(model[1].decode(), time.monotonic())
        answer = self._answer if wait_s is None else refusal(wait_s)
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._finish, answer)
        else:
            self._finish(answer)

    def _finish(self, answer: bytes) -> None:
        self._desk.in_flight -= 1
        self._send(answer)

    def _send(self, answer: bytes) -> None:
        self._left = memoryview(answer)
        self._pump()

    def _pump(self) -> None:
        while self._left and not self._paused and not self.transport.is_closing():
            piece, self._left = self._left[:PIECE_BYTES], self._left[PIECE_BYTES:]
            self.transport.write(piece)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()


def http(status: int, body: bytes) -> bytes:
    reason = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def refusal(wait_s: float) -> bytes:
    """429 as google.rpc spells it: QuotaFailure and RetryInfo (github.com/googleapis/googleapis, error_details.proto)."""
    rpc = "type.googleapis.com/google.rpc"
    quota = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaMetric": "generate_requests"}
    details: list[dict[str, Any]] = [
        {"@type": f"{rpc}.QuotaFailure", "violations": [quota]},
        {"@type": f"{rpc}.RetryInfo", "retryDelay": f"{wait_s:.3f}s"},
    ]
    error = {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED", "details": details}
    return http(429, json.dumps({"error": error}).encode())


def picture_of(options: dict[str, Any]) -> bytes:
    """The file that is named, else noise."""
    if file := options.get("picture"):
        return Path(file).read_bytes()
    return noise_png(options["image_bytes"], random.Random(0))


async def serve(options: dict[str, Any]) -> None:
    desk = Desk(options.get("rpm", {}), options.get("window_s", 60.0))
    answer = http(200, gemini_answer(picture_of(options)))
    latency_s = options.get("latency_s", 0.0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(desk, answer, latency_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
