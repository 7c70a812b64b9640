"""The subject of the kit: a model's codec, the credentials made from a key, and its emulator as a vendor on loopback.

The vendor records what it was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, ClassVar

from aiohttp import web

from batchgen.http.package_emulators import respond
from batchgen.http.transport import Transport
from batchgen.profiles.catalogue import Catalogue, load_catalogue
from batchgen.profiles.profile import Profile
from batchgen.providers import contract, registry
from batchgen.providers.credentials import FoundCredentials
from batchgen.records import PendingJob, Request, Response
from batchgen.testing.answers import Read, outcome

KEY = "kit/KEY+91c5a7=never-to-be-written"
MAX_QUESTIONS = 500
ANSWER_MAX_BYTES = 64_000_000


class VendorServer:
    """A vendor on loopback; use `serving`. asked: method and path of each request."""

    def __init__(self, url: str, emulator: contract.Emulator) -> None:
        self.url = url
        self.asked: list[tuple[str, str]] = []
        self._emulator = emulator

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path_qs))
        return await respond(self._emulator, request)

    async def exchange(
        self, codec: contract.Provider, account: FoundCredentials, request: Request
    ) -> list[tuple[Read, Response]]:
        """The answers to a request for an image, and to each question about the job that it became, with their
        readers."""
        read, steps = codec.read, list[tuple[Read, Response]]()
        with ThreadPoolExecutor(1) as threads:
            async with Transport(1, threads) as transport:
                for _ in range(MAX_QUESTIONS):
                    answer = await transport.request(
                        self.url + account.path, request, account.credentials, max_bytes=ANSWER_MAX_BYTES
                    )
                    steps.append((read, answer))
                    found = outcome(read, answer)
                    if not isinstance(found, PendingJob):
                        return steps
                    if not isinstance(codec, contract.SupportsJobs):
                        raise AssertionError("`read` gives a PendingJob, and the codec has no `poll` and `read_poll`")
                    request, read = codec.poll(found), partial(codec.read_poll, found)
                    await asyncio.sleep(min(found.poll_after_s, 0.05))
        raise AssertionError(f"the job did not end within {MAX_QUESTIONS} questions")

    def bought(self, buying: Set[tuple[str, str]]) -> int:
        """Count the requests that cost something. buying: their method, and how their path ends."""
        return sum(any(one == method and path.endswith(end) for one, end in buying) for method, path in self.asked)


class EchoingVendor:
    """A vendor that refuses each request, and repeats all its headers."""

    def __init__(self, base_url: str) -> None:
        pass

    def answer(self, request: Request) -> Response:
        return Response(400, {"Content-Type": "text/plain"}, f"no: {dict(request.headers)}".encode())


@asynccontextmanager
async def serving(make: Callable[[str], contract.Emulator]) -> AsyncIterator[VendorServer]:
    app = web.Application(client_max_size=1 << 30)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    servers: list[VendorServer] = []

    async def handle(request: web.Request) -> web.Response:
        return await servers[0].handle(request)

    app.router.add_route("*", "/{path:.*}", handle)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        servers.append(VendorServer(url, make(url)))
        yield servers[0]
    finally:
        await runner.cleanup()


class Subject:
    """What a test class says about the model it tests.

    model: id or alias. facts: what a manifest's `models:` adds about it. emulator: by default the one that the package
    has registered.
    """

    model: ClassVar[str]
    facts: ClassVar[Mapping[str, Any]] = {}
    emulator: ClassVar[type[contract.Emulator] | None] = None

    @property
    def catalogue(self) -> Catalogue:
        return load_catalogue().with_packages().with_overrides({self.model: self.facts} if self.facts else {})

    @property
    def profile(self) -> Profile:
        return self.catalogue.resolve(self.model)

    @property
    def codec(self) -> contract.Provider:
        return registry.provider_for(self.profile)

    def new_emulator(self, base_url: str) -> contract.Emulator:
        return (self.emulator or registry.emulator_class(self.profile.provider))(base_url)

    def credentials(self) -> FoundCredentials:
        found = contract.find_credentials(type(self.codec), KEY, {})
        if found is None:
            raise AssertionError("a key is set, and the codec finds no credentials by it")
        return found

    def vendor(self) -> AbstractAsyncContextManager[VendorServer]:
        return serving(self.new_emulator)
