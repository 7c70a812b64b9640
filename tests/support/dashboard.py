"""A dashboard on loopback and a client for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from batchgen.cli.serve import forecast_retry
from batchgen.profiles.catalogue import load_catalogue
from batchgen.report.dashboard.actions import Actions
from batchgen.report.dashboard.guard import CSRF_HEADER, RequestGuard
from batchgen.report.dashboard.hub import Hub
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.dashboard.server import Dashboard, serve
from batchgen.report.gallery_data import ManifestInfo

SECRET = "A lamp"  # stands in for a key that got into a prompt


@dataclass
class Site:
    """A dashboard on loopback and a client that keeps no cookies of another."""

    client: aiohttp.ClientSession
    base: str
    csrf: str
    job: str
    port: int
    hub: Hub

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, Any]:
        return await self.ask("GET", path, headers=headers)

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes, Any]:
        async with self.client.request(method, self.base + path, allow_redirects=False, **more) as answer:
            return answer.status, await answer.read(), answer.headers

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes, Any]:
        own = {"Origin": self.base, CSRF_HEADER: self.csrf, "Content-Type": "application/json"} | headers
        own = {name: value for name, value in own.items() if value}
        return await self.ask("POST", path, data=json.dumps(body), headers=own)


@asynccontextmanager
async def site(*jobs: Path, token: str = "", read_only: bool = False, names: bool = True) -> AsyncIterator[Site]:
    all_places = [JobLocation(job) for job in jobs]
    stopped, found, hubs = asyncio.Event(), list[RequestGuard](), list[Hub]()

    def make(port: int) -> Dashboard:
        manifest_info = ManifestInfo(load_catalogue(), budgets={"run": 1.0, "day": 2.0})
        hub = Hub(lambda: all_places, lambda place, manifest: manifest_info, lambda: [SECRET], Actions(forecast_retry))
        hubs.append(hub)
        found.append(RequestGuard(frozenset({f"127.0.0.1:{port}"} if names else {"dash.example"}), port, token))
        return Dashboard(hub, found[0], read_only)

    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(serve(make, listener, stopped))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        port = listener.getsockname()[1]
        while not found:
            await asyncio.sleep(0)
        ready = Site(client, f"http://127.0.0.1:{port}", found[0].csrf, all_places[0].id, port, hubs[0])
        try:
            yield ready
        finally:
            stopped.set()
            await serving
