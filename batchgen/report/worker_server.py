"""`worker --metrics`: whether a worker is healthy, and its metrics in Prometheus' text format, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from batchgen.errors import LedgerError
from batchgen.events import AttemptFailed, Event, SampleSucceeded
from batchgen.ledger.lease import QueueDepth
from batchgen.records import lane_model
from batchgen.report.metrics import WORKER_METRICS, MetricValue, families, run_values
from batchgen.report.run_progress import RunProgress
from batchgen.settings import is_loopback
from batchgen.single_flight import SingleFlight

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from batchgen.engine.cluster.worker import Worker

DEPTH_MAX_AGE_S = 15.0  # measuring it walks the queue
DEPTH_TIME_SHARE = 100  # and takes at most a hundredth of the time, however long it is
DEPTH_TIMEOUT_S = 3.0  # of a scrape, which waits for ten by default
SHUTDOWN_S = 1.0
DEPTH_STATES = ("ready", "taken", "later")


class WorkerCounters:
    """The observer that counts what a worker has done since it started, by job."""

    def __init__(self) -> None:
        self._progress: dict[str, RunProgress] = {}
        self._counts: Counter[tuple[str, str, tuple[str, str]]] = Counter()  # job, name of the metric, its other labels

    def __call__(self, event: Event, *, job: str = "", **_: object) -> None:
        if not job:
            return
        progress = self._progress.setdefault(job, RunProgress())
        match event:
            case SampleSucceeded():
                model = progress.models.get(event.model)
                if model is not None and event.attempt in model.open:  # once for all its samples
                    self._counts[job, "batchgen_requests_total", (event.model, "succeeded")] += 1
                for file in event.files:
                    self._counts[job, "batchgen_images_total", (event.model, file.role)] += 1
            case AttemptFailed():
                self._counts[job, "batchgen_requests_total", (event.model, event.outcome)] += 1
        progress(event)

    def values(self, now: float) -> Iterator[tuple[str, MetricValue]]:
        """Each value with its job."""
        for (job, name, labels), count in list(self._counts.items()):
            yield job, (name, labels, count)
        for job, progress in list(self._progress.items()):
            for value in run_values(progress, now):
                yield job, value


class WorkerServer:
    """/healthz and /metrics. Nothing here changes anything, and no answer contains a key."""

    def __init__(self, worker: Worker, counters: WorkerCounters, fit: Callable[[str], str], *, loopback: bool) -> None:
        """fit: removes secrets and control characters from a line. loopback: it only listens to this machine."""
        self._worker = worker
        self._counters = counters
        self._fit = fit
        self._loopback = loopback
        self._depths: tuple[int, list[QueueDepth]] | None = None
        self._depths_until_s = 0.0
        self._flight = SingleFlight()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._only_known_hosts])
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/metrics", self.metrics)
        return app

    @web.middleware
    async def _only_known_hosts(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A page of a foreign name that resolves to this address (DNS rebinding) sends that name.
        if self._loopback and not is_loopback(request.url.host or ""):
            return web.Response(status=421, text=f"{request.host} is not a name of this server\n")
        return await handler(request)

    async def health(self, request: web.Request) -> web.Response:
        problem = self._worker.pulse.state()
        return web.Response(
            status=503 if problem else 200,
            text=f"{self._fit(problem) or 'ok'}\n",
            headers={"Cache-Control": "no-store"},
        )

    async def metrics(self, request: web.Request) -> web.Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # an extra

        # What cannot be measured now is left out: an old figure would look current.
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(DEPTH_TIMEOUT_S):
                await self._flight.do("depths", self._refresh_depths)
        return web.Response(body=generate_latest(self), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _refresh_depths(self) -> None:
        started_s = time.monotonic()
        if started_s < self._depths_until_s:
            return
        self._depths = None
        found = await self._worker.queue_depths()
        took_s = time.monotonic() - started_s
        self._depths, self._depths_until_s = found, started_s + max(DEPTH_MAX_AGE_S, DEPTH_TIME_SHARE * took_s)

    def collect(self) -> list[Metric]:
        """The metrics for prometheus_client."""
        return families(self._values(), WORKER_METRICS)

    def _values(self) -> Iterator[tuple[str, MetricValue]]:
        yield from self._counters.values(time.time())
        if at := self._worker.pulse.at:
            yield "", ("batchgen_last_heartbeat_timestamp_seconds", (), at)
        if self._depths is None:
            return
        workers, depths = self._depths
        yield "", ("batchgen_workers", (), workers)
        for depth in depths:
            for state in DEPTH_STATES:
                yield depth.job, ("batchgen_queue_depth", (lane_model(depth.lane), state), getattr(depth, state))


@asynccontextmanager
async def serving(app: web.Application, listener: socket.socket, log_name: str) -> AsyncIterator[None]:
    """Serve in the loop that does the work, so that one that stands still does not answer. listener: bound to the
    address."""
    client_log = logging.getLogger(log_name)  # clients' mistakes do not belong on a terminal
    client_log.addHandler(logging.NullHandler())
    client_log.propagate = False
    runner = web.AppRunner(app, access_log=None, logger=client_log, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
