"""A running emulator with small pictures and no latency, and an HTTP client for it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from batchgen.emulator import EmulatorOptions, RunningEmulator, serve

KEYS = {"x-goog-api-key": "k", "Authorization": "Bearer k"}
Start = Callable[..., Awaitable[RunningEmulator]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[RunningEmulator] = []

    async def start_one(**options: Any) -> RunningEmulator:
        emulator = await serve(EmulatorOptions(**{"latency_s": (0, 0), "picture": "tiny", **options}))
        running.append(emulator)
        return emulator

    yield start_one
    for emulator in running:
        await emulator.close()


class Client:
    """Plain HTTP against one emulator, with a good key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def post(self, url: str, body: Any, **headers: str) -> tuple[int, Any]:
        sent = {"Content-Type": "application/json", **KEYS, **headers}
        data = io.BytesIO(json.dumps(body).encode())  # aiohttp warns of large bodies given as plain bytes
        async with self.session.post(url, data=data, headers=sent) as response:
            return response.status, await response.json()

    async def get(self, url: str, **headers: str) -> tuple[int, Any]:
        sent = {**KEYS, **headers}
        async with self.session.get(url, headers=sent) as response:
            return response.status, await response.json()

    async def draw(
        self, emulator: RunningEmulator, prompt: str = "A red fox", model: str = "gemini-nano-banana-2.1", **config: Any
    ) -> tuple[int, Any]:
        body: dict[str, Any] = {"contents": [{"parts": [{"text": prompt}]}]}
        if config:
            body["generationConfig"] = config
        return await self.post(f"{emulator.base_url}/v1beta/models/{model}:generateContent", body)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session)
