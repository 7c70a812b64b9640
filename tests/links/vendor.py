"""A vendor that answers with links, on loopback: what it was asked, and what its content host does about each picture."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from PIL import Image

USD = 0.04  # of one picture, as the answers say
LOGIN = b"<!DOCTYPE html><html><title>Sign in</title></html>"


def picture(number: int) -> bytes:
    """Unlike that of any other number."""
    image = Image.new("RGB", (64, 64))
    image.putdata([(number % 256, n % 256, n // 16) for n in range(64 * 64)])
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


PICTURE = picture(0)
Gift = Callable[[bytes], web.StreamResponse]  # what a link answers in place of the picture

# What the issue of a link can be that is not the picture; each is tried again, and none is a reason to buy.
BAD: dict[str, Gift] = {
    "a web page": lambda _: web.Response(body=LOGIN, content_type="text/html"),
    "JSON": lambda _: web.json_response({"error": "not yet"}),
    "nothing": lambda _: web.Response(body=b""),
    "half a picture": lambda data: web.Response(body=data[: len(data) // 2], content_type="image/png"),
    "a damaged picture": lambda data: web.Response(body=data[:60] + b"\0" + data[61:], content_type="image/png"),
    "202": lambda _: web.Response(status=202),
    "404": lambda _: web.Response(status=404),
    "403": lambda _: web.Response(status=403),
    "410": lambda _: web.Response(status=410),
    "500": lambda _: web.Response(status=500),
    "503": lambda _: web.Response(status=503),
    "a redirect into a private network": lambda _: web.Response(status=302, headers={"Location": "http://10.0.0.1/a"}),
    "a redirect to nowhere": lambda _: web.Response(status=302),
}


class Vendor:
    """requests: generations asked for. Answers are as AIML's, one link for each picture.

    bad: what the links whose place in their answer is in `places` give in place of their picture, None for the picture; they
    do so `times` times each, for ever when None. inline: how many pictures of an answer come in the answer itself.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests = 0
        self.fetched: Counter[str] = Counter()
        self.bad: Gift | None = None
        self.times: int | None = None
        self.places: tuple[int, ...] = (0, 1, 2, 3)
        self.inline = 0
        self.refuses = False
        self.hung = asyncio.Event()
        self.hangs = False
        self._pictures: dict[str, bytes] = {}

    def goes_bad(self, kind: str | None, *, times: int | None = None, places: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        """From now on; None: all is well again."""
        self.bad, self.times, self.places = BAD[kind] if kind else None, times, places
        self.fetched.clear()

    async def generate(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.requests += 1
        entries: list[dict[str, Any]] = []
        for place in range(asked.get("num_images", 1)):
            name = f"{self.requests}-{place}.png"
            self._pictures[name] = picture(len(self._pictures) + 1)
            if place < self.inline:
                import base64

                entries.append({"b64_json": base64.b64encode(self._pictures[name]).decode()})
            else:
                entries.append({"url": f"{self.url}/cdn/{name}?signature=secret"})
        return web.json_response({"data": entries, "meta": {"usage": {"usd_spent": USD * len(entries)}}})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.fetched[name] += 1
        if self.hangs:
            self.hung.set()
            await asyncio.sleep(30)
        bad = self.bad if int(name.partition("-")[2][0]) in self.places else None
        if bad is not None and (self.times is None or self.fetched[name] <= self.times):
            if self.refuses and request.transport is not None:
                request.transport.abort()
            return bad(self._pictures[name])
        return web.Response(body=self._pictures[name], content_type="image/png")

    def pictures(self) -> set[bytes]:
        return set(self._pictures.values())


@asynccontextmanager
async def vendor() -> AsyncIterator[Vendor]:
    shop, app = Vendor(), web.Application()
    app.router.add_post("/v1/images/generations", shop.generate)
    app.router.add_get("/cdn/{name}", shop.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield shop
    finally:
        await runner.cleanup()
